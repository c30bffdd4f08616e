"""What a user can put right is said in a sentence, with no traceback."""

import errno
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest

import lth
from lth import data
from lth.cli import main
from lth.data import cifar, mnist
from lth.lab import store
from lth.lab.build import tasks
from lth.lab.config.presets import PRESETS
from lth.lab.store import checkpoint

FAST = (
    "--model.widths 8 --steps 20it --eval-every 10it --levels 1 --replicates 2".split()
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert main.command(["run", "digits", *FAST, "--quiet", "--runs", str(folder)]) == 0
    return next(folder.glob("digits-*"))


@pytest.fixture
def run(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / whole.name))


@pytest.mark.parametrize("name", ["lenet5", "conv8", "vgg11"])
def test_a_network_that_images_are_too_small_for(name, tmp_path, capsys):
    args = ["--model.name", name, "--model.width", "0.1", "--runs", str(tmp_path)]
    assert main.command(["run", "digits", *args]) == 2
    said = capsys.readouterr().err
    assert f"--model.name {name} does not fit examples of shape (8, 8, 1)" in said
    assert "--data.name digits: no 2 x 2 window" in said
    assert not list(tmp_path.iterdir())


def test_images_without_any_pixel(monkeypatch):
    black = data.Dataset(np.zeros((9, 8, 8, 1), np.uint8), np.arange(9, dtype=np.int32))
    monkeypatch.setattr(tasks.data, "load", lambda *_: data.Splits(black, black, black))
    e = PRESETS["digits"].experiment
    with pytest.raises(
        data.DataError, match="all pixels of the training images of dig"
    ):
        tasks.load(e.data, e.model, batch_size=3)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00", b"null"])
def test_a_report_does_without_the_environment(run, content, capsys):
    (run / "environment.json").unlink()
    if content is not None:
        (run / "environment.json").write_bytes(content)
    assert main.command(["report", str(run)]) == 0
    args = ["--runs", str(run.parent), "--quiet"]
    code = main.command(["run", "digits", *FAST, *args])
    assert code == (0 if content is None else 5)
    if content is not None:
        assert "Move it away and give the same" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "odd"),
    [
        ("work", None),
        ("work", [3]),
        ("data", 7),
        ("preset", None),
        ("replicates", []),
        ("replicates", [[]]),
        ("replicates", [["0"]]),
        ("replicates", 2),
    ],
)
def test_odd_fields(run, field, odd, capsys):
    content = store.read_config(run)
    (run / "config.json").write_text(store.sealed({**content, field: odd}))
    assert main.command(["show", str(run)]) == 5
    said = capsys.readouterr().err
    assert "config.json is damaged" in said
    assert field in said
    del content[field]
    (run / "config.json").write_text(store.sealed(content))
    args = ["--runs", str(run.parent), "--quiet"]
    if field == "work":  # it is counted once the trunk is trained
        assert main.command(["run", "digits", *FAST, *args]) == 0
        return
    assert main.command(["run", "digits", *FAST, *args]) == 5
    assert f"config.json is damaged: {field}" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a,b\n1,2\n"])
def test_a_table_that_is_none(run, content, capsys):
    (run / "table.csv").write_bytes(content)
    assert main.command(["show", str(run)]) == 5
    assert main.command(["run", "digits", *FAST, "--runs", str(run.parent)]) == 5
    assert capsys.readouterr().err.count("table.csv was changed or lost") == 2


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EFBIG])
def test_the_disk_fails_inside_orbax(tmp_path, number, monkeypatch):
    def fail(*args, **kwargs):
        raise ValueError(f"INTERNAL: write: [errno {number}: {os.strerror(number)}]")

    monkeypatch.setattr(checkpoint.ocp, "save", fail)
    with pytest.raises(store.StoreError, match=f"cannot write .*{os.strerror(number)}"):
        checkpoint.save(tmp_path / "x", {"a": np.ones(3)})
    monkeypatch.setattr(checkpoint.ocp, "metadata", fail)
    with pytest.raises(store.StoreError, match=f"read: {os.strerror(number)}$"):
        checkpoint.load(tmp_path / "x")  # sound data: nothing to delete


def test_a_backslash_in_a_name_is_refused_before_anything_is_written(tmp_path, capsys):
    folder = tmp_path / r"a\b"
    assert main.command(["run", "digits", *FAST, "--runs", str(folder)]) == 5
    said = capsys.readouterr().err
    assert "a backslash in a folder's name is taken for a slash" in said
    assert "Delete" not in said


def test_a_damaged_checkpoint_says_so_in_two_lines(run):
    for file in (run / "tickets" / "level_01" / "state").rglob("d/*"):
        file.write_bytes(b"")
    done = subprocess.run(
        [sys.executable, "-m", "lth", "report", str(run)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(lth.__file__).parents[1])},
    )
    assert done.returncode == 5
    assert "level_01 cannot be read" in done.stderr
    assert len(done.stderr.splitlines()) == 2, done.stderr[:2000]


def test_a_dollar_sign_in_the_names_of_two_runs(run, tmp_path):
    names = ["pay $x_{", "$5 and $6^"]
    paths = [str(shutil.copytree(run, tmp_path / name)) for name in names]
    page = str(tmp_path / "page.html")
    assert main.command(["report", *paths, "--out", page]) == 0


def test_an_archive_with_holes(tmp_path):
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        member.pax_headers = {"GNU.sparse.map": "0,x,7", "GNU.sparse.size": "9"}
        archive.addfile(member)
    (tmp_path / "a.tar.gz").write_bytes(body.getvalue())
    with pytest.raises(data.DataError, match="a.tar.gz: "):
        list(cifar._archive(tmp_path / "a.tar.gz", "cifar-10-batches-bin")(["x"]))


def test_a_folder_that_cannot_be_written_says_nothing_else(tmp_path):
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "lth",
            "run",
            "digits",
            "--runs",
            str(tmp_path / "file"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(lth.__file__).parents[1])},
    )
    assert done.returncode == 5
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.fixture(scope="module")
def damage():
    path = Path(__file__).parents[1] / "experiments" / "damage_test.py"
    spec = importlib.util.spec_from_file_location("damage_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def few(damage, tmp_path_factory):
    folder = tmp_path_factory.mktemp("few")
    damage.make_run(folder)
    return folder


def test_damaged_files_are_refused_or_read_as_before(
    damage, few, tmp_path, monkeypatch
):
    """A short form of experiments/damage_test.py."""
    monkeypatch.setattr(mnist, "MNIST_FACTS", mnist.MNIST_FACTS)  # it sets others
    rng, seen = np.random.default_rng(3), {}
    for name, kind in damage.KINDS.items():
        folder = few
        if kind.make is not damage.make_run:
            folder = tmp_path / name
            folder.mkdir()
            kind.make(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            right = kind.read(folder)
        files = kind.files(folder)
        for _ in range(8 if kind.make is damage.make_run else 20):
            path = files[int(rng.integers(len(files)))]
            body = path.read_bytes()
            path.write_bytes(damage.damaged(rng, body))
            what, why = damage.outcome(kind, folder, right)
            path.write_bytes(body)
            assert what != "crash", (name, path.name, why)
            assert what != "other" or not kind.sealed, (name, path.name)
            seen.setdefault(name, set()).add(what)
    assert all("refused" in seen[n] for n in ("idx", "config", "table", "checkpoint"))
