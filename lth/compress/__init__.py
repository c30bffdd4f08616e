"""Smaller networks and files: which channels belong together, and fewer bytes."""

from lth.compress import condensed, files, foreign, packing, program, storage
from lth.compress.slices import clear, keep, permute
from lth.compress.spaces import Space, find, frozen

__all__ = [
    "Space",
    "clear",
    "condensed",
    "files",
    "find",
    "foreign",
    "frozen",
    "keep",
    "packing",
    "permute",
    "program",
    "storage",
]
