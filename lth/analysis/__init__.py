"""What a ticket tells: sizes and multiplications, averages, which units match."""

from lth.analysis import batchnorm, cost, matching

__all__ = ["batchnorm", "cost", "matching"]
