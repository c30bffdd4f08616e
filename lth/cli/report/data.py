"""The numbers behind the figures that answer: rows, column by column, made small."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lth import plot, results
from lth.cli.report import firsts
from lth.lab.stored import Run

Columns = dict[str, Any]
BUDGET = 90_000  # numbers of the training curves: about half a megabyte
MOST = 60  # places of a curve


def columns(frame: pd.DataFrame) -> Columns:
    """Write rows column by column; texts as their places in a list of all of them."""
    found: Columns = {}
    for name in frame:
        values = frame[name]
        if pd.api.types.is_numeric_dtype(values):
            exact = values.astype(float)
            found[str(name)] = [_short(value) for value in exact]
        else:
            codes, texts = pd.factorize(values.astype(str))
            found[str(name)] = {"texts": [*map(str, texts)], "codes": codes.tolist()}
    return found


def _short(value: float) -> float | int | None:
    """A number of six digits, which is what a figure shows; None for what is none."""
    if not np.isfinite(value):
        return None
    short = float(f"{value:.6g}")
    return int(short) if short == int(short) else short


def named(rows: pd.DataFrame, titles, several: bool) -> pd.DataFrame:
    """Return rows with `line`, what a legend calls the line that they belong to."""
    called = {
        variant: plot.name(str(variant), 1, 0.5, titles=titles)
        for variant in rows["variant"].unique()
    }
    names = rows["variant"].map(called)
    line = rows["run"] + ": " + names if several else names
    return rows.assign(line=line, variant=names)


def ends(table: pd.DataFrame, runs: Sequence[Run], called) -> pd.DataFrame:
    """Return a row a training: its scores in percent, steps, and what it saves."""
    unit = ["run", "replicate", "variant", "level"]
    rows = results.final(table)[[*unit, "density", "value"]]
    stops = results.early_stop(table)[[*unit, "step", "accuracy"]]
    stops = stops.rename(columns={"step": "stop", "accuracy": "stop_accuracy"})
    rows = rows.rename(columns={"value": "accuracy"}).merge(stops, on=unit, how="left")
    saved = [
        {"run": called[run.path.name], "level": level, **numbers}
        for run in runs
        for level, numbers in run.savings().items()
    ]
    place = {variant: at for at, variant in enumerate(table["variant"].unique())}
    rows = rows.sort_values(
        "variant", key=lambda names: names.map(place), kind="stable"
    )
    if saved:
        rows = rows.merge(pd.DataFrame(saved), on=["run", "level"], how="left")
    for name in ("density", "accuracy", "stop_accuracy"):
        rows[name] = 100 * rows[name]
    return rows


def curves(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a measurement, a column for each split and metric, thinned.

    Each training keeps its first and last place and such between that all fit the
    page; where replicates do not fit, their means are left, as replicate -1.
    """
    unit = ["run", "variant", "level", "replicate", "step"]
    rows = table[table["split"].isin(["train", "validation", "test"])]
    metric = rows["split"] + " " + rows["metric"]
    scale = np.where(rows["metric"].isin(["loss", *results.SCORES[1:]]), 1, 100)
    rows = rows.assign(metric=metric, value=rows["value"] * scale)
    wide = rows.pivot_table(index=unit, columns="metric", values="value", sort=False)
    wide = wide.reset_index()
    density = table.groupby(unit[:3], sort=False)["density"].mean().rename("density")
    wide = wide.merge(100 * density.reset_index().set_index(unit[:3]), on=unit[:3])
    width = wide.shape[1]
    lines = wide.groupby(unit[:4]).ngroups
    if BUDGET / width / lines < 12:
        wide = wide.groupby([*unit[:3], "step"], sort=False, as_index=False).mean()
        wide["replicate"] = -1
        lines = wide.groupby(unit[:3]).ngroups
    places = int(max(6, min(MOST, BUDGET / width / lines)))
    return _thinned(wide, unit[:4], places)


def _thinned(rows: pd.DataFrame, unit: list[str], places: int) -> pd.DataFrame:
    """About so many rows of each unit, evenly, the first and the last among them."""
    at = rows.groupby(unit).cumcount()
    count = rows.groupby(unit)["step"].transform("size")
    every = np.maximum(1, np.ceil((count - 1) / (places - 1)))
    return rows[(at % every == 0) | (at == count - 1)].reset_index(drop=True)


def layers(runs: Sequence[Run], called) -> pd.DataFrame:
    """Return the density of each layer at each level, in percent."""
    return pd.DataFrame(
        [
            {"run": called[run.path.name], "level": level, "layer": path}
            | {"kept": 100 * share}
            for run in runs
            for level, kept in run.densities().items()
            for path, share in kept.items()
        ]
    )


def masks(first: firsts.First, levels: Sequence[int]) -> pd.DataFrame:
    """Return the places of a first layer and what is kept of each, at some levels."""
    rows = []
    for level in levels:
        kept = first.kept[level]
        row, column = np.indices(kept.shape)
        places = {"row": row.ravel(), "column": column.ravel(), "kept": kept.ravel()}
        rows.append(pd.DataFrame(places).assign(level=level))
    return pd.concat(rows, ignore_index=True)


def probes(measured: pd.DataFrame) -> pd.DataFrame:
    """Return what probes measured, with `what` the name of each number."""
    rows = measured.assign(what=measured["split"] + ": " + measured["metric"])
    return rows[["run", "variant", "level", "replicate", "density", "what", "value"]]
