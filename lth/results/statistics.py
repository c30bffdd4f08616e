"""Statistics of the table: early stopping, intervals, what matches the dense one."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

from lth.results.table import SCORES, TICKET


def score(table: pd.DataFrame) -> str:
    """Return the test metric by which networks are compared: accuracy, or r2.

    Of runs that measure neither, the first metric beside the loss. Raises ValueError
    for a table of runs that do not share one.
    """
    measured = table.loc[table["split"] == "test", "metric"].unique()
    found = [m for m in SCORES if m in measured]
    found = found or [m for m in measured if m != "loss"][:1]
    if len(found) != 1:
        raise ValueError(
            f"these runs share no measure: they have {' and '.join(found) or 'none'}"
        )
    return found[0]


def early_stop(table: pd.DataFrame) -> pd.DataFrame:
    """Find where each training had its lowest validation loss, the earliest if several.

    The early-stopping iteration of Frankle & Carbin (2019). One row per run, replicate,
    variant and level, with columns density, step and accuracy, the test accuracy there
    (of a regression, its r2). While a mask is learned it grows sparser, and only steps
    count at which it was within a hundredth of its last density.
    """
    name = score(table)
    unit = ["run", "replicate", "variant", "level"]
    table = table.reset_index(drop=True)  # of several runs, labels repeat
    rows_of = table[table["metric"].isin(["loss", name])]
    loss = rows_of[(rows_of["split"] == "validation") & (rows_of["metric"] == "loss")]
    loss = _under_the_last_mask(loss, table, unit)
    loss = loss.sort_values("step", kind="stable")
    best = loss.loc[loss.groupby(unit)["value"].idxmin(), [*unit, "density", "step"]]
    test = rows_of[(rows_of["split"] == "test") & (rows_of["metric"] == name)]
    test = test[[*unit, "step", "value"]].rename(columns={"value": "accuracy"})
    return best.merge(test, on=[*unit, "step"], how="left").reset_index(drop=True)


def _under_the_last_mask(loss: pd.DataFrame, table: pd.DataFrame, unit: list[str]):
    learned = table[table["split"] == "mask"].sort_values("step", kind="stable")
    if learned.empty:
        return loss
    last = learned.groupby(unit)["value"].transform("last")
    far = learned[(learned["value"] - last).abs() > 0.01 * last]
    keys = pd.MultiIndex.from_frame(loss[[*unit, "step"]])
    return loss[~keys.isin(pd.MultiIndex.from_frame(far[[*unit, "step"]]))]


def final(table: pd.DataFrame, split: str = "test", metric: str | None = None):
    """Return the value of a metric at the end of each training: one row per training.

    Without a name it is the run's `score`.
    """
    rows_of = table[
        (table["split"] == split) & (table["metric"] == (metric or score(table)))
    ]
    rows_of = rows_of.reset_index(drop=True)  # of several runs, labels repeat
    last = rows_of.groupby(["run", "replicate", "variant", "level"])["step"].idxmax()
    return rows_of.loc[last].reset_index(drop=True)


def interval(values: pd.Series) -> tuple[float, float]:
    """Return the mean, and half the width of its 95 % interval by Student's t.

    The half-width of the confidence interval is NaN for a single value: one replicate
    has no interval.
    """
    n = len(values)
    if n < 2:
        return float(values.mean()), float("nan")
    from scipy import special  # an import wanted only when there is an interval

    spread = special.stdtrit(n - 1, 0.975) * values.std(ddof=1) / np.sqrt(n)
    return float(values.mean()), float(spread)


def paired(
    table: pd.DataFrame, other: pd.DataFrame, metric: str | None = None
) -> pd.DataFrame:
    """Return differences of test scores at the end of training, within replicates.

    Args:
      table: Of one run.
      other: Of another, which has replicates in common with it.
      metric: What is compared; by default the score of both.

    Returns:
      One row per variant and level of both, with n, the mean `difference`
      (of `table` less `other`) and `difference_ci`, half its 95 % interval by Student's
      t, and the mean density.

    Raises:
      ValueError for runs that share no replicate of any level.
    """
    unit = ["variant", "level", "replicate"]
    ours, theirs = (
        final(t, metric=metric).set_index(unit)[["density", "value"]]
        for t in (table, other)
    )
    both = ours.join(theirs["value"].rename("other"), how="inner")
    if both.empty:
        raise ValueError("these runs share no replicate of any variant and level")
    gaps = (both["value"] - both["other"]).groupby(["variant", "level"])
    rows = [
        {"variant": variant, "level": level, "n": len(values)}
        | dict(zip(("difference", "difference_ci"), interval(values), strict=True))
        for (variant, level), values in gaps
    ]
    density = both["density"].groupby(["variant", "level"]).mean()
    return pd.DataFrame(rows).merge(density.reset_index(), on=["variant", "level"])


def stopped(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as if each training had ended where `early_stop` says.

    What takes scores at the end (`final`, `paired`, `gap`) then takes those there.
    """
    unit = ["run", "replicate", "variant", "level"]
    stops = early_stop(table)[[*unit, "step"]]
    both = table.merge(stops, on=unit, suffixes=("", "_stop"))
    return both[both["step"] <= both["step_stop"]].drop(columns="step_stop")


def mean(table: pd.DataFrame, where: Mapping[str, Any]) -> tuple[float, float]:
    """Return the test score at the end in points, and half its 95 % interval.

    `where` says which training of each replicate, as in `gap`.
    """
    value, half = interval(final(_alone(table, where))["value"])
    return 100 * value, 100 * half


def gap(
    table: pd.DataFrame, one: Mapping[str, Any], other: Mapping[str, Any]
) -> tuple[float, float]:
    """Return how much better some trainings end than others, within replicates.

    Args:
      table: Of one run or of several.
      one: Says values of columns, such as a run and a level, that leave one training
        of each replicate. The variant is the ticket unless it is said.
      other: The same, of what is subtracted.

    Returns:
      The mean difference of the test scores in points, a hundredth of an accuracy, and
      half its 95 % interval.

    Raises:
      ValueError for what shares no replicate, or is no one training of each.
    """
    gaps = paired(_alone(table, one), _alone(table, other)).iloc[0]
    return 100 * float(gaps["difference"]), 100 * float(gaps["difference_ci"])


def _alone(table: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of one training of each replicate, under names that all share."""
    where = {"variant": TICKET, **where}
    rows = table[(table[list(where)] == pd.Series(where)).all(axis=1)]
    units = rows[["run", "variant", "level"]].drop_duplicates()
    if len(units) != 1:
        raise ValueError(f"{where} leaves {len(units)} trainings of each replicate")
    return rows.assign(run="", variant=TICKET, level=0)


def text(table: pd.DataFrame, digits: int = 2) -> str:
    """Write a table of numbers as aligned text; a column `x_ci` joins `x` as ±."""
    shown = table.copy()
    for name in [n for n in table.columns if f"{n}_ci" in table.columns]:
        pairs = zip(table[name], table[f"{name}_ci"], strict=True)
        shown[name] = [around(mean, half, digits) for mean, half in pairs]
        shown = shown.drop(columns=f"{name}_ci")
    return shown.to_string(index=False, float_format=lambda v: f"{v:.{digits}f}")


def around(mean: float, half: float, digits: int = 2) -> str:
    """Write a mean and the half-width of its interval, which one value has not.

    A mean that is NaN was not measured, and is a dash.
    """
    if mean != mean:
        return "–"
    said = f"{mean:.{digits}f}"
    return said if half != half else f"{said} ± {half:.{digits}f}"


def matching(table: pd.DataFrame, apart: Collection[str] = ()) -> pd.DataFrame:
    """Say of every pruned network of a table whether it matches its dense network.

    It matches where its mean test score at the end of training is at most one standard
    deviation below the dense network's: a deviation over the dense network's
    replicates, with n - 1 below. Dense networks of one replicate have none, and their
    value itself is what is compared with. A ticket that matches is a winning ticket
    (Frankle & Carbin 2019 also ask that it learns in no more steps, which
    `early_stop` tells).

    One row per run, variant and level beyond the dense one, level by level, with
    columns density and accuracy (means), n, `dense`, `dense_n` and `deviation` (NaN
    for one replicate) of the dense network, and `matches`; the score is `score`'s.
    Runs without a dense network, whose masks were learned, have no rows. The variants
    `apart` are of another task: each is compared with its own dense network, at level
    0, and has no rows without one.
    """
    ends, found = final(table), []
    own = ends["variant"].isin(list(apart))
    # Whose dense network a row is compared with; and the rows that are one.
    task = ends["variant"].where(own, TICKET).rename("task")
    is_dense = (ends["variant"] == task) & (ends["level"] == 0) & (ends["density"] == 1)
    order = list(table["variant"].unique())
    for (run, _), rows in ends.groupby(["run", task], sort=False):
        values = rows.loc[is_dense[rows.index], "value"].to_numpy()
        if not len(values):
            continue
        dense = _mean(values)
        spread = np.std(values - dense, ddof=1) if len(values) > 1 else float("nan")
        least = dense - (spread if len(values) > 1 else 0)
        pruned = rows[~is_dense[rows.index]]
        for (variant, level), group in pruned.groupby(["variant", "level"]):
            row: dict[str, Any] = {"run": run, "variant": variant, "level": level}
            row |= {"density": _mean(group["density"].to_numpy()), "n": len(group)}
            row["accuracy"] = _mean(group["value"].to_numpy())
            row |= {"dense": dense, "dense_n": len(values), "deviation": spread}
            found.append(row | {"matches": bool(row["accuracy"] >= least)})
    columns = ["run", "variant", "level", "density", "n", "accuracy"]
    columns += ["dense", "dense_n", "deviation", "matches"]
    result = pd.DataFrame(found, columns=columns)
    place = result["variant"].map(order.index)
    return result.assign(place=place).sort_values(
        ["run", "place", "level"], kind="stable", ignore_index=True
    )[columns]


def _mean(values: np.ndarray) -> float:
    """The mean, of equal values exactly that value."""
    return float(values[0] + np.mean(values - values[0]))


def down_to(rows: pd.DataFrame) -> tuple[int, float] | None:
    """Return the last (level, density) down to which all match, from the first on.

    `rows` are one run's and variant's of `matching`. Levels that are not in it leave no
    gap; one that does not match does. None where the first does not match.
    """
    rows = rows.sort_values("level")
    without_gap = rows[rows["matches"].cumprod().astype(bool)]
    if without_gap.empty:
        return None
    last = without_gap.iloc[-1]
    return int(last["level"]), float(last["density"])


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Sum a run up: one row per run, variant and level, over its replicates.

    Columns: density (mean), n, and mean and 95 % half-width of the test accuracy at the
    end (`accuracy`, `accuracy_ci`), of the early-stopping step (`stop`, `stop_ci`) and
    of the test accuracy there (`stop_accuracy`, `stop_accuracy_ci`); in place of
    accuracy, the r2 of a regression.
    """
    ends, stops = final(table), early_stop(table)
    result = []
    order = list(table["variant"].unique())  # the ticket comes first in a table
    ends = ends.sort_values("variant", key=lambda v: v.map(order.index), kind="stable")
    for unit, group in ends.groupby(["run", "variant", "level"], sort=False):
        run, variant, level = unit
        at = stops[
            (stops["run"] == run)
            & (stops["variant"] == variant)
            & (stops["level"] == level)
        ]
        row = {"run": run, "variant": variant, "level": level}
        row |= {"density": group["density"].mean(), "n": len(group)}
        for name, values in (
            ("accuracy", group["value"]),
            ("stop", at["step"]),
            ("stop_accuracy", at["accuracy"]),
        ):
            row[name], row[f"{name}_ci"] = interval(values)
        result.append(row)
    return pd.DataFrame(result)
