"""The figures of a report as they are without a script: Matplotlib's, as SVG."""

import html
import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lth import plot
from lth.cli.report import firsts
from lth.lab.stored import Run

SIZE = (5.4, 3.8)  # inches, of one panel: panels stand beside each other where they fit
# Text stays text, which is smaller and can be read aloud; ids are the same each time.
SVG: dict[Any, Any] = {
    "svg.hashsalt": "lth",
    "svg.fonttype": "none",
    "axes.facecolor": "none",
}
# What is black or white follows the page, which may be dark.
PAGE = {"#000000": "currentColor", "#ffffff": "var(--paper)"}
MOST = 4  # panels of a kind


def panels(draw: Sequence[Callable[[Axes], object]], told: str) -> str:
    """Draw each panel on axes of its own, as SVG; `told` is what is read aloud."""
    return "".join(_panel(one, told) for one in draw)


def _panel(draw: Callable[[Axes], object], told: str) -> str:
    figure = Figure(figsize=SIZE)
    ax = figure.subplots()
    draw(ax)
    # To look for room takes a third of the time of a figure: only names need it.
    figure.subplots_adjust(left=0.15, right=0.97, bottom=0.14, top=0.93)
    if ax.yaxis.have_units():
        figure.tight_layout()
    image = io.StringIO()
    with matplotlib.rc_context(SVG):
        figure.savefig(image, format="svg", metadata={"Date": None}, transparent=True)
    svg = image.getvalue()
    svg = svg[svg.index("<svg") :]
    for color, of_page in PAGE.items():
        svg = svg.replace(color, of_page)
    said = html.escape(told, quote=True)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{said}" ', 1)


def scores(table: pd.DataFrame, titles, apart) -> list[Callable[[Axes], object]]:
    """Return what draws the score and the steps to it against density."""
    return [
        partial(plot.accuracy, table, titles=titles, apart=apart),
        partial(plot.accuracy, table, at="stop_accuracy", titles=titles),
        lambda ax: plot.stopping(table, ax, titles),
    ]


def curves(runs: Sequence[Run]) -> list[Callable[[Axes], object]]:
    """Return what draws the training of some levels of each run."""
    found: list[Callable[[Axes], object]] = []
    for run in runs[: MOST // 2]:
        draw = partial(plot.curves, run.table, levels=plot.spread(run.table))
        if run.finds_mask:
            draw = partial(plot.beside, run.table, titles=run.titles)
        found += [draw, partial(draw, split="validation", metric="loss")]
    return found


def layers(runs: Sequence[Run]) -> list[Callable[[Axes], object]]:
    """Return what draws the density of each layer, run by run."""
    return [partial(plot.layers, run.densities()) for run in runs[:MOST]]


def masks(first: firsts.First) -> list[Callable[[Axes], object]]:
    """Return what draws how much of the first layer is kept, at two levels."""
    levels = sorted(first.kept)
    few = dict.fromkeys([levels[len(levels) // 2], levels[-1]])
    return [partial(_map, first.kept[n], first, f"level {n}") for n in few]


def _map(kept, first: firsts.First, title: str, ax: Axes) -> None:
    image = ax.imshow(kept, cmap="magma", vmin=0, aspect=first.aspect)
    ax.set(title=title, xlabel=first.column, ylabel=first.row)
    assert ax.figure is not None
    ax.figure.colorbar(image, ax=ax, shrink=0.8, label=first.what)


def probes(measured: pd.DataFrame) -> list[Callable[[Axes], object]]:
    """Return what draws the numbers that probes measured, by level."""
    if measured.empty:
        return []
    pairs = measured[["split", "metric"]].drop_duplicates().to_numpy()
    return [
        partial(_against_level, measured, split, metric)
        for split, metric in pairs[:MOST]
    ]


def _against_level(measured: pd.DataFrame, split: str, metric: str, ax: Axes) -> None:
    plot.against_level(measured, ax, split, metric)
