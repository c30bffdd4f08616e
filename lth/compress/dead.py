"""Dead units of any mask: those that say nothing, and those that say a constant.

A unit that nothing reads can go. One that reads nothing says the same whatever the
input is: what a dense layer makes of that goes into its bias. Through a convolution it
cannot, whose border sees less of it, unless it is 0. Both are exact in evaluation; in
training a constant moves with its bias and norm, which are gone then.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from lth import masks
from lth.compress import shrinking, slices, spaces
from lth.compress.shrinking import Shrunk
from lth.compress.spaces import Space
from lth.masks import Mask, Params
from lth.models import taps

At = tuple[str, int]  # the path of a leaf, and which of its axes
Channels = dict[str, np.ndarray]  # by space


def shrink_masked(
    apply: Callable,
    params: Params,
    stats: Any,
    mask: Mask,
    inputs: Any,
    found: Sequence[Space] | None = None,
    *,
    multiple: int = 1,
    limit: float = shrinking.LIMIT,
) -> Shrunk:
    """Slice all dead units off a network under any mask, structured or not.

    Args:
      apply: as in `compress.shrink`.
      params, stats: of one network.
      mask: of its params.
      inputs: a batch of different ones: by its first half constants are known, and on
        all of it the networks are compared.
      found: the spaces of the network; by default they are found.
      multiple: round widths up to multiples of it.
      limit: as in `compress.shrink`.

    Returns:
      The smaller network; biases hold what constants were worth.

    Raises:
      ShrinkError: as `compress.shrink` does.
    """
    tree = {"params": masks.apply(params, mask), "stats": stats}
    whole = jax.tree.map(np.asarray, jax.device_get(tree))
    if found is None:
        found = spaces.find(apply, whole["params"], whole["stats"], inputs)
    half = jax.tree.map(lambda x: x[: max(1, len(x) // 2)], inputs)
    cleared, kept = folded(apply, whole, half, found)
    wide = shrinking.widened(found, kept, multiple)
    return shrinking.proved(apply, whole, cleared, inputs, wide, found, limit=limit)


def folded(
    apply: Callable, tree: Any, inputs: Any, found: Sequence[Space]
) -> tuple[Any, Channels]:
    """Clear all units of a network that are dead, and fold constants into biases.

    What a dead unit alone feeds or reads from is dead too. A space of which nothing is
    left keeps its first channel.

    Args:
      apply: as in `models.Model`.
      tree: {"params": params, "stats": stats} in NumPy, zeros where they are pruned.
      inputs: a batch, by which constants are known.
      found: the spaces of the network.

    Returns:
      The tree, and the channels that are left, by space.
    """
    met = jax.jit(functools.partial(_met, apply))
    alive = {space.name: np.ones(space.size, bool) for space in found}
    while True:
        before = {name: own.copy() for name, own in alive.items()}
        leaves = slices.by_path(tree)
        for space in found:
            unread = ~_any(leaves, space, ("reads", "passes"))
            alive[space.name] &= ~unread
        mute = {
            s.name: alive[s.name] & ~_any(leaves, s, ("makes", "passes")) for s in found
        }
        if any(own.any() for own in mute.values()):
            given = slices.by_path(met(tree, inputs))
            biases: dict[str, np.ndarray] = {}
            for space in found:
                for channel in np.flatnonzero(mute[space.name]).tolist():
                    worth = _worth(space, channel, leaves, given)
                    if worth is not None:
                        alive[space.name][channel] = False
                        for path, more in worth.items():
                            biases[path] = biases.get(path, 0) + more
            tree = _added(tree, biases)
        for own in alive.values():
            own[0] |= not own.any()
        kept = {name: np.flatnonzero(own) for name, own in alive.items()}
        tree = slices.clear(tree, found, kept)
        if all((alive[name] == own).all() for name, own in before.items()):
            return tree, kept


def _met(apply: Callable, tree: Any, inputs: Any) -> Any:
    ins, _ = taps.intermediates(apply, tree["params"], tree["stats"], inputs)
    return {"params": ins}


def _any(leaves: dict, space: Space, roles: tuple) -> np.ndarray:
    """Which channels have a weight in these roles that is not 0."""
    found = np.zeros(space.size, bool)
    for path, axis in space.having(*roles):
        others = tuple(i for i in range(leaves[path].ndim) if i != axis)
        lines = np.any(leaves[path] != 0, axis=others)
        found |= np.any(lines[space.members[path, axis]], axis=1)
    return found


def _worth(space: Space, channel: int, leaves: dict, given: dict) -> dict | None:
    """What a constant channel adds to the biases of its readers; None if it does not.

    That is, if it is no constant, or is not 0 and read by something else than a dense
    layer with a bias.
    """
    worth = {}
    for path, axis in space.having("reads", "passes"):
        index, kernel = space.members[path, axis][channel], leaves[path]
        met = given.get(path)
        if not isinstance(met, jax.Array) or met.shape[-1] != kernel.shape[axis]:
            return None
        values = np.asarray(met)[..., index].reshape(-1, len(index))
        if not values.any():
            continue
        bias = f"{path.rpartition('/')[0]}/bias"
        dense = kernel.ndim == 2 and axis == 0 and bias in leaves
        fits = dense and leaves[bias].shape == kernel.shape[1:]
        if not fits or (values != values[0]).any():
            return None
        worth[bias] = values[0].astype(np.float64) @ kernel[index].astype(np.float64)
    return worth


def _added(tree: Any, biases: dict[str, np.ndarray]) -> Any:
    def leaf(path, value):
        name = masks.name(path)
        return (value + biases[name]).astype(value.dtype) if name in biases else value

    return jax.tree_util.tree_map_with_path(leaf, tree)
