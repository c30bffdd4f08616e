"""Pictures of what probes tell: errors on a line between networks, numbers by level."""

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lth import results
from lth.plot.lines import MARKERS, name, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def barrier(
    curves: Mapping[str, Any], ax: "Axes", *, metric: str | None = None, label: str = ""
) -> "Axes":
    """Draw an error along the line from one network to another.

    Dotted is the line between the errors of both ends: what rises above it is a
    barrier. Called again on the same axes it takes another colour.

    Args:
      curves: by metric values [pairs, points, r], as `analysis.paths` measures them. Of
        several pairs the mean is taken within each replicate.
      ax: to draw on.
      metric: a loss is drawn as it is; of a score, higher being better, the error is 1
        less it, in percent. By default the first metric beside the loss.
      label: what the legend calls the line.

    Returns:
      `ax`.

    Raises:
      ValueError: for a metric that was not measured, and values of other axes.
    """
    metric = metric or next((m for m in curves if "loss" not in m), "loss")
    if metric not in curves:
        raise ValueError(f"metric is one of {', '.join(curves)}; got {metric!r}")
    values = np.asarray(curves[metric], np.float64)
    if values.ndim != 3:
        raise ValueError(f"values of paths are [pairs, points, r]; got {values.shape}")
    errors = (values if "loss" in metric else 100 * (1 - values)).mean(0)
    share = np.linspace(0, 1, len(errors))
    color = _draw(ax, share, [results.interval(pd.Series(e)) for e in errors], label)
    ax.plot([0, 1], errors[[0, -1]].mean(1), ":", lw=0.8, color=color, zorder=0)
    said = "error (%)" if metric == "accuracy" else f"1 - {metric} (%)"
    ax.set(xlabel="place on the line", ylabel=metric if "loss" in metric else said)
    return ax


def against_level(
    table: pd.DataFrame,
    ax: "Axes",
    split: str,
    metric: str,
    *,
    percent: bool = False,
    label: str = "",
) -> "Axes":
    """Draw a number by level, a line for each run and variant; of a curve, its end.

    Called again on the same axes it takes another colour.

    Args:
      table: as of `results.read`, or the rows that `Run.measure` returns.
      ax: to draw on.
      split: what the probe is called, such as `barrier-to=order`; or of the data.
      metric: of that split.
      percent: whether values are drawn times 100.
      label: what the legend calls the line; where the table has several runs or
        variants, it stands before their names.

    Returns:
      `ax`.

    Raises:
      ValueError: for a split and metric of which the table has no rows.
    """
    from matplotlib import ticker

    rows = results.final(table, split, metric)
    if rows.empty:
        pairs = table[["split", "metric"]].drop_duplicates()
        known = ", ".join(sorted(pairs["split"] + " " + pairs["metric"]))
        raise ValueError(
            f"no rows of {split} {metric}; the table has {known or 'none'}"
        )
    several = {column: rows[column].nunique() > 1 for column in ("run", "variant")}
    for names, group in rows.groupby(["run", "variant"], sort=False):
        run, variant = map(str, names)
        last = group.iloc[int(group["level"].to_numpy().argmax())]
        called = name(variant, last["level"], last["density"])
        words = [label, run * several["run"], called * several["variant"]]
        levels = group.groupby("level")["value"]
        pairs = [results.interval(values) for _, values in levels]
        scaled = 100 * np.array(pairs) if percent else pairs
        _draw(ax, [*levels.groups], scaled, ": ".join(filter(None, words)))
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    ax.set(xlabel="level", ylabel=f"{split} {metric}{' (%)' if percent else ''}")
    return ax


def _draw(ax: "Axes", x: Any, pairs: Any, label: str) -> str:
    """Draw means and half-widths in the next colour, which is returned."""
    drawn = [line for line in ax.lines if line.get_marker() in MARKERS]
    style = next(itertools.islice(styles(), len(drawn), None))
    color = style["color"]
    mean, half = np.transpose(pairs)
    # A dollar sign would begin a formula.
    ax.plot(x, mean, ms=3, label=label.replace("$", r"\$"), **style)
    if np.isfinite(half).any():
        ax.fill_between(x, mean - half, mean + half, color=color, alpha=0.18, lw=0)
    if label:
        ax.legend(frameon=False, fontsize="small")
    return color
