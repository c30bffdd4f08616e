"""The truth that criteria estimate: the loss without a weight, or without a unit.

One evaluation of the loss for each, so for small networks and for units; a criterion is
judged by its rank correlation with this (`scipy.stats.spearmanr`, which gives ties the
mean of their ranks).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lth import masks
from lth.masks import Mask, Params, Scores

CHUNK = 64  # evaluations of the loss at a time


def without_each_weight(
    loss: Callable[[Params], jax.Array], params: Params, mask: Mask
) -> Scores:
    """L without the weight less L, for each that `mask` keeps; 0 for the others.

    Signed: negative where the loss falls. What pruning as optimisation minimises is its
    absolute value (Molchanov et al. 2017, arXiv:1611.06440), under which a gain
    counts as a change like any other. `loss(params)` is over all data that is to count.
    """
    return _without(loss, params, mask, lambda index, leaf: index == _indices(leaf))


def without_each_input(
    loss: Callable[[Params], jax.Array], params: Params, mask: Mask
) -> Scores:
    """The same for whole rows and input channels (axis -2), spread over their weights.

    Without its weights into the next layer, a unit is as good as gone: the gate of a
    channel closed.
    """

    def gone(index, leaf):
        rows = jnp.arange(leaf.shape[-2]).reshape(-1, 1)
        return jnp.broadcast_to(index == rows, leaf.shape)

    return _without(loss, params, mask, gone, axis=-2)


def _without(loss, params, mask, gone: Callable, axis: int | None = None) -> Scores:
    base = loss(params)
    leaves, structure = jax.tree.flatten(params)
    kept = jax.tree.leaves(mask, is_leaf=lambda x: x is None)
    found: list[Any] = []
    for i, (leaf, keep) in enumerate(zip(leaves, kept, strict=True)):
        if keep is None:
            found.append(jnp.zeros_like(leaf))
            continue

        def change(index, i=i, leaf=leaf):
            new = jnp.where(gone(index, leaf), 0, leaf)
            changed = [*leaves[:i], new, *leaves[i + 1 :]]
            return loss(structure.unflatten(changed)) - base

        count = leaf.size if axis is None else leaf.shape[axis]
        chunk = min(CHUNK, count)
        changes = jax.lax.map(change, jnp.arange(count), batch_size=chunk)
        shape = leaf.shape if axis is None else (-1, 1)
        spread = jnp.broadcast_to(changes.reshape(shape), leaf.shape)
        found.append(jnp.where(keep, spread, 0))
    return masks.apply(structure.unflatten(found), mask)


def _indices(leaf: jax.Array) -> jax.Array:
    return jnp.arange(leaf.size).reshape(leaf.shape)
