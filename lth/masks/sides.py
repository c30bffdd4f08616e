"""The sides of a kernel: which of its axes are inputs, which outputs, which a window.

Shapes say it of matrices [in, out] and of convolutions over maps and volumes, [window,
in, out]. Of three axes they do not: Flax's attention has kernels [in, heads, dim] and
[heads, dim, out], its convolutions over sequences [window, in, out]. Nothing is guessed
there. Functions that need to know take `axes`, which says it of some leaves or all:

    axes={"attention/out/kernel": ((0, 1), (2,))}          # inputs and outputs by path
    axes={"conv/kernel": ((1,), (2,), (0,))}               # and the window
    axes=lambda path, leaf: ((0,), (1, 2)) if "query" in path else None

or a tree like the params with such pairs as its leaves, and `None` for what goes by its
shape. Axes that no side names hold kernels side by side, such as layers of a scan.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from lth.masks import tree

Axes = Any  # (path, leaf) -> sides, or a tree of them; None goes by the shape


class Sides(NamedTuple):
    """Holds the axes of one kernel."""

    inputs: tuple[int, ...]  # features that an output sums over
    outputs: tuple[int, ...]
    window: tuple[int, ...] = ()  # places that it sums over, of a convolution

    @property
    def summed(self) -> tuple[int, ...]:
        """Return all axes of what makes one output: its fan-in."""
        return (*self.window, *self.inputs)


def of(shape: tuple[int, ...], given: Any = None) -> Sides:
    """Return the sides of a leaf: those given, or else those that its shape tells.

    A pair is (inputs, outputs), a triple has the window too. Where a pair of four or
    five axes sums over all but one, it is a convolution, and all but the last two are
    its window.

    Raises ValueError for a shape that does not tell, and for axes that do not fit it.
    """
    rank = len(shape)
    if given is None:
        return _told(shape)
    each = [tuple(axis % rank for axis in side) for side in given if _fits(side, rank)]
    flat = [axis for side in each for axis in side]
    if len(each) != len(given) or len(each) not in (2, 3) or len({*flat}) < len(flat):
        raise ValueError(
            f"axes are (inputs, outputs) or (inputs, outputs, window), each of those "
            f"of the shape {shape} at most once; got {given}"
        )
    inputs, outputs, *window = each
    places = tuple(range(rank - 2))
    if rank in (4, 5) and len(outputs) == 1 and {*places} < {*inputs} and not window:
        features = tuple(axis for axis in inputs if axis not in places)
        return Sides(features, outputs, places)
    return Sides(inputs, outputs, *window)


def each(mask: tree.Mask, axes: Axes = None) -> list[Sides]:
    """Return the sides of each prunable leaf, in order.

    Raises as `of` does, with the path.
    """
    given, found = lookup(axes), []
    for path, leaf in jax.tree_util.tree_leaves_with_path(mask):
        path = tree.name(path)
        found.append(named(path, leaf, given(path, leaf)))
    return found


def named(path: str, leaf: Any, given: Any = None) -> Sides:
    """Return `of` the leaf at a path, which is part of what it raises."""
    try:
        return of(leaf.shape, given)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def lookup(axes: Axes) -> Callable[[str, Any], Any]:
    """Turn `axes` into a function of a path and its leaf."""
    if callable(axes):
        return axes

    def known(x):
        return isinstance(x, tuple) and all(isinstance(side, tuple) for side in x)

    named = jax.tree_util.tree_leaves_with_path(axes, is_leaf=known)
    table: Mapping[str, Any] = {tree.name(path): given for path, given in named}
    return lambda path, leaf: table.get(path)


def _told(shape: tuple[int, ...]) -> Sides:
    rank = len(shape)
    if rank < 2:
        return Sides((), tuple(range(rank)))
    if rank in (2, 4, 5):
        return Sides((rank - 2,), (rank - 1,), tuple(range(rank - 2)))
    raise ValueError(
        f"the shape {shape} does not tell inputs from outputs: it is [in, heads, dim] "
        "or [heads, dim, out] of attention, [window, in, out] of a convolution, or "
        "matrices of several replicates, which are to be mapped; pass axes={path: "
        "(inputs, outputs)}, such as ((0,), (1, 2)) for the first"
    )


def _fits(side: Any, rank: int) -> bool:
    return isinstance(side, tuple | list) and all(
        isinstance(axis, int) and -rank <= axis < rank for axis in side
    )
