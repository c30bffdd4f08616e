"""What a ticket tells: how it compares, what lies between networks, what it costs."""

from lth.analysis import (
    batchnorm,
    connectivity,
    cost,
    curvature,
    examples,
    graph,
    krylov,
    latency,
    matching,
    overlap,
)
from lth.analysis.connectivity import average, barrier, barriers, line, mixed, paths

__all__ = [
    "average",
    "barrier",
    "barriers",
    "batchnorm",
    "connectivity",
    "cost",
    "curvature",
    "examples",
    "graph",
    "krylov",
    "latency",
    "line",
    "matching",
    "mixed",
    "overlap",
    "paths",
]
