"""What a ticket tells: its sizes and multiplications, its batch-norm averages."""

from lth.analysis import batchnorm, cost

__all__ = ["batchnorm", "cost"]
