"""Where a run is: said to its log and to whoever watches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lth import results
from lth.lab import devices, store
from lth.train import Metrics, TrainState


class Progress(NamedTuple):
    """Where a run is; said at each measurement."""

    variant: str
    level: int
    step: int
    steps: int  # where this training ends
    fraction: float  # of all the trainings of this call
    loss: float  # of training, mean over replicates
    metric: str  # what the next is: accuracy, or r2 of a regression
    accuracy: float  # on validation, mean over replicates
    # Updates of a mask that changes in training, since the last measurement: rows of
    # `dynamic.records`, with the replicate.
    updates: tuple[dict[str, Any], ...] = ()


class Reporter(NamedTuple):
    """Tells what `train.fit` measures: to the log and to who watches."""

    path: Path
    variant: str
    level: int
    trained: int  # trainings behind this one, of so many
    trainings: int
    start: int
    steps: int
    watch: Callable[[Progress], Any]

    def __call__(self, state: TrainState, record: Metrics) -> None:
        step = int(record["step"][0])
        means = {
            name: _mean_of_finite(values)
            for name, values in record.items()
            if name not in ("step", "diverged", "updates")
        }
        updates = tuple(record.get("updates", ()))
        part = (step - self.start) / (self.steps - self.start)
        done = (self.trained + part) / self.trainings
        if devices.first_process():
            for row in updates:
                store.log(self.path, "updated", **_finite(row))
            self._log(step, means, done)
        metric = _compared(means)
        self.watch(
            Progress(
                self.variant,
                self.level,
                step,
                self.steps,
                done,
                means.get("train_loss", float("nan")),
                metric,
                means.get(f"validation_{metric}", float("nan")),
                updates,
            )
        )

    def _log(self, step: int, means: dict[str, float], done: float) -> None:
        store.log(
            self.path,
            "measured",
            variant=self.variant,
            level=self.level,
            step=step,
            done=round(done, 6),
            **{n: round(m, 6) if np.isfinite(m) else None for n, m in means.items()},
        )


def _compared(means: dict[str, float]) -> str:
    """The metric that is shown: what runs are compared by, if there is any."""
    there = [n.partition("_")[2] for n in means if n.startswith("validation_")]
    others = [m for m in there if m != "loss"]
    return next((m for m in results.SCORES if m in there), (others or ["loss"])[0])


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """A row as JSON holds it, which knows no infinity."""
    return {
        n: None if isinstance(v, float) and not np.isfinite(v) else v
        for n, v in row.items()
    }


def _mean_of_finite(values: np.ndarray) -> float:
    """The mean over the replicates that have not failed; NaN when all have."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")
