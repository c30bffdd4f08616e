"""The data sets known by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lth.data import fetch, idx
from lth.data.dataset import Dataset, Splits, hold_out
from lth.data.errors import DataError

MNIST_HOSTS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
FASHION_HOSTS = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
MNIST_MD5 = (
    "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "d53e105ee54ea40749a09fcbcd1e9432",
    "9fb629c4189551a2d022fa330f9573f3",
    "ec29112dd5afa0611ce80d1b7f02629c",
)
FASHION_MD5 = (
    "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "25c81989df183df01b3e8a0aad5dffbe",
    "bef4ecab320f06d8554ea6380940ec79",
    "bb300cfdad3c16e7a12a480ee83cd310",
)


class Source(NamedTuple):
    """A data set: how to read its training and test arrays, and what they look like."""

    read: Callable[[Path | None], tuple[Dataset, Dataset]]
    shape: tuple[int, int, int]
    classes: int


def digits(data_dir: Path | None) -> tuple[Dataset, Dataset]:
    """scikit-learn's 1797 handwritten digits of 8 x 8 pixels in [0, 16]; needs no
    files.

    They come in no split of their own: 360 drawn with a fixed seed are the test set.
    """
    from sklearn.datasets import load_digits  # a second's import, only where needed

    bunch: Any = load_digits()
    image = bunch.images[..., None].astype(np.uint8)
    return hold_out(Dataset(image, bunch.target.astype(np.int32)), 360, seed=0)


def mnist(data_dir: Path | None) -> tuple[Dataset, Dataset]:
    """MNIST (LeCun et al. 1998): 60 000 + 10 000 images of 28 x 28."""
    return _idx_pair("mnist", MNIST_MD5, MNIST_HOSTS, data_dir)


def fashion_mnist(data_dir: Path | None) -> tuple[Dataset, Dataset]:
    """Fashion-MNIST (Xiao et al. 2017): 60 000 + 10 000 images of 28 x 28."""
    return _idx_pair("fashion_mnist", FASHION_MD5, FASHION_HOSTS, data_dir)


SOURCES = {
    "digits": Source(digits, (8, 8, 1), 10),
    "mnist": Source(mnist, (28, 28, 1), 10),
    "fashion_mnist": Source(fashion_mnist, (28, 28, 1), 10),
}


def load(
    name: str, data_dir: str | Path | None, validation: int, split_seed: int
) -> Splits:
    """The three splits of the data set `name`; validation is held out of train."""
    source = SOURCES[name]
    train, test = source.read(Path(data_dir) if data_dir else None)
    for part in (train, test):
        if part.image.shape[1:] != source.shape:
            raise DataError(
                f"{name} has images of {source.shape}, these are {part.image.shape[1:]}"
            )
    return Splits(*hold_out(train, validation, split_seed), test)


def _idx_pair(folder, md5s, hosts, data_dir) -> tuple[Dataset, Dataset]:
    files = [
        fetch.Remote(file, md5, tuple(host + file for host in hosts))
        for file, md5 in zip(IDX_FILES, md5s, strict=True)
    ]
    paths = fetch.find(folder, files, data_dir)
    return labelled(*paths[:2], classes=10), labelled(*paths[2:], classes=10)


def labelled(images: Path, labels: Path, classes: int) -> Dataset:
    """Images and labels of two IDX files, checked against each other."""
    image, label = idx.read(images, 3), idx.read(labels, 1)
    if len(image) != len(label):
        raise DataError(
            f"{images} holds {len(image)} images, but {labels} {len(label)} labels"
        )
    if label.max() >= classes:
        at = int(label.argmax())
        raise DataError(
            f"{labels}: label {label[at]} at index {at}; allowed are 0 to {classes - 1}"
        )
    return Dataset(image[..., None], label.astype(np.int32))
