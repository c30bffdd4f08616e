"""What pages tell a reader to type: blocks of Python, and commands of `lth`."""

import re
import shlex
from pathlib import Path

from lth.cli import main, running
from lth.lab import doctor
from lth.lab.config import validate
from lth.lab.config.presets import ALIASES, PRESETS, SUPERMASKS

ROOT = Path(__file__).parents[1]


def blocks(text: str) -> list[tuple[str, str]]:
    """Return the fenced blocks of a page, each with its language."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.S | re.M)


def python(text: str) -> list[str]:
    """Return the blocks of Python."""
    return [block for kind, block in blocks(text) if kind == "python"]


def commands(text: str) -> list[str]:
    """Return the commands of `lth` in blocks without a language, or of the shell's."""
    lines = [
        line.partition(" #")[0].replace("…", "").strip()
        for kind, block in blocks(text)
        if kind in ("", "shell")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [line for line in lines if line.startswith("lth ")]


def understand(line: str, monkeypatch, tmp_path, capsys) -> None:
    """Assert that a command is understood, as far as that costs no training."""
    command, *rest = shlex.split(line)[1:]
    presets = {"run": PRESETS, "supermask": SUPERMASKS}
    stored = command == "run" and "/" in rest[0] and ".py" not in rest[0]
    if stored:
        monkeypatch.chdir(tmp_path)
        assert main.command(["run", *rest]) == 5
        assert "no such folder" in capsys.readouterr().err
    elif command in presets and ".py" not in rest[0] and "--help" not in rest:
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
        missing = ("there is no run", "not a run", "no config.json")
        assert code == 0 or any(words in told for words in missing), told
