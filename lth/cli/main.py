"""The command `lth`.

Exit codes: 0 done; 1 a check of `lth doctor` or a cell of a sweep failed, or an error
of `lth` itself; 2 it cannot be run as asked (flag, configuration, data); 3 done, but
some replicate's loss was not finite; 4 another process is at work on the run; 5 the run
directory cannot be read or written; 130 or 143 interrupted. Results go to standard
output, progress and errors to standard error.
"""

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

import lth
from lth.cli import (
    bringing,
    interrupt,
    running,
    sweeping,
    taking,
    terminal,
    watching,
)
from lth.cli import flags as typed
from lth.lab.config import ConfigError, parse

USAGE = """usage: lth COMMAND …

  lth run PRESET [flags]   find tickets, or continue where a run stopped
  lth supermask PRESET METHOD [flags]
                           learn a mask in place of the weights, or beside them
  lth run FILE.py:FUNCTION [its flags]
                           the same of a recipe that your own function makes
  lth run RUN [--levels N] train a stored run on, by its directory
  lth prune-filters PRESET [flags]
                           prune a network's filters in rounds, each then fine-tuned
  lth sweep PRESET --over FIELD=VALUE,VALUE … [flags]
                           every combination of values, here, in a pool, on a cluster
  lth sweep FILE.py:CELLS  the same of the cells of a study
  lth branch RUN NAME [its flags]
                           train a control or an ablation off a run's tickets
  lth measure RUN PROBE    measure a run's tickets
  lth import openlth DIR   make a run of OpenLTH one of ours, to be continued
  lth repair RUN           write a run's tables anew from its tickets
  lth list                 presets, and the runs in runs/
  lth show RUN             a run's results as a table
  lth query RUN --json     facts, findings, summary, matching and costs, for scripts
  lth watch RUN            levels, curves so far and time left, also of a folder of runs
  lth report RUN …         one HTML file of figures from one or several runs
  lth export RUN --level L a ticket as a file that others load
  lth shrink RUN --level L a ticket without its dead units, proved to be the same
  lth cost RUN             weights, multiplications, bytes and time of its tickets
  lth doctor               whether this machine computes right numbers

'lth run PRESET --help' shows every flag. Exit codes: 0 done, 1 a check of the doctor
or a cell of a sweep failed, 2 cannot be run as asked, 3 done but some replicate's loss
was not finite, 4 the run is in use, or, of watch --once, not finished, 5 the run
directory cannot be read or written, 130 or 143 interrupted."""


@dataclass(frozen=True)
class ReportFlags:
    """One self-contained HTML file of figures and numbers."""

    run: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories, or names of runs as 'lth list' prints them."""
    out: Path | None = None
    """The file to write; else report.html, in the run directory of a single run."""
    runs: Path = Path("runs")
    """Where runs are looked for that are given by their names."""


@dataclass(frozen=True)
class OneFlags:
    """Which run is meant."""

    run: tyro.conf.Positional[Path]
    """A run directory, or the name of a run as 'lth list' prints it."""
    runs: Path = Path("runs")
    """Where a run is looked for that is given by its name."""


@dataclass(frozen=True)
class ListFlags:
    """Shows the presets, and the runs in a folder."""

    runs: Path = Path("runs")
    """The folder of runs."""


@dataclass(frozen=True)
class DoctorFlags:
    """Finds whether this machine computes right numbers, in less than a minute."""

    runs: Path = Path("runs")
    """The folder of runs, whose locks, space and compiled programs are looked at."""
    data_dir: Path | None = None
    """Where data files are, in folders such as mnist/; else LTH_DATA, else a cache."""
    json: bool = False
    """Print the checks as a list in JSON: name, status (ok, warning, FAILED), told."""
    record: Path | None = None
    """A run, in whose environment.json the verdict is to be kept."""


def main() -> None:
    """Run the command `lth`: this is its entry point."""
    interrupt.listen()
    warnings.showwarning = _say
    try:
        code = command(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # who reads, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    interrupt.close()
    sys.exit(code)


def command(args: list[str]) -> int:
    """Run a command line; the exit code."""
    commands: dict[str, Callable[[list[str]], int]] = {
        "run": running.run,
        "supermask": running.supermask,
        "prune-filters": running.prune_filters,
        "sweep": sweeping.sweep,
        "branch": running.branch,
        "measure": running.measure,
        "import": bringing.import_run,
        "repair": repair,
        "list": show_list,
        "show": show,
        "query": watching.query,
        "watch": watching.watch,
        "report": report,
        "export": taking.export,
        "shrink": taking.shrink,
        "cost": taking.cost,
        "doctor": doctor,
    }
    if not args or args[0] in ("-h", "--help"):
        terminal.output.print(USAGE, markup=False)
        return 0 if args else 2
    if args[0] == "--version":
        terminal.output.print(f"lth {lth.__version__}")
        return 0
    if args[0] not in commands:
        guess = parse.perhaps(args[0], commands)
        there = f"there are {', '.join(commands)}; lth --help says what they do"
        return terminal.refuse(f"unknown command {args[0]!r}{guess}; {there}", 2)
    with _failures() as code:
        return commands[args[0]](args[1:])
    return code[0]


def _say(message: Any, category: type, *where: Any) -> None:
    """Show a warning as a line of the command's own, without where it came from."""
    terminal.errors.print(f"lth: warning: {message}")


@contextlib.contextmanager
def _failures() -> Iterator[list[int]]:
    """Turn what a user can put right into a message and an exit code, in the list."""
    code = [1]
    try:
        yield code
    except ConfigError as error:
        code[0] = terminal.refuse(str(error), 2)
    except (ValueError, RuntimeError) as error:
        from lth import data
        from lth.lab import devices, store
        from lth.lab.devices import memory

        wrong = data.DataError | memory.MemoryTooSmallError
        wrong |= devices.JoinError | devices.TypesError
        if isinstance(error, wrong):
            code[0] = terminal.refuse(str(error), 2)
        elif memory.is_too_much(error):
            code[0] = terminal.refuse(memory.out_of_memory(error), 2)
        elif isinstance(error, store.StoreError):
            code[0] = terminal.refuse(
                str(error), 4 if isinstance(error, store.BusyError) else 5
            )
        else:
            raise


def show_list(args: list[str]) -> int:
    """lth list"""
    flags = tyro.cli(ListFlags, args=typed.read(args, ListFlags), prog="lth list")
    running.list_presets()
    terminal.output.print("masks that are learned: lth supermask PRESET METHOD")
    running.list_supermasks()
    terminal.print_runs(flags.runs)
    return 0


def _one(args: list[str], prog: str, does: str) -> Path:
    """The run that a command is about, given as a directory or by its name."""
    read = typed.read(args, OneFlags)
    flags = tyro.cli(OneFlags, args=read, prog=prog, description=does)
    return terminal.located(flags.run, flags.runs)


def show(args: list[str]) -> int:
    """lth show RUN"""
    path = _one(args, "lth show", "A run's results as a table in the terminal.")
    from lth.lab import stored

    terminal.print_summary(stored.open_run(path))
    return 0


def repair(args: list[str]) -> int:
    """lth repair RUN"""
    does = "Write the tables of a run anew from its tickets, which hold every number."
    path = _one(args, "lth repair", does)
    from lth.lab import measured, store

    store.read_config(path)
    for table in measured.repair(path):
        terminal.output.print(f"written anew: {table}", markup=False)
    terminal.output.print(f"{path}: its tables are what its tickets hold", markup=False)
    return 0


def report(args: list[str]) -> int:
    """lth report RUN …"""
    flags = tyro.cli(ReportFlags, args=typed.read(args, ReportFlags), prog="lth report")
    if not flags.run:
        raise ConfigError("lth report needs at least one run directory")
    if flags.out and flags.out.is_dir():
        inside = flags.out / "report.html"
        raise ConfigError(f"--out {flags.out} is a folder; give --out {inside}")
    paths = [terminal.located(path, flags.runs) for path in flags.run]
    from lth.cli import report as reports
    from lth.lab import stored

    found = [stored.open_run(path) for path in paths]
    folder = found[0].path if len(found) == 1 else Path()
    written = reports.write(found, flags.out or folder / "report.html")
    terminal.output.print(str(written), markup=False)
    return 0


def doctor(args: list[str]) -> int:
    """lth doctor"""
    flags = tyro.cli(DoctorFlags, args=typed.read(args, DoctorFlags), prog="lth doctor")
    from lth.lab import doctor as doctors
    from lth.lab import store

    run = flags.record and terminal.located(flags.record, flags.runs)
    if run:
        store.read_config(run)
    where, checks = doctors.Where(flags.runs, flags.data_dir), []
    width = max(map(len, doctors.CHECKS))
    for check in doctors.examine(where, doctors.CHECKS):
        checks.append(check)
        if not flags.json:
            line = f"{check.name:{width}}  {check.status:7}  {check.told}"
            terminal.output.print(line, markup=False)
    found = doctors.verdict(checks)
    if run:
        store.add_facts(run, {"doctor": found})
    if flags.json:
        told = json.dumps([check._asdict() for check in checks], indent=1)
        terminal.output.print(told, markup=False)
    else:
        terminal.output.print(doctors.summary(found), markup=False)
    return 1 if found["status"] == "FAILED" else 0
