"""Many steps: a training with its curves, and measuring over a data set."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from lth import masks
from lth.train.step import Metrics, TrainState


def make_evaluate(measure: Callable, chunk: int = 1000):
    """Make `evaluate(params, stats, data) -> metrics`: means over all of `data`.

    `measure(params, stats, batch)` gives each metric per example. It is called on
    `chunk` examples at a time, and the last chunk is filled up with examples that do
    not count.
    """

    def evaluate(params, stats, data):
        examples = jax.tree.leaves(data)[0].shape[0]
        size = min(chunk, examples)
        starts = jnp.arange(0, examples, size)

        def part(sums, start):
            index = start + jnp.arange(size)
            batch = jax.tree.map(lambda x: x[jnp.minimum(index, examples - 1)], data)
            values = measure(params, stats, batch)
            count = index < examples
            new = jax.tree.map(lambda v: jnp.sum(jnp.where(count, v, 0)), values)
            return jax.tree.map(jnp.add, sums, new), None

        batch = jax.tree.map(lambda x: x[:size], data)
        like = jax.eval_shape(measure, params, stats, batch)
        zeros = jax.tree.map(lambda v: jnp.zeros((), v.dtype), like)
        sums, _ = jax.lax.scan(part, zeros, starts)
        return jax.tree.map(lambda s: s / examples, sums)

    return evaluate


@jax.jit
def copied(state: TrainState) -> TrainState:
    """Copy a state into its own memory, which training may use up."""
    return jax.tree.map(jnp.copy, state)


def weighted_mean(found: list[tuple[Metrics, int]]) -> Metrics:
    """Join means over parts of a data set, each with its size, to that of the whole."""
    if len(found) == 1:
        return found[0][0]
    count = sum(n for _, n in found)
    return jax.tree.map(
        lambda *each: sum(
            v * (n / count) for v, (_, n) in zip(each, found, strict=True)
        ),
        *(values for values, _ in found),
    )


class Unfinished(NamedTuple):
    """Holds a training under way: what it takes to go on from there bit for bit."""

    state: TrainState
    records: Sequence[Metrics] = ()  # of the stops behind it
    sums: Metrics | None = None  # of the steps since the last of them, if any


class Keep(Protocol):
    """Keeps a training under way, so that a process that ends loses little of it."""

    def begun(self, state: TrainState, mask: masks.Mask) -> Unfinished | None:
        """Return where the training that starts so was left, if it was kept."""
        ...

    def steps(self, at: int, left: int, piece: int) -> int:
        """Return how many of the steps left to train before the next offer.

        It is a multiple of `piece`, or all of them.
        """
        ...

    def offer(self, unfinished: Unfinished) -> None:
        """Take note of where the training is, and keep that if it is time to."""
        ...


def fit(
    state: TrainState,
    mask: masks.Mask,
    *,
    train: Callable[[TrainState, masks.Mask, int], tuple[TrainState, Metrics]],
    measures: Mapping[str, Callable[[TrainState], Metrics]],
    stops: Iterable[int],
    watch: Callable[[TrainState, Metrics], None] = lambda state, record: None,
    keep: Keep | None = None,
    piece: int = 0,
) -> tuple[TrainState, Metrics]:
    """Train to the last of `stops` and measure at each of them.

    Args:
      state: where to begin; it stays whole.
      mask: of the params of `state`.
      train: `train(state, mask, n)` trains n steps, and may use up the state it is
        given: the first is a copy of `state`. With a `piece`, also
        `train(state, mask, n, sums)`, which goes on adding to sums that it returned.
      measures: from a split to what measures a state on it.
      stops: steps, counted as in `state`. Those at or before its step are passed over,
        and there must be one after it.
      watch: `watch(state, record)` sees each record as it is made, and the state for as
        long. A training that goes on does not tell again what it told before.
      keep: where the training is kept while it is under way.
      piece: between stops, training may be cut after so many steps and their multiples;
        0 where it may not.

    Returns:
      The trained state and the curves: `step` and `<split>_<metric>`, the last axis of
      each one entry per stop (`train_…` is the mean over the steps since the last), and
      `diverged`, the first step whose loss was not finite, or `NEVER`. Under replicates
      every array has their axis in front.

    Raises:
      ValueError: where no stop lies beyond the step of `state`.
    """
    at = step_of(state)
    if max(stops := list(stops), default=at) <= at:
        raise ValueError(f"the last stop must lie beyond step {at}; got {stops}")
    before = None if keep is None else keep.begun(state, mask)
    state, records, sums = before or Unfinished(copied(state))
    records = list(records)
    now = step_of(state)
    if records:
        at = int(np.ravel(records[-1]["step"])[0])
    for stop in sorted({stop for stop in stops if stop > at}):
        while now < stop:
            n = keep.steps(now, stop - now, piece) if keep and piece else stop - now
            state, sums = train(state, mask, n, *([] if sums is None else [sums]))
            now += n
            if keep and now < stop:
                keep.offer(Unfinished(state, records, sums))
        assert sums is not None  # what is kept at a stop has its record
        record = {"step": np.asarray(state.step), **_means(sums, stop - at)}
        sums = None
        for split, measure in measures.items():
            values = measure(state).items()
            record |= {f"{split}_{k}": np.asarray(v) for k, v in values}
        records.append(record)
        at = stop
        watch(state, record)
        if keep and stop < max(stops):
            keep.offer(Unfinished(state, records))
    curves = {k: np.stack([r[k] for r in records], -1) for k in records[-1]}
    return state, {**curves, "diverged": curves["diverged"].min(-1)}


def step_of(state: TrainState) -> int:
    """Return the step of a state; its replicates are always at the same."""
    return int(np.ravel(state.step)[0])


def _means(sums: Metrics, steps: int) -> Metrics:
    """What a record tells of the training since the last one."""
    means = {n: np.asarray(v) / steps for n, v in sums.items() if n != "diverged"}
    told = {f"train_{n}": mean for n, mean in means.items()}
    return {"diverged": np.asarray(sums["diverged"]), **told}
