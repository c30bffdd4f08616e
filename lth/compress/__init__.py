"""Smaller files of pruned networks."""

from lth.compress import packing

__all__ = ["packing"]
