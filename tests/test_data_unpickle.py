"""Pickles of dictionaries, and pickles that would do something else."""

import io
import os
import pickle
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lth import data
from lth.data import unpickle


class OldPickler(pickle._Pickler):
    """Writes as Python 2 did, so that the published files' instructions are tried."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value):
        code = pickle.SHORT_BINSTRING if len(value) < 256 else pickle.BINSTRING
        size = 1 if len(value) < 256 else 4
        self.write(code + len(value).to_bytes(size, "little") + value)
        self.memoize(value)

    def save_array(self, value):
        self.save_reduce(*self.rebuilt(value), obj=value)

    @staticmethod
    def rebuilt(value):
        make, args, state = value.__reduce__()[:3]
        return make, args, (*state[:4], bytes(value.tobytes()))

    dispatch[bytes] = save_bytes
    dispatch[np.ndarray] = save_array


def old_dumps(value) -> bytes:
    file = io.BytesIO()
    OldPickler(file, protocol=2, fix_imports=True).dump(value)
    return file.getvalue()


def new_dumps(value) -> bytes:
    return pickle.dumps(value, protocol=2)


def test_arrays_lists_and_strings_come_out_as_they_went_in():
    value = {b"data": np.arange(6, dtype=np.uint8).reshape(2, 3), b"names": [b"x", 300]}
    for dumps in (old_dumps, new_dumps):
        found = unpickle.read_dict("f", dumps(value), 1000)
        np.testing.assert_array_equal(found.pop(b"data"), value[b"data"])
        assert found == {b"names": [b"x", 300]}


class Evil:
    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


def test_a_pickle_that_would_run_a_command_is_refused(tmp_path):
    body = old_dumps({b"data": Evil(os.system, f"touch {tmp_path / 'here'}")})
    with pytest.raises(data.DataError, match="f: .*asks for posix.system; allowed are"):
        unpickle.read_dict("f", body, 1000)
    with pytest.raises(pickle.UnpicklingError, match=r"posix.system"):  # second gate
        unpickle._Unpickler(io.BytesIO(body), encoding="bytes").load()
    assert not (tmp_path / "here").exists()


SHAPE = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
HUGE = b"(K\x01(J\xff\xff\xff\x7ftcnumpy\ndtype\n(U\x02u1tR\x89U\x01xtb"
BOMBS = {
    "an array that is all promise": (SHAPE + HUGE, "does not fit its data"),
    "a shape of bytes": (
        SHAPE + HUGE.replace(b"(J\xff\xff\xff\x7ft", b"(J\xff\xff\xff\x7fU\x01xt"),
        "does not fit its data",
    ),
    "a place far away": (b"}r\xff\xff\xff\x7f", "LONG_BINPUT to place 2147483647"),
    "a string far too long": (b"T\xff\xff\xff\x7fx", "not a pickle we read"),
    "numbers of numbers": (b"}" * 1001, "EMPTY_DICT is one too many"),
    "a string again and again": (b"X\x00\x02\x00\x00%0512dq\x01h\x01" % 0, "BINGET of"),
    "arguments again and again": (b"(U\x01xtq\x01h\x01", "BINGET of what is not a sh"),
    "a code": (b"c_codecs\nencode\n(X\x01\x00\x00\x00xU\x03hextR", "encoded by b'hex"),
    "classes": (b"cnumpy\nndarray\n)\x81", "instruction NEWOBJ is not allowed"),
    "objects elsewhere": (b"Pelsewhere\n", "instruction PERSID is not allowed"),
    "names from the stack": (b"\x8c\x02os\x8c\x06system\x93", "is not allowed"),
    "changed functions": (b"c_codecs\nencode\n}b", "not a pickle we read"),
}  # fmt: skip


@pytest.mark.parametrize("case", BOMBS)
def test_pickles_that_would_grow_or_change_something_are_refused(case):
    body, message = BOMBS[case]
    with pytest.raises(data.DataError, match=message):
        unpickle.read_dict("f", b"\x80\x02" + body + b".", 1000)


@given(st.binary(max_size=200))
def test_noise_is_never_read(body):
    with pytest.raises(data.DataError, match="f: "):
        unpickle.read_dict("f", b"\x80\x02" + body + b"N.", 1000)
