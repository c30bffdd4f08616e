"""`lth run FILE.py:FUNCTION`: what is wrong is said, and parameters are flags."""

import json

import pytest

import lth
from lth.cli import main

STUDY = '''\
"""A study of one's own."""

from pathlib import Path

from lth.lottery import branches
from tests import own


def make(
    levels: int = 1,
    width: int = 6,
    near: bool = False,
    where: Path = Path("here"),
    replicates: int = 2,
):
    """Make a recipe."""
    if width < 1:
        raise ValueError(f"width is at least 1; got {width}")
    return own.recipe(
        width,
        densities=(0.6, 0.3)[:levels],
        replicates=replicates,
        branches={"near": branches.rewound()} if near else {},
    )


def number():
    return 3


def _hidden():
    return 3
'''


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.py").write_text(STUDY)
    return tmp_path


def refused(capsys, *args):
    assert main.command(["run", *args]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lth: ")
    assert "Traceback" not in error
    return " ".join(error.split())


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nothing.py:make", "there is no file nothing.py: lth run FILE.py:FUNCTION"),
        ("study:make", "there is no file study: lth run FILE.py:FUNCTION"),
        (
            "study.py:mak",
            "has no function 'mak': perhaps study.py:make; it has",
        ),
        ("study.py:own", "has no function 'own'; it has make, number"),
        ("study.py:_hidden", "has no function '_hidden'"),
        ("study.py", "study.py needs the name of a function; it has make, number"),
        ("study.py:number", "returned int, not a recipe: return what lth.make_recipe"),
    ],
)
def test_what_is_no_function_of_a_file(source, said, study, capsys):
    assert said in refused(capsys, source)
    assert not (study / "runs").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import lth\n\nx = 1 / 0\n", "line 3: ZeroDivisionError: division by zero"),
        ("def make(:\n    pass\n", "line 1: SyntaxError: invalid syntax"),
        ("import no_such_module\n", "line 1: ModuleNotFoundError: No module named"),
    ],
)
def test_a_file_that_cannot_be_run_is_told_the_line(text, said, study, capsys):
    (study / "bad.py").write_text(text)
    assert f"bad.py cannot be run: {said}" in refused(capsys, "bad.py:make")


def test_what_the_function_refuses_is_said(study, capsys):
    error = refused(capsys, "study.py:make", "--width", "0")
    assert error == "lth: study.py:make: width is at least 1; got 0"
    for wrong in (["--width", "many"], ["--wdth", "3"]):
        with pytest.raises(SystemExit) as stop:
            main.command(["run", "study.py:make", *wrong])
        assert stop.value.code == 2
    capsys.readouterr()


def test_parameters_are_flags_and_a_dry_run_trains_nothing(study, capsys):
    args = ["--width", "7", "--levels", "2", "--replicates", "3", "--dry-run"]
    assert main.command(["run", "study.py:make", *args]) == 0
    told = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert told["run"] == "runs/study-make-width=7"
    assert told["replicates"] == "0, 1, 2"
    assert told["levels"].startswith("0 to 2, and 0 branches")
    assert told["steps"] == "12, and 12 of each ticket"
    assert told["weights"] == "49, of which 49 prunable"
    assert told["stored"] == "nothing"
    assert not (study / "runs").exists()
    with pytest.raises(SystemExit) as stop:
        main.command(["run", "study.py:make", "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "--width" in shown
    assert "--dry-run" in shown


def test_a_run_of_a_file_is_added_to_branched_and_measured(study, capsys):
    command = ["run", "study.py:make", "--width", "5", "--quiet"]
    assert main.command(command) == 0
    path = study / "runs" / "study-make-width=5"
    assert capsys.readouterr().out == "runs/study-make-width=5\n"
    more = ["--levels", "2", "--replicates", "3", "--where", "there"]
    assert main.command([*command, *more, "--name", "mine"]) == 0
    named = study / "runs" / "mine-where=there-width=5"
    assert lth.open_run(named).replicates == [0, 1, 2]
    assert main.command([*command, *more[:4]]) == 0
    run = lth.open_run(path)
    assert (run.levels, run.replicates) == ([0, 1, 2], [0, 1, 2])
    assert run.settings == {"width": 5, "levels": 2, "replicates": 3}
    content = json.loads((path / "config.json").read_text())
    assert content["source"] == "study.py:make"
    assert main.command(command) == 0  # asked for less, it is still made as before
    assert json.loads((path / "config.json").read_text()) == content
    assert main.command([*command, "--near"]) == 0  # another flag, another folder
    assert (study / "runs" / "study-make-near=True-width=5").is_dir()
    capsys.readouterr()

    assert lth.open_run(named).settings["where"] == "there"
    assert main.command(["measure", named.name, "distance", "--levels", "1"]) == 0
    near = "study-make-near=True-width=5"
    assert main.command(["branch", near, "near", "--levels", "0"]) == 0
    assert "initial weights trained" in capsys.readouterr().out
    assert lth.open_run(study / "runs" / near).ticket(0, "near").level == 0
    assert main.command(["branch", near, "far"]) == 2
    assert "branches by name are near, reinit, " in capsys.readouterr().err
    noise = ["branch", near, "noise", "--scale", "0.5", "--levels", "1", "--quiet"]
    assert main.command(noise) == 0
    assert "noise-scale=0.5" in lth.open_run(study / "runs" / near).variants
    assert main.command(["branch", near, "nois"]) == 2
    assert "got 'nois'; perhaps noise" in capsys.readouterr().err
    assert main.command(["measure", path.name, "densities", "--levels", "1,2"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("first/kernel") == shown.count("last/kernel") == 2
    assert main.command(["measure", path.name, "density"]) == 2
    assert "probes by name are densities" in capsys.readouterr().err
    assert main.command(["list"]) == 0
    (line,) = (x for x in capsys.readouterr().out.splitlines() if path.name + ":" in x)
    assert "  width 5  levels 0 to 2  n = 3  best test accuracy " in line
