"""What `lth sweep` does with its cells, and what it says of them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lth.cli import interrupt, terminal
from lth.lab.config import ConfigError


@dataclass(frozen=True)
class SweepFlags:
    """Flags of `lth sweep`, beside those of an experiment."""

    over: tuple[str, ...] = ()
    """A field and its values, such as prune.criterion=magnitude,snip; given again,
    every combination is a cell. Lists among the values are parted by semicolons:
    model.widths=300,100;100,50."""
    runs: Path = Path("runs")
    """Where run directories go."""
    name: str = ""
    """What to call the runs, in place of their preset or their cells."""
    data_dir: Path | None = None
    """Where data files are, in folders such as mnist/; else LTH_DATA, else a cache."""
    dry_run: bool = False
    """Say which runs there would be, and how far each is, and train nothing."""
    status: bool = False
    """The same, of a sweep that is under way or done."""
    collect: Path | None = None
    """A file, .csv or .parquet, for one table of all cells; with --status of what is
    stored, else once all are done."""
    jobs: int = 1
    """Processes of this machine that train at once, its cores and GPUs shared out; 1:
    this one alone; 0: one for each GPU, or else for each core."""
    together: int = 1
    """Cells of one program that this process trains at once, like the replicates of one
    run: faster on a GPU, where last bits may then be others than alone; 0: all."""
    cluster: Literal["none", "slurm", "ray"] = "none"
    """Have Slurm or Ray train the cells; the folder of runs is one all nodes see."""
    resources: tuple[str, ...] = ()
    """Of each cell on a cluster, as submitit's SlurmExecutor and Ray's tasks name them:
    partition=gpu,time=60,gpus_per_node=1, or num_cpus=2,num_gpus=1."""
    share: Literal["replicates", "batch"] = "replicates"
    """What the devices of a cell share: replicates, or each batch of a big network."""
    save_every: str = "10min"
    """How often a training under way is saved: 30s, 10min, 2h, 5000it, or never."""
    quiet: bool = False
    """Print nothing but the paths of the run directories."""
    deterministic: bool = False
    """Have a GPU add up in a fixed order: the same bits each time, for some speed; a
    CPU does so always."""


def carry_out(cells: dict[str, Any], name: str, flags: SweepFlags) -> int:
    """Train the cells, or say how far they are; the exit code."""
    from lth.lab import cells as jobs
    from lth.lab import sweep as sweeps

    options = jobs.Options(flags.data_dir, flags.save_every, flags.share)
    planned = sweeps.plan(cells, flags.runs, name, options)
    if flags.dry_run or flags.status:
        code = _print_standing(sweeps.status(planned))
        if flags.collect:
            _collect(planned, flags.collect)
        return code if flags.status else 0
    submit = _engine(flags)
    quiet = flags.quiet or not terminal.errors.is_terminal
    told = _Told(len({job.path for job in planned.values()}), flags.quiet)
    with terminal.progress(quiet) as watch:
        try:
            runs = sweeps.sweep(
                cells,
                flags.runs,
                submit=submit,
                name=name,
                **options._asdict(),
                watch=lambda cell, progress: watch(progress),
                ended=told.ended,
                stop=interrupt.asked,
            )
        except sweeps.SweepError as error:
            return _unfinished(error.done)
    return _conclude(runs, planned, flags)


class _Told:
    """Counts the cells that have ended, and says what came of each."""

    def __init__(self, count: int, quiet: bool):
        self.count, self.quiet, self.number = count, quiet, 0

    def ended(self, done: Any) -> None:
        self.number += 1
        if not self.quiet:
            spent = f"{done.seconds - done.compiling:.1f} s"
            compiled = f", and {done.compiling:.1f} s of compiling"
            terminal.errors.print(
                f"{self.number:3d} {done.state:8} {done.cell}  "
                f"{spent + compiled * (done.compiling >= 0.05)}  {done.reason}".rstrip()
            )


def _print_standing(found: Sequence[Any]) -> int:
    """Print how far each cell is; the exit code, 1 if one failed."""
    width = max(len(one.cell) for one in found)
    for one in found:
        levels = f"{one.levels}/{one.wanted}" if one.wanted else "-"
        told = (
            f"{one.state:8} {levels:>6}  {one.cell:{width}}  {one.path}  {one.reason}"
        )
        terminal.output.print(told.rstrip(), markup=False)
    states = [one.state for one in found]
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    terminal.output.print(f"{len(found)} cells: {told}", markup=False)
    return 1 if "failed" in counts else 0


def _collect(planned: Mapping[str, Any], file: Path) -> None:
    """Write the table of what is stored."""
    from lth.lab import store, stored

    runs = {}
    for cell, job in planned.items():
        try:
            run = stored.open_run(job.path)
            assert len(run.table)
            runs[cell] = run
        except store.StoreError:
            terminal.errors.print(f"lth: cell {cell} has no results yet")
    if not runs:
        raise ConfigError("no cell has results yet: there is nothing to collect")
    _write(runs, planned, file)


def _write(runs: Mapping[str, Any], planned: Mapping[str, Any], file: Path) -> None:
    from lth import results
    from lth.lab import store
    from lth.lab import sweep as sweeps

    try:
        results.write_as(file, sweeps.asked(sweeps.collected(runs), planned))
    except ImportError as error:
        raise ConfigError(
            f"{file}: nothing here writes Parquet: pip install 'lth[parquet]', or give "
            "a .csv file"
        ) from error
    except OSError as error:
        raise store.StoreError(f"cannot write {file}: {error.strerror}") from error
    terminal.output.print(f"table   {file}", markup=False)


def _unfinished(done: Mapping[str, Any]) -> int:
    """Say why cells are not finished; the exit code."""
    states = {one.state for one in done.values()}
    if "stopped" in states and interrupt.signalled():
        interrupt.leave(", the trainings under way saved")
    for cell, one in done.items():
        terminal.refuse(f"cell {cell} {one.state}: {one.reason}", 1)
    return 4 if states == {"busy"} else 1


def _conclude(
    runs: Mapping[str, Any], planned: Mapping[str, Any], flags: SweepFlags
) -> int:
    """Say what the sweep found; the exit code."""
    from lth.lab import runner

    if flags.collect:
        _write(runs, planned, flags.collect)
    for path in dict.fromkeys(job.path for job in planned.values()):
        if flags.quiet:
            print(path)
    if not flags.quiet:
        terminal.output.print(_compared(runs, planned), markup=False)
        terminal.output.print(f"runs    {flags.runs}", markup=False)
    failed = {cell: runner.failures(run.path) for cell, run in runs.items()}
    for cell, one in failed.items():
        for (variant, replicate), (level, step) in one.items():
            told = f"replicate {replicate} of {variant}, level {level}, step {step}"
            terminal.refuse(f"cell {cell}: not finite: {told}", 3)
    return 3 if any(failed.values()) else 0


def _compared(runs: Mapping[str, Any], planned: Mapping[str, Any]) -> str:
    """The last tickets of all cells as a table, and how they differ from the first's.

    Differences are within replicates, where both have the same ones at one level.
    """
    import pandas as pd

    from lth import results
    from lth.lab import sweep as sweeps

    table = sweeps.asked(sweeps.table(runs), planned)
    trunk = table[table["variant"] == results.TICKET]
    level = int(trunk.groupby("run")["level"].max().min())
    first, *_ = runs
    rows = []
    for cell in runs:
        where = {"run": cell, "level": level}
        mine = trunk[(trunk["run"] == cell) & (trunk["level"] == level)]
        row: dict[str, Any] = {"cell": cell, "n": mine["replicate"].nunique()}
        row["density %"] = 100 * mine["density"].mean()
        row["test %"], row["test %_ci"] = results.mean(table, where)
        name = "- the first"
        pair = 0.0, float("nan")
        if cell != first:
            try:
                pair = results.gap(table, where, {**where, "run": first})
            except ValueError:  # they have no replicate in common
                pair = float("nan"), float("nan")
        row[name], row[f"{name}_ci"] = pair
        rows.append(row)
    return f"level {level}\n{results.text(pd.DataFrame(rows))}"


def _engine(flags: SweepFlags) -> Any:
    """Who trains the cells."""
    from lth import lab

    resources = {}
    for text in flags.resources:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--resources are NAME=VALUE; got {text!r}")
        resources[name] = float(value) if re.fullmatch(r"\d*\.\d+", value) else value
        if value.isdecimal():
            resources[name] = int(value)
    if flags.jobs < 0:
        raise ConfigError(f"--jobs is at least 0; got {flags.jobs}")
    if flags.together < 0:
        raise ConfigError(f"--together is at least 0; got {flags.together}")
    if flags.together != 1 and (flags.jobs, flags.cluster) != (1, "none"):
        raise ConfigError(
            "--together is of one process: leave out --jobs and --cluster, or give "
            "each cell more --replicates"
        )
    if flags.cluster == "none":
        if resources:
            raise ConfigError("--resources are of --cluster slurm or ray")
        here = lab.together(flags.together)
        return here if flags.jobs == 1 else lab.pool(flags.jobs)
    engine = lab.slurm if flags.cluster == "slurm" else lab.ray
    return engine(**resources)
