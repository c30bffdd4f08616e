"""Smaller networks and files: which channels belong together, and fewer bytes."""

from lth.compress import condensed, files, foreign, packing, program, storage, whole
from lth.compress.dead import shrink_masked
from lth.compress.shrinking import ShrinkError, Shrunk, living, shrink, widened
from lth.compress.slices import clear, keep, permute, sliced, spread
from lth.compress.spaces import Space, find, frozen

__all__ = [
    "ShrinkError",
    "Shrunk",
    "Space",
    "clear",
    "condensed",
    "files",
    "find",
    "foreign",
    "frozen",
    "keep",
    "living",
    "packing",
    "permute",
    "program",
    "shrink",
    "shrink_masked",
    "sliced",
    "spread",
    "storage",
    "whole",
    "widened",
]
