"""Figures: a table or a ticket drawn on Matplotlib axes.

Every function draws on the axes it is given and returns them. Lines are means over
replicates, bands 95 % confidence intervals of the mean (Student's t).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lth import results

if TYPE_CHECKING:  # Matplotlib takes a while: who only asks for names does without
    from matplotlib.axes import Axes

# Okabe & Ito's colours, which stay apart for colour-blind readers.
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
# Beyond six lines colours come again: then dashes and points tell them apart.
DASHES = ["-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1))]
MARKERS = ["o", "s", "^", "D", "v"]
NAMES = {
    "ticket": "ticket",
    "reinit": "fresh initialisation",
    "shuffle": "mask shuffled in layers",
    "shuffle_global": "mask shuffled globally",
    "invert": "lowest scores kept",
    "rewind": "initial weights trained",
    "train": "its weights trained",
}


NONE: Mapping[str, str] = MappingProxyType({})


def name(
    variant: str,
    level: int,
    density: float,
    matches: bool = False,
    titles: Mapping[str, str] = NONE,
) -> str:
    """Say what a row of a summary is called.

    Args:
      variant: as in the table.
      level: pruning rounds behind it. The ticket of level 0 is the dense network, or
        where that has lost weights already, a network under a mask that was learned.
      density: in (0, 1].
      matches: whether it matches the dense network (`results.matching`): then a ticket
        is a winning ticket.
      titles: what branches are called, by their names; else they are called as `NAMES`
        has it, or by their own name.

    Returns:
      A few words.
    """
    if variant == results.TICKET and level and matches:
        return "winning ticket"
    if variant != results.TICKET or level:
        return titles.get(variant, NAMES.get(variant, variant))
    return "dense network" if density == 1 else "learned mask"


def accuracy(
    table: pd.DataFrame,
    ax: "Axes",
    *,
    at: str = "accuracy",
    band: bool = True,
    titles: Mapping[str, str] = NONE,
    apart: Collection[str] = (),
) -> "Axes":
    """Draw test accuracy against density, a line per run and variant.

    At the end of training a filled point matches the dense network (`results.matching`)
    and a hollow one does not; the grey strip is one standard deviation below the dense
    network.

    Args:
      table: as of `results.read`.
      ax: to draw on.
      at: a column of `results.summary`: `accuracy`, at the end of training, or
        `stop_accuracy`, at the early-stopping step.
      band: whether intervals are drawn.
      titles: what branches are called, by their names (`name`).
      apart: the branches of another task, as of `results.matching`.

    Returns:
      `ax`.
    """
    _against_density(results.summary(table), at, ax, titles, percent=True, band=band)
    if at == "accuracy":
        _show_matching(results.matching(table, apart), ax)
    where = "at the end" if at == "accuracy" else "at early stopping"
    ax.set(ylabel=f"test {results.score(table)} {where} (%)")
    return ax


def stopping(
    table: pd.DataFrame, ax: "Axes", titles: Mapping[str, str] = NONE
) -> "Axes":
    """Draw the step of the lowest validation loss against density."""
    _against_density(results.summary(table), "stop", ax, titles)
    ax.set(ylabel="early-stopping step")
    return ax


def _against_density(summary, column, ax, titles, percent=False, band=True):
    scale = 100 if percent else 1
    several = summary["run"].nunique() > 1
    groups = summary.groupby(["run", "variant"], sort=False)
    order = sorted(groups, key=lambda g: (g[0][0], _place(g[0][1])))
    dense = summary[(summary["level"] == 0) & (summary["density"] == 1)]
    ends = []
    for style, ((run, variant), rows) in zip(styles(), order, strict=False):
        rows = rows.sort_values("density", ascending=False)
        last = rows.iloc[-1]  # of several levels, not the dense one
        called = name(variant, last["level"], last["density"], titles=titles)
        x, y = rows["density"] * 100, rows[column] * scale
        ax.plot(
            x,
            y,
            ms=3,
            **style,
            # A dollar sign would begin a formula.
            label=(f"{run}: {called}" if several else called).replace("$", r"\$"),
        )
        half = rows[f"{column}_ci"] * scale
        ends.append((y, half if band else half * float("nan")))
        if band and half.notna().any():
            fill = {"color": style["color"], "alpha": 0.18, "lw": 0}
            ax.fill_between(x, y - half, y + half, **fill)
    for level in dense[column]:
        ax.axhline(level * scale, color="0.5", lw=0.8, ls=":", zorder=0)
    density_axis(ax)
    _frame(ax, *map(pd.concat, zip(*ends, strict=True)))
    ax.legend(frameon=False, fontsize="small")


def _frame(ax: "Axes", means: pd.Series, halves: pd.Series) -> None:
    """Show all means, and of intervals what is no further away than means are apart.

    Of two replicates an interval is 13 standard errors to each side: the axis would be
    of it, and the lines all one.
    """
    low, high = means.min(), means.max()
    room = (high - low) or abs(high) / 100 or 1.0
    halves = halves.fillna(0)
    least = max((means - halves).min(), low - room / 2)
    most = min((means + halves).max(), high + room / 2)
    margin = (most - least or room) / 20
    ax.set_ylim(least - margin, most + margin)


def _place(variant: str) -> tuple[int, str]:
    """Where a variant comes: those with names of ours first."""
    known = list(NAMES)
    return known.index(variant) if variant in known else len(known), variant


def _show_matching(matching: pd.DataFrame, ax: "Axes") -> None:
    """Hollow points where a network does not match, and down to where it would."""
    missed = matching[~matching["matches"].astype(bool)]
    x, y = 100 * missed["density"], 100 * missed["accuracy"]
    ax.plot(x, y, "o", ms=1.6, color="white", zorder=3)
    for _, row in matching.drop_duplicates(["run", "dense"]).iterrows():
        if row["deviation"] > 0:
            least = row["dense"] - row["deviation"]
            strip = 100 * least, 100 * row["dense"]
            ax.axhspan(*strip, color="0.5", alpha=0.13, lw=0, zorder=0)


def styles() -> Iterator[dict[str, Any]]:
    """Yield how each line of a figure is drawn: all told apart, up to thirty."""
    while True:
        for dash, marker in zip(DASHES, MARKERS, strict=True):
            for color in COLORS:
                yield {"color": color, "ls": dash, "marker": marker}


def density_axis(ax: "Axes") -> None:
    """Show density in percent on a logarithmic axis, dense on the left."""
    from matplotlib import ticker

    ax.set_xscale("log")
    left, right = ax.get_xlim()
    ax.set_xlim(max(left, right), min(left, right))
    ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_minor_locator(ticker.NullLocator())
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_xlabel("density (%)")


def layers(densities: Mapping[int, Mapping[str, float]], ax: "Axes") -> "Axes":
    """Draw the density of each layer by level, from {level: {path: density}}."""
    from matplotlib import ticker

    levels = sorted(densities)
    if len(levels) == 1:
        (kept,) = densities.values()
        ax.barh(list(kept), [100 * d for d in kept.values()], color=COLORS[0])
        ax.invert_yaxis()
        ax.set(xlabel="density of the layer (%)", xlim=(0, 100))
        return ax
    for style, path in zip(styles(), densities[levels[0]], strict=False):
        values = [100 * densities[level][path] for level in levels]
        ax.plot(levels, values, ms=3, label=path, **style)
    ax.set(xlabel="level", ylabel="density of the layer (%)", yscale="log")
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.yaxis.set_minor_formatter(ax.yaxis.get_major_formatter())
    ax.yaxis.set_minor_locator(ticker.LogLocator(subs=(2.0, 5.0)))
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    ax.legend(frameon=False, fontsize="small")
    return ax


def curves(
    table: pd.DataFrame,
    ax: "Axes",
    *,
    split: str = "test",
    metric: str | None = None,
    levels: Iterable[int] | None = None,
    variant: str = results.TICKET,
) -> "Axes":
    """Draw a metric against the training step, a line per level, dark for dense.

    Args:
      table: as of `results.read`.
      ax: to draw on.
      split: of the data.
      metric: by default the one networks are compared by (`results.score`).
      levels: those to draw, by default all.
      variant: the ticket, or a control.

    Returns:
      `ax`.
    """
    from matplotlib import cm

    metric = metric or results.score(table)
    rows = table[
        (table["split"] == split)
        & (table["metric"] == metric)
        & (table["variant"] == variant)
    ]
    known = sorted(rows["level"].unique())
    wanted = set(known if levels is None else levels)
    levels = [level for level in known if level in wanted]
    for run, of_run in rows.groupby("run"):
        for i, level in enumerate(levels):
            mean = of_run[of_run["level"] == level].groupby("step")["value"].mean()
            density = of_run.loc[of_run["level"] == level, "density"].mean()
            label = f"{100 * density:.3g} %" if run == rows["run"].iloc[0] else None
            color = cm.viridis(0.9 * i / max(1, len(levels) - 1))
            scale = 1 if metric == "loss" else 100
            ax.plot(mean.index, mean * scale, lw=1.1, color=color, label=label)
    unit = "" if metric == "loss" else " (%)"
    ax.set(xlabel="step", ylabel=f"{split} {metric}{unit}")
    ax.legend(frameon=False, fontsize="x-small", title="density", ncols=2)
    return ax


def beside(
    table: pd.DataFrame,
    ax: "Axes",
    *,
    split: str = "test",
    metric: str | None = None,
    level: int = 0,
    titles: Mapping[str, str] = NONE,
) -> "Axes":
    """Draw a metric against the training step: a level's ticket and its controls.

    Args:
      table, ax, split, metric: as in `curves`.
      level: the one to draw.
      titles: what branches are called, by their names (`name`).

    Returns:
      `ax`.
    """
    metric = metric or results.score(table)
    rows = table[
        (table["split"] == split)
        & (table["metric"] == metric)
        & (table["level"] == level)
    ]
    scale = 1 if metric == "loss" else 100
    for style, variant in zip(styles(), rows["variant"].unique(), strict=False):
        of_variant = rows[rows["variant"] == variant]
        mean = of_variant.groupby("step")["value"].mean() * scale
        density = of_variant["density"].iloc[0]
        called = name(variant, level, density, titles=titles).replace("$", r"\$")
        line = {**style, "marker": ""}
        ax.plot(mean.index, mean, lw=1.1, label=called, **line)
    unit = "" if metric == "loss" else " (%)"
    ax.set(xlabel="step", ylabel=f"{split} {metric}{unit}")
    ax.legend(frameon=False, fontsize="small")
    return ax


def spread(table: pd.DataFrame, levels: int = 6) -> list[int]:
    """Choose about that many levels of a table, from the densest to the sparsest."""
    known = np.sort(table["level"].unique())
    picks = np.linspace(0, len(known) - 1, min(levels, len(known)))
    return [int(known[round(i)]) for i in picks]
