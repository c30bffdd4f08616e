"""The figures that answer, as Vega-Lite specifications and the controls of each.

A figure is data by columns, a specification, `filters` that say which rows are drawn,
and `choices` that each change places of the specification, given as dotted paths.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from lth import plot
from lth.cli.report import data, firsts

Spec = dict[str, Any]
# Student's t at 97.5 %, of 2 to 40 values: half an interval in standard errors.
STUDENT = [round(float(t), 4) for t in special.stdtrit(np.arange(1, 40), 0.975)]
DASHES = [[1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [1, 3]]
BELOW: Spec = {"orient": "bottom", "columns": 2, "title": None, "labelLimit": 560}
# Neither the darkest nor the lightest, which are lost on one page or the other.
VIRIDIS = {"name": "viridis", "extent": [0.15, 0.88]}
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross"]


class Filter(NamedTuple):
    """Says by which values of a column rows are drawn, each with whether it is on."""

    column: str
    title: str
    options: list[list[Any]]  # [value, words, on]
    one: bool = False  # whether exactly one is chosen


class Choice(NamedTuple):
    """Says what can be chosen, the first being how the figure begins."""

    title: str
    options: list[list[Any]]  # [words, {path: value}]


class Live(NamedTuple):
    """Holds a figure that answers."""

    name: str
    spec: Spec
    columns: data.Columns
    filters: list[Filter]
    choices: list[Choice]
    fit: bool = True  # whether the vertical axis is of the points, not their intervals


def _axis(column: str, title: str, log: bool = False, reverse: bool = False) -> Spec:
    """What makes a column the horizontal axis."""
    kind: Spec = {"type": "log", "nice": False} if log else {"zero": False}
    ticks: Spec = {"tickCount": 8, "labelSeparation": 8, "labelOverlap": True}
    ticks["format"] = {"level": "d", "step": ",d", "weights": "~s"}.get(column, ".3~r")
    if column == "level":
        ticks["tickMinStep"] = 1
    return {
        "params.0.value": column,
        "encoding.x.title": title,
        "encoding.x.scale": {**kind, "reverse": reverse},
        "encoding.x.axis": ticks,
    }


def _measure(column: str, title: str) -> Spec:
    return {"params.1.value": column, "encoding.y.title": title}


def _lines(by: Sequence[str], extra: Sequence[str] = ()) -> Spec:
    """Means of lines `by` columns with intervals, points to hover over, replicates."""
    half = f"datum.sd * {STUDENT}[min(datum.n, 40) - 2] / sqrt(datum.n)"
    steps = [
        {
            "aggregate": [
                {"op": "mean", "field": "y", "as": "y"},
                {"op": "stdev", "field": "y", "as": "sd"},
                {"op": "count", "as": "n"},
                {"op": "mean", "field": "x", "as": "x"},
                *({"op": "mean", "field": name, "as": name} for name in extra),
            ],
            "groupby": [*by],
        },
        {"calculate": f"datum.n > 1 ? {half} : null", "as": "half"},
        {"calculate": "datum.y - (datum.half || 0)", "as": "low"},
        {"calculate": "datum.y + (datum.half || 0)", "as": "high"},
    ]
    band = {
        "mark": {"type": "area", "opacity": 0.16, "clip": True, "aria": False},
        "encoding": {
            "y": {"field": "low", "type": "quantitative"},
            "y2": {"field": "high"},
            "strokeDash": None,
            "shape": None,
        },
    }
    return {
        "params": [
            {"name": "across", "value": "density"},
            {"name": "up", "value": "accuracy"},
        ],
        "transform": [
            {"calculate": "datum[across]", "as": "x"},
            {"calculate": "datum[up]", "as": "y"},
            {"filter": "isValid(datum.x) && isValid(datum.y)"},
        ],
        "encoding": {
            "x": {"field": "x", "type": "quantitative", "title": ""},
            "y": {
                "field": "y",
                "type": "quantitative",
                "title": "",
                "scale": {"zero": False},
            },
        },
        "layer": [
            {
                "transform": steps,
                "layer": [band, _line(), _points(by, extra)],
            },
        ],
    }


def _line() -> Spec:
    line = {"type": "line", "clip": True, "aria": False}
    return {"mark": line, "encoding": {"shape": None}}


def _points(by: Sequence[str], extra: Sequence[str]) -> Spec:
    """Points to hover over; dragging and wheeling over them moves both axes."""
    told = [{"field": name, "type": "nominal"} for name in by if name != "x"]
    told += [{"field": n, "type": "quantitative", "format": ".4~g"} for n in extra]
    told += [
        {"field": "y", "type": "quantitative", "title": "mean", "format": ".5~g"},
        {"field": "half", "type": "quantitative", "title": "± 95 %", "format": ".3~g"},
        {"field": "n", "type": "quantitative"},
    ]
    zoom = {
        "name": "zoom",
        "select": {
            "type": "interval",
            "zoom": "wheel![event.ctrlKey || event.shiftKey]",
        },
        "bind": "scales",
    }
    return {
        "params": [zoom],
        "mark": {"type": "point", "filled": True, "size": 42, "clip": True},
        "encoding": {"tooltip": told},
    }


def _told_apart(spec: Spec, names: Sequence[str], field: str = "line") -> Spec:
    """Colours, and beyond six of them dashes and shapes, that stay whoever is drawn."""
    count = len(plot.COLORS)
    colors = [plot.COLORS[i % count] for i in range(len(names))]
    turn = [i // count for i in range(len(names))]
    dashes = [DASHES[i % len(DASHES)] for i in turn]
    shapes = [SHAPES[i % len(SHAPES)] for i in turn]
    domain = {"domain": [*names]}
    legend = {**BELOW, "columns": _columns(names)}
    encoding = {
        "color": {"scale": {**domain, "range": colors}, "legend": legend},
    }
    if len(names) > count:
        encoding |= {"strokeDash": {"scale": {**domain, "range": dashes}}}
        encoding |= {"shape": {"scale": {**domain, "range": shapes}}}
    for channel in encoding.values():
        channel |= {"field": field, "type": "nominal", "title": None}
    spec["encoding"] |= encoding
    return spec


def _columns(names: Sequence[str]) -> int:
    """How many long names of a legend stand beside each other."""
    return 1 if max(map(len, names), default=0) > 36 else 2


def _filter(rows: pd.DataFrame, column: str, title: str, **more: Any) -> Filter:
    """A filter by the values of a column, all of them on."""
    values = rows[column].unique().tolist()
    if pd.api.types.is_numeric_dtype(rows[column]):
        values = sorted(int(value) for value in values)
    return Filter(column, title, [[v, str(v), True] for v in values], **more)


def _useful(filters: Sequence[Filter]) -> list[Filter]:
    return [f for f in filters if len(f.options) > 1]


SINGLES = {
    "mark": {"type": "line", "strokeWidth": 1, "opacity": 0.45, "clip": True},
    "encoding": {"detail": {"field": "replicate", "type": "nominal"}, "shape": None},
}
OPACITY = "layer.0.layer.0.mark.opacity"
INTERVALS = Choice("Intervals", [["shown", {OPACITY: 0.16}], ["hidden", {OPACITY: 0}]])
SHOWN = [
    INTERVALS,
    Choice("Each replicate", [["hidden", {}], ["shown", {"layer.1": SINGLES}]]),
]


def scores(rows: pd.DataFrame, score: str, titles: Mapping[str, str]) -> Live:
    """Draw what trainings reach, against what is left of the network."""
    rows = data.named(rows, titles, rows["run"].nunique() > 1)
    by, extra = ["line", "level"], ["density"]
    spec = _told_apart(_lines(by, extra), rows["line"].unique().tolist())
    up = [
        [f"test {score} at the end (%)", "accuracy"],
        [f"test {score} at early stopping (%)", "stop_accuracy"],
        ["early-stopping step", "stop"],
    ]
    across = [
        ["density (%), logarithmic", _axis("density", "density (%)", True, True)],
        ["density (%)", _axis("density", "density (%)", False, True)],
        ["level", _axis("level", "level")],
    ]
    for name, title in (
        ("weights", "weights left"),
        ("speedup", "times fewer products"),
    ):
        if name in rows and rows[name].notna().any():
            axis = _axis(name, title, True, name == "weights")
            across.append([f"{title}, logarithmic", axis])
    filters = [
        _filter(rows, "run", "Runs"),
        _filter(rows, "variant", "Variants"),
        _filter(rows, "level", "Levels"),
        _filter(rows, "replicate", "Replicates"),
    ]
    choices = [
        Choice("Upwards", [[words, _measure(name, words)] for words, name in up]),
        Choice("Across", across),
        *SHOWN,
    ]
    return Live("scores", spec, data.columns(rows), _useful(filters), choices)


def curves(rows: pd.DataFrame, score: str, levels: Sequence[int], titles) -> Live:
    """Draw trainings, a line a level.

    Args:
      rows: as of `data.curves`.
      score: the metric of the test split that is drawn first.
      levels: those that are on at first.
      titles: what branches are called, by their names.

    Returns:
      The figure.
    """
    rows = data.named(rows, titles, rows["run"].nunique() > 1)
    rows["kept"] = rows["density"].map(lambda share: f"{share:.3g} %")
    spec = _lines(["line", "kept", "level", "step"])
    spec["params"][0]["value"] = "step"
    names = rows["line"].unique().tolist()
    shades = rows.groupby("kept", sort=False)["density"].mean().sort_values()
    legend = {
        "orient": "bottom",
        "columns": 6,
        "title": "density",
        "symbolType": "circle",
    }
    spec["encoding"] |= {
        "color": {
            "field": "kept",
            "type": "ordinal",
            "sort": [*shades.index[::-1]],
            "scale": {"domain": [*shades.index[::-1]], "scheme": VIRIDIS},
            "legend": legend,
        }
    }
    if len(names) > 1:
        dashes = [DASHES[i % len(DASHES)] for i in range(len(names))]
        spec["encoding"]["strokeDash"] = {
            "field": "line",
            "type": "nominal",
            "scale": {"domain": names, "range": dashes},
            "legend": {
                "orient": "bottom",
                "columns": 1,
                "title": None,
                "labelLimit": 320,
                "symbolType": "stroke",
                "symbolSize": 500,
                "encode": {"symbols": {"update": {"stroke": {"value": "#888"}}}},
            },
        }
    spec["layer"][0]["layer"][2]["mark"] |= {"size": 30, "opacity": 0}
    measured = [
        str(c) for c in rows if str(c).startswith(("test ", "validation ", "train "))
    ]
    first = f"test {score}"
    measured.sort(key=lambda name: (name != first, name))
    variants = _filter(rows, "variant", "Variants")
    variants = variants._replace(
        options=[[v, words, i == 0] for i, (v, words, _) in enumerate(variants.options)]
    )
    shown = _filter(rows, "level", "Levels")
    shown = shown._replace(
        options=[[level, words, level in levels] for level, words, _ in shown.options]
    )
    filters = [_filter(rows, "run", "Runs"), variants, shown]
    filters.append(_filter(rows, "replicate", "Replicates"))
    across = [
        ["step", _axis("step", "step")],
        ["step, logarithmic", _axis("step", "step", log=True)],
    ]
    hidden = INTERVALS._replace(options=INTERVALS.options[::-1])
    choices = [
        Choice("Upwards", [[n, _measure(n, _unit(n))] for n in measured]),
        Choice("Across", across),
        hidden,
        SHOWN[1],
    ]
    return Live("curves", spec, data.columns(rows), _useful(filters), choices)


def _unit(name: str) -> str:
    return name if name.endswith((" loss", " r2")) else f"{name} (%)"


def layers(rows: pd.DataFrame) -> Live:
    """Draw how dense each layer is, level by level."""
    several = rows["run"].nunique() > 1
    rows = rows.assign(
        line=rows["run"] + ": " + rows["layer"] if several else rows["layer"]
    )
    rows["replicate"] = 0
    spec = _told_apart(_lines(["line", "level"]), rows["line"].unique().tolist())
    spec["params"][1]["value"] = "kept"
    spec["encoding"]["y"]["title"] = "density of the layer (%)"
    log = {"type": "log", "nice": False}
    up = [
        ["density (%), logarithmic", {"encoding.y.scale": log}],
        ["density (%)", {"encoding.y.scale": {"type": "linear", "zero": True}}],
    ]
    across = [["level", _axis("level", "level")]]
    filters = [
        _filter(rows, "run", "Runs"),
        _filter(rows, "layer", "Layers"),
        _filter(rows, "level", "Levels"),
    ]
    choices = [Choice("Upwards", up), Choice("Across", across)]
    return Live(
        "layers", spec, data.columns(rows), _useful(filters), choices, fit=False
    )


def masks(rows: pd.DataFrame, first: firsts.First) -> Live:
    """Draw what a level's masks keep of the first layer."""
    rows_, columns = int(rows["row"].max()) + 1, int(rows["column"].max()) + 1
    place = {"type": "ordinal", "axis": {"labels": False, "ticks": False}}
    spec = {
        "mark": {"type": "rect", "aria": False, "strokeWidth": 0},
        "encoding": {
            "x": {"field": "column", "title": first.column, **place},
            "y": {"field": "row", "title": first.row, **place},
            "color": {
                "field": "kept",
                "type": "quantitative",
                "title": first.what,
                "scale": {"scheme": "magma", "domainMin": 0},
                "legend": {"orient": "bottom", "gradientLength": 220},
            },
            "tooltip": [
                {"field": "row", "type": "quantitative", "title": first.row},
                {"field": "column", "type": "quantitative", "title": first.column},
                {"field": "kept", "type": "quantitative", "format": ".3~g"},
            ],
        },
    }
    if first.aspect == "equal":
        spec |= {"width": 320, "height": round(320 * rows_ / columns)}
    shades = [["magma", {}], ["greys", {"encoding.color.scale.scheme": "greys"}]]
    shades[0][1] = {"encoding.color.scale.scheme": "magma"}
    levels = _filter(rows, "level", "Level", one=True)
    last = [[v, words, v == levels.options[-1][0]] for v, words, _ in levels.options]
    filters = [levels._replace(options=last)]
    choices = [Choice("Shades", shades)]
    return Live("masks", spec, data.columns(rows), filters, choices, fit=False)


def probes(rows: pd.DataFrame, titles: Mapping[str, str]) -> Live:
    """Draw what probes measured, by level."""
    rows = data.named(rows, titles, rows["run"].nunique() > 1)
    rows["density"] = 100 * rows["density"]
    spec = _told_apart(_lines(["line", "level"]), rows["line"].unique().tolist())
    spec["params"][1]["value"] = "value"
    spec["encoding"]["y"]["title"] = "value"
    across = [
        ["level", _axis("level", "level")],
        ["density (%), logarithmic", _axis("density", "density (%)", True, True)],
    ]
    filters = [
        _filter(rows, "what", "Number", one=True),
        *_useful([_filter(rows, "run", "Runs"), _filter(rows, "level", "Levels")]),
        *_useful([_filter(rows, "replicate", "Replicates")]),
    ]
    choices = [Choice("Across", across), *SHOWN]
    return Live("probes", spec, data.columns(rows), filters, choices)
