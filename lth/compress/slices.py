"""Trees with the channels of spaces moved, sliced off or cleared.

`permute`, `keep` and `clear` take trees whose paths are those of members of spaces:
{"params": params, "stats": stats}, or {"params": mask}. Leaves of other paths stay as
they are. `sliced` and `spread` take any tree in which those paths end others, such as a
state of training with the slots of its optimizer.
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
        return _numpy(leaf).where(along, leaf, np.zeros((), leaf.dtype))

    return _mapped(tree, _gone(spaces, kept), cleared)


def sliced(
    tree: Any, like: Any, spaces: Sequence[Space], kept: Mapping[str, Any]
) -> Any:
    """Slice whatever goes along with params and stats as those are sliced.

    Such are the state of a training, at its end or early, with the slots of its
    optimizer: `opt_state/0/mu/hidden_0/kernel` ends as `params/hidden_0/kernel` does.

    Args:
      tree: of arrays.
      like: {"params": params, "stats": stats}, or shapes, whole.
      spaces: of the network.
      kept: the indices of the channels to keep, by the name of a space.

    Returns:
      The tree, with shorter axes. Leaves that belong to no param stay as they are, and
      so do single numbers.

    Raises:
      ValueError: as `keep` does; and for a leaf that is not of the shape of its param,
        such as a factored moment, with both shapes.
    """
    whole = by_path(like)

    def leaf(value, own, gone):
        if value.size <= 1 and value.shape != whole[own].shape:
            return value
        _check_shape(value.shape, whole[own].shape, own)
        for axis, index in gone.items():
            left = np.setdiff1d(np.arange(value.shape[axis]), index)
            value = _take(value, left, axis)
        return value

    return _along(tree, whole, _gone(spaces, kept), leaf)


def spread(
    tree: Any, like: Any, spaces: Sequence[Space], kept: Mapping[str, Any]
) -> Any:
    """Put what `sliced` took back in its places, with 0 or False around it.

    Args:
      tree: that `sliced` made, or a later one of the same shapes.
      like, spaces, kept: as there.

    Returns:
      The tree, with axes as long as those of `like`.

    Raises:
      ValueError: as `sliced` does, for a leaf that is not of the shape it gave.
    """
    whole = by_path(like)

    def leaf(value, own, gone):
        shape, places = [*whole[own].shape], {}
        for axis, index in gone.items():
            places[axis] = np.setdiff1d(np.arange(shape[axis]), index)
            shape[axis] = len(places[axis])
        if value.size <= 1 and value.shape != tuple(shape):
            return value
        _check_shape(value.shape, tuple(shape), own)
        for axis, index in places.items():
            # Each place takes its channel, or the zeros that are put at the end.
            source = np.full(whole[own].shape[axis], len(index))
            source[index] = np.arange(len(index))
            edges = [(0, int(i == axis)) for i in range(value.ndim)]
            value = _take(_numpy(value).pad(value, edges), source, axis)
        return value

    return _along(tree, whole, _gone(spaces, kept), leaf)


def lengths(like: Any, spaces: Sequence[Space], kept: Mapping[str, Any]) -> dict:
    """Say what shapes `keep` gives the leaves of a tree, by their paths."""
    found = {path: [*leaf.shape] for path, leaf in by_path(like).items()}
    for (path, axis), index in _gone(spaces, kept).items():
        found[path][axis] -= len(np.unique(index))
    return {path: tuple(shape) for path, shape in found.items()}


def by_path(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree by their paths."""
    named = jax.tree_util.tree_leaves_with_path(tree)
    return {masks.name(path): leaf for path, leaf in named}


def _check_shape(got: tuple, right: tuple, path: str) -> None:
    if got != right:
        raise ValueError(f"{path} has the shape {right}; got {got}")


def _along(tree: Any, whole: Mapping, gone: Mapping, function: Callable) -> Any:
    """The tree with `function(leaf, its param, {axis: places})` where it has one."""
    of: dict[str, dict[int, np.ndarray]] = {}
    for (path, axis), index in gone.items():
        of.setdefault(path, {})[axis] = index
    ends: dict[str, str] = {}
    for path in whole:  # params come before stats
        ends.setdefault(path.partition("/")[2], path)
        ends[path] = path

    def leaf(path, value):
        parts = masks.name(path).split("/")
        tails = ("/".join(parts[i:]) for i in range(len(parts)))
        own = next((ends[tail] for tail in tails if tail in ends), None)
        return function(value, own, of[own]) if own in of else value

    return jax.tree_util.tree_map_with_path(leaf, tree)


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
    return _numpy(leaf).take(leaf, indices, axis=axis)


def _numpy(leaf: Any) -> Any:
    """What computes with a leaf: arrays of NumPy stay so, and compile nothing."""
    return np if isinstance(leaf, np.ndarray) else jnp
