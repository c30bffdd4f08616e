"""The graph of a pruned network: which units and weights still do something.

Its nodes are the channels of spaces (`compress.find`), its edges the kept weights of
kernels, from what they read to what they make. A unit is alive if a path leads to it
from an input and on from it to an output; biases make nothing alive, as what is
computed without the inputs is a constant.

Where something is not known it counts as alive, so that what is called dead is dead,
and what is called effective may be more than is:

- Axes in no space (frozen, such as those that a layer norm mixes) are alive throughout.
- A space whose channels are written or read in several places, as along a residual
  stream, is one set of nodes: a unit that the last block writes is alive for the first.
- What lies beside a channel or passes it on cuts nothing: a normalisation's scale that
  is pruned, or the window of a depthwise convolution, may have a way around it.
- Positions are not told apart: a unit of a convolution is a whole map.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lth import masks
from lth.compress import Space
from lth.masks import Mask, Params

Alive = dict[str, np.ndarray]  # by space: a boolean for each unit
Side = list[tuple[int, str, np.ndarray]]  # axis, space, places [size, times]


class Degrees(NamedTuple):
    """Counts the kept weights of each unit of a space."""

    inputs: np.ndarray  # [size], that make it
    outputs: np.ndarray  # [size], that read it


class Leaf(NamedTuple):
    """Holds the kept weights of a leaf, and the units that they lie between."""

    keep: np.ndarray
    reads: Side
    makes: Side
    # Read in one use and made in another, as of an embedding that is attended to: which
    # use a weight serves is not told apart, so that nothing is asked of these units.
    tied: Side
    beside: Side

    def asked(self, side: Side) -> Side:
        """Take the units out that nothing is asked of."""
        return [place for place in side if place[:2] not in {t[:2] for t in self.tied}]


def degrees(spaces: Sequence[Space], params: Params, mask: Mask) -> dict[str, Degrees]:
    """Count what makes and what reads each unit, by the name of its space.

    Of `params` the shapes are taken. A leaf that no mask covers is kept whole; biases
    and what else lies beside a channel are no part of its degree.
    """
    leaves = _leaves(spaces, params, mask)
    counts = {s.name: Degrees(*np.zeros((2, s.size), int)) for s in spaces}
    for leaf in leaves.values():
        for side, of in ((leaf.makes, "inputs"), (leaf.reads, "outputs")):
            for axis, name, index in side:
                each = _over(np.sum, leaf.keep, axis)
                getattr(counts[name], of)[:] += each[index].sum(1)
    return counts


def alive(spaces: Sequence[Space], params: Params, mask: Mask) -> Alive:
    """Say of each unit whether it lies on a path from an input to an output."""
    return _settled(spaces, _leaves(spaces, params, mask))[1]


def dead(spaces: Sequence[Space], params: Params, mask: Mask) -> dict[str, np.ndarray]:
    """List the units of each space that no path goes through, by their index."""
    found = alive(spaces, params, mask)
    return {name: np.flatnonzero(~units) for name, units in found.items()}


def effective(spaces: Sequence[Space], params: Params, mask: Mask) -> Mask:
    """Keep, of a mask, the weights that lie on a path from an input to an output.

    Vysogorets & Kempe (2023, arXiv:2107.02306) call the others inactivated. Where the
    mask covers biases or scales, those of living units count. Without biases a network
    computes the same under both masks, if its activations are 0 at 0.
    """
    leaves, both = _settled(spaces, _leaves(spaces, params, mask))

    def left(path, keep):
        leaf = leaves[masks.name(path)]
        alone = not (leaf.reads or leaf.makes)
        return jnp.asarray(
            leaf.keep & _lit(leaf, leaf.beside, both) if alone else leaf.keep
        )

    return jax.tree_util.tree_map_with_path(left, {"params": mask})["params"]


def effective_density(spaces: Sequence[Space], params: Params, mask: Mask) -> float:
    """Divide the weights on a path from an input to an output by the prunable ones."""
    found = effective(spaces, params, mask)
    return sum(int(np.sum(leaf)) for leaf in jax.tree.leaves(found)) / masks.size(mask)


def severed(spaces: Sequence[Space], params: Params, mask: Mask) -> list[str]:
    """List the paths of the prunable leaves that no path leads through any more."""
    found = effective(spaces, params, mask)
    leaves = jax.tree_util.tree_leaves_with_path(found)
    return [masks.name(path) for path, leaf in leaves if not np.any(leaf)]


def _leaves(spaces: Sequence[Space], params: Params, mask: Mask) -> dict[str, Leaf]:
    """All leaves by path, in the order of the spaces that they make, if any."""
    kept = jax.tree.leaves(mask, is_leaf=lambda leaf: leaf is None)
    named = jax.tree_util.tree_leaves_with_path({"params": params})
    found = {
        masks.name(path): Leaf(
            np.ones(leaf.shape, bool) if keep is None else np.asarray(keep, bool),
            *([], [], [], []),
        )
        for (path, leaf), keep in zip(named, kept, strict=True)
    }
    order: dict[str, None] = {}
    for space in spaces:
        for (path, axis), index in space.members.items():
            if path not in found:
                continue  # an average
            leaf, roles = found[path], space.roles[path, axis]
            place = (axis, space.name, index)
            if roles & {"reads", "passes"}:
                leaf.reads.append(place)
            if roles & {"makes", "passes"}:
                leaf.makes.append(place)
                order[path] = None
            if roles >= {"reads", "makes"}:
                leaf.tied.append(place)
            if roles == {"beside"}:
                leaf.beside.append(place)
    return {path: found[path] for path in [*order, *found]}


def _settled(
    spaces: Sequence[Space], leaves: dict[str, Leaf]
) -> tuple[dict[str, Leaf], Alive]:
    """The kernels with what lies on a path, and the units that are alive.

    Where spaces cross, as heads and their width do, a place is lit if both of its units
    are, be it by others. Without the weights that so come to nothing there may be more
    that do.
    """
    while True:
        reached, useful = _flooded(spaces, leaves), _flooded(spaces, leaves, back=True)
        after = {
            path: leaf._replace(
                keep=leaf.keep
                & _lit(leaf, leaf.reads, reached)
                & _lit(leaf, leaf.makes, useful)
            )
            for path, leaf in leaves.items()
        }
        if all((after[path].keep == leaf.keep).all() for path, leaf in leaves.items()):
            return after, {name: reached[name] & useful[name] for name in reached}
        leaves = after


def _flooded(
    spaces: Sequence[Space], leaves: dict[str, Leaf], back: bool = False
) -> Alive:
    """The units that inputs reach, or (back) from which outputs are reached."""
    lit = {space.name: np.zeros(space.size, bool) for space in spaces}
    edges = [
        leaf._replace(reads=leaf.makes, makes=leaf.reads) if back else leaf
        for leaf in leaves.values()
    ]
    edges = [leaf for leaf in edges if leaf.makes]
    edges = edges[::-1] if back else edges
    grown = True
    while grown:
        grown = False
        for leaf in edges:
            live = leaf.keep & _lit(leaf, leaf.reads, lit)
            for axis, name, index in leaf.makes:
                units = lit[name] | _over(np.any, live, axis)[index].any(1)
                grown = grown or bool((units != lit[name]).any())
                lit[name] = units
    return lit


def _lit(leaf: Leaf, side: Side, units: Alive) -> np.ndarray:
    """Where the units along a side of a leaf are lit, to be spread over the leaf."""
    found = np.ones((1,) * leaf.keep.ndim, bool)
    for axis, name, index in leaf.asked(side):
        along = np.ones(leaf.keep.shape[axis], bool)
        along[index[~units[name]]] = False
        shape = [1] * leaf.keep.ndim
        shape[axis] = -1
        found = found & along.reshape(shape)
    return found


def _over(function: Callable, values: np.ndarray, axis: int) -> np.ndarray:
    """A sum, or the like, over all axes but one."""
    return function(values, axis=tuple(i for i in range(values.ndim) if i != axis))
