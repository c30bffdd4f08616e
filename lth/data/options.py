"""Changes of a data set that papers make: noisy labels, fewer examples, fewer classes.

Each takes and gives a Dataset of NumPy arrays. Draws are by NumPy's `RandomState`,
whose stream is frozen for good.
"""

from collections.abc import Sequence

import numpy as np

from lth.data.dataset import Dataset, take
from lth.data.errors import DataError


def label_noise(data: Dataset, fraction: float, classes: int, seed: int) -> Dataset:
    """Draw the labels of exactly round(fraction * n) examples anew.

    Uniformly over all classes, the one it had among them, as Zhang et al. (2017,
    arXiv:1611.03530) do; so about fraction * (1 - 1 / classes) of the labels become
    wrong. Meant for the training split: what is chosen by and reported stays clean.

    Args:
      data: with one class per example.
      fraction: of the examples, in [0, 1].
      classes: how many there are.
      seed: of the draws.

    Returns:
      The data with other targets.

    Raises:
      DataError: for a fraction out of range, and targets that are no classes.
    """
    label = _classes(data, "label noise")
    if not 0 <= fraction <= 1:
        raise DataError(f"label noise: a fraction is in [0, 1]; got {fraction}")
    random = np.random.RandomState(seed)
    count = round(fraction * len(label))
    chosen = random.permutation(len(label))[:count]
    noisy = label.copy()
    noisy[chosen] = random.randint(0, classes, count)
    return data._replace(targets=noisy)


def subsample(
    data: Dataset, count: int, seed: int, *, balanced: bool = False
) -> Dataset:
    """Draw `count` of the examples, without replacement, and keep their order.

    Args:
      data: the examples.
      count: from 1 to all of them.
      seed: of the draw.
      balanced: equally many of each class that occurs, instead of any alike.

    Returns:
      The smaller data.

    Raises:
      DataError: for a count out of range, one that cannot be balanced, and balancing
        targets that are no classes.
    """
    examples, random = len(data.targets), np.random.RandomState(seed)
    if not 0 < count <= examples:
        raise DataError(f"{count} of {examples} examples: allowed are 1 to {examples}")
    order = random.permutation(examples)
    if not balanced:
        return take(data, np.sort(order[:count]))
    label = _classes(data, "a balanced sample")
    present, sizes = np.unique(label, return_counts=True)
    each, rest = divmod(count, len(present))
    if rest or each > sizes.min():
        raise DataError(
            f"{count} examples cannot be balanced over {len(present)} classes: allowed "
            f"are multiples of {len(present)} up to {len(present) * sizes.min()}"
        )
    chosen = [order[label[order] == one][:each] for one in present]
    return take(data, np.sort(np.concatenate(chosen)))


def only_classes(data: Dataset, classes: Sequence[int]) -> Dataset:
    """Take the examples of these classes; labels become 0, 1, … in the order given."""
    label = _classes(data, "a choice of classes")
    known = np.unique(label)
    if len(set(classes)) != len(classes) or not set(classes) <= set(known.tolist()):
        raise DataError(
            f"classes {list(classes)}: allowed are different ones of {known.tolist()}"
        )
    if not classes:
        raise DataError("a choice of classes names at least one")
    kept = take(data, np.flatnonzero(np.isin(label, classes)))
    number = {one: i for i, one in enumerate(classes)}
    return kept._replace(
        targets=np.array([number[one] for one in kept.targets.tolist()], np.int32)
    )


def _classes(data: Dataset, what: str) -> np.ndarray:
    label = np.asarray(data.targets)
    if label.ndim != 1 or not np.issubdtype(label.dtype, np.integer):
        raise DataError(
            f"{what} needs one class per example; the labels are {label.dtype} "
            f"{list(label.shape)}"
        )
    return label
