"""Arrays by name in one file, which others can read: safetensors, or NumPy's npz.

A file holds a card beside them, a dict that JSON can write: what it is, and where it
comes from. What is read is taken for hostile: sizes and types are checked before
anything is made of them, and nothing is unpickled.
"""

import io
import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib import format as npy

from lth.compress.storage import Arrays

CARD = "card"  # its name in a file; paths of leaves have a / in them
KINDS = "biuf"  # of types: booleans and numbers
TYPES = {
    **{"F16": "<f2", "F32": "<f4", "F64": "<f8", "BOOL": "?"},
    **{f"I{8 * n}": f"<i{n}" for n in (1, 2, 4, 8)},
    **{f"U{8 * n}": f"<u{n}" for n in (1, 2, 4, 8)},
}
LIMIT = 2**33  # bytes of arrays that a file may hold


def to_npz(arrays: Mapping[str, np.ndarray], card: Mapping[str, Any]) -> bytes:
    """Write arrays and a card as `np.load` reads them, deflated.

    The same arrays and card give the same bytes.
    """
    file = io.BytesIO()
    told = {CARD: np.array(json.dumps(card)), **arrays}
    np.savez_compressed(file, allow_pickle=False, **told)
    return file.getvalue()


def to_safetensors(arrays: Mapping[str, np.ndarray], card: Mapping[str, Any]) -> bytes:
    """Write arrays and a card, in its metadata, as safetensors.

    Raises ModuleNotFoundError, with what to install, where `safetensors` is not.
    """
    tensors = {n: np.array(x, order="C") for n, x in arrays.items()}  # it wants theirs
    return _safetensors().numpy.save(tensors, {CARD: json.dumps(card)})


def read(file: bytes, limit: int = LIMIT) -> tuple[Arrays, dict[str, Any]]:
    """Read arrays and card of a file of either kind; {} where it has no card.

    Raises ValueError for a file that is cut short, is none, or holds something else
    than numbers, and for more than `limit` bytes of them.
    """
    try:
        npz = file[:2] == b"PK"
        arrays, text = _from_npz(file, limit) if npz else _from_safetensors(file)
        card = json.loads(text) if text else {}
        if not isinstance(card, dict):
            raise ValueError("its card is no JSON object")
    except ModuleNotFoundError:
        raise
    except (
        *(ValueError, KeyError, TypeError, IndexError, EOFError, OSError),
        *(zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError),
        *(SyntaxError, RecursionError, OverflowError),
    ) as error:
        raise ValueError(f"this is no file of weights: {error}") from None
    return arrays, card


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "files of safetensors need their package: pip install 'lth[export]'"
        ) from None
    return safetensors


def _from_safetensors(file: bytes) -> tuple[Arrays, str]:
    package = _safetensors()
    try:
        tensors = package.deserialize(file)  # which checks sizes and places
    except package.SafetensorError as error:
        raise ValueError(str(error)) from None
    arrays = {name: _tensor(name, told) for name, told in tensors}
    head = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])
    return arrays, head.get("__metadata__", {}).get(CARD, "")


def _tensor(name: str, told: Mapping[str, Any]) -> np.ndarray:
    """A tensor of safetensors; bfloat16, which NumPy lacks, as float32."""
    kind, shape, content = told["dtype"], told["shape"], bytes(told["data"])
    if kind == "BF16":
        upper = np.frombuffer(content, "<u2").astype("<u4") << 16
        return upper.view("<f4").reshape(shape)
    if kind not in TYPES:
        raise ValueError(f"{name} holds {kind}; there are {', '.join(TYPES)}")
    return np.frombuffer(content, TYPES[kind]).reshape(shape)


def _from_npz(file: bytes, limit: int) -> tuple[Arrays, str]:
    arrays, card = {}, ""
    with zipfile.ZipFile(io.BytesIO(file)) as members:
        entries = members.infolist()
        whole = sum(entry.file_size for entry in entries)
        if whole > limit:
            raise ValueError(f"it unpacks to {whole} bytes, more than {limit}")
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            if name == entry.filename or name in arrays:
                raise ValueError(f"{entry.filename} is no array, or is there twice")
            with members.open(entry) as member:
                array = _array(name, member, entry.file_size)
            if name == CARD:
                card = str(array)
            else:
                arrays[name] = array
    return arrays, card


def _array(name: str, member: Any, size: int) -> np.ndarray:
    """One array, made only if its header agrees with the bytes that are there."""
    version = npy.read_magic(member)
    reads = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in reads:
        raise ValueError(f"{name} is of version {version} of npy")
    shape, by_column, dtype = reads[version](member)
    text = name == CARD and dtype.kind == "U" and not shape
    if not text:
        _check(name, dtype)
    count = math.prod(shape)
    if min(shape, default=0) < 0 or member.tell() + count * dtype.itemsize != size:
        raise ValueError(f"{name} is not of the size that {dtype}{list(shape)} is")
    flat = np.frombuffer(member.read(), dtype, count)
    return flat.reshape(shape, order="F" if by_column else "C")


def _check(name: str, dtype: np.dtype) -> None:
    if dtype.kind not in KINDS or dtype.hasobject:
        raise ValueError(f"{name} holds {dtype}, which is no number")
