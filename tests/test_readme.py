"""What the README says to type works as it stands."""

import re
import shlex
from pathlib import Path

import pytest

from lth import masks
from lth.cli import main, running
from lth.lab import doctor
from lth.lab.config import validate
from lth.lab.config.presets import ALIASES, PRESETS, SUPERMASKS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.S | re.M)
PYTHON = [block for kind, block in BLOCKS if kind == "python"]
SHELL = [
    line.partition(" #")[0].replace("…", "").strip()
    for kind, block in BLOCKS
    if not kind
    for line in block.replace("\\\n", " ").splitlines()
]
COMMANDS = [line for line in SHELL if line.startswith("lth ")]


def finds_tickets(found, told):
    """What comes of the quickstart."""
    assert found["ticket"].level == 12
    assert found["ticket"].metrics["test_accuracy"][-1] > 0.9
    assert len(told.splitlines()) == 12


def starts_from_masked_params(found, told):
    """What comes of the rules that change a mask in training."""
    assert found["params"]["kernel"].shape == (20, 10)
    assert float(masks.density(found["opt_state"].mask)) == 1  # it prunes in training


FACTS = {"lottery.imp": finds_tickets, "dynamic.sparsify": starts_from_masked_params}


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.split("\n")[0])
def test_python_runs_as_it_stands(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found: dict = {"__name__": "readme"}
    exec(compile(block, "README.md", "exec"), found)
    told = capsys.readouterr().out
    for part, fact in FACTS.items():
        if part in block:
            fact(found, told)


@pytest.mark.parametrize("part", FACTS)
def test_a_fact_is_of_one_block(part):
    assert sum(part in block for block in PYTHON) == 1


def test_there_is_something_to_run():
    assert len(PYTHON) >= 4
    assert len(COMMANDS) >= 15


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_understood(line, monkeypatch, tmp_path, capsys):
    command, *rest = shlex.split(line)[1:]
    presets = {"run": PRESETS, "supermask": SUPERMASKS}
    if command in presets and ".py" not in rest[0] and "--help" not in rest:
        preset = presets[command][
            ALIASES.get(rest[0], rest[0]) if command != "run" else rest[0]
        ]
        if command == "supermask":
            preset, rest = preset[rest[1]], rest[1:]
        flags = running.parsed(preset, rest[1:], line)
        validate.check(flags.experiment)
    elif command == "sweep":
        monkeypatch.chdir(ROOT)
        args = [*rest, "--runs", str(tmp_path), "--dry-run"]
        collects = "--collect" in rest
        assert main.command(["sweep", *args]) == (2 if collects else 0)
        told = capsys.readouterr()
        assert " waiting\n" in told.out
        assert ("no cell has results yet" in told.err) == collects
    elif command == "run" and ".py" in rest[0]:
        monkeypatch.chdir(ROOT)
        args = [*rest, "--runs", str(tmp_path), "--dry-run"]
        assert main.command(["run", *args]) == 0
        assert "stored      nothing" in capsys.readouterr().out
    else:  # of runs that are not there: it is the flags that must be known
        monkeypatch.chdir(tmp_path)
        disk = {"disk": doctor.CHECKS["disk"]}  # all of them take a while
        monkeypatch.setattr(doctor, "CHECKS", disk)
        try:
            code = main.command([command, *rest])
        except SystemExit as stopped:  # --help
            code = stopped.code
        told = capsys.readouterr().err
        assert code == 0 or "not a run" in told or "no config.json" in told, told
