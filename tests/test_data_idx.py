"""IDX files that are not trusted, and the data sets published in them."""

import gzip
import struct
import zipfile

import numpy as np
import pytest

from lth import data
from lth.data import idx, mnist


def encode(array, magic=None, shape=None):
    shape = array.shape if shape is None else shape
    magic = bytes((0, 0, 8, array.ndim)) if magic is None else magic
    return magic + struct.pack(f">{len(shape)}I", *shape) + array.tobytes()


IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_round_trip(tmp_path, pack):
    (tmp_path / "f").write_bytes(pack(encode(IMAGES)))
    np.testing.assert_array_equal(idx.read(tmp_path / "f", 3), IMAGES)


BAD = {
    "empty": (b"", "too short for an IDX header"),
    "short header": (encode(IMAGES)[:9], "too short for an IDX header"),
    "truncated": (
        encode(IMAGES)[:-1],
        r"promises 24 bytes of data \(2 x 3 x 4\).*only 23",
    ),
    "too long": (encode(IMAGES) + b"x", "promises 24 bytes.*holds more"),
    "wrong magic": (
        encode(IMAGES, b"\x00\x00\x08\x01"),
        "begins with 00000801, expected",
    ),
    "floats": (encode(IMAGES, b"\x00\x00\x0d\x03"), "begins with 00000d03, expected"),
    "zero size": (encode(IMAGES, shape=(0, 3, 4)), "impossible size 0 x 3 x 4"),
    "huge size": (encode(IMAGES, shape=(2**31, 2**31, 4)), "impossible size"),
    "cut gzip": (gzip.compress(encode(IMAGES))[:-9], "gzip data is damaged"),
    "bad gzip": (b"\x1f\x8b\x08" + bytes(40), "gzip data is damaged|too short"),
}


@pytest.mark.parametrize("case", BAD)
def test_damaged_idx_files_are_named_and_refused(tmp_path, case):
    body, message = BAD[case]
    (tmp_path / "broken-idx").write_bytes(body)
    with pytest.raises(data.DataError, match=message) as error:
        idx.read(tmp_path / "broken-idx", 3)
    assert "broken-idx" in str(error.value)


def test_labels_must_fit_the_images():
    images = ("images", IMAGES)
    with pytest.raises(data.DataError, match="label 10 at index 1; allowed are 0 to 9"):
        mnist.labelled(images, ("labels", np.array([1, 10], np.uint8)), 10)
    with pytest.raises(data.DataError, match="label 0 at index 0; allowed are 1 to 26"):
        mnist.labelled(images, ("labels", np.array([0, 1], np.uint8)), 26, first=1)
    with pytest.raises(data.DataError, match="2 images, but labels 3 labels"):
        mnist.labelled(images, ("labels", np.array([1, 2, 3], np.uint8)), 10)


def lay_out(folder, prefix="", test="t10k", images=None, labels=None):
    """Four IDX files, 9 training and 4 test images, which are returned."""
    folder.mkdir(parents=True)
    rng, made = np.random.default_rng(0), []
    for split, count in (("train", 9), (test, 4)):
        image = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        label = np.full(count, 1, np.uint8) if labels is None else labels[:count]
        stem = f"{prefix}{split}"
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(encode(image))
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(encode(label))
        made.append(image)
    return made


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_unzipped_files_and_the_environment_variable_serve(tmp_path, monkeypatch, name):
    monkeypatch.setenv("LTH_DATA", str(tmp_path))
    _, image = lay_out(tmp_path / name)
    splits = data.load(name, None, 2, 0)
    assert [len(s.targets) for s in splits] == [7, 2, 4]
    np.testing.assert_array_equal(splits.test.inputs[..., 0], image)


def test_emnist_is_upright_and_counts_from_zero(tmp_path, monkeypatch):
    labels = np.array([26, 1, 5, 2, 3, 4, 6, 7, 8], np.uint8)
    train, _ = lay_out(tmp_path / "emnist", "emnist-letters-", "test", labels=labels)
    splits = data.load("emnist_letters", tmp_path, 1, 0)
    whole, _ = mnist.emnist("letters", tmp_path)
    assert [len(s.targets) for s in splits] == [8, 1, 4]
    np.testing.assert_array_equal(whole.targets, labels.astype(int) - 1)
    np.testing.assert_array_equal(whole.inputs[3, :, :, 0], train[3].T)
    nowhere = mnist.EMNIST_ZIP._replace(addresses=())
    monkeypatch.setattr(mnist, "EMNIST_ZIP", nowhere)
    with pytest.raises(data.DataError, match="emnist-balanced-train-images"):
        mnist.emnist("balanced", tmp_path)


def zipped(path, files):
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in files.items():
            archive.writestr(f"gzip/{name}.gz", gzip.compress(body))


def test_emnist_comes_straight_out_of_its_archive(tmp_path):
    train, _ = lay_out(tmp_path / "files", "emnist-digits-", "test")
    files = {p.name: p.read_bytes() for p in (tmp_path / "files").iterdir()}
    zipped(tmp_path / "emnist" / "gzip.zip", files)
    whole, test = mnist.emnist("digits", tmp_path)
    np.testing.assert_array_equal(whole.inputs[..., 0], train.swapaxes(1, 2))
    assert len(test.targets) == 4
    with pytest.raises(data.DataError, match="gzip.zip: .*emnist-mnist-train-images"):
        mnist.emnist("mnist", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda body: body[:-30], "gzip.zip: "),
        (lambda body: b"nothing", "gzip.zip: File is not a zip file"),
        (lambda body: body.replace(b"\x1f\x8b\x08", b"\x1f\x8b\x09"), "gzip.zip: "),
    ],
)
def test_damaged_archives_are_named_and_refused(tmp_path, change, message):
    lay_out(tmp_path / "files", "emnist-digits-", "test")
    files = {p.name: p.read_bytes() for p in (tmp_path / "files").iterdir()}
    path = tmp_path / "emnist" / "gzip.zip"
    zipped(path, files)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(data.DataError, match=message):
        mnist.emnist("digits", tmp_path)
