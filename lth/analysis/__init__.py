"""What a ticket tells: sizes, multiplications, averages, units that match or die."""

from lth.analysis import batchnorm, cost, graph, matching

__all__ = ["batchnorm", "cost", "graph", "matching"]
