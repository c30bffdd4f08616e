"""Trees with the channels of spaces moved, sliced off or cleared.

All take trees whose paths are those of members of spaces: {"params": params, "stats":
stats}, or {"params": mask}, or {"params": slots} of an optimizer. Leaves of other paths
stay as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lth import masks
from lth.compress.spaces import At, Space


def permute(tree: Any, space: Space, order: Sequence[int] | np.ndarray) -> Any:
    """Put channel `order[i]` of a space in the place of channel i, in all its leaves.

    A network stays the function it was if params and stats are permuted alike. Raises
    ValueError for what is no permutation, and for a tree without leaves of the space.
    """
    order = np.asarray(order)
    if sorted(order.tolist()) != list(range(space.size)):
        raise ValueError(f"{space.name} has {space.size} channels to permute: {order}")

    def moved(leaf, axis, index):
        source = np.arange(leaf.shape[axis])
        source[index] = index[order]
        return _take(leaf, source, axis)

    return _mapped(tree, space.members, moved)


def keep(tree: Any, spaces: Sequence[Space], kept: Mapping[str, Any]) -> Any:
    """Slice a tree to some channels, which stay in their order.

    Args:
      tree: of arrays.
      spaces: of the network.
      kept: the indices of the channels to keep, by the name of a space. Spaces that are
        not named stay whole.

    Returns:
      The tree, with shorter axes.

    Raises:
      ValueError: for a name that no space has, for channels that a space does not have,
        for none kept, and for a tree without leaves of the spaces.
    """

    def sliced(leaf, axis, index):
        left = np.setdiff1d(np.arange(leaf.shape[axis]), index)
        return _take(leaf, left, axis)

    return _mapped(tree, _gone(spaces, kept), sliced)


def clear(tree: Any, spaces: Sequence[Space], kept: Mapping[str, Any]) -> Any:
    """Put 0, or False, in all places of the channels that are not kept.

    Both where they are written and where they are read: what an activation makes of 0
    does not matter then. A network so cleared is the one that `keep` makes, larger.
    Arguments and errors are those of `keep`.
    """

    def cleared(leaf, axis, index):
        alive = np.ones(leaf.shape[axis], bool)
        alive[index] = False
        along = alive.reshape(-1, *(1,) * (leaf.ndim - axis - 1))
        return jnp.where(along, leaf, jnp.zeros_like(leaf))

    return _mapped(tree, _gone(spaces, kept), cleared)


def _gone(spaces: Sequence[Space], kept: Mapping[str, Any]) -> dict[At, np.ndarray]:
    """The places of all channels that are not kept."""
    by_name = {space.name: space for space in spaces}
    if unknown := [name for name in kept if name not in by_name]:
        raise ValueError(f"there is no space {unknown[0]!r}; there are {[*by_name]}")
    found: dict[At, np.ndarray] = {}
    for name, indices in kept.items():
        space, chosen = by_name[name], np.unique(np.asarray(indices, int))
        if not len(chosen) or chosen[0] < 0 or chosen[-1] >= space.size:
            raise ValueError(
                f"{name} keeps one or more of its {space.size} channels; got {indices}"
            )
        dead = np.delete(np.arange(space.size), chosen)
        for at, index in space.members.items():
            places = index[dead].ravel()
            found[at] = np.concatenate([found[at], places]) if at in found else places
    return found


def _mapped(tree: Any, members: Mapping[At, np.ndarray], function: Callable) -> Any:
    """The tree with `function(leaf, axis, places)` of each member."""
    paths = set(masks.paths(tree))
    if members and not any(path in paths for path, _ in members):
        raise ValueError(
            f"the tree has no leaf such as {next(iter(members))[0]}, but "
            f"{', '.join(sorted(paths)[:3])}: params lie under 'params'"
        )
    by_path: dict[str, list[int]] = {}
    for path, axis in members:
        by_path.setdefault(path, []).append(axis)

    def leaf(path, value):
        name = masks.name(path)
        for axis in by_path.get(name, ()):
            value = function(value, axis, members[name, axis])
        return value

    return jax.tree_util.tree_map_with_path(leaf, tree)


def _take(leaf: Any, indices: np.ndarray, axis: int) -> Any:
    take = np.take if isinstance(leaf, np.ndarray) else jnp.take
    return take(leaf, indices, axis=axis)
