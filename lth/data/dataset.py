"""Labelled images, and their three splits."""

from typing import NamedTuple

import jax
import numpy as np

from lth.data.errors import DataError


class Dataset(NamedTuple):
    """Images held on the device. No pixel statistics are applied yet."""

    image: jax.Array | np.ndarray  # [n, h, w, c], uint8
    label: jax.Array | np.ndarray  # [n], int32 in [0, classes)


class Splits(NamedTuple):
    """Three disjoint sets: to learn from, to choose by, and to report."""

    train: Dataset
    validation: Dataset
    test: Dataset


def hold_out(data: Dataset, count: int, seed: int) -> tuple[Dataset, Dataset]:
    """Split into (rest, held out), where `count` examples drawn by `seed` are held out.

    The draw is a permutation by NumPy's `RandomState`, whose stream is frozen for good.
    """
    examples = len(data.label)
    if not 0 < count < examples:
        raise DataError(
            f"{count} examples cannot be held out of {examples}: "
            f"allowed are 1 to {examples - 1}"
        )
    order = np.random.RandomState(seed).permutation(examples)
    held, rest = np.sort(order[:count]), np.sort(order[count:])
    return Dataset(*(x[rest] for x in data)), Dataset(*(x[held] for x in data))
