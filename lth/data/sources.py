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
    """A data set: how to read its training and test arrays, and what they look like."""

    read: Callable[[Path | None], tuple[Dataset, Dataset]]
    shape: tuple[int, ...]  # of one example
    classes: int | None  # 1 for regression; None is as many as the text has characters
    task: Task = "classification"


def tinyshakespeare(length: int = 64) -> Source:
    """Characters of Shakespeare in windows of `length`."""
    return Source(partial(text.tinyshakespeare, length), (length,), None, "text")


def regression(
    *,
    n: int = 10_000,
    features: int = 100,
    informative: int = 10,
    noise: float = 3.0,
    seed: int = 0,
) -> Source:
    """A linear target of a few among many features, from scikit-learn."""
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
    """The three splits of the data set `name`; validation is held out of train.

    Of a text, validation is the end of the training text, and the window before it is
    left out: no character is in two splits. `source`, if given, is read in place of
    the one of that name.
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
    """How many classes, or different characters, the data has; 1 for regression."""
    if source.classes is not None:
        return source.classes
    highest = [int(np.max(x)) for split in splits for x in split]
    return max(highest) + 1
