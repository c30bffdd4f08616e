"""CIFAR in each of its layouts, and what pretends to be one of them."""

import gzip
import io
import os
import tarfile

import numpy as np
import pytest

from lth import data
from lth.data import cifar, fetch
from tests.test_data_unpickle import new_dumps, old_dumps

TEN = cifar.CIFAR10._replace(train=("data_batch_1", "data_batch_2"), records=(3, 2))
HUNDRED = cifar.CIFAR100._replace(records=(5, 2))
COARSE = cifar.CIFAR100_COARSE._replace(records=(5, 2))
KINDS = {"cifar10": TEN, "cifar100": HUNDRED, "coarse": COARSE}


def examples(kind, file: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [n, 3072] and label bytes [n, label_bytes], different in each file."""
    count = kind.records[0] if file in kind.train else kind.records[1]
    rng = np.random.default_rng(sum(file.encode()))
    tops = (10,) if kind.label_bytes == 1 else (20, 100)
    labels = np.stack([rng.integers(0, top, count) for top in tops], 1)
    pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
    return pixels, labels.astype(np.uint8)


def binary(kind, file) -> bytes:
    pixels, labels = examples(kind, file)
    return np.concatenate([labels, pixels], 1).tobytes()


def python(kind, file, dumps=old_dumps) -> bytes:
    pixels, labels = examples(kind, file)
    keys = [b"labels"] if kind.label_bytes == 1 else [b"coarse_labels", b"fine_labels"]
    lists = {key: labels[:, i].tolist() for i, key in enumerate(keys)}
    names = [b"image_%d.png" % i for i in range(len(labels))]
    return dumps(
        {b"batch_label": b"one of two", b"data": pixels, b"filenames": names, **lists}
    )


def write_archive(path, files, kind_of=tarfile.REGTYPE):
    with tarfile.open(path, "w:gz") as archive:
        for name, body in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.type = len(body), kind_of
            archive.addfile(member, io.BytesIO(body))


def lay_out(root, kind, *, form=0, flat=False, packed=False, body=None):
    """All files of a kind as `form` 0 binary or 1 Python, in the layout asked for."""
    layout, home = kind.layouts[form], root / kind.folder
    make = body or (binary, python)[form]
    files = {f + layout.suffix: make(kind, f) for f in kind.train + kind.test}
    if packed:
        home.mkdir(parents=True, exist_ok=True)
        inside = {f"{layout.folder}/{name}": body for name, body in files.items()}
        write_archive(home / layout.archive, {"readme": b"x", **inside})
        return home / layout.archive
    folder = home if flat else home / layout.folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", [0, 1])
@pytest.mark.parametrize("place", ["flat", "packed", "folder"])
def test_every_layout_gives_the_same_images(tmp_path, kind, form, place):
    chosen = KINDS[kind]
    lay_out(tmp_path, chosen, form=form, **{place: True} if place != "folder" else {})
    for found, files in zip(
        cifar.read(chosen, tmp_path), (chosen.train, chosen.test), strict=True
    ):
        made = [examples(chosen, file) for file in files]
        pixels, labels = (np.concatenate(x) for x in zip(*made, strict=True))
        assert found.inputs.dtype == np.uint8
        assert found.targets.dtype == np.int32
        np.testing.assert_array_equal(found.targets, labels[:, chosen.label_at])
        red_of_second_row = pixels[:, 32:64]  # planes of rows: all red, green, blue
        np.testing.assert_array_equal(found.inputs[:, 1, :, 0], red_of_second_row)
        np.testing.assert_array_equal(found.inputs[:, 31, 31, 2], pixels[:, -1])


@pytest.mark.parametrize("fortran", [False, True])
def test_pickles_of_python_3_are_read_too(tmp_path, fortran):
    def body(kind, file):
        def dumps(value):
            if fortran:
                value = {**value, b"data": np.asfortranarray(value[b"data"])}
            return new_dumps({k: v for k, v in value.items() if k != b"filenames"})

        return python(kind, file, dumps)

    lay_out(tmp_path, TEN, form=1, body=body)
    train, _ = cifar.read(TEN, tmp_path)
    pixels, _ = examples(TEN, TEN.train[0])
    np.testing.assert_array_equal(train.inputs[:3, 0, :, 0], pixels[:, :32])


def test_missing_files_say_where_was_looked(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(fetch.urllib.request, "urlopen", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = lay_out(tmp_path, TEN)
    (folder / "test_batch.bin").unlink()  # not complete, so not a layout
    with pytest.raises(data.DataError) as error:
        cifar.read(TEN, tmp_path)
    for part in ("batches-bin/", "batches-py/", "binary.tar.gz", "python.tar.gz"):
        assert str(tmp_path / "cifar10" / f"cifar-10-{part}") in str(error.value)
    assert str(tmp_path / "cache" / "lth" / "cifar10") in str(error.value)


WRONG = {
    "truncated": (0, lambda b: b[:-1], r"9218 bytes; allowed are 9219 \(3 records"),
    "a record short": (0, lambda b: b[:-3073], "6146 bytes; allowed are 9219"),
    "oversized": (0, lambda b: b + b"x", "9220 bytes; allowed are 9219"),
    "empty": (0, lambda b: b"", "0 bytes; allowed are 9219"),
    "wrong label": (
        0,
        lambda b: b[:3073] + b"\x0a" + b[3074:],
        "label 10 at index 1; allowed are 0 to 9",
    ),
    "cut pickle": (1, lambda b: b[:-9], "not a pickle we read"),
    "longer pickle": (1, lambda b: b + b"x", "1 bytes after its end"),
    "not a pickle": (1, lambda b: b"PNG", "not a pickle we read"),
    "a list": (1, lambda b: old_dumps([1]), "holds list, expected a dictionary"),
}


@pytest.mark.parametrize("case", WRONG)
def test_damaged_files_are_named_and_refused(tmp_path, case):
    form, change, message = WRONG[case]
    folder = lay_out(tmp_path, TEN, form=form)
    path = folder / ("data_batch_2" + TEN.layouts[form].suffix)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(data.DataError, match=message) as error:
        cifar.read(TEN, tmp_path)
    assert str(path) in str(error.value)


PIXELS, LABELS = np.zeros((3, 3072), np.uint8), [1, 2, 3]
DICTIONARIES = {
    "no data": ({b"labels": LABELS}, r"data is NoneType; allowed is \(3, 3072\)"),
    "few images": ({b"data": PIXELS[:2], b"labels": LABELS}, r"data is \(2, 3072\)"),
    "a list": ({b"data": [1], b"labels": LABELS}, "data is list"),
    "floats": ({b"data": PIXELS.astype("f4"), b"labels": LABELS}, "number type 'f4'"),
    "no labels": ({b"data": PIXELS}, "labels is NoneType; allowed is a list of 3"),
    "few labels": ({b"data": PIXELS, b"labels": [1]}, "labels is 1; allowed"),
    "names": ({b"data": PIXELS, b"labels": [1, b"2", 3]}, "a label is not a number"),
    "truths": ({b"data": PIXELS, b"labels": [1, True, 3]}, "a label is not a number"),
    "huge": ({b"data": PIXELS, b"labels": [1, 2**70, 3]}, "a label is not a number"),
    "negative": ({b"data": PIXELS, b"labels": [1, -1, 3]}, "label -1 at index 1"),
    "eleven": ({b"data": PIXELS, b"labels": [1, 2, 10]}, "label 10 at index 2"),
}


@pytest.mark.parametrize("case", DICTIONARIES)
def test_dictionaries_of_something_else_are_refused(tmp_path, case):
    value, message = DICTIONARIES[case]
    folder = lay_out(tmp_path, TEN, form=1)
    (folder / "data_batch_1").write_bytes(old_dumps(value))
    with pytest.raises(data.DataError, match=message) as error:
        cifar.read(TEN, tmp_path)
    assert "data_batch_1" in str(error.value)


ARCHIVES = {
    "cut": (lambda b: b[: len(b) // 2], "archive is damaged"),
    "not gzip": (lambda b: b"x" * 99, "archive is damaged"),
    "not tar": (lambda b: gzip.compress(b"x" * 2000), "is damaged"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_damaged_archives_are_named_and_refused(tmp_path, case):
    path = lay_out(tmp_path, TEN, packed=True)
    change, message = ARCHIVES[case]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(data.DataError, match=message) as error:
        cifar.read(TEN, tmp_path)
    assert str(path) in str(error.value)


def test_archives_give_plain_files_of_the_right_name_alone(tmp_path, monkeypatch):
    path = lay_out(tmp_path, TEN, packed=True)
    write_archive(path, {"../data_batch_1.bin": binary(TEN, "data_batch_1")})
    with pytest.raises(data.DataError, match="holds no plain file cifar-10-batches-b"):
        cifar.read(TEN, tmp_path)
    name = "cifar-10-batches-bin/data_batch_1.bin"
    write_archive(path, {name: b""}, tarfile.SYMTYPE)
    with pytest.raises(data.DataError, match="holds no plain file"):
        cifar.read(TEN, tmp_path)
    monkeypatch.setattr(cifar, "LARGEST", 500)
    with pytest.raises(data.DataError, match="unpacks to more than 500 bytes"):
        cifar.read(TEN, tmp_path)


@pytest.mark.skipif("LTH_DATA" not in os.environ, reason="LTH_DATA is not set")
def test_real_cifar10():
    if not any((p / "cifar10").is_dir() for p in fetch.folders(None)):
        pytest.skip("no cifar10 folder in LTH_DATA")
    splits = data.load("cifar10", None, 5000, 0)
    assert [s.inputs.shape for s in splits] == [
        (45_000, 32, 32, 3),
        (5_000, 32, 32, 3),
        (10_000, 32, 32, 3),
    ]
    assert np.bincount(splits.test.targets).tolist() == [1000] * 10
