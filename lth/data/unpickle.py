"""Read a dictionary of arrays, lists and strings from a pickle that is not trusted.

Two gates, each enough against code: the file's instructions are listed without running
them and refused unless all are among the few that such a dictionary needs; then they
run with every name replaced by a harmless stand-in of ours, so nothing of NumPy is
called either. What comes out is never larger than a small multiple of the file.
"""

import io
import math
import pickle
import pickletools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from lth.data.errors import DataError

OPCODES = frozenset(
    "PROTO STOP MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 "
    "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE BINBYTES SHORT_BINBYTES "
    "EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "EMPTY_DICT DICT SETITEM SETITEMS PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET "
    "GLOBAL REDUCE BUILD".split()
)
SHORT = 256  # bytes in a string that may be used twice


class _Array:
    """Stands in for numpy.ndarray and for the function that makes an empty one."""

    def __init__(self, kind, shape, code):
        self.value = np.zeros(0, np.uint8)

    def __setstate__(self, state):
        _, shape, dtype, fortran, body = state
        if not isinstance(dtype, _Type):
            raise ValueError("an array without a number type")
        whole = isinstance(shape, tuple) and all(type(n) is int for n in shape)
        if not (whole and isinstance(body, bytes) and math.prod(shape) == len(body)):
            raise ValueError(f"an array of shape {shape} does not fit its data")
        flat = np.frombuffer(body, np.uint8)
        self.value = flat.reshape(shape, order="F" if fortran else "C")


class _Type:
    """Stands in for numpy.dtype: the unsigned byte, and no other."""

    def __init__(self, code, align=False, copy=False):
        if code not in ("u1", b"u1"):
            raise ValueError(f"an array of number type {code!r}; only u1 is allowed")

    def __setstate__(self, state):
        pass  # byte order and alignment, which a byte does not have


class _Latin1(bytes):
    """Stands in for _codecs.encode, with which Python 3 wrote bytes in protocol 2."""

    def __new__(cls, text, encoding):
        if encoding not in ("latin1", b"latin1"):
            raise ValueError(
                f"a string encoded by {encoding!r}; only latin1 is allowed"
            )
        return text.encode("latin1")

    def __setstate__(self, state):
        raise ValueError("bytes have no state")


NAMES: Mapping[str, Any] = {
    "numpy.core.multiarray _reconstruct": _Array,
    "numpy._core.multiarray _reconstruct": _Array,
    "numpy ndarray": _Array,
    "numpy dtype": _Type,
    "_codecs encode": _Latin1,
}


class _Unpickler(pickle.Unpickler):
    names: Mapping[str, Any] = NAMES

    def find_class(self, module_name, global_name):
        return self.names[_allowed(f"{module_name} {global_name}", self.names)]


def read_dict(name: str, body: bytes, instructions: int) -> dict[bytes, object]:
    """Read the dictionary in the pickle `body`, called `name` where it is refused.

    Strings of Python 2 are bytes; arrays are uint8. Raises DataError, also for a pickle
    of more than so many instructions.
    """
    try:
        found = load(body, instructions)
    except Exception as error:  # damaged pickles fail in every way there is
        raise DataError(f"{name}: not a pickle we read: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f"{name}: holds {type(found).__name__}, expected a dictionary")
    return {k: v.value if isinstance(v, _Array) else v for k, v in found.items()}


def load(
    body: bytes,
    instructions: int,
    opcodes: frozenset[str] = OPCODES,
    names: Mapping[str, Any] = MappingProxyType(NAMES),
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Run a pickle through both gates; what it holds is made of stand-ins.

    Args:
      body: the pickle, to its last byte.
      instructions: the most that it may have.
      opcodes: the instructions it may use, which make no objects but by `names`.
      names: what it may ask for by name, and what it is given in its place.
      persistent: what stands outside of it, by what it says of that.

    Returns:
      What it holds; text is bytes where Python 2 wrote it.

    Raises:
      Any exception there is, of a pickle that is damaged or not allowed.
    """
    _inspect(body, instructions, opcodes, names)
    unpickler = _Unpickler(io.BytesIO(body), encoding="bytes")
    unpickler.names = names
    if persistent is not None:
        unpickler.persistent_load = persistent
    return unpickler.load()


def _inspect(
    body: bytes, most: int, opcodes: frozenset[str], names: Mapping[str, Any]
) -> None:
    """Refuse what no dictionary of arrays needs; raises UnpicklingError.

    Only names and short strings may be used twice, and the places where they are kept
    are numbered below the file's length: a table is allocated up to the highest.
    """
    again, before = set(), None
    for count, (opcode, argument, at) in enumerate(pickletools.genops(body)):
        if opcode.name not in opcodes or count > most:
            why = "is one too many" if opcode.name in opcodes else "is not allowed"
            raise pickle.UnpicklingError(f"instruction {opcode.name} {why}")
        if opcode.name == "GLOBAL":
            _allowed(str(argument), names)
        if "PUT" in opcode.name:
            if int(argument or 0) > len(body):
                raise pickle.UnpicklingError(f"{opcode.name} to place {argument}")
            short = isinstance(before, str | bytes) and len(before) <= SHORT
            (again.add if short else again.discard)(argument)
        if "GET" in opcode.name and argument not in again:
            raise pickle.UnpicklingError(f"{opcode.name} of what is not a short string")
        if opcode.name == "STOP" and at is not None and at + 1 != len(body):
            raise pickle.UnpicklingError(f"{len(body) - 1 - at} bytes after its end")
        before = argument


def _allowed(name: str, names: Mapping[str, Any]) -> str:
    if name not in names:
        raise pickle.UnpicklingError(
            f"it asks for {name.replace(' ', '.')}; allowed are "
            + ", ".join(known.replace(" ", ".") for known in names)
        )
    return name
