"""Means of networks: weighted, of several states, and running, over a training."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lth.train.step import TrainState


def mixed(states: Sequence[TrainState], weights: Any) -> TrainState:
    """Return weighted means of the params and stats of several states.

    A row of weights that is 1 at one state gives that state, and equal states give
    themselves, bit for bit; a weight that is 0 in all states stays 0. What is no number
    with a fraction, such as a mask among the stats, is that of the nearest state.

    Args:
      states: m of them, each [r, …], of equal shapes.
      weights: [p, m], the rows of which sum to 1.

    Returns:
      The p mixtures, point by point: [p * r, …]. They stand at the step of the first
      state and have no optimizer's.

    Raises:
      ValueError: for states of other shapes, with the path and both, and for weights
        that do not sum to 1.
    """
    weights = np.atleast_2d(np.asarray(weights, np.float32))
    check_alike(states)
    if weights.shape[1] != len(states) or not np.allclose(weights.sum(1), 1, atol=1e-5):
        raise ValueError(
            f"weights are [points, {len(states)}], their rows of sum 1; got "
            f"{list(weights.shape)} with sums {weights.sum(1)}"
        )
    trees = [(s.params, s.stats) for s in states]
    params, stats = _mixed(trees, weights)
    step = jnp.tile(jnp.asarray(states[0].step), len(weights))
    return TrainState(step, params, stats, ())


@jax.jit
def _mixed(trees: list[Any], weights: jax.Array) -> Any:
    nearest = jnp.argmax(weights, 1)

    def leaf(*each):
        stacked = jnp.stack(each)
        start = stacked[nearest]  # [p, r, …]
        others = each if jnp.issubdtype(start.dtype, jnp.inexact) else []
        # From the nearest state on, so that states that are equal stay as they are.
        whole = start
        for i, x in enumerate(others):
            w = weights[:, i].reshape(-1, *[1] * x.ndim).astype(start.dtype)
            whole = whole + w * (x[None] - start)
        return whole.reshape(-1, *each[0].shape[1:])

    return jax.tree.map(leaf, *trees)


def check_alike(states: Sequence[TrainState]) -> None:
    """Refuse states whose params or stats differ in shape.

    Raises:
      ValueError, with the path of the leaf and both shapes.
    """
    first, *others = [{"params": s.params, "stats": s.stats} for s in states]
    known = {_name(p): x.shape for p, x in jax.tree_util.tree_leaves_with_path(first)}
    for other in others:
        leaves = jax.tree_util.tree_leaves_with_path(other)
        shapes = {_name(p): x.shape for p, x in leaves}
        for path in dict.fromkeys([*known, *shapes]):
            if known.get(path) != shapes.get(path):
                raise ValueError(
                    f"states are of other shapes: {path} is "
                    f"{_told(known.get(path))} in one and {_told(shapes.get(path))} in "
                    "another"
                )


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _told(shape: tuple[int, ...] | None) -> str:
    return "not there" if shape is None else str(list(shape))


def average(states: Sequence[TrainState]) -> TrainState:
    """Return the mean of several states: a soup (Zimmer et al. 2024)."""
    return mixed(states, np.full((1, len(states)), 1 / len(states)))


def collected(mean: Any, count: jax.Array, new: Any) -> Any:
    """Return the mean of `count + 1` trees, given that of the first `count`.

    Of one it is that one bit for bit, and of zeros 0. `count` is [k]; every leaf leads
    with that axis.
    """

    def leaf(old, x):
        n = count.reshape(-1, *[1] * (x.ndim - 1))
        return jnp.where(n == 0, x, old + (x - old) / (n + 1).astype(x.dtype))

    return jax.tree.map(leaf, mean, new)
