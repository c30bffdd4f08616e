"""Data: arrays on the device, and batches as a function of (key, step)."""

from lth.data.dataset import Dataset, Splits, hold_out
from lth.data.errors import DataError
from lth.data.sources import SOURCES, load
from lth.data.stream import make_sample, shuffled

__all__ = [
    "SOURCES",
    "DataError",
    "Dataset",
    "Splits",
    "hold_out",
    "load",
    "make_sample",
    "shuffled",
]
