"""What studies share: flags, cells trained and measured, a table and a figure written.

A study has `CELLS`, `claims(table)`, `figure(table)` and a call of `main`. The table
has the rows of all cells, and of what probes measured of their tickets.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import tyro
from matplotlib.figure import Figure

import lth
from lth import results
from lth.lab import devices, sweep
from lth.lottery import Recipe

SPLITS = ("train", "validation", "test", "mask")  # all others are of probes


@dataclass(frozen=True)
class Flags:
    """Where things are, and how much to run."""

    data_dir: Path | None = None
    runs: Path = Path("runs")
    out: Path = Path(__file__).parent / "results"
    replicates: int = 4
    levels: int | None = None  # by default as many as the study has
    steps: int | None = None  # of each training; by default as the study has it


# A preset with settings, or what makes a recipe of the flags
Cells = Mapping[str, tuple[str, Mapping[str, Any]] | Callable[[Any], Recipe]]


def main(
    cells: Cells,
    claims: Callable[[pd.DataFrame], str],
    figure: Callable[[pd.DataFrame], Figure],
    name: str,
    *,
    probes: Mapping[str, Callable] | None = None,
    flags: type[Flags] = Flags,
) -> None:
    """Run the study: print its claims, write `name`.csv and `name`.png."""
    chosen = tyro.cli(flags, description=f"Run the study {name}.")
    table = measured(cells, chosen, chosen.runs / name, probes or {})
    chosen.out.mkdir(parents=True, exist_ok=True)
    summary(table).round(5).to_csv(chosen.out / f"{name}.csv", index=False)
    figure(table).savefig(chosen.out / f"{name}.png", dpi=90)
    print(claims(table))


def measured(cells: Cells, flags: Flags, folder: Path, probes: Mapping[str, Callable]):
    """Return the table of all cells; what is stored in `folder` is not done again."""
    devices.use_cores(flags.replicates)  # before a cell makes its first array
    due = {name: _due(cell, flags) for name, cell in cells.items()}
    runs = lth.sweep(due, folder, data_dir=flags.data_dir, watch=_told)
    tables = [sweep.table(runs)]
    for name, run in runs.items() if probes else ():
        run.recipe(flags.data_dir)  # `measure` would look for the data elsewhere
        tables += [run.measure(p, f).assign(run=name) for p, f in probes.items()]
    return pd.concat(tables, ignore_index=True)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return `results.summary`, with means of what probes measured beside it."""
    unit, found = ["run", "variant", "level"], results.summary(table)
    probed = table[~table["split"].isin(SPLITS)]
    for (split, metric), rows in probed.groupby(["split", "metric"], sort=False):
        column = f"{split}_{metric}"
        means = rows.groupby(unit)["value"].agg(results.interval)
        pairs = pd.DataFrame(means.tolist(), means.index, [column, f"{column}_ci"])
        found = found.merge(pairs.reset_index(), "left", unit)
    return found


def stopped(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as if each training had ended at its early-stopping step."""
    unit = ["run", "replicate", "variant", "level"]
    stops = results.early_stop(table)[[*unit, "step"]]
    both = table.merge(stops, on=unit, suffixes=("", "_stop"))
    return both[both["step"] <= both["step_stop"]].drop(columns="step_stop")


def gap(table: pd.DataFrame, one: Mapping, other: Mapping) -> tuple[float, float]:
    """Return how much better the rows `one` end than `other`, within replicates.

    Both say values of columns, such as a run and a level. The mean is in points, beside
    it half its 95 % interval.
    """
    both = results.paired(_part(table, one), _part(table, other)).iloc[0]
    return 100 * both["difference"], 100 * both["difference_ci"]


def _part(table: pd.DataFrame, where: Mapping) -> pd.DataFrame:
    where = {"variant": results.TICKET, **where}
    rows = table[(table[list(where)] == pd.Series(where)).all(axis=1)]
    return rows.assign(run="", variant=results.TICKET, level=0)


def _due(cell, flags: Flags):
    if not isinstance(cell, tuple):
        return partial(cell, flags)
    preset, settings = cell
    settings = {**settings, "replicates": flags.replicates}
    if flags.levels is not None:
        settings["levels"] = flags.levels
    if flags.steps is not None:
        settings["steps"] = f"{flags.steps}it"
    return preset, settings


def _told(cell: str, progress) -> None:
    if progress.step == progress.steps:
        score = f"{progress.metric} {progress.accuracy:.4f} on validation"
        print(f"{cell}, level {progress.level} {progress.variant}: {score}", flush=True)
