"""Files of PyTorch's tensors, read without it; and files that would do something."""

import os
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lth import data
from lth.compress import torch_files
from tests import openlth
from tests.openlth import HEAD, archive, described, name, number, numbers, word
from tests.test_data_unpickle import Evil

TENSORS = {
    "fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fc.bias": np.array([0.5, -1], np.float32),
    "mask": np.array([[1, 0], [0, 1]], np.int32),
}


@pytest.mark.parametrize("save", [openlth.save, openlth.save_legacy])
def test_tensors_come_out_as_they_went_in(tmp_path, save):
    save(tmp_path / "f.pth", TENSORS)
    found = torch_files.read(tmp_path / "f.pth")
    assert [*found] == [*TENSORS]
    for key, array in TENSORS.items():
        np.testing.assert_array_equal(found[key], array)
        assert found[key].dtype == array.dtype


def test_a_view_is_read_in_its_own_order(tmp_path):
    turned = np.arange(12, dtype=np.float32).reshape(3, 4).T
    body = HEAD + b"}(" + word("a") + described("0", turned) + b"u."
    archive(tmp_path / "f", body, [np.arange(12, dtype=np.float32).tobytes()])
    np.testing.assert_array_equal(torch_files.read(tmp_path / "f")["a"], turned)


def refused(path, message):
    with pytest.raises(data.DataError, match=message) as told:
        torch_files.read(path)
    assert str(path) in str(told.value)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_would_run_a_command_is_refused(tmp_path, legacy):
    here = tmp_path / "here"
    body = pickle.dumps({"a": Evil(os.system, f"touch {here}")}, protocol=2)
    if legacy:
        (tmp_path / "f").write_bytes(body)
    else:
        archive(tmp_path / "f", body, [])
    refused(tmp_path / "f", r"asks for posix.system; allowed are")
    assert not here.exists()


def tensor(storage=b"", view=b"", kind="torch FloatStorage", size=4):
    """A tensor whose storage or view may be anything; the storage has 4 numbers."""
    told = word("storage") + name(kind) + word("0") + word("cpu") + number(size)
    storage = storage or b"(" + told + b"tQ"
    view = view or number(0) + numbers([4]) + numbers([1])
    rest = b"\x89" + name("collections OrderedDict") + b")R"
    return (
        name("torch._utils _rebuild_tensor_v2") + b"(" + storage + view + rest + b"tR"
    )


BAD = {
    "larger than its storage": (
        tensor(view=number(0) + numbers([5]) + numbers([1])),
        r"a tensor \[5\] outside its storage",
    ),
    "beyond its storage": (
        tensor(view=number(3) + numbers([2]) + numbers([1])),
        "outside its storage",
    ),
    "one number again and again": (
        tensor(view=number(0) + numbers([2**30]) + numbers([0])),
        "outside its storage",
    ),
    "below 0": (
        tensor(view=number(-1) + numbers([2]) + numbers([1])),
        "no view of a storage",
    ),
    "of strides that are none": (
        tensor(view=number(0) + numbers([2, 2]) + numbers([1])),
        "no view of a storage",
    ),
    "of a storage that is none": (tensor(storage=word("x")), "no view of a storage"),
    "of a storage of text": (
        tensor(storage=word("a")[:0] + b"(" + word("storage") + b"tQ"),
        "no file of tensors",
    ),
    "of a storage of fewer numbers": (tensor(size=9), "has 4 numbers, not 9"),
    "of a storage without end": (tensor(size=-1), "a storage of -1 numbers"),
    "of other numbers": (
        tensor(kind="torch ComplexFloatStorage"),
        "asks for torch.ComplexFloatStorage",
    ),
    "a list": (b"]", "something else than tensors"),
    "a changed function": (
        name("torch._utils _rebuild_tensor_v2") + b"}b",
        "no file of tensors",
    ),
    "a called type": (name("torch FloatStorage") + b")R", "no file of tensors"),
    "a dictionary of arguments": (
        name("collections OrderedDict") + b"(" + number(1) + b"tR",
        "no file of tensors",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_tensor_is_refused(tmp_path, case):
    body, message = BAD[case]
    storage = np.zeros(4, np.float32).tobytes()
    archive(tmp_path / "f", HEAD + b"}(" + word("a") + body + b"u.", [storage])
    refused(tmp_path / "f", message)


def test_many_tensors_of_one_storage_are_no_more_than_the_file(tmp_path):
    big = np.zeros(5000, np.float32)
    items = b"".join(word(str(i)) + described("0", big) for i in range(20))
    archive(tmp_path / "f", HEAD + b"}(" + items + b"u.", [big.tobytes()])
    refused(tmp_path / "f", "tensors of 400000 bytes in a file of")


def test_archives_that_are_none_of_pytorch_are_refused(tmp_path):
    path, whole = tmp_path / "f", openlth.pickled(TENSORS)
    storages = [array.tobytes() for array in TENSORS.values()]
    archive(path, whole, storages, zipfile.ZIP_DEFLATED)
    refused(path, "is compressed, which PyTorch never does")
    archive(path, whole, storages[:1])
    refused(path, "There is no item named")
    with zipfile.ZipFile(path, "w") as members:
        members.writestr("other", "x")
    refused(path, "0 members called data.pkl")
    openlth.save(path, TENSORS)
    body = bytearray(path.read_bytes())
    body[body.find(TENSORS["fc.bias"].tobytes())] ^= 1
    path.write_bytes(body)
    refused(path, "Bad CRC-32")
    refused(tmp_path / "none", "cannot be read: No such file")


def test_half_a_file_is_refused(tmp_path):
    for save in (openlth.save, openlth.save_legacy):
        save(tmp_path / "f", TENSORS)
        body = (tmp_path / "f").read_bytes()
        for size in range(0, len(body) - 1, 7):
            (tmp_path / "f").write_bytes(body[:size])
            refused(tmp_path / "f", "no file of tensors")


@given(st.binary(max_size=200))
def test_noise_is_never_read(tmp_path_factory, body):
    path = tmp_path_factory.mktemp("noise") / "f"
    path.write_bytes(HEAD + body)
    refused(path, "no file of tensors")
