"""Masks of whole channels: what makes a channel, lies beside it, and reads it.

A mask of kernels alone leaves the bias and the normalisation of a removed filter, which
speak on. Here the mask covers all leaves of a channel's space, so that a removed one
says nothing at any rewind point, and can be sliced off. Units are channels of spaces,
counted once however many leaves they lie in.
"""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.core import Tracer

from lth import masks
from lth.compress import slices
from lth.compress.spaces import Space
from lth.masks import Mask, Params, Scores, structure

Units = dict[str, jax.Array]  # by space, [size]


def covered(params: Params, found: Sequence[Space]) -> Mask:
    """Make the all-ones mask over every leaf in which channels of the spaces lie.

    Raises ValueError where there is no space.
    """
    if not found:
        raise ValueError("no channels of the network can be removed: it has no spaces")
    paths = {path for space in found for path, _ in space.members}
    return masks.ones(params, lambda path, leaf: f"params/{path}" in paths)


def ones(found: Sequence[Space]) -> Units:
    """Make the mask of units that keeps every channel."""
    return {space.name: jnp.ones(space.size, bool) for space in found}


def alive(mask: Mask, found: Sequence[Space]) -> Units:
    """Say of which channels a mask keeps a weight that makes them."""
    leaves = slices.by_path({"params": mask})
    units = {}
    for space in found:
        rows = [_rows(leaves, space, at) for at in space.having("makes", "passes")]
        units[space.name] = jnp.any(jnp.concatenate(rows, 1), 1)
    return units


def pooled(
    scores: Scores,
    mask: Mask,
    found: Sequence[Space],
    side: Literal["makes", "reads"] = "makes",
    reduce: str = "sum",
) -> Units:
    """Make scores of channels out of those of weights.

    Args:
      scores: of weights; higher is kept.
      mask: which of them live: dead ones count 0.
      found: the spaces.
      side: `makes`, the filters that make a channel, or `reads`, the weights that read
        it; those on which products lie side by side are both.
      reduce: a name in `structure.REDUCE`.

    Returns:
      The scores, by space.
    """
    values = slices.by_path({"params": scores})
    leaves, units = slices.by_path({"params": mask}), {}
    for space in found:
        members = [at for at in space.having(side, "passes") if at[0] in values]
        living = jnp.concatenate([_rows(leaves, space, at) for at in members], 1)
        own = jnp.concatenate([_rows(values, space, at) for at in members], 1)
        own = jnp.where(living, own, jnp.zeros((), own.dtype))
        units[space.name] = structure.REDUCE[reduce](own, living, own.shape[1])
    return units


def complete(mask: Mask, kept: Units, found: Sequence[Space]) -> Mask:
    """Prune every place of the channels that are not kept, in all leaves of a mask."""
    by_name = {space.name: space for space in found}
    lines: dict[str, list] = {}
    for name, alive in kept.items():
        for (path, axis), index in by_name[name].members.items():
            lines.setdefault(path, []).append((axis, index, alive))

    def leaf(path, keep):
        for axis, index, alive in lines.get(f"params/{masks.name(path)}", ()):
            along = jnp.ones(keep.shape[axis], bool).at[index].set(alive[:, None])
            shape = [-1 if i == axis else 1 for i in range(keep.ndim)]
            keep = keep & along.reshape(shape)
        return keep

    return jax.tree_util.tree_map_with_path(leaf, mask)


def keep_top(
    scores: Units,
    mask: Mask,
    density: Any,
    found: Sequence[Space],
    scope: str = "global",
) -> Mask:
    """Keep the highest channels, and at least one of every space.

    Args:
      scores: of channels, by space, such as `pooled` gives; higher is kept.
      mask: what to prune further, as `covered` makes it.
      density: of channels, in (0, 1], or one for each space by name.
      found: the spaces.
      scope: `global`, all channels compete, or `layer`, those of a space.

    Returns:
      A subset of `mask`, exactly `max(1, round(density * channels))` of them.

    Raises:
      ValueError: as `masks.keep_top` does, for NaN too; and for a density that would
        leave a space empty, with the lowest that does not.
    """
    check_reachable(density, found, scope)
    living = alive(mask, found)
    units = {name: _with_best(scores[name], own) for name, own in living.items()}
    return complete(mask, masks.keep_top(units, living, density, scope), found)


def _with_best(scores: Any, living: jax.Array) -> jax.Array:
    """The scores of a space, of which the best that lives is above all others.

    The others are finite, so that none is as high. NaN, which `argmax` would take for
    the best, stays: whoever chooses by it has to refuse it.
    """
    values = jnp.asarray(scores)
    most = jnp.finfo(values.dtype).max
    places = jnp.arange(len(values))
    order = jnp.lexsort((places, -values, ~living))  # NaN behind all that live
    values = jnp.where(living, jnp.minimum(values, most), -jnp.inf)
    best = (places == order[0]) & ~jnp.isnan(values)
    return jnp.where(best, jnp.inf, values)


def check_reachable(density: Any, found: Sequence[Space], scope: str) -> None:
    """Raise ValueError for a global density that is less than a channel a space."""
    total = sum(space.size for space in found)
    if scope != "global" or isinstance(density, Tracer):
        return
    if isinstance(density, float | int) and max(1, round(density * total)) < len(found):
        most = 1 - len(found) / total
        raise ValueError(
            f"every one of {len(found)} groups of channels keeps at least one: at most "
            f"{total - len(found)} of {total} channels can be removed ({100 * most:.4g}"
            f" %), a density of {len(found) / total:.4g}; got {density:.4g}"
        )


def _rows(leaves: dict, space: Space, at: tuple[str, int]) -> jax.Array:
    """What lies at the places of each channel along an axis of a leaf: [size, n]."""
    path, axis = at
    lines = jnp.moveaxis(leaves[path], axis, 0)[space.members[at]]
    return lines.reshape(space.size, -1)
