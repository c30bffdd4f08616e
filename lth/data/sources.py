"""The data sets known by name."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from lth.data import cifar, generated, mnist, text
from lth.data.dataset import Dataset, Splits, hold_out, hold_out_end
from lth.data.errors import DataError

Task = Literal["classification", "regression", "text"]


class Source(NamedTuple):
    """Says how to read a data set's training and test arrays, and how they look."""

    read: Callable[[Path | None], tuple[Dataset, Dataset]]
    shape: tuple[int, ...]  # of one example
    classes: int | None  # 1 for regression; None is as many as the text has characters
    task: Task = "classification"


def tinyshakespeare(length: int = 64) -> Source:
    """Offer characters of Shakespeare in windows of `length`."""
    return Source(partial(text.tinyshakespeare, length), (length,), None, "text")


def regression(
    *,
    n: int = 10_000,
    features: int = 100,
    informative: int = 10,
    noise: float = 3.0,
    seed: int = 0,
) -> Source:
    """Offer a linear target of a few among many features, from scikit-learn.

    Args:
      n, features, informative, noise, seed: as in `generated.linear`.

    Returns:
      A source; it raises DataError for values out of range when it is read.
    """
    read = partial(
        generated.regression,
        n=n,
        features=features,
        informative=informative,
        noise=noise,
        seed=seed,
    )
    return Source(read, (features,), 1, "regression")


SOURCES = {
    "digits": Source(generated.digits, (8, 8, 1), 10),
    "mnist": Source(mnist.mnist, (28, 28, 1), 10),
    "fashion_mnist": Source(mnist.fashion_mnist, (28, 28, 1), 10),
    "kmnist": Source(mnist.kmnist, (28, 28, 1), 10),
    **{
        f"emnist_{name}": Source(partial(mnist.emnist, name), (28, 28, 1), part.classes)
        for name, part in mnist.EMNIST.items()
    },
    "cifar10": Source(partial(cifar.read, cifar.CIFAR10), (32, 32, 3), 10),
    "cifar100": Source(partial(cifar.read, cifar.CIFAR100), (32, 32, 3), 100),
    "regression": regression(),
    "tinyshakespeare": tinyshakespeare(),
}


def load(
    name: str,
    data_dir: str | Path | None,
    validation: int,
    split_seed: int,
    source: Source | None = None,
) -> Splits:
    """Read the three splits of a data set; validation is held out of train.

    Of a text, validation is the end of the training text, and the window before it is
    left out: no character is in two splits.

    Args:
      name: of the data set, a key of `SOURCES` unless there is a `source`.
      data_dir: the data folder, as in `fetch.folders`.
      validation: examples held out.
      split_seed: of the draw of validation, unread of a text.
      source: read in place of the one of that name.

    Returns:
      The training, validation and test set.

    Raises:
      DataError: for files that are missing or damaged, examples of another shape than
        the source says, and more validation than there is.
    """
    source = source or SOURCES[name]
    train, test = source.read(Path(data_dir) if data_dir else None)
    for part in (train, test):
        if part.inputs.shape[1:] != source.shape:
            raise DataError(
                f"{name} has examples of {source.shape}, "
                f"these are {part.inputs.shape[1:]}"
            )
    if source.task == "text":
        return Splits(*hold_out_end(train, validation, gap=1), test)
    return Splits(*hold_out(train, validation, split_seed), test)


def classes(source: Source, splits: Splits) -> int:
    """Count the classes, or different characters, of the data; 1 for regression."""
    if source.classes is not None:
        return source.classes
    highest = [int(np.max(x)) for split in splits for x in split]
    return max(highest) + 1
