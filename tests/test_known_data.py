"""Data files are compared with what is known of them, and folders with themselves."""

import gzip
import os
import struct
import warnings

import numpy as np
import pytest

from lth.data import DataWarning, fetch, folder, mnist


def write_idx(path, array):
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes(), mtime=0))


def write_four(place, labels, test_labels):
    place.mkdir(parents=True)
    for name, values in (("train", labels), ("t10k", test_labels)):
        images = np.full((len(values), 28, 28), 1, np.uint8)
        write_idx(place / f"{name}-images-idx3-ubyte.gz", images)
        write_idx(place / f"{name}-labels-idx1-ubyte.gz", values)


def balanced(each):
    return np.repeat(np.arange(10, dtype=np.uint8), each)


def test_other_images_in_the_folder_of_mnist_are_noticed(tmp_path):
    write_four(tmp_path / "mnist", balanced(6000), balanced(1000))
    with pytest.warns(DataWarning) as told:
        mnist.mnist(tmp_path)
    first, second = (str(w.message) for w in told)
    assert "train files in mnist/ are not those of MNIST" in first
    assert "Fashion-MNIST and Kuzushiji-MNIST have as many of each" in first
    assert "t10k files" in second


def test_one_changed_pixel_is_noticed_and_another_order_is_none(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 28, 28), np.uint8)
    labels = np.repeat(np.arange(10, dtype=np.uint8), 3)
    counts = tuple(np.bincount(labels).tolist())
    facts = (int(images.sum(dtype=np.int64)), counts)
    monkeypatch.setattr(mnist, "MNIST_FACTS", (facts, facts))
    place = tmp_path / "mnist"
    place.mkdir()
    order = rng.permutation(30)
    for name in ("train", "t10k"):
        write_idx(place / f"{name}-images-idx3-ubyte.gz", images[order])
        write_idx(place / f"{name}-labels-idx1-ubyte.gz", labels[order])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mnist.mnist(tmp_path)
    images[3, 4, 5] ^= 16
    write_idx(place / "train-images-idx3-ubyte.gz", images[order])
    with pytest.warns(DataWarning, match="their pixels add up to"):
        mnist.mnist(tmp_path)


def test_a_file_with_another_checksum_is_named_with_both(tmp_path):
    write_four(tmp_path / "kmnist", balanced(3), balanced(2))
    with pytest.warns(DataWarning, match=r"ubyte.gz is not the file .*its MD5 is") as t:
        mnist.kmnist(tmp_path)
    assert len(t) == 4
    assert mnist.KMNIST_MD5[0] in str(t[0].message)


def test_an_unpacked_file_has_no_known_checksum(tmp_path):
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "a").write_bytes(b"x")
    remote = fetch.Remote("a.gz", "0" * 32, ())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fetch.find("some", [remote], tmp_path) == [tmp_path / "some" / "a"]


def test_the_digest_of_a_folder_is_of_names_sizes_and_some_contents(tmp_path):
    files = []
    for i in range(600):
        path = tmp_path / f"{i:03d}.png"
        path.write_bytes(bytes([i % 256]) * (i + 1))
        files.append(str(path))
    before = folder.digest(tmp_path, files)
    assert folder.digest(tmp_path, files) == before
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in files:
        os.link(file, moved / os.path.basename(file))
    elsewhere = [str(moved / os.path.basename(file)) for file in files]
    assert folder.digest(moved, elsewhere) == before
    (tmp_path / "300.png").write_bytes(b"longer" * 100)  # another size, any file
    assert folder.digest(tmp_path, files) != before
    (tmp_path / "300.png").write_bytes(bytes([300 % 256]) * 301)
    assert folder.digest(tmp_path, files) == before
    for name in ("000.png", "599.png"):  # as large, of the sample
        old = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(b"z" * len(old))
        assert folder.digest(tmp_path, files) != before
        (tmp_path / name).write_bytes(old)
    assert folder.digest(tmp_path, files[:-1]) != before
