"""What is pruned as a unit: weights, blocks, rows, columns, channels, N of every M.

All of them cut a leaf into tiles: boxes of weights that start at index 0, and of which
only the last along an axis may be cut off. With blocks, rows and columns the tiles
compete with each other and live or die whole (`keep_top`). With N:M the weights inside
a tile compete and the tiles do not (`keep_n_of_m`, `keep_within`).

Which axes of a kernel are inputs and which outputs, its shape says of matrices
[in, out] and of convolutions [window, in, out]; of others `axes` does (`sides`).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lth.masks import sides, tiles, topk, tree
from lth.masks.sides import Axes
from lth.masks.tiles import Shape


class Unit(NamedTuple):
    """Says what lives or dies together.

    `tile(shape)` is the size of a unit along each axis of a leaf of that shape; where
    units are `sided` it takes the `sides.Sides` of the leaf as well. `reduce(scores,
    alive, size)` makes unit scores [...] of weights [..., in the unit]: a dead weight
    has score 0, the lowest where scores are sizes, and `size`, broadcast to [...], is
    the number of weights, dead or alive, without what lies past the edge of the leaf.
    """

    tile: Callable[..., Shape]
    reduce: Callable[[jax.Array, jax.Array, np.ndarray], jax.Array]
    sided: bool = False


REDUCE = {
    "sum": lambda scores, alive, size: jnp.sum(scores, -1),
    "l1": lambda scores, alive, size: jnp.sum(jnp.abs(scores), -1),
    "l2": lambda scores, alive, size: jnp.sqrt(jnp.sum(jnp.square(scores), -1)),
    "mean": lambda scores, alive, size: jnp.sum(scores, -1) / size,
    "max": lambda scores, alive, size: jnp.max(jnp.where(alive, scores, -jnp.inf), -1),
}


def weight() -> Unit:
    """Take each weight by itself: unstructured pruning."""
    return Unit(lambda leaf: (1,) * len(leaf), REDUCE["max"])


def block(shape: Shape, reduce: str = "mean") -> Unit:
    """Group blocks of `shape` over the last axes of a leaf, 1 along the others.

    (height, width) lie along (input, output) of a dense kernel, and along the last two
    axes of any other, whatever those hold. They do not overlap and start at index 0; a
    block cut off by the edge has the mean of the weights it has. tfmot pools such a
    leaf over windows shifted against the blocks that it prunes.
    """
    if not shape or any(not isinstance(n, int) or n < 1 for n in shape):
        raise ValueError(f"a block is one or more sizes of at least 1; got {shape}")

    def tile(leaf):
        if len(leaf) < len(shape):
            raise ValueError(f"a block {shape} needs {len(shape)} axes; got {leaf}")
        return (1,) * (len(leaf) - len(shape)) + tuple(shape)

    return Unit(tile, _reduction(reduce))


def outputs(reduce: str = "l1") -> Unit:
    """Group what makes one output: a column of a dense kernel, a convolution's filter.

    `l1` of the weights ranks as Li et al. (2017, arXiv:1608.08710) do. Of the leaf
    alone: they take a filter's bias, normalisation and readers out with it, which here
    live on.
    """

    def tile(leaf, at=None):
        return _whole(leaf, (at or sides.of(leaf)).summed)

    return Unit(tile, _reduction(reduce), sided=True)


def inputs(reduce: str = "l1") -> Unit:
    """Group what reads one input: a row of a dense kernel, a convolution's channel."""

    def tile(leaf, at=None):
        at = at or sides.of(leaf)
        if not at.inputs:
            raise ValueError(f"inputs lie along axis -2; got the shape {leaf}")
        return _whole(leaf, (*at.window, *at.outputs))

    return Unit(tile, _reduction(reduce), sided=True)


def shapes(mask: tree.Mask, unit: Unit, axes: Axes = None) -> list[Shape]:
    """Return the shape of a unit in each prunable leaf.

    Of `outputs`, its size is the fan-in. Raises ValueError, with the path, for a leaf
    that has no such units.
    """
    found: list[Shape] = []
    _map(lambda path, sizes, keep: found.append(sizes), unit, mask, axes=axes)
    return found


def keep_top(
    scores: tree.Scores,
    mask: tree.Mask,
    density: tree.Density,
    scope: str = "global",
    *,
    unit: Unit,
    axes: Axes = None,
) -> tree.Mask:
    """Keep the highest units among those in which a weight lives.

    Density counts units: exactly `max(1, round(density * units))` are kept in each
    competition, and all else is as in `masks.keep_top`, which chooses.

    Args:
      scores, mask, density, scope: as in `masks.keep_top`.
      unit: such as `outputs()`.
      axes: inputs and outputs of kernels whose shape does not tell, as in `sides`.

    Returns:
      A subset of `mask`. A unit keeps the weights that `mask` left in it, so that it is
      whole only if it was.

    Raises:
      ValueError: as `masks.keep_top` does, of units, and, with the path, for a leaf
        that has no such units.
      TypeError: for scores that are not floating point.
    """

    def pool(_, sizes, keep, score):
        values, alive = _living_scores(score, keep, sizes)
        return unit.reduce(values, alive, tiles.lengths(keep.shape, sizes, score.dtype))

    def living(_, sizes, keep):
        return _any_lives(keep, sizes)

    def spread(_, sizes, keep, chosen):
        return _spread(chosen, keep, sizes)

    pooled = _map(pool, unit, mask, _floating(scores, mask), axes=axes)
    try:
        alive = _map(living, unit, mask, axes=axes)
        kept = tree.keep_top(pooled, alive, density, scope)
    except ValueError as error:
        error.add_note("structure.keep_top counts units, each of one or more weights")
        raise
    return _map(spread, unit, mask, kept, axes=axes)


def keep_n_of_m(
    scores: tree.Scores,
    mask: tree.Mask,
    n: int,
    m: int | None,
    axis: int | None = None,
    axes: Axes = None,
) -> tree.Mask:
    """Keep the `n` highest of every `m` weights.

    `n` are KEPT: 2:4 keeps two of four (tfmot's `m_by_n` counts the zeros). Groups
    start at index 0; a shorter last one of `l` weights keeps min(n, l). Ties: the lower
    index stays. A group in which `mask` left fewer than `n` keeps those.

    Args:
      scores: a tree of floats; higher is kept.
      mask: what to prune further.
      n, m: 1 <= n <= m. `None` for m makes one group of all that an output reads, of a
        convolution window x inputs, as Wanda compares weights (arXiv:2306.11695).
      axis: along which groups lie, and with `m=None` the group; by default the inputs,
        which a sparse matrix product reads (of several axes of inputs the last).
      axes: inputs and outputs of kernels whose shape does not tell, as in `sides`.

    Returns:
      A subset of `mask`.

    Raises:
      ValueError: for NaN among the scores (inside `jit` it keeps nothing of its group),
        for `n` and `m` out of range, and, with the path, for a leaf without that axis
        or whose shape does not tell.
      TypeError: for scores that are not floating point.
    """
    group = _line(n, m, axis)
    each = jax.tree.map(lambda _: n, mask)
    return _keep_each(scores, mask, each, group, min, axes)


def keep_within(
    scores: tree.Scores,
    mask: tree.Mask,
    density: tree.Density,
    m: int | None = None,
    axis: int | None = None,
    axes: Axes = None,
) -> tree.Mask:
    """Keep `max(1, round(density * m))` of every `m` weights.

    N:M by its density, which may be traced or a tree: a schedule from 1 down to n / m
    grows into the pattern that `keep_n_of_m` cuts at once.

    Args:
      scores, mask, m, axis, axes: as in `keep_n_of_m`; by default one group of all that
        an output reads, of which `max(1, round(density * fan-in))` stay.
      density: in (0, 1], or a tree of such numbers.

    Returns:
      A subset of `mask`.

    Raises:
      ValueError: as `keep_n_of_m` does, and for more than `mask` left in a group, as in
        `masks.keep_top`.
      TypeError: for scores that are not floating point.
    """
    single = jax.tree.structure(density) == jax.tree.structure(0.0)
    each = jax.tree.map(lambda _: density, mask) if single else density
    group = _line(1, m, axis)
    return _keep_each(scores, mask, each, group, topk.round_count, axes)


def check(mask: tree.Mask, unit: Unit, axes: Axes = None) -> None:
    """Raise ValueError, with the place, for the first unit that is pruned in part."""

    def wrong(count, size):
        return (count > 0) & (count < size)

    _check(mask, unit, wrong, "is pruned in part", axes)


def check_n_of_m(
    mask: tree.Mask,
    n: int,
    m: int | None,
    axis: int | None = None,
    exact: bool = True,
    axes: Axes = None,
) -> None:
    """Raise ValueError unless each group of `m` keeps `n`.

    Args:
      mask, n, m, axis, axes: as in `keep_n_of_m`, where a shorter last group of `l`
        weights keeps min(n, l).
      exact: whether fewer than `n` are wrong too.

    Raises:
      ValueError: with the path and the place of the first group that is wrong.
    """

    def wrong(count, size):
        right = np.minimum(n, size)
        return count != right if exact else count > right

    rule = f"does not keep {'exactly' if exact else 'at most'} {n} of its weights"
    _check(mask, _line(n, m, axis), wrong, rule, axes)


def _check(mask, unit: Unit, wrong: Callable, fault: str, axes: Axes) -> None:
    def leaf(path, sizes, keep):
        if isinstance(keep, Tracer):
            return
        count = tiles.count(np.asarray(keep), sizes)
        broken = wrong(count, tiles.lengths(keep.shape, sizes))
        _refuse(path, sizes, keep.shape, broken, fault)

    _map(leaf, unit, mask, axes=axes)


def _keep_each(scores, mask, amounts, group, quota, axes) -> tree.Mask:
    """The highest of each tile, `quota(amount, length)` of them."""

    def leaf(path, sizes, keep, score, amount):
        lengths = tiles.lengths(keep.shape, sizes)
        full, rest = (quota(amount, int(n)) for n in (lengths.max(), lengths.min()))
        values, alive, k = _lines(score, keep, full, rest, sizes)
        (kept,), left, nan = _top(values, alive, k)
        kept, short = _joined(kept, left, k, keep, sizes)
        _refuse(path, sizes, keep.shape, nan, "has NaN among its scores")
        if quota is not min:  # N:M is an upper bound, a density a promise
            fault = f"has fewer weights left than density {amount}"
            _refuse(path, sizes, keep.shape, short, fault)
        return kept

    return _map(leaf, group, mask, _floating(scores, mask), amounts, axes=axes)


# Outside `jit` each of these is one program, and not one an operation. Sums are not in
# them: fused with others they may round differently. Nor is the choice, which compiles
# longest, and is one for all leaves that have as many tiles of one length.
_one_program = partial(jax.jit, static_argnames="sizes", inline=True)


@jax.jit
@jax.vmap
def _top(score, alive, k):
    return topk.top([score], [alive], k)


@_one_program
def _lines(score, keep, full, rest, sizes):
    """The scores of each tile, which are alive, and how many stay, of all in a row.

    They are `full` of the whole ones and `rest` of those cut off.
    """
    lengths, alive = tiles.lengths(keep.shape, sizes), tiles.split(keep, sizes)
    k = jnp.where(lengths == lengths.max(), full, rest)
    k = jnp.broadcast_to(k, alive.shape[:-1])
    rows = (-1, math.prod(sizes))
    return tiles.split(score, sizes).reshape(rows), alive.reshape(rows), k.ravel()


@_one_program
def _joined(kept, left, k, keep, sizes):
    """The mask, like `keep`, of such rows; in which fewer weights are left than k."""
    boxes = kept.reshape(*tiles.units(keep.shape, sizes), -1)
    return tiles.join(boxes, sizes, keep.shape), left < k


@_one_program
def _living_scores(score, keep, sizes):
    """The scores of each tile, 0 where a weight is dead, and which are alive."""
    alive = tiles.split(keep, sizes)
    zero = jnp.zeros((), score.dtype)
    return jnp.where(alive, tiles.split(score, sizes), zero), alive


@_one_program
def _any_lives(keep, sizes):
    return jnp.any(tiles.split(keep, sizes), -1)


@_one_program
def _spread(chosen, keep, sizes):
    """The weights of the tiles that are chosen, among those kept before."""
    boxes = jnp.broadcast_to(chosen[..., None], (*chosen.shape, math.prod(sizes)))
    return tiles.join(boxes, sizes, keep.shape) & keep


def _line(n: int, m: int | None, axis: int | None) -> Unit:
    """Groups of `m` along one axis. Nothing is pooled: the weights inside compete."""
    if not 1 <= n <= (n if m is None else m):
        raise ValueError(f"n of every m weights are kept, 1 <= n <= m; got {n} of {m}")

    def along(leaf, axis):
        if not -len(leaf) <= axis < len(leaf):
            raise ValueError(f"groups lie along axis {axis}; got the shape {leaf}")
        sizes = [1] * len(leaf)
        sizes[axis] = m or leaf[axis]
        return tuple(sizes)

    def read(leaf, at):
        if m is None and at.inputs:
            return _whole(leaf, at.summed)
        return along(leaf, at.inputs[-1] if at.inputs else -2)

    if axis is None:
        return Unit(read, REDUCE["max"], sided=True)
    return Unit(lambda leaf: along(leaf, axis), REDUCE["max"])


def _whole(leaf: Shape, axes: Shape) -> Shape:
    """As long as the leaf along some axes, and 1 along the others."""
    return tuple(n if axis in axes else 1 for axis, n in enumerate(leaf))


def _map(
    function: Callable, unit: Unit, mask: tree.Mask, *trees: Any, axes: Axes = None
) -> Any:
    """`function(path, sizes of a tile, *leaves)` of each prunable leaf."""
    given = sides.lookup(axes)

    def tile(path, keep):
        if not unit.sided:
            return unit.tile(keep.shape)
        return unit.tile(keep.shape, sides.of(keep.shape, given(path, keep)))

    def leaf(path, keep, *others):
        try:
            sizes = tile(tree.name(path), keep)
        except ValueError as error:
            raise ValueError(f"{tree.name(path)}: {error}") from None
        return function(tree.name(path), sizes, keep, *others)

    return jax.tree_util.tree_map_with_path(leaf, mask, *trees)


def _floating(scores: tree.Scores, mask: tree.Mask) -> tree.Scores:
    """The scores that the mask covers, in 32 bits or more, to be added up."""

    def leaf(path, score, keep):
        if keep is None:
            return None
        kind = jnp.result_type(score)
        if not jnp.issubdtype(kind, jnp.floating):
            raise TypeError(f"scores are floating point; {tree.name(path)} is {kind}")
        return jnp.asarray(score, jnp.promote_types(kind, jnp.float32))

    return jax.tree_util.tree_map_with_path(leaf, scores, mask)


def _reduction(name: str) -> Callable:
    if name not in REDUCE:
        raise ValueError(f"a unit is scored by {', '.join(REDUCE)}; got {name!r}")
    return REDUCE[name]


def _refuse(path: str, sizes: Shape, shape: Shape, broken: Any, fault: str) -> None:
    """ValueError for the first unit that is broken, where the values are known."""
    if isinstance(broken, Tracer) or not np.asarray(broken).any():
        return
    broken = np.asarray(broken).reshape(tiles.units(shape, sizes))
    index = np.argwhere(broken)[0].tolist()
    corner = [i * size for i, size in zip(index, sizes, strict=True)]
    raise ValueError(
        f"{path}: unit {index}, of shape {list(sizes)} at {corner}, {fault}"
    )
