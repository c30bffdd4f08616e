"""Weights in files: exact or within the stated error, and hostile files refused."""

import io
import json
import math
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lth import criteria, masks
from lth.compress import files, packing, storage

CARD = {"run": "x", "level": 3}
WRITERS = {"npz": files.to_npz, "safetensors": files.to_safetensors}
FORMS = [(f, k) for f in ("dense", "sparse") for k in ("float32", "int8")]


def network(seed=0):
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(5, 3, 7)).astype(np.float32)
    params = {"a": {"kernel": kernel, "bias": rng.normal(size=7).astype(np.float32)}}
    stats = {"batch_stats": {"mean": np.arange(3, dtype=np.float32), "n": np.int32(4)}}
    mask = {"a": {"kernel": rng.random((5, 3, 7)) < 0.3, "bias": None}}
    return params, stats, mask


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(("form", "kind"), FORMS)
def test_round_trips_are_exact_or_within_the_error(name, form, kind):
    params, stats, mask = network()
    keep = mask["a"]["kernel"]
    arrays = storage.stored(params, stats, mask, form, kind)
    file = WRITERS[name](arrays, CARD)
    assert file == WRITERS[name](arrays, CARD)
    read, card = files.read(file)
    assert card == CARD
    assert set(read) == set(arrays)
    leaves = storage.restored(read)
    assert set(leaves) == {
        *("params/a/kernel", "params/a/bias"),
        *("stats/batch_stats/mean", "stats/batch_stats/n"),
    }
    np.testing.assert_array_equal(leaves["params/a/bias"], params["a"]["bias"])
    assert leaves["stats/batch_stats/n"] == 4
    assert leaves["stats/batch_stats/n"].dtype == np.int32
    expected, found = (
        np.where(keep, params["a"]["kernel"], 0),
        leaves["params/a/kernel"],
    )
    assert found.dtype == np.float32
    assert (found[~keep] == 0).all()
    if kind == "float32":
        np.testing.assert_array_equal(found, expected)
        assert not storage.errors(read)
    else:
        bound = storage.errors(read)["params/a/kernel"]
        step = np.abs(expected).max() / 127
        assert bound == pytest.approx(step / 2 if form == "sparse" else step)
        assert 0 < np.abs(found - expected).max() <= bound * (1 + 1e-5)
    if form == "sparse":
        np.testing.assert_array_equal(storage.kept(read)["params/a/kernel"], keep)
    else:
        np.testing.assert_array_equal(found != 0, keep)
        assert not storage.kept(read)


def test_what_is_stored_by_hand():
    w = np.array([[0.5, -127.0, 3.0], [-0.25, 9.0, 20.6]], np.float32)
    keep = np.array([[True, True, False], [True, False, True]])
    params, mask = {"kernel": w}, {"kernel": keep}
    sparse = storage.stored(params, {}, mask, "sparse", "int8")
    # Row by row 110 101, the first bit the highest: 0b11010100.
    np.testing.assert_array_equal(sparse["params/kernel.bits"], [0b11010100])
    np.testing.assert_array_equal(sparse["params/kernel.values"], [0, -127, 0, 21])
    assert sparse["params/kernel.scale"] == 1
    np.testing.assert_array_equal(sparse["params/kernel.shape"], [2, 3])
    whole = storage.stored(params, {}, mask, "dense", "int8")
    np.testing.assert_array_equal(whole["params/kernel"], [[1, -127, 0], [-1, 0, 21]])
    assert storage.errors(sparse) == {"params/kernel": 0.5}
    assert storage.errors(whole) == {"params/kernel": 1.0}


@given(st.integers(0, 2**32 - 1), st.floats(1e-45, 1e38), st.sampled_from(FORMS))
def test_any_weights_come_back(seed, size, how):
    rng = np.random.default_rng(seed)
    w = (rng.normal(size=(3, 11)) / 5 * size).astype(np.float32)
    keep = rng.random(w.shape) < rng.random()
    arrays = storage.stored({"k": w}, {}, {"k": keep}, *how)
    found = storage.restored(files.read(files.to_npz(arrays, {}))[0])["params/k"]
    expected = np.where(keep, w, np.float32(0))
    if how[1] == "float32":
        np.testing.assert_array_equal(found, expected)
    else:
        bound = storage.errors(arrays)["params/k"]
        assert np.abs(found.astype(float) - expected).max() <= bound * (1 + 1e-5)
        assert ((found != 0) <= (keep & (w != 0))).all()


def test_a_million_weights():
    w = jax.random.normal(jax.random.key(0), (1000, 1000))
    mask = masks.keep_top(criteria.magnitude({"k": w}), {"k": w == w}, 0.1)
    arrays = storage.stored({"k": w}, {}, mask, "sparse", "int8")
    assert len(arrays["params/k.values"]) == 100_000
    sizes = storage.sizes(arrays, mask)
    assert sizes.raw == 4_000_000
    assert sizes.stored == 100_000 + 125_000 + 4 + 16
    # A bit a place of entropy 0.469, and a byte a value.
    assert sizes.floor == pytest.approx(1e6 * (0.1 * 8 + 0.468996) / 8)
    assert 0.85 * sizes.floor < sizes.lzma < sizes.zlib < sizes.stored
    found = storage.restored(arrays)["params/k"]
    np.testing.assert_array_equal(found != 0, np.asarray(mask["k"]))
    exact = storage.stored({"k": w}, {}, mask, "sparse")
    np.testing.assert_array_equal(
        storage.restored(exact)["params/k"], np.where(mask["k"], w, 0)
    )
    assert storage.sizes(exact, mask).floor == pytest.approx(sizes.floor + 300_000)


@pytest.mark.parametrize(
    # Of normal weights, deflated dense bytes over those of each form: see test_packing.
    ("sparsity", "times"),
    [(0.8, (3.85, 11.4, 14.6)), (0.9, (7.13, 18.9, 24.9)), (0.95, (13.4, 32.2, 41.4))],
)
def test_the_ratios_that_are_known(sparsity, times):
    w = {"k": np.random.default_rng(0).normal(size=327_464).astype(np.float32)}
    ones = {"k": np.ones(327_464, bool)}
    raw = storage.sizes(storage.stored(w, {}, ones), ones).zlib
    mask = masks.keep_top(criteria.magnitude(w), ones, 1 - sparsity)
    forms = [("dense", "float32"), ("dense", "int8"), ("sparse", "int8")]
    for how, known in zip(forms, times, strict=True):
        sizes = storage.sizes(storage.stored(w, {}, mask, *how), mask)
        assert raw / sizes.zlib == pytest.approx(known, rel=0.08)
    unstripped = storage.stored({**w, "mask": mask["k"]}, {}, {**mask, "mask": None})
    stripped = storage.stored(w, {}, mask)
    assert unstripped["params/mask"].nbytes == 327_464  # a byte each, never four
    assert len(files.to_npz(unstripped, {})) > len(files.to_npz(stripped, {}))


def test_sizes_count_what_no_mask_covers():
    params, stats, mask = network()
    arrays = storage.stored(params, stats, mask)
    sizes = storage.sizes(arrays, mask)
    kept = int(mask["a"]["kernel"].sum())
    rest = 7 * 4 + 3 * 4 + 4
    assert sizes.raw == sizes.stored == 105 * 4 + rest
    assert sizes.floor == packing.floor(105, kept / 105, 32) + rest


def test_types_that_numpy_lacks_are_widened_and_keys_refused():
    w = jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3) / 7
    arrays = storage.stored({"k": w}, {}, {"k": None})
    assert arrays["params/k"].dtype == np.float32
    np.testing.assert_array_equal(arrays["params/k"], w.astype(jnp.float32))
    with pytest.raises(ValueError, match="stats/rng holds key<fry>"):
        storage.stored({"k": w}, {"rng": jax.random.key(0)}, {"k": None})
    bad = {"k": np.array([np.nan], np.float32)}
    with pytest.raises(ValueError, match="params/k holds weights that are not finite"):
        storage.stored(bad, {}, {"k": np.array([True])}, "sparse", "int8")
    with pytest.raises(ValueError, match="params/a.bits: it reads as a part"):
        storage.stored({"a.bits": np.ones(2, np.float32)}, {}, {"a.bits": None})


@pytest.mark.parametrize("name", WRITERS)
def test_damaged_files_are_refused(name):
    file = WRITERS[name](storage.stored(*network(), "sparse", "int8"), CARD)
    for bad in (b"", b"nothing", file[:20], file[:-7], file[:9] + file[12:]):
        with pytest.raises(ValueError, match="this is no file of weights"):
            files.read(bad)
    rng, refused = np.random.default_rng(0), 0
    for _ in range(200):  # a byte turned anywhere: read as it was, or refused
        at = rng.integers(len(file))
        turned = bytearray(file)
        turned[at] ^= 1 << rng.integers(8)
        try:
            storage.restored(files.read(bytes(turned))[0])
        except ValueError:
            refused += 1
    assert refused > 50


class Harm:
    """Would run a command when it is unpickled."""

    def __reduce__(self):
        return eval, ("1/0",)


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as members_of:
        for name, content in members.items():
            members_of.writestr(f"{name}.npy", content)
    return file.getvalue()


def npy(dtype: str, shape: tuple, content: bytes) -> bytes:
    head = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}}}\n"
    return (
        b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + content
    )


def test_hostile_archives_are_refused():
    assert files.read(archive(a=npy("<f4", (2,), bytes(8))))[0]["a"].shape == (2,)
    number = "1".encode("utf-32-le")
    hostile = {
        "a holds object": archive(a=npy("|O", (1,), pickle.dumps(Harm()))),
        "a is not of the size": archive(a=npy("<f4", (2**40,), bytes(8))),
        "not of the size that": archive(a=npy("<f4", (-1, -2), bytes(8))),
        "a holds <U1": archive(a=npy("<U1", (1,), bytes(4))),
        "a holds ": archive(a=npy("<c8", (1,), bytes(8))),
        "its card is no JSON object": archive(card=npy("<U1", (), number)),
        "unpacks to": archive(a=npy("<f4", (2**20,), bytes(2**22))),
    }
    for told, file in hostile.items():
        with pytest.raises(ValueError, match=f"this is no file of weights: .*{told}"):
            files.read(file, limit=2**20)


def test_hostile_headers_of_safetensors_are_refused():
    def made(header: dict, content: bytes = bytes(8)) -> bytes:
        head = json.dumps(header).encode()
        return len(head).to_bytes(8, "little") + head + content

    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    assert files.read(made({"a": entry}))[0]["a"].shape == (2,)
    brief = {
        "a": entry | {"dtype": "BF16", "shape": [4]}
    }  # the upper halves of float32
    halves = np.array([1.5, -2, 0, 3e38], np.float32).view(np.uint32) >> 16
    found = files.read(made(brief, halves.astype("<u2").tobytes()))[0]["a"]
    np.testing.assert_allclose(found, [1.5, -2, 0, 3e38], rtol=0.01)
    for bad in (
        {"a": entry | {"shape": [2**40]}},
        {"a": entry | {"data_offsets": [0, 80]}},
        {"a": entry | {"dtype": "F4096"}},
        {"a": entry | {"dtype": "F8_E4M3", "shape": [8]}},
        {"a": entry, "b": entry},  # one place twice
        {"a": entry, "__metadata__": {"card": "{"}},
    ):
        with pytest.raises(ValueError, match="this is no file of weights"):
            files.read(made(bad))


def test_parts_that_do_not_fit_are_refused():
    good = storage.stored(*network(), "sparse", "int8")
    path = "params/a/kernel"

    def changed(**parts):
        new = {f"{path}.{name}": value for name, value in parts.items()}
        return {n: x for n, x in (good | new).items() if x is not None}

    bits, values = good[f"{path}.bits"], good[f"{path}.values"]
    for told, bad in {
        "has the parts": changed(bits=None),
        "keeps 31 places|keeps": changed(values=values[:-1]),
        "bytes of uint8 for its places": changed(shape=np.array([5, 3, 90])),
        r"shape \[-5": changed(shape=np.array([-5, -3, 7])),
        "for its places, not": changed(shape=np.array([2**62, 4, 2**50])),
        "has no shape": changed(shape=np.array([5.0, 3, 7])),
        "bytes of int8": changed(bits=bits.view(np.int8)),
        "is not of int8": changed(values=values.astype(np.float32)),
        "not above 0": changed(scale=np.array(0, np.float32)),
        "holds values of shape": changed(values=values[None]),
    }.items():
        with pytest.raises(ValueError, match=told):
            storage.restored(bad)
    loose = {f"{path}.{part}": good[f"{path}.{part}"] for part in ("bits", "shape")}
    with pytest.raises(ValueError, match="lacks values"):
        storage.kept(loose)
    spare = bits.copy()
    spare[-1] |= 1  # 105 places: the last 7 bits stand for none
    with pytest.raises(ValueError, match="keeps"):
        storage.restored(changed(bits=spare))
    assert math.prod(good[f"{path}.shape"]) == 105
