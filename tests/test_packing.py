"""Bytes: exact round trips, and the ratios that sparsity can and cannot give."""

import zlib

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lth import criteria, masks
from lth.compress import packing

SIZE = 327_464


def gaussian(density, size=SIZE):
    w = {"kernel": np.random.default_rng(0).normal(size=size).astype(np.float32)}
    ones = {"kernel": np.ones(size, bool)}
    mask = masks.keep_top(criteria.magnitude(w), ones, density)
    return masks.apply(w, mask), mask


@pytest.mark.parametrize(
    # Measured elsewhere on Gaussian weights: deflated dense bytes over each form's.
    ("sparsity", "pruned", "int8", "packed", "floor32", "floor8"),
    [
        (0.8, 3.85, 11.4, 14.6, 4.18, 12.8),
        (0.9, 7.13, 18.9, 24.9, 8.11, 23.4),
        (0.95, 13.4, 32.2, 41.4, 15.8, 43.3),
    ],
)
def test_ratios_of_gaussian_weights(sparsity, pruned, int8, packed, floor32, floor8):
    w, mask = gaussian(1 - sparsity)
    raw = packing.deflated(gaussian(1.0)[0])
    assert raw / packing.deflated(w) == pytest.approx(pruned, rel=0.08)
    values, _ = packing.quantised(np.asarray(w["kernel"]))
    small = len(zlib.compress(values.tobytes(), packing.LEVEL))
    assert raw / small == pytest.approx(int8, rel=0.08)
    assert raw / len(packing.pack(w, mask, "int8")) == pytest.approx(packed, rel=0.08)
    density = 1 - sparsity
    assert raw / packing.floor(SIZE, density, 32) == pytest.approx(floor32, rel=0.01)
    assert raw / packing.floor(SIZE, density, 8) == pytest.approx(floor8, rel=0.01)
    # A mask is a bit a place, and what is not stripped is larger.
    assert len(packing.pack(w, mask)) < packing.deflated(w)
    assert len(packing.pack(w, mask)) < 4 * density * SIZE + SIZE / 8


def test_the_floor_is_that_of_raw_values_which_deflated_ones_get_under():
    # Of 10 places 2 are kept: H(0.2) = 0.721928 bits a place, and 0.2 values a place.
    assert packing.floor(10, 0.2, 32) == pytest.approx(10 * (0.721928 + 6.4) / 8)
    assert packing.floor(10, 1.0, 32) == 40
    w, mask = gaussian(0.2)
    # Compression of the raw file: 4.49 by the floor, 4.91 by what is written.
    assert 4 * SIZE / packing.floor(SIZE, 0.2, 32) == pytest.approx(4.4932, abs=1e-4)
    written = packing.pack(w, mask)
    assert 4 * SIZE / len(written) == pytest.approx(4.91, abs=0.02)
    # Why: a float32 of these takes fewer bits than 32. Its first byte, sign and most
    # of the exponent, is one of a few; what is left is as good as random.
    kept = np.asarray(w["kernel"])[np.asarray(mask["kernel"])]
    share = np.bincount(kept.view(np.uint32) >> 24) / len(kept)
    entropy = -(share[share > 0] * np.log2(share[share > 0])).sum()
    assert entropy < 2
    coded = packing.floor(SIZE, 0.2, 24 + entropy)
    assert coded < len(written) < packing.floor(SIZE, 0.2, 32)


def test_a_dense_file_of_gaussian_weights_hardly_shrinks():
    w, _ = gaussian(1.0)
    assert packing.deflated(w) / (4 * SIZE) == pytest.approx(0.929, rel=0.02)


def test_round_trips():
    rng = np.random.default_rng(1)
    params = {"a": {"kernel": rng.normal(size=(5, 7)), "bias": rng.normal(size=7)}}
    params = jax.tree.map(lambda x: x.astype(np.float32), params)
    mask = {"a": {"kernel": rng.random((5, 7)) < 0.3, "bias": None}}
    file = packing.pack(params, mask)
    found = packing.unpack(file)
    expected = np.where(mask["a"]["kernel"], params["a"]["kernel"], 0)
    np.testing.assert_array_equal(found["a/kernel"], expected)
    np.testing.assert_array_equal(found["a/bias"], params["a"]["bias"])
    small = packing.unpack(packing.pack(params, mask, "int8"))["a/kernel"]
    assert (small[~mask["a"]["kernel"]] == 0).all()
    step = np.abs(expected).max() / 127
    np.testing.assert_allclose(small, expected, atol=step / 2 * 1.001)
    for bad in (file[:-5], b"", b"nothing", file[:20]):
        with pytest.raises(ValueError, match="no file of packed weights"):
            packing.unpack(bad)


@given(
    st.lists(st.booleans(), min_size=1, max_size=60),
    st.integers(0, 1200),
    st.integers(1, 4),
)
def test_codes_round_trip(places, empty, bits):
    keep = np.array([False] * empty + places)
    w = np.random.default_rng(empty).normal(size=len(keep)).astype(np.float32)
    coded = packing.encode(w, keep, bits)
    found = packing.decode(coded)
    assert (found[~keep] == 0).all()
    assert set(found[keep]) <= set(coded.book)
    if keep.any():
        gaps = np.abs(found - w)[keep]
        nearest = np.abs(w[keep][:, None] - coded.book[None]).min(1)
        np.testing.assert_allclose(gaps, nearest, atol=1e-6)


def test_shared_values_and_huffman_codes_come_near_the_floor():
    w, mask = gaussian(0.08, 30_000)
    coded = packing.encode(np.asarray(w["kernel"]), np.asarray(mask["kernel"]), 5)
    bound = packing.floor(30_000, 0.08, 5)
    assert coded.nbytes < 1.1 * bound
    # The sum of the code lengths is what is written, to a byte.
    found = np.asarray(packing.decode(coded))
    assert 4 * 30_000 / coded.nbytes > 30
    assert np.abs(found - np.asarray(w["kernel"])).max() < 0.3
