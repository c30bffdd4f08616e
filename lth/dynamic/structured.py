"""Rules that keep a mask structured while it changes in training."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lth import criteria
from lth.dynamic import rules
from lth.dynamic.transform import Rule
from lth.masks import Density, sides, structure, tiles, topk


def srigl(
    density: Density,
    *,
    end_step: int,
    begin_step: int = 100,
    frequency: int = 100,
    drop: rules.Drop | None = None,
    ablate: float = 0.3,
    axes: sides.Axes = None,
) -> Rule:
    """Drop and grow under constant fan-in: SRigL (Lasby et al. 2024, arXiv:2305.02299).

    All outputs of a layer that live read equally many weights, so that the layer can be
    stored as two dense arrays of [outputs, fan-in], values and indices. From a random
    mask, an update is as one of `rigl`, which drops the smallest weights of a layer,
    except that each output grows by gradient what its fan-in lacks.

    Before that outputs are ablated, with all their weights, of which too few are
    salient: those that the layer keeps, or that it would grow were there no fan-in. The
    others share what an ablated one read, so that their fan-in grows, in whole weights,
    up to all of the inputs. What is ablated stays so, and its bias stays and trains. A
    layer of density 1 stays whole.

    Args:
      density: of each layer, in (0, 1], or a tree (`allocation.erdos_renyi`): an output
        reads `max(1, round(density * inputs))` weights at first.
      end_step, begin_step, frequency: as in `rigl`.
      drop: as in `rigl`.
      ablate: the share of an output's fan-in that is to be salient, in [0, 1]; with 0
        none is ablated. The output of a layer that has most of it always stays.
      axes: inputs and outputs of kernels whose shape does not tell, as in `sides`.

    Returns:
      A rule for `dynamic.sparsify`.

    Raises:
      ValueError: for steps out of these ranges, and for `ablate` outside [0, 1].
    """
    if not 0 <= ablate <= 1:
        raise ValueError(f"ablate is a share of the fan-in, in [0, 1]; got {ablate}")
    when, updates = rules.exchanges(begin_step, end_step, frequency)
    drop = drop or rules.cosine_drop(begin_step=begin_step, end_step=end_step)

    def start(params, mask, key):
        return structure.keep_within(
            criteria.random(params, key), mask, density, axes=axes
        )

    def update(step, params, mask, grads, key):
        exchange = partial(_exchanged, drop(step), ablate)
        leaves, layers = jax.tree.flatten(mask)
        sizes = structure.shapes(mask, structure.outputs(), axes)
        each = jax.tree.leaves(density)
        each = each if len(each) > 1 else each * len(leaves)
        weights, slopes = (_covered(x, mask) for x in (params, grads))
        found = map(exchange, sizes, each, leaves, weights, slopes)
        return jax.tree.unflatten(layers, found)

    return Rule(start, update, when, updates, skips=True)


def _covered(tree: Any, mask: Any) -> list[jax.Array]:
    kept = jax.tree.map(lambda x, m: None if m is None else x, tree, mask)
    return jax.tree.leaves(kept)


def _exchanged(fraction, ablate, sizes, density, keep, w, grad) -> jax.Array:
    """The next mask of one layer, whose outputs are tiles of these `sizes`."""
    lines: Callable = partial(_lines, sizes=sizes)
    outputs, inputs = lines(keep).shape
    at_first = topk.round_count(density, inputs)
    if at_first == inputs:
        return keep
    kept = jnp.sum(keep, dtype=jnp.int32)
    count = (kept * fraction).astype(jnp.int32)
    size, slope = jnp.abs(w), jnp.abs(grad)
    (stay,), _, _ = topk.top([size], [keep], kept - count)
    (wanted,), _, _ = topk.top([slope], [~keep], count)

    reads, salient = (jnp.sum(lines(x), -1) for x in (keep, stay | wanted))
    salient = jnp.where(reads > 0, salient, -1)
    enough = jnp.minimum(ablate * jnp.max(reads), jnp.max(salient))
    alive = salient >= enough

    fan_in = jnp.minimum(outputs * at_first // jnp.sum(alive), inputs)
    held = lines(stay) & alive[:, None]
    free = ~held & alive[:, None]
    grown = _top(lines(slope), free, fan_in - jnp.sum(held, -1))
    grid = tiles.split(keep, sizes).shape
    return tiles.join((held | grown).reshape(grid), sizes, keep.shape)


def _lines(leaf: jax.Array, sizes: tiles.Shape) -> jax.Array:
    """A leaf as [outputs, inputs]."""
    boxes = tiles.split(leaf, sizes)
    return boxes.reshape(-1, boxes.shape[-1])


@jax.vmap
def _top(score: jax.Array, alive: jax.Array, k: jax.Array) -> jax.Array:
    (chosen,), _, _ = topk.top([score], [alive], k)
    return chosen
