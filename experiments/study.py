"""What studies share: flags, cells trained and measured, a table and figure written."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import tyro

import lth
from lth import results
from lth.lab import devices, sweep


@dataclass(frozen=True)
class Flags:
    """Where things are, and how much to run."""

    data_dir: Path | None = None
    runs: Path = Path("runs")
    out: Path = Path(__file__).parent / "results"
    replicates: int = 4
    levels: int | None = None  # by default as many as the study has
    steps: int | None = None  # of each training; by default as the study has it


def main(
    cells,
    claims,
    figure,
    name,
    *,
    branches=(),
    probes=(),
    flags=Flags,
    beside=None,
    written=None,
    folder="",
) -> None:
    """Run a study: print its claims, write `name`.csv and `name`.png.

    Args:
      cells: By name a preset with settings, or `make(flags) -> recipe`.
      claims: `(table) -> text`. The table has the rows of all cells and probes.
      figure: `(table) -> figure`.
      name: Of the study; its runs lie in a folder of that name.
      branches: Of the tickets of all cells: pairs of a name and the arguments of
        `Run.branch`, such as `("order", {"levels": range(3)})`.
      probes: What is measured of those tickets: pairs of a name and a probe, or the
        arguments of `Run.measure`.
      flags: `Flags`, or what has more of them.
      beside: `(flags, folder) -> table`: more rows, of all cells together.
      written: `(table) -> table`, for `name`.csv; by default `summary`.
      folder: Where its runs lie, if it shares them with another study.
    """
    chosen = tyro.cli(flags)
    place = chosen.runs / (folder or name)
    table = measured(cells, chosen, place, probes, branches)
    if beside:
        table = pd.concat([table, beside(chosen, place)], ignore_index=True)
    chosen.out.mkdir(parents=True, exist_ok=True)
    (written or summary)(table).round(5).to_csv(chosen.out / f"{name}.csv", index=False)
    figure(table).savefig(chosen.out / f"{name}.png", dpi=90)
    print(claims(table))


def measured(
    cells: Mapping[str, Any], flags: Flags, folder: Path, probes=(), branches=()
) -> pd.DataFrame:
    """Return the table of all cells; what is stored in `folder` is not done again."""
    devices.use_cores(flags.replicates)  # before a cell makes its first array
    changes: dict[str, Any] = {"replicates": flags.replicates}
    changes |= {"levels": flags.levels} if flags.levels is not None else {}
    changes |= {"steps": f"{flags.steps}it"} if flags.steps else {}
    due: dict[str, Any] = {
        name: partial(cell, flags) if callable(cell) else (cell[0], cell[1] | changes)
        for name, cell in cells.items()
    }
    runs = lth.sweep(due, folder, data_dir=flags.data_dir, watch=_told)
    for name, run in runs.items():
        for branch, options in branches:
            run.branch(branch, watch=partial(_told, name), **options)
    tables = [sweep.table(runs)]
    for name, run in runs.items():
        for probe, what in probes.items() if isinstance(probes, dict) else probes:
            options = what if isinstance(what, Mapping) else {"probe": what}
            tables.append(run.measure(probe, **options).assign(run=name))
    return pd.concat(tables, ignore_index=True)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return `results.summary`, with means of what probes measured beside it.

    Of what was measured on the way, such as the scores of particles, it is the end.
    """
    unit, found = ["run", "variant", "level"], results.summary(table)
    probed = table[~table["split"].isin(["train", "validation", "test", "mask"])]
    last = probed.groupby([*unit, "replicate", "split", "metric"])["step"]
    probed = probed[probed["step"] == last.transform("max")]
    for (split, metric), rows in probed.groupby(["split", "metric"], sort=False):
        pairs: Any = rows.groupby(unit)["value"].agg(results.interval)
        means = pairs.apply(pd.Series)
        means.columns = [f"{split}_{metric}", f"{split}_{metric}_ci"]
        found = found.merge(means.reset_index(), "left", unit)
    return found


def particles(table: pd.DataFrame, which: str) -> pd.DataFrame:
    """Return the rows of an averaged run with particles in the place of their mean.

    `which` is `mean`, `best` (on test data), or a number of theirs.
    """
    rows = table[table["metric"] == f"accuracy_{which}"]
    return rows.assign(split="test", metric="accuracy")


def seconds(cells, flags, folder: Path) -> pd.DataFrame:
    """Return how long each level of each cell took from the end of the one before.

    The clock of the log is read; levels 0 and 1 are left out, for they compile.
    """
    rows = []
    for cell in cells:
        lines = (folder / cell / "log.jsonl").read_text().splitlines()
        told = [e for e in map(json.loads, lines) if e["event"] == "measured"]
        ends = {e["level"]: e["time"] for e in told}
        for level in range(2, max(ends) + 1):
            took = ends[level] - ends[level - 1]
            rows.append((cell, 0, "ticket", level, 0, 0, "clock", "seconds", took))
    return pd.DataFrame(rows, columns=list(results.COLUMNS))


def _told(cell: str, at) -> None:
    if at.step == at.steps:
        where = f"{cell}, level {at.level} {at.variant}"
        print(f"{where}: {at.metric} {at.accuracy:.4f} on validation", flush=True)
