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
    """Three disjoint sets: learn on the first, choose by the second, report the third."""

    train: Dataset
    validation: Dataset
    test: Dataset


def hold_out(
    image: np.ndarray, label: np.ndarray, count: int, seed: int
) -> tuple[Dataset, Dataset]:
    """Split into (rest, held out), where `count` examples drawn by `seed` are held out.

    The draw is a permutation by NumPy's `RandomState`, whose stream is frozen for good.
    """
    if not 0 < count < len(label):
        raise DataError(
            f"{count} examples cannot be held out of {len(label)}: "
            f"allowed are 1 to {len(label) - 1}"
        )
    order = np.random.RandomState(seed).permutation(len(label))
    held, rest = np.sort(order[:count]), np.sort(order[count:])
    return Dataset(image[rest], label[rest]), Dataset(image[held], label[held])
