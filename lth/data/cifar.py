"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) as published: binary or Python files.

Each comes as a folder or as a .tar.gz of that folder, which is read in memory and never
extracted. Files are not trusted: sizes, types and labels are checked.
"""

import gzip
import io
import itertools
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lth.data import fetch, unpickle
from lth.data.dataset import Dataset, check_labels
from lth.data.errors import DataError

PIXELS = 3 * 32 * 32
LARGEST = 2**28  # bytes in a file or an unpacked archive; the largest has 185 million
MEMBERS = 100  # of an archive; there are nine at most
HOSTS = ("https://www.cs.toronto.edu/~kriz/", "https://cave.cs.toronto.edu/kriz/")


class Layout(NamedTuple):
    """Names a form of publication: the folder, its files' suffix, and its archive."""

    folder: str
    suffix: str  # ".bin", or none for Python files
    archive: str
    md5: str


class Kind(NamedTuple):
    """Tells CIFAR-10 from CIFAR-100."""

    folder: str  # under the data folder
    classes: int
    train: tuple[str, ...]  # files, without suffix
    test: tuple[str, ...]
    records: tuple[int, int]  # in a file of train, of test
    label_bytes: int  # before the pixels of a binary record
    label_at: int  # which of them is the label
    label_name: bytes  # in the dictionary of a Python file
    layouts: tuple[Layout, Layout]


CIFAR10 = Kind(
    "cifar10",
    10,
    tuple(f"data_batch_{i}" for i in range(1, 6)),
    ("test_batch",),
    (10_000, 10_000),
    1,
    0,
    b"labels",
    (
        Layout(
            "cifar-10-batches-bin",
            ".bin",
            "cifar-10-binary.tar.gz",
            "c32a1d4ab5d03f1284b67883e8d87530",
        ),
        Layout(
            "cifar-10-batches-py",
            "",
            "cifar-10-python.tar.gz",
            "c58f30108f718f92721af3b95e74349a",
        ),
    ),
)
CIFAR100 = Kind(
    "cifar100",
    100,
    ("train",),
    ("test",),
    (50_000, 10_000),
    2,
    1,
    b"fine_labels",
    (
        Layout(
            "cifar-100-binary",
            ".bin",
            "cifar-100-binary.tar.gz",
            "03b5dce01913d631647c71ecec9e9cb8",
        ),
        Layout(
            "cifar-100-python",
            "",
            "cifar-100-python.tar.gz",
            "eb9058c3a382ffc7106e4002c42a8d85",
        ),
    ),
)
CIFAR100_COARSE = CIFAR100._replace(classes=20, label_at=0, label_name=b"coarse_labels")

Bodies = Callable[[Sequence[str]], Iterator[tuple[str, bytes]]]


def read(kind: Kind, data_dir: Path | None) -> tuple[Dataset, Dataset]:
    """Read the training and test sets, from the first complete layout that is found.

    In each data folder these are looked for in turn: the published folder of binary
    files, the binary files themselves, the same for the Python files, the archive of
    the binary files and that of the Python files. Nothing found: the binary archive is
    downloaded. Raises DataError.
    """
    layout, bodies = _find(kind, data_dir)
    parse = _binary if layout.suffix else _python
    splits = []
    for names, records in zip((kind.train, kind.test), kind.records, strict=True):
        files = bodies([name + layout.suffix for name in names])
        parts = [parse(kind, name, body, records) for name, body in files]
        splits.append(Dataset(*map(np.concatenate, zip(*parts, strict=True))))
    return splits[0], splits[1]


def _find(kind: Kind, data_dir: Path | None) -> tuple[Layout, Bodies]:
    binary = kind.layouts[0]
    for place in fetch.folders(data_dir):
        home = place / kind.folder
        for layout in kind.layouts:
            names = [name + layout.suffix for name in kind.train + kind.test]
            for folder in (home / layout.folder, home):
                if fetch.present(folder, names):
                    return layout, lambda names, folder=folder: _files(folder, names)
        for layout in kind.layouts:
            if (home / layout.archive).is_file():
                return layout, _archive(home / layout.archive, layout.folder)
    addresses = tuple(host + binary.archive for host in HOSTS)
    remote = fetch.Remote(binary.archive, binary.md5, addresses)
    also = [f"{layout.folder}/" for layout in kind.layouts] + [kind.layouts[1].archive]
    (path,) = fetch.find(kind.folder, [remote], data_dir, also)
    return binary, _archive(path, binary.folder)


def _files(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    for name in names:
        yield str(folder / name), fetch.slurp(folder / name, LARGEST)


def _archive(path: Path, folder: str) -> Bodies:
    """Reads members of a .tar.gz, which is unpacked once and in memory."""
    try:
        with gzip.open(path) as file:
            unpacked = file.read(LARGEST + 1)
        if len(unpacked) > LARGEST:
            raise DataError(f"{path}: unpacks to more than {LARGEST} bytes")
        archive = tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:")  # noqa: SIM115
        members = {m.name: m for m in itertools.islice(archive, MEMBERS)}
    except DataError:
        raise
    except Exception as error:  # damaged archives fail in every way there is
        raise DataError(f"{path}: the archive is damaged ({error})") from None

    def bodies(names):
        for name in names:
            member = members.get(f"{folder}/{name}")
            if member is None or not member.isreg() or member.issparse():
                raise DataError(f"{path}: holds no plain file {folder}/{name}")
            if member.size > len(unpacked):
                raise DataError(f"{path}: {member.name} is cut off")
            at = member.offset_data
            yield f"{path}: {member.name}", unpacked[at : at + member.size]

    return bodies


def _binary(kind: Kind, name: str, body: bytes, records: int):
    """Images and labels of a file of records: label bytes, then red, green, blue."""
    size = kind.label_bytes + PIXELS
    if len(body) != records * size:
        raise DataError(
            f"{name}: {len(body)} bytes; allowed are {records * size} "
            f"({records} records of {size})"
        )
    rows = np.frombuffer(body, np.uint8).reshape(records, size)
    return _checked(kind, name, rows[:, kind.label_bytes :], rows[:, kind.label_at])


def _python(kind: Kind, name: str, body: bytes, records: int):
    """Images and labels of a pickled dictionary, read without unpickling objects."""
    found = unpickle.read_dict(name, body, 1000 + 16 * records)
    pixels, labels = found.get(b"data"), found.get(kind.label_name)
    if not isinstance(pixels, np.ndarray) or pixels.shape != (records, PIXELS):
        what = getattr(pixels, "shape", type(pixels).__name__)
        raise DataError(f"{name}: data is {what}; allowed is {(records, PIXELS)}")
    if not isinstance(labels, list) or len(labels) != records:
        what = len(labels) if isinstance(labels, list) else type(labels).__name__
        raise DataError(
            f"{name}: {kind.label_name.decode()} is {what}; "
            f"allowed is a list of {records}"
        )
    if not all(type(label) is int and abs(label) < 2**31 for label in labels):
        raise DataError(f"{name}: a label is not a number; allowed are integers")
    return _checked(kind, name, pixels, np.array(labels, np.int64))


def _checked(kind: Kind, name: str, pixels: np.ndarray, label: np.ndarray):
    check_labels(name, label, kind.classes)
    image = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(image), label.astype(np.int32)
