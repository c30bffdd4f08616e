"""The command `lth`.

Exit codes: 0 done; 2 it cannot be run as asked (flag, configuration, data); 3 done, but
some replicate's loss was not finite; 4 another process is at work on the run; 5 the run
directory cannot be read or written; 130 or 143 interrupted. Results go to standard
output, progress and errors to standard error.
"""

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

import lth
from lth import terminal
from lth.config import ConfigError, Experiment
from lth.presets import PRESETS, SUPERMASKS, Preset, named

USAGE = """usage: lth COMMAND …

  lth run PRESET [flags]   find tickets, or continue where a run stopped
  lth supermask PRESET METHOD [flags]
                           learn a mask in place of the weights, or beside them
  lth list                 presets, and the runs in runs/
  lth show RUN             a run's results as a table
  lth report RUN …         one HTML file of figures from one or several runs

'lth run PRESET --help' shows every flag. Exit codes: 0 done, 2 cannot be run as asked,
3 done but some replicate's loss was not finite, 4 the run is in use, 5 the run
directory cannot be read or written, 130 or 143 interrupted."""


@dataclass(frozen=True)
class RunFlags:
    """Flags of `lth run` and `lth supermask`."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    runs: Path = Path("runs")
    """Where run directories go."""
    data_dir: Path | None = None
    """Where data files are, in folders such as mnist/; else LTH_DATA, else a cache."""
    quiet: bool = False
    """Print nothing but the path of the run directory."""
    over: Literal["replicates", "batch"] = "replicates"
    """What several devices share: the replicates, or each batch of a big network."""
    coordinator: str = ""
    """For one run in several processes, each given the same command: host:port of the
    first, or auto where the cluster tells (Slurm, TPU, MPI)."""
    processes: int = 1
    """How many processes there are, unless the coordinator is auto."""
    process: int = 0
    """Which of them this is."""


@dataclass(frozen=True)
class ReportFlags:
    """One self-contained HTML file of figures and numbers."""

    run: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories."""
    out: Path | None = None
    """The file to write; else report.html, in the run directory of a single run."""


@dataclass(frozen=True)
class ShowFlags:
    """A run's results as a table in the terminal."""

    run: tyro.conf.Positional[Path]
    """A run directory."""


@dataclass(frozen=True)
class ListFlags:
    """The presets, and the runs in a folder."""

    runs: Path = Path("runs")
    """The folder of runs."""


def main() -> None:
    """The entry point of the command `lth`."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        code = command(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # who reads, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    sys.exit(code)


def command(args: list[str]) -> int:
    """Run a command line; the exit code."""
    commands: dict[str, Callable[[list[str]], int]] = {
        "run": run,
        "supermask": supermask,
        "list": show_list,
        "show": show,
        "report": report,
    }
    if not args or args[0] in ("-h", "--help"):
        terminal.output.print(USAGE, markup=False)
        return 0 if args else 2
    if args[0] == "--version":
        terminal.output.print(f"lth {lth.__version__}")
        return 0
    if args[0] not in commands:
        return _refuse(f"unknown command {args[0]!r}\n{USAGE}", 2)
    with _failures() as code:
        return commands[args[0]](args[1:])
    return code[0]


@contextlib.contextmanager
def _failures() -> Iterator[list[int]]:
    """Turn what a user can put right into a message and an exit code, in the list."""
    code = [1]
    try:
        yield code
    except ConfigError as error:
        code[0] = _refuse(str(error), 2)
    except KeyboardInterrupt as stop:
        again = shlex.join(["lth", *sys.argv[1:]])
        signal_number = int(stop.args[0]) if stop.args else signal.SIGINT
        text = "stopped; what was finished is stored. The same command continues:"
        code[0] = _refuse(f"{text}\n  {again}", 128 + signal_number)
    except (ValueError, RuntimeError) as error:
        from lth import data, memory, store  # after parsing: they import JAX

        if isinstance(error, data.DataError | memory.MemoryTooSmallError):
            code[0] = _refuse(str(error), 2)
        elif "RESOURCE_EXHAUSTED" in str(error):
            code[0] = _refuse(memory.out_of_memory(error), 2)
        elif isinstance(error, store.StoreError):
            code[0] = _refuse(
                str(error), 4 if isinstance(error, store.BusyError) else 5
            )
        else:
            raise


def _refuse(message: str, code: int) -> int:
    terminal.errors.print(f"lth: {message}")
    return code


def _terminated(number: int, _: object) -> None:
    raise KeyboardInterrupt(number)


def run(args: list[str]) -> int:
    """lth run PRESET [flags]"""
    if not args or args[0].startswith("-"):
        terminal.output.print("usage: lth run PRESET [flags]\n", markup=False)
        _list_presets()
        return 0 if {"-h", "--help"} & set(args) else 2
    name = args[0]
    if name not in PRESETS:
        if named(name):
            preset, method = name.rsplit("-", 1)
            say = f"lth supermask {preset} {method}"
            return _refuse(f"{name} learns its masks: {say}", 2)
        return _refuse(f"unknown preset {name!r}; there are {', '.join(PRESETS)}", 2)
    return _run(name, PRESETS[name], args[1:], f"lth run {name}")


def supermask(args: list[str]) -> int:
    """lth supermask PRESET METHOD [flags]"""
    if args and not args[0].startswith("-") and args[0] not in SUPERMASKS:
        there = ", ".join(SUPERMASKS)
        return _refuse(f"unknown preset {args[0]!r}; there are {there}", 2)
    if len(args) < 2 or args[1].startswith("-"):
        terminal.output.print(
            "usage: lth supermask PRESET METHOD [flags]\n", markup=False
        )
        _list_supermasks()
        return 0 if {"-h", "--help"} & set(args) else 2
    name, method, *rest = args
    methods = SUPERMASKS[name]
    if method not in methods:
        return _refuse(f"unknown method {method!r}; there are {', '.join(methods)}", 2)
    prog = f"lth supermask {name} {method}"
    return _run(f"{name}-{method}", methods[method], rest, prog)


def _run(name: str, preset: Preset, args: list[str], prog: str) -> int:
    """Run an experiment from the flags after its name, and say what it found."""
    flags = tyro.cli(
        RunFlags,
        args=args,
        default=RunFlags(preset.experiment),
        prog=prog,
        description=f"{preset.title}. Differs from its source: {preset.differs}.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    from lth import devices, experiment, report, runs  # JAX, only once it is needed

    devices.join(flags.coordinator, flags.processes, flags.process)
    with terminal.progress(flags.quiet) as watch:
        outcome = experiment.run(
            flags.experiment, name, flags.runs, flags.data_dir, watch, flags.over
        )
    if not devices.first_process():
        return 3 if outcome.failed else 0
    found = runs.open_run(outcome.path)
    written = None
    if (outcome.path / "table.csv").exists():
        written = report.write([found], outcome.path / "report.html")
    if flags.quiet:
        print(outcome.path)
    else:
        if written:
            terminal.print_summary(found)
            terminal.output.print(f"report  {written}", markup=False)
        terminal.output.print(f"run     {outcome.path}", markup=False)
        spent, compiling = outcome.seconds, outcome.compiling
        terminal.output.print(
            f"time    {spent - compiling:.1f} s, and {compiling:.1f} s of compiling",
            markup=False,
        )
    _complain(found, outcome)
    return 3 if outcome.failed else 0


def _complain(found, outcome) -> None:
    """Say which layers of a run are empty, and which replicates failed, and why."""
    failed = {replicate for _, replicate in outcome.failed}
    for level, replicate, path in found.empty_layers():
        if replicate in failed:
            continue
        terminal.errors.print(
            f"lth: the mask of replicate {replicate} keeps nothing of {path} at level "
            f"{level}"
        )
    learn = found.config.learn
    charged = (
        f", or --learn.penalty {learn.penalty:g} of {learn.method} left no weight"
        if learn.penalty
        else ""
    )
    for (variant, replicate), (level, step) in outcome.failed.items():
        why = charged if variant == "ticket" else ""
        _refuse(
            f"replicate {replicate} of {variant} stopped: its loss or its weights were "
            f"not finite{why} at level {level}, step {step}",
            3,
        )


def show_list(args: list[str]) -> int:
    """lth list"""
    flags = tyro.cli(ListFlags, args=args, prog="lth list")
    _list_presets()
    terminal.output.print("masks that are learned: lth supermask PRESET METHOD")
    _list_supermasks()
    found = sorted(flags.runs.glob("*/config.json"))
    terminal.output.print(f"runs in {flags.runs}{os.sep}", markup=False)
    for path in found:
        levels = len(list((path.parent / "tickets").glob("level_*[0-9]")))
        terminal.output.print(f"  {path.parent.name}: {levels} tickets", markup=False)
    if not found:
        terminal.output.print("  none yet", markup=False)
    return 0


def _list_presets() -> None:
    terminal.output.print("presets ('lth run PRESET --help' says what each differs by)")
    width = max(map(len, PRESETS))
    for name, preset in PRESETS.items():
        terminal.output.print(f"  {name:{width}}  {preset.title}", markup=False)


def _list_supermasks() -> None:
    terminal.output.print(f"presets  {', '.join(SUPERMASKS)}", markup=False)
    methods = next(iter(SUPERMASKS.values()))
    terminal.output.print(f"methods  {', '.join(methods)}", markup=False)


def show(args: list[str]) -> int:
    """lth show RUN"""
    flags = tyro.cli(ShowFlags, args=args, prog="lth show")
    from lth import runs

    terminal.print_summary(runs.open_run(flags.run))
    return 0


def report(args: list[str]) -> int:
    """lth report RUN …"""
    flags = tyro.cli(ReportFlags, args=args, prog="lth report")
    if not flags.run:
        raise ConfigError("lth report needs at least one run directory")
    from lth import report as reports
    from lth import runs

    found = [runs.open_run(path) for path in flags.run]
    folder = found[0].path if len(found) == 1 else Path()
    written = reports.write(found, flags.out or folder / "report.html")
    terminal.output.print(str(written), markup=False)
    return 0
