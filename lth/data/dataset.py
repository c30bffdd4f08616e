"""Labelled examples, and their three splits."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from lth.data.errors import DataError


class Dataset(NamedTuple):
    """Holds examples and what is to be said of them; on the device while training.

    No pixel statistics are applied.
    """

    # [n, h, w, c] uint8 images, [n, features] float32, or [n, length] uint8 tokens
    inputs: jax.Array | np.ndarray
    # [n] int32 in [0, classes), [n] float32 targets, or [n, length] int32 next tokens
    targets: jax.Array | np.ndarray


def pair(batch: Any) -> Dataset:
    """Return a batch of any pair of inputs and targets as a Dataset.

    Raises:
      TypeError: for what is no pair, in which case it says what it is.
    """
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return Dataset(*batch)
    held = list(batch) if isinstance(batch, Mapping) else batch
    raise TypeError(
        "examples are pairs (inputs, targets), such as lth.data.Dataset(inputs, "
        f"targets); got a {type(batch).__name__} {held}"
    )


class Splits(NamedTuple):
    """Holds three disjoint sets: to learn from, to choose by, and to report."""

    train: Dataset
    validation: Dataset
    test: Dataset


def hold_out(data: Dataset, count: int, seed: int) -> tuple[Dataset, Dataset]:
    """Split into (rest, held out), where `count` examples drawn by `seed` are held out.

    The draw is a permutation by NumPy's `RandomState`, whose stream is frozen for good.
    """
    examples = len(data.targets)
    _check_count(count, examples, examples - 1)
    order = np.random.RandomState(seed).permutation(examples)
    return take(data, np.sort(order[count:])), take(data, np.sort(order[:count]))


def hold_out_end(data: Dataset, count: int, gap: int) -> tuple[Dataset, Dataset]:
    """Split into (rest, held out): the last `count` examples are held out.

    For examples that are neighbours, such as windows of one text: the `gap` examples
    before the held out ones belong to neither part.
    """
    examples = len(data.targets)
    _check_count(count, examples, examples - gap - 1)
    kept = examples - count
    return take(data, np.s_[: kept - gap]), take(data, np.s_[kept:])


def take(data: Dataset, index: np.ndarray | slice) -> Dataset:
    """Take the examples at `index`, in its order."""
    return Dataset(*(x[index] for x in data))


def check_labels(name: str, label: np.ndarray, classes: int, first: int = 0) -> None:
    """Raise DataError unless `label` lies in [first, first + classes).

    Args:
      name: of the file, for the error.
      label: [n], integers.
      classes: how many there are.
      first: the number of the first of them.

    Raises:
      DataError: with the first label outside and its place.
    """
    bad = (label < first) | (label >= first + classes)
    if bad.any():
        at = int(bad.argmax())
        raise DataError(
            f"{name}: label {label[at]} at index {at}; "
            f"allowed are {first} to {first + classes - 1}"
        )


def _check_count(count: int, examples: int, most: int) -> None:
    if not 0 < count <= most:
        allowed = f"allowed are 1 to {most}" if most > 0 else "there are too few"
        raise DataError(f"{count} examples cannot be held out of {examples}: {allowed}")
