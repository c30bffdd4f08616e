"""Smaller networks and files: which channels belong together, and fewer bytes."""

from lth.compress import packing
from lth.compress.slices import clear, keep, permute
from lth.compress.spaces import Space, find, frozen

__all__ = ["Space", "clear", "find", "frozen", "keep", "packing", "permute"]
