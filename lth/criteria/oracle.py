"""The truth that criteria estimate: the loss without a weight, or without a unit.

One evaluation of the loss for each, so for small networks and for units; a criterion is
judged by its rank correlation with this (`scipy.stats.spearmanr`, which gives ties the
mean of their ranks).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lth import masks
from lth.masks import Mask, Params, Scores, sides

CHUNK = 64  # evaluations of the loss at a time


def without_each_weight(
    loss: Callable[[Params], jax.Array], params: Params, mask: Mask
) -> Scores:
    """Scores L without the weight less L, for each that `mask` keeps; 0 for the others.

    Signed: negative where the loss falls. What pruning as optimisation minimises is its
    absolute value (Molchanov et al. 2017, arXiv:1611.06440), under which a gain counts
    as a change like any other. `loss(params)` is over all data that is to count.
    """
    return _without(loss, params, mask, lambda leaf: leaf.shape)


def without_each_input(
    loss: Callable[[Params], jax.Array],
    params: Params,
    mask: Mask,
    axes: sides.Axes = None,
) -> Scores:
    """Scores L without a row or an input channel less L, spread over its weights.

    Without its weights into the next layer, a unit is as good as gone: the gate of a
    channel closed.

    Args:
      loss: `loss(params)`, over all data that is to count.
      params: the weights.
      mask: what is there; all else scores 0.
      axes: which axes are inputs where shapes do not say so (see `sides`).

    Returns:
      A tree like `params`, signed as in `without_each_weight`.

    Raises:
      ValueError: with the path, for a shape that does not tell and of which `axes` does
        not either.
    """
    each = iter(sides.each(mask, axes))

    def units(leaf):
        side = next(each)
        whole = (*side.window, *side.outputs)
        return [1 if axis in whole else n for axis, n in enumerate(leaf.shape)]

    return _without(loss, params, mask, units)


def _without(loss, params, mask, units: Callable) -> Scores:
    """`units(leaf)` is the shape of an array of what is left out together."""
    base = loss(params)
    leaves, structure = jax.tree.flatten(params)
    kept = jax.tree.leaves(mask, is_leaf=lambda x: x is None)
    found: list[Any] = []
    for i, (leaf, keep) in enumerate(zip(leaves, kept, strict=True)):
        if keep is None:
            found.append(jnp.zeros_like(leaf))
            continue
        shape = units(leaf)
        count = math.prod(shape)
        places = jnp.arange(count).reshape(shape)

        def change(index, i=i, leaf=leaf, places=places):
            new = jnp.where(index == places, 0, leaf)
            changed = [*leaves[:i], new, *leaves[i + 1 :]]
            return loss(structure.unflatten(changed)) - base

        changes = jax.lax.map(change, jnp.arange(count), batch_size=min(CHUNK, count))
        spread = jnp.broadcast_to(changes.reshape(shape), leaf.shape)
        found.append(jnp.where(keep, spread, 0))
    return masks.apply(structure.unflatten(found), mask)
