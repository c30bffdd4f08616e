"""Reader of the IDX format in which MNIST and its relatives are published."""

import gzip
import io
import math
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from lth.data.errors import DataError

LARGEST = 2**30  # bytes; the largest file we read has 547 million
DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile)


def read(path: Path, dimensions: int) -> np.ndarray:
    """Read the uint8 array of an IDX file, gzipped or not, with that many dimensions.

    The file is not trusted: its magic number, number type, sizes and length are checked
    before they are used. Raises DataError that names the file.
    """
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as file:
            return parse(str(path), file, dimensions)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None


def parse(name: str, file: io.BufferedIOBase, dimensions: int) -> np.ndarray:
    """Read the uint8 array of an open IDX file, called `name` where it is refused."""
    try:
        shape = _header(name, file.read(4 + 4 * dimensions), dimensions)
        body = file.read(math.prod(shape) + 1)
    except DAMAGE as error:
        raise DataError(f"{name}: the gzip data is damaged ({error})") from None
    if len(body) != math.prod(shape):
        found = "more" if len(body) > math.prod(shape) else f"only {len(body)}"
        raise DataError(
            f"{name}: the header promises {math.prod(shape)} bytes of data "
            f"({' x '.join(map(str, shape))}), the file holds {found}"
        )
    return np.frombuffer(body, np.uint8).reshape(shape)


def _header(name: str, header: bytes, dimensions: int) -> tuple[int, ...]:
    if len(header) < 4 + 4 * dimensions:
        raise DataError(f"{name}: too short for an IDX header ({len(header)} bytes)")
    expected = bytes((0, 0, 0x08, dimensions))
    if header[:4] != expected:
        raise DataError(
            f"{name}: not an IDX file of bytes with {dimensions} dimensions: "
            f"it begins with {header[:4].hex()}, expected {expected.hex()}"
        )
    shape = struct.unpack(f">{dimensions}I", header[4:])
    if 0 in shape or math.prod(shape) > LARGEST:
        raise DataError(f"{name}: impossible size {' x '.join(map(str, shape))}")
    return shape
