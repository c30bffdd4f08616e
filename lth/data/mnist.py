"""MNIST and the sets made in its likeness, all of them IDX files of 28 x 28."""

import gzip
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lth.data import fetch, idx
from lth.data.dataset import Dataset, check_labels
from lth.data.errors import DataError, DataWarning

IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
MNIST_HOSTS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
MNIST_MD5 = (
    "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "d53e105ee54ea40749a09fcbcd1e9432",
    "9fb629c4189551a2d022fa330f9573f3",
    "ec29112dd5afa0611ce80d1b7f02629c",
)
# Of training and test files, whatever their order: the sum of all pixels, and how many
# images there are of each class.
MNIST_FACTS = (
    (1567298545, (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)),
    (264923200, (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)),
)
FASHION_HOSTS = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
FASHION_MD5 = (
    "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "25c81989df183df01b3e8a0aad5dffbe",
    "bef4ecab320f06d8554ea6380940ec79",
    "bb300cfdad3c16e7a12a480ee83cd310",
)
KMNIST_HOSTS = ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",)
KMNIST_MD5 = (
    "bdb82020997e1d708af4cf47b453dcf7",
    "e144d726b3acfaa3e44228e80efcd344",
    "5c965bf0a639b31b8f53240b1b52f4d7",
    "7320c461ea6c1c855c0b718fb2a4b134",
)
EMNIST_ZIP = fetch.Remote(
    "gzip.zip",
    "58c8d27c78d21e728a6bc7b3cc06412e",
    ("https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",),
)


class Part(NamedTuple):
    """Describes a division of EMNIST: how many classes, and the number of the first."""

    classes: int
    first: int = 0


EMNIST = {
    "balanced": Part(47),
    "byclass": Part(62),
    "bymerge": Part(47),
    "digits": Part(10),
    "letters": Part(26, first=1),
    "mnist": Part(10),
}


def mnist(data_dir: Path | None) -> tuple[Dataset, Dataset]:
    """Read MNIST (LeCun et al. 1998): 60 000 + 10 000 digits."""
    splits = _four_files("mnist", MNIST_MD5, MNIST_HOSTS, data_dir, check=False)
    for split, name, known in zip(splits, ("train", "t10k"), MNIST_FACTS, strict=True):
        _compare(split, name, known)
    return splits


def _compare(split: Dataset, name: str, known: tuple[int, tuple[int, ...]]) -> None:
    """Warn where images and labels are not those of MNIST, in whatever order."""
    counts = tuple(np.bincount(np.asarray(split.targets), minlength=10).tolist())
    brightness = int(np.asarray(split.inputs).sum(dtype=np.int64))
    if (brightness, counts) == known:
        return
    why = f"their pixels add up to {brightness}, those of MNIST to {known[0]}"
    if counts != known[1]:
        why = f"they have {list(counts)} of each class, MNIST has {list(known[1])}"
        if len(set(counts)) == 1 and sum(counts) == sum(known[1]):
            why += "; Fashion-MNIST and Kuzushiji-MNIST have as many of each"
    warnings.warn(
        f"the {name} files in mnist/ are not those of MNIST: {why}",
        DataWarning,
        stacklevel=3,
    )


def fashion_mnist(data_dir: Path | None) -> tuple[Dataset, Dataset]:
    """Read Fashion-MNIST (Xiao et al. 2017): 60 000 + 10 000 pieces of clothing."""
    return _four_files("fashion_mnist", FASHION_MD5, FASHION_HOSTS, data_dir)


def kmnist(data_dir: Path | None) -> tuple[Dataset, Dataset]:
    """Read Kuzushiji-MNIST (Clanuwat et al. 2018).

    It has 60 000 + 10 000 cursive characters.
    """
    return _four_files("kmnist", KMNIST_MD5, KMNIST_HOSTS, data_dir)


def emnist(part: str, data_dir: Path | None) -> tuple[Dataset, Dataset]:
    """Read a division of EMNIST (Cohen et al. 2017): handwritten letters and digits.

    It comes from its four files, `emnist/emnist-<part>-train-images-idx3-ubyte.gz` and
    so on, or from `emnist/gzip.zip`, the archive they are published in. The images are
    published with rows and columns exchanged; they are returned upright.
    """
    arrays = _emnist_arrays(part, data_dir)
    train_image, train_label, image, label = [
        (name, x if x.ndim == 1 else np.ascontiguousarray(x.swapaxes(1, 2)))
        for name, x in arrays
    ]
    classes, first = EMNIST[part]
    return (
        labelled(train_image, train_label, classes, first),
        labelled(image, label, classes, first),
    )


def labelled(
    images: tuple[str, np.ndarray],
    labels: tuple[str, np.ndarray],
    classes: int,
    first: int = 0,
) -> Dataset:
    """Check images and labels against each other and make a data set of them.

    Args:
      images: a name for the error, and [n, h, w].
      labels: a name, and [n], in [first, first + classes).
      classes: how many there are.
      first: the number of the first label; in the data set they count from 0.

    Returns:
      The data, images [n, h, w, 1] and int32 labels [n].

    Raises:
      DataError: where the numbers of both differ, and for a label outside.
    """
    (image_name, image), (name, label) = images, labels
    if len(image) != len(label):
        raise DataError(
            f"{image_name} holds {len(image)} images, but {name} {len(label)} labels"
        )
    check_labels(name, label, classes, first)
    return Dataset(image[..., None], label.astype(np.int32) - first)


def _four_files(folder, md5s, hosts, data_dir, check=True) -> tuple[Dataset, Dataset]:
    files = [
        fetch.Remote(file, md5, tuple(host + file for host in hosts))
        for file, md5 in zip(IDX_FILES, md5s, strict=True)
    ]
    paths = fetch.find(folder, files, data_dir, check=check)
    train_image, train_label, image, label = _arrays(paths)
    return (
        labelled(train_image, train_label, classes=10),
        labelled(image, label, classes=10),
    )


def _arrays(paths: list[Path]) -> list[tuple[str, np.ndarray]]:
    """The arrays of images, labels, images, labels, each with its name."""
    return [
        (str(path), idx.read(path, dimensions))
        for path, dimensions in zip(paths, (3, 1, 3, 1), strict=True)
    ]


def _emnist_arrays(
    part: str, data_dir: Path | None
) -> Iterator[tuple[str, np.ndarray]]:
    names = [f"emnist-{part}-{n.replace('t10k', 'test')}" for n in IDX_FILES]
    for place in fetch.folders(data_dir):
        paths = fetch.present(place / "emnist", names)
        if paths is not None:
            yield from _arrays(paths)
            return
    (archive,) = fetch.find("emnist", [EMNIST_ZIP], data_dir, also=names)
    try:
        with zipfile.ZipFile(archive) as members:
            for name, dimensions in zip(names, (3, 1, 3, 1), strict=True):
                whole = f"{archive}: gzip/{name}"
                with gzip.open(members.open(f"gzip/{name}")) as file:
                    yield whole, idx.parse(whole, file, dimensions)
    except (KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{archive}: {error.args[0]}") from None
    except (OSError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{archive}: cannot be read ({error})") from None
