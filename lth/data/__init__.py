"""Data: arrays on the device, and batches as a function of (key, step)."""

from lth.data import augment
from lth.data.dataset import Dataset, Splits, hold_out, pair
from lth.data.errors import DataError, DataWarning
from lth.data.options import label_noise, only_classes, subsample
from lth.data.sources import SOURCES, Source, classes, load
from lth.data.stream import make_sample, shuffled

__all__ = [
    "SOURCES",
    "DataError",
    "DataWarning",
    "Dataset",
    "Source",
    "Splits",
    "augment",
    "classes",
    "hold_out",
    "label_noise",
    "load",
    "make_sample",
    "only_classes",
    "pair",
    "shuffled",
    "subsample",
]
