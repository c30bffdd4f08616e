"""Trainings under way, kept on disk every so often, so that a killed one goes on.

What is kept lies in `training/` of the unit that the ticket will lie in, and goes when
that is stored. It is a checkpoint as any other, with what tells the training: its run,
variant and level, and a digest of where it started.
"""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lth import masks
from lth.lab import devices, store
from lth.lab.devices import compilation
from lth.lab.store import checkpoint
from lth.train import TrainState, Unfinished, step_of

PIECE = 2.0  # seconds that are trained before the clock is looked at
FIRST = 16  # steps, before it is known how long one takes
GROWTH = 8  # times as many, after a piece too short to tell


def never() -> bool:
    """Do not ask to stop."""
    return False


class Saving(NamedTuple):
    """Says when trainings under way are saved."""

    seconds: float | None = 600.0  # of the clock between two saves; None: not by it
    steps: int = 0  # of the training between two saves; 0: not by them
    stop: Callable[[], bool] = never  # whether to save at once, and stop


class Stopped(BaseException):
    """Ends a run that was asked to stop; the training under way is saved."""


class Pace:
    """How fast trainings of a call go: what one learns, the next one knows."""

    def __init__(self):
        self.rate = 0.0  # steps a second; 0: not known yet

    def learn(self, steps: int, seconds: float) -> None:
        """Take note of a piece; one too short to tell says that more may be tried."""
        self.rate = steps * GROWTH / PIECE if seconds < 0.05 else steps / seconds

    def steps(self) -> int:
        """Return how many steps to train in a piece: a power of two.

        So the pieces of trainings that wait for each other fit into one another.
        """
        steps = int(self.rate * PIECE) if self.rate else FIRST
        return 1 << max(1, steps).bit_length() - 1


class Keeper:
    """Keeps one training under way (`train.Keep`)."""

    def __init__(
        self, unit: Path, variant: str, level: int, saving: Saving, pace: Pace
    ):
        self.unit, self.saving, self.pace = unit, saving, pace
        self.about = {"variant": variant, "level": level}
        self.started: tuple[Any, Any] | None = None
        self.last = time.monotonic()  # when it was saved
        self.origin = 0  # the step it started at
        # Where the piece under way began: step, clock, and the clock of compiling.
        self.piece = (0, self.last, 0.0)
        self.write: Callable[[], None] | None = None  # waits for one under way

    def begun(self, state: TrainState, mask: masks.Mask) -> Unfinished | None:
        """Return where the training that starts so was left."""
        self.finish_writing()
        self.started, self.origin = (state, mask), step_of(state)
        self.last = time.monotonic()
        found = self._found(state)
        if found is not None:
            self._log("resumed", found.state)
        return found

    def steps(self, at: int, left: int, piece: int) -> int:
        """Return how many of the steps left to train before the clock is looked at."""
        count, every = self.pace.steps(), self.saving.steps
        if every:
            count = min(count, every - (at - self.origin) % every)
        count = devices.same(max(1, count // piece) * piece)
        self.piece = (at, time.monotonic(), compilation.seconds())
        return min(count, left)

    def offer(self, unfinished: Unfinished) -> None:
        """Save where the training is, if it is time to, and stop if that is asked."""
        at = step_of(unfinished.state)  # waits for the device
        now = time.monotonic()
        if unfinished.sums is not None:
            first, began, compiled = self.piece
            busy = now - began - (compilation.seconds() - compiled)
            self.pace.learn(at - first, busy)
        seconds, steps = self.saving.seconds, self.saving.steps
        due = seconds is not None and now - self.last >= seconds
        due = due or bool(steps and (at - self.origin) % steps == 0)
        stop, due = devices.agree([self.saving.stop(), due])
        if stop or due:
            self._save(unfinished)
        if stop:
            self.finish_writing()
            raise Stopped

    def end(self) -> None:
        """Drop what is kept: the training is over, and what came of it is stored."""
        self.finish_writing()
        if devices.first_process():
            store.drop_trainings(self.unit)

    def _found(self, state: TrainState) -> Unfinished | None:
        """What is kept of this very training, as the first process sees it."""
        tree = self._read(state)
        (there,) = devices.agree([tree is not None])
        if not there:
            return None
        if tree is None:
            raise store.StoreError(
                f"{self.unit / 'training'} is not what the first process reads there"
            )
        sums = jax.tree.map(jnp.asarray, tree.get("sums"))
        return Unfinished(tree["state"], _unstacked(tree.get("curves", {})), sums)

    def _read(self, state: TrainState) -> dict[str, Any] | None:
        """The tree that is kept; none is what is damaged, or of another training."""
        name = store.training(self.unit)
        if name is None:
            return None
        try:
            tree = store.load_training(self.unit, name, {"state": state}, self._told())
        except store.ForeignError:
            raise
        except store.StoreError as error:
            why = f"the training starts again, since {error}"
            warnings.warn(why, store.RunWarning, stacklevel=2)
            self._drop(str(error))
            return None
        if tree is None:  # its ticket is stored, or the recipe's functions changed
            self._drop("it is another training")
        return tree

    def _drop(self, why: str) -> None:
        if devices.first_process():
            store.log(self.unit, "dropped", why=why, **self.about)
            store.drop_trainings(self.unit)

    def _told(self) -> dict[str, Any]:
        """What tells this training from others."""
        assert self.started is not None
        if "start" not in self.about:
            self.about = {**self.about, "start": checkpoint.digest(self.started)}
        return self.about

    def _save(self, unfinished: Unfinished) -> None:
        self.last = time.monotonic()
        if not devices.first_process():
            return
        self.finish_writing()
        tree: dict[str, Any] = {"state": unfinished.state}
        if unfinished.records:
            tree["curves"] = _stacked(unfinished.records)
        if unfinished.sums is not None:
            tree["sums"] = unfinished.sums
        name = f"step_{step_of(unfinished.state)}"
        tree = jax.tree.map(_copied, tree)
        self.write = store.save_training(self.unit, name, tree, self._told())
        waited = round(time.monotonic() - self.last, 4)  # by the training
        self._log("kept", unfinished.state, seconds=waited)

    def finish_writing(self) -> None:
        """Wait for what is being written; raises what writing it raised."""
        if self.write is not None:
            write, self.write = self.write, None
            write()

    def _log(self, event: str, state: TrainState, **more: Any) -> None:
        if devices.first_process():
            known = {n: self.about[n] for n in ("variant", "level")}
            store.log(self.unit, event, **known, step=step_of(state), **more)


@contextlib.contextmanager
def keeping(
    unit: Path, variant: str, level: int, saving: Saving, pace: Pace
) -> Iterator[Keeper]:
    """Keep one training, until what came of it is stored: that is done in the block.

    Args:
      unit: The folder of the run, or of its added replicates.
      variant: What is trained: the trunk, or a branch.
      level: How many rounds of pruning are behind it.
      saving: When it is saved.
      pace: How fast it goes.

    Yields:
      The keeper that training calls (`train.Keep`).
    """
    keeper = Keeper(unit, variant, level, saving, pace)
    try:
        yield keeper
    except BaseException:  # what goes on from here must find no half-written files
        with contextlib.suppress(OSError, store.StoreError):
            keeper.finish_writing()
        raise
    keeper.end()


def _copied(leaf: Any) -> Any:
    """A leaf in memory of its own, which training does not use up."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jnp.copy(leaf)
    return np.array(leaf)


def _stacked(records: Any) -> dict[str, np.ndarray]:
    return {name: np.stack([r[name] for r in records], -1) for name in records[0]}


def _unstacked(curves: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The records, stop by stop, whose curves were stacked."""
    count = min((c.shape[-1] for c in curves.values()), default=0)
    return [{name: c[..., i] for name, c in curves.items()} for i in range(count)]
