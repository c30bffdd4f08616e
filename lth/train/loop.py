"""Many steps: a training with its curves, and measuring over a data set."""

from collections.abc import Callable, Iterable, Mapping

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


def fit(
    state: TrainState,
    mask: masks.Mask,
    *,
    train: Callable[[TrainState, masks.Mask, int], tuple[TrainState, Metrics]],
    measures: Mapping[str, Callable[[TrainState], Metrics]],
    stops: Iterable[int],
    watch: Callable[[TrainState, Metrics], None] = lambda state, record: None,
) -> tuple[TrainState, Metrics]:
    """Train to the last of `stops` and measure at each of them.

    Args:
      state: where to begin; it stays whole.
      mask: of the params of `state`.
      train: `train(state, mask, n)` trains n steps, and may use up the state it is
        given: the first is a copy of `state`.
      measures: from a split to what measures a state on it.
      stops: steps, counted as in `state`. Those at or before its step are passed over,
        and there must be one after it.
      watch: `watch(state, record)` sees each record as it is made, and the state for as
        long.

    Returns:
      The trained state and the curves: `step` and `<split>_<metric>`, the last axis of
      each one entry per stop (`train_…` is the mean over the steps since the last), and
      `diverged`, the first step whose loss was not finite, or `NEVER`. Under replicates
      every array has their axis in front.

    Raises:
      ValueError: where no stop lies beyond the step of `state`.
    """
    at = int(np.ravel(state.step)[0])  # replicates are always at the same step
    records = []
    if max(stops := list(stops), default=at) <= at:
        raise ValueError(f"the last stop must lie beyond step {at}; got {stops}")
    state = copied(state)
    for stop in sorted({stop for stop in stops if stop > at}):
        state, sums = train(state, mask, stop - at)
        diverged = np.asarray(sums.pop("diverged"))
        record = {"step": np.asarray(state.step), "diverged": diverged}
        record |= {f"train_{k}": np.asarray(v) / (stop - at) for k, v in sums.items()}
        for split, measure in measures.items():
            values = measure(state).items()
            record |= {f"{split}_{k}": np.asarray(v) for k, v in values}
        records.append(record)
        at = stop
        watch(state, record)
    curves = {k: np.stack([r[k] for r in records], -1) for k in records[0]}
    return state, {**curves, "diverged": curves["diverged"].min(-1)}
