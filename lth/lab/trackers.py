"""What others keep of a run as it goes: TensorBoard, Weights & Biases.

A tracker is a context manager that gives a function of `Progress`, as `watch` of
`lth.run` is one: `with trackers.tensorboard("logs") as watch: lth.run(…, watch=watch)`.
Another one is ten lines of the same kind.
"""

import contextlib
import importlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lth.lab.progress import Progress

Watch = Callable[[Progress], Any]
Tracker = Callable[[Path], contextlib.AbstractContextManager[Watch]]


class MissingError(ValueError):
    """A tracker is not installed."""


def numbers(progress: Progress) -> dict[str, float]:
    """Return what is tracked, by names that put variants and levels apart."""
    where = f"{progress.variant}/level_{progress.level:02d}"
    found = {
        f"{where}/train_loss": progress.loss,
        f"{where}/validation_{progress.metric}": progress.accuracy,
        "done": progress.fraction,
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}


@contextlib.contextmanager
def tensorboard(folder: str | Path) -> Iterator[Watch]:
    """Write event files that TensorBoard reads into `folder`, by training step."""
    writer = _module("tensorboardX").SummaryWriter(str(folder))

    def watch(progress: Progress) -> None:
        for name, value in numbers(progress).items():
            writer.add_scalar(name, value, progress.step)

    try:
        yield watch
    finally:
        writer.close()


@contextlib.contextmanager
def wandb(folder: str | Path, **options: Any) -> Iterator[Watch]:
    """Keep a run of Weights & Biases in `folder`, offline unless `mode` says other.

    `options` are those of `wandb.init`. Trainings follow each other, so the step of
    each is a number beside the others, `step`.
    """
    os.makedirs(folder, exist_ok=True)  # else it writes elsewhere
    given = {"project": "lth", "mode": "offline", "dir": str(folder), **options}
    run = _module("wandb").init(**given)
    try:
        yield lambda progress: run.log({**numbers(progress), "step": progress.step})
    finally:
        run.finish()


NAMES: Mapping[str, Tracker] = {"tensorboard": tensorboard, "wandb": wandb}


@contextlib.contextmanager
def together(names: Sequence[str], folder: Path, watch: Watch) -> Iterator[Watch]:
    """Tell several trackers and `watch`, each in a folder of its name in `folder`."""
    with contextlib.ExitStack() as stack:
        told = [watch]
        for name in names:
            told.append(stack.enter_context(NAMES[name](folder / name)))

        def tell(progress: Progress) -> None:
            for one in told:
                one(progress)

        yield tell


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise MissingError(
            f"{name} is not installed: pip install 'lth[track]'"
        ) from None
