"""Read the tensors in a file that PyTorch wrote: without PyTorch, and nothing is run.

Such a file is a pickle and the bytes of its storages. The pickle passes the two gates
of `data.unpickle`, with names for tensors, their storages and ordered dictionaries
alone; what it makes are descriptions, and only these are turned into arrays, which
together are no larger than the file. Both layouts are read: the archive (PyTorch 1.6
and later) and the one before it, pickles one after the other and then the storages.
"""

import io
import math
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lth.data import unpickle
from lth.data.errors import DataError

LIMIT = 2**33  # bytes of a file
INSTRUCTIONS = 200_000  # of a pickle; a tensor takes about 25
OPCODES = unpickle.OPCODES | {"BINPERSID"}
MAGIC = 0x1950A86A20F9469CFC6C, 1001  # how files before the archive begin


class _Kind(NamedTuple):
    """Stands in for the type of a storage."""

    dtype: str


class _Storage(NamedTuple):
    """What a pickle says of a storage."""

    kind: _Kind
    key: str
    size: int  # in numbers


class _Tensor(NamedTuple):
    """What a pickle says of a tensor: a view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Dict(dict):
    """Stands in for collections.OrderedDict."""

    def __init__(self):
        super().__init__()

    def __setstate__(self, state):
        pass  # versions of modules, which no array needs


def _rebuilt(storage, offset, shape, strides, requires_grad=False, hooks=None):
    """Stand in for the function that makes a tensor of a storage."""
    numbers = [offset, *shape, *strides]
    whole = all(type(n) is int and n >= 0 for n in numbers)
    if not (isinstance(storage, _Storage) and whole and len(shape) == len(strides)):
        raise ValueError("a tensor that is no view of a storage")
    steps = zip(shape, strides, strict=True)
    last = offset + sum((n - 1) * step for n, step in steps)
    size = math.prod(shape)
    if size > storage.size or (size and last >= storage.size):
        raise ValueError(f"a tensor {list(shape)} outside its storage")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


NAMES = {
    "collections OrderedDict": _Dict,
    "torch._utils _rebuild_tensor_v2": _rebuilt,
    "torch FloatStorage": _Kind("<f4"),
    "torch DoubleStorage": _Kind("<f8"),
    "torch HalfStorage": _Kind("<f2"),
    "torch LongStorage": _Kind("<i8"),
    "torch IntStorage": _Kind("<i4"),
    "torch ShortStorage": _Kind("<i2"),
    "torch CharStorage": _Kind("|i1"),
    "torch ByteStorage": _Kind("|u1"),
    "torch BoolStorage": _Kind("|b1"),
}


def _persistent(said: Any) -> _Storage:
    """A storage, from what the pickle says stands outside of it."""
    word, kind, key, _, count, *view = said
    if word not in ("storage", b"storage") or any(v is not None for v in view):
        raise ValueError("something outside that is no storage")
    if not (isinstance(kind, _Kind) and isinstance(key, str)):
        raise ValueError("a storage without a type of number and a name")
    if type(count) is not int or count < 0:
        raise ValueError(f"a storage of {count!r} numbers")
    return _Storage(kind, key, count)


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Read the tensors, by name, of a file that `torch.save` wrote of a dict of them.

    Raises DataError, with the path and the reason, for a file that is damaged, holds
    anything else, or asks for more than tensors.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > LIMIT:
            raise ValueError(f"{size} bytes are more than the {LIMIT} allowed")
        body = path.read_bytes()
        archived = body.startswith(b"PK")
        named, stored = _archive(body) if archived else _pickles(body)
        if not isinstance(named, dict) or not all(
            isinstance(name, str) and isinstance(tensor, _Tensor)
            for name, tensor in named.items()
        ):
            raise ValueError("it holds something else than tensors by name")
        wanted = sum(_bytes(t.storage.kind, t.shape) for t in named.values())
        if wanted > size:
            raise ValueError(f"tensors of {wanted} bytes in a file of {size}")
        return {name: _array(tensor, stored) for name, tensor in named.items()}
    except OSError as error:
        why = error.strerror or str(error)
        raise DataError(f"{path}: cannot be read: {why}") from None
    except Exception as error:  # damaged files fail in every way there is
        why = str(error) or type(error).__name__
        raise DataError(f"{path}: no file of tensors: {why}") from None


def _bytes(kind: _Kind, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * np.dtype(kind.dtype).itemsize


def _array(tensor: _Tensor, stored: Callable[[_Storage], bytes]) -> np.ndarray:
    storage = tensor.storage
    flat = np.frombuffer(stored(storage), storage.kind.dtype)
    if len(flat) != storage.size:
        raise ValueError(
            f"storage {storage.key} has {len(flat)} numbers, not {storage.size}"
        )
    if not math.prod(tensor.shape):
        return np.zeros(tensor.shape, flat.dtype)
    strides = [step * flat.itemsize for step in tensor.strides]
    view = np.lib.stride_tricks.as_strided(
        flat[tensor.offset :], tensor.shape, strides, writeable=False
    )
    return np.ascontiguousarray(view).reshape(tensor.shape)


def _load(body: bytes) -> Any:
    return unpickle.load(body, INSTRUCTIONS, OPCODES, NAMES, _persistent)


def _archive(body: bytes) -> tuple[Any, Callable[[_Storage], bytes]]:
    """What the pickle in an archive describes, and what reads its storages."""
    members = zipfile.ZipFile(io.BytesIO(body))
    pickles = [n for n in members.namelist() if n.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"an archive with {len(pickles)} members called data.pkl")
    root = pickles[0].removesuffix("data.pkl")

    def member(name: str) -> bytes:
        told = members.getinfo(root + name)
        if told.compress_type != zipfile.ZIP_STORED or told.file_size > len(body):
            raise ValueError(f"{told.filename} is compressed, which PyTorch never does")
        return members.read(told)

    order = member("byteorder") if f"{root}byteorder" in members.namelist() else b""
    if order not in (b"", b"little"):
        raise ValueError(f"numbers in the byte order {order[:20]!r}, not little")
    return _load(member("data.pkl")), lambda storage: member(f"data/{storage.key}")


def _pickles(body: bytes) -> tuple[Any, Callable[[_Storage], bytes]]:
    """The same of a file of the time before archives."""
    file = io.BytesIO(body)

    def following() -> Any:
        start = file.tell()
        for _ in pickletools.genops(file):
            pass
        return _load(body[start : file.tell()])

    if (following(), following()) != MAGIC:
        raise ValueError("neither an archive nor what PyTorch wrote before 1.6")
    system = following()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("it does not say that its numbers are little-endian")
    named, keys = following(), following()
    known = {
        tensor.storage.key: tensor.storage
        for tensor in (named.values() if isinstance(named, dict) else ())
        if isinstance(tensor, _Tensor)
    }
    if not isinstance(keys, list) or sorted(keys) != sorted(known):
        raise ValueError("its list of storages is not that of its tensors")
    stored = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little", signed=True)
        if count != known[key].size:
            raise ValueError(f"storage {key} has {count} numbers in place of others")
        stored[key] = file.read(_bytes(known[key].kind, (count,)))
    return named, lambda storage: stored[storage.key]
