"""Figures of tables and tickets, for notebooks and reports."""

from lth.plot.lines import (
    COLORS,
    NAMES,
    NONE,
    accuracy,
    beside,
    curves,
    density_axis,
    layers,
    name,
    spread,
    stopping,
    styles,
)
from lth.plot.maps import (
    inputs,
    kept,
)
from lth.plot.probes import (
    against_level,
    barrier,
)

__all__ = [
    "COLORS",
    "NAMES",
    "NONE",
    "accuracy",
    "against_level",
    "barrier",
    "beside",
    "curves",
    "density_axis",
    "inputs",
    "kept",
    "layers",
    "name",
    "spread",
    "stopping",
    "styles",
]
