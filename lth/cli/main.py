"""The command `lth`.

Exit codes: 0 done; 2 it cannot be run as asked (flag, configuration, data); 3 done, but
some replicate's loss was not finite; 4 another process is at work on the run; 5 the run
directory cannot be read or written; 130 or 143 interrupted. Results go to standard
output, progress and errors to standard error.
"""

import contextlib
import difflib
import glob
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

import lth
from lth.cli import flags as typed
from lth.cli import interrupt, terminal
from lth.lab.config import ConfigError, Experiment
from lth.lab.config.presets import ALIASES, PRESETS, SUPERMASKS, Preset, named

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
    """Run directories, or names of runs as 'lth list' prints them."""
    out: Path | None = None
    """The file to write; else report.html, in the run directory of a single run."""
    runs: Path = Path("runs")
    """Where runs are looked for that are given by their names."""


@dataclass(frozen=True)
class ShowFlags:
    """A run's results as a table in the terminal."""

    run: tyro.conf.Positional[Path]
    """A run directory, or the name of a run as 'lth list' prints it."""
    runs: Path = Path("runs")
    """Where a run is looked for that is given by its name."""


@dataclass(frozen=True)
class ListFlags:
    """The presets, and the runs in a folder."""

    runs: Path = Path("runs")
    """The folder of runs."""


def main() -> None:
    """The entry point of the command `lth`."""
    interrupt.listen()
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
    except (ValueError, RuntimeError) as error:
        from lth import data
        from lth.lab import devices, store
        from lth.lab.devices import memory

        wrong = data.DataError | memory.MemoryTooSmallError | devices.JoinError
        if isinstance(error, wrong):
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


def run(args: list[str]) -> int:
    """lth run PRESET [flags]"""
    if not args or args[0].startswith("-"):
        terminal.output.print("usage: lth run PRESET [flags]\n", markup=False)
        _list_presets()
        return 0 if {"-h", "--help"} & set(args) else 2
    name = _short(args[0])
    if name not in PRESETS:
        if named(name):
            preset, method = name.rsplit("-", 1)
            say = f"lth supermask {preset} {method}"
            return _refuse(f"{name} learns its masks: {say}", 2)
        return _refuse(_no_preset(name, PRESETS), 2)
    return _run(name, PRESETS[name], args[1:], f"lth run {name}")


def supermask(args: list[str]) -> int:
    """lth supermask PRESET METHOD [flags]"""
    args = [ALIASES.get(arg, arg) for arg in args[:1]] + args[1:]
    if args and not args[0].startswith("-") and args[0] not in SUPERMASKS:
        return _refuse(_no_preset(args[0], map(_short, SUPERMASKS)), 2)
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
    prog = f"lth supermask {_short(name)} {method}"
    return _run(f"{name}-{method}", methods[method], rest, prog)


def _no_preset(name: str, there: Iterable[str]) -> str:
    there = list(there)
    near = difflib.get_close_matches(name, there, n=3)
    perhaps = f"\nPerhaps {' or '.join(near)}?" if near else ""
    return f"unknown preset {name!r}; there are {', '.join(there)}{perhaps}"


def _short(name: str) -> str:
    """What a preset of learned masks is called; its runs have its long name."""
    return {long: short for short, long in ALIASES.items()}.get(name, name)


def _run(name: str, preset: Preset, args: list[str], prog: str) -> int:
    """Run an experiment from the flags after its name, and say what it found."""
    flags = tyro.cli(
        RunFlags,
        args=typed.read(args, RunFlags),
        default=RunFlags(preset.experiment),
        prog=prog,
        description=f"{preset.title}. Differs from its source: {preset.differs}.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    from lth.cli import report
    from lth.lab import devices, runner, stored

    devices.join(flags.coordinator, flags.processes, flags.process)
    learned = flags.experiment.learn.method != "none"
    with terminal.progress(flags.quiet, "mask" if learned else "dense") as watch:
        outcome = runner.run(
            flags.experiment, name, flags.runs, flags.data_dir, watch, flags.over
        )
    if not devices.first_process():
        return 3 if outcome.failed else 0
    found = stored.open_run(outcome.path)
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
    flags = tyro.cli(ListFlags, args=typed.read(args, ListFlags), prog="lth list")
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
    there = ", ".join(map(_short, SUPERMASKS))
    terminal.output.print(f"presets  {there}", markup=False)
    methods = next(iter(SUPERMASKS.values()))
    terminal.output.print(f"methods  {', '.join(methods)}", markup=False)


def show(args: list[str]) -> int:
    """lth show RUN"""
    flags = tyro.cli(ShowFlags, args=typed.read(args, ShowFlags), prog="lth show")
    path = _located(flags.run, flags.runs)
    from lth.lab import stored

    terminal.print_summary(stored.open_run(path))
    return 0


def report(args: list[str]) -> int:
    """lth report RUN …"""
    flags = tyro.cli(ReportFlags, args=typed.read(args, ReportFlags), prog="lth report")
    if not flags.run:
        raise ConfigError("lth report needs at least one run directory")
    if flags.out and flags.out.is_dir():
        inside = flags.out / "report.html"
        raise ConfigError(f"--out {flags.out} is a folder; give --out {inside}")
    paths = [_located(path, flags.runs) for path in flags.run]
    from lth.cli import report as reports
    from lth.lab import stored

    found = [stored.open_run(path) for path in paths]
    folder = found[0].path if len(found) == 1 else Path()
    written = reports.write(found, flags.out or folder / "report.html")
    terminal.output.print(str(written), markup=False)
    return 0


def _located(run: Path, folder: Path) -> Path:
    """The directory of a run: as it is given, or by its name, or the start of it."""
    if run.exists() or len(run.parts) > 1:
        return run
    name = glob.escape(run.name.rstrip("…"))
    found = sorted(path.parent for path in folder.glob(f"{name}*/config.json"))
    if folder / run.name in found:
        return folder / run.name
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ConfigError(f"{run} may be {names}: give more of its name")
    return found[0] if found else run
