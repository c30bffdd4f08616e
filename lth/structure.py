"""What is pruned as a unit: weights, blocks, rows, columns, channels, N of every M.

All of them cut a leaf into tiles: boxes of weights that start at index 0, and of which
only the last along an axis may be cut off. With blocks, rows and columns the tiles
compete with each other and live or die whole (`keep_top`). With N:M the weights inside
a tile compete and the tiles do not (`keep_n_of_m`, `keep_within`).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lth import masks, select

Shape = tuple[int, ...]


class Unit(NamedTuple):
    """What lives or dies together.

    `tile(shape)` is the size of a unit along each axis of a leaf of that shape.
    `reduce(scores, alive, size)` makes unit scores [...] of weights [..., in the unit]:
    a dead weight has score 0, the lowest where scores are sizes, and `size`, broadcast
    to [...], is the number of weights, dead or alive, without what lies past the edge
    of the leaf.
    """

    tile: Callable[[Shape], Shape]
    reduce: Callable[[jax.Array, jax.Array, np.ndarray], jax.Array]


REDUCE = {
    "sum": lambda scores, alive, size: jnp.sum(scores, -1),
    "l1": lambda scores, alive, size: jnp.sum(jnp.abs(scores), -1),
    "l2": lambda scores, alive, size: jnp.sqrt(jnp.sum(jnp.square(scores), -1)),
    "mean": lambda scores, alive, size: jnp.sum(scores, -1) / size,
    "max": lambda scores, alive, size: jnp.max(jnp.where(alive, scores, -jnp.inf), -1),
}


def weight() -> Unit:
    """Each weight by itself: unstructured pruning."""
    return Unit(lambda leaf: (1,) * len(leaf), REDUCE["max"])


def block(shape: Shape, reduce: str = "mean") -> Unit:
    """Blocks of `shape` over the last axes of a leaf, 1 along the others.

    (height, width) lie along (input, output) of a dense kernel. They do not overlap and
    start at index 0; a block cut off by the edge has the mean of the weights it has.
    tfmot pools such a leaf over windows shifted against the blocks that it prunes.
    """
    if not shape or any(not isinstance(n, int) or n < 1 for n in shape):
        raise ValueError(f"a block is one or more sizes of at least 1; got {shape}")

    def tile(leaf):
        if len(leaf) < len(shape):
            raise ValueError(f"a block {shape} needs {len(shape)} axes; got {leaf}")
        return (1,) * (len(leaf) - len(shape)) + tuple(shape)

    return Unit(tile, _reduction(reduce))


def outputs(reduce: str = "l1") -> Unit:
    """What makes one output: a column of a dense kernel, a filter of a convolution.

    The last axis. `l1` of the weights ranks as Li et al. (2017, arXiv:1608.08710) do.
    Of the leaf alone: they take a filter's bias, normalisation and readers out with it,
    which here live on.
    """
    return Unit(lambda leaf: (*leaf[:-1], 1), _reduction(reduce))


def inputs(reduce: str = "l1") -> Unit:
    """What reads one input: a row of a dense kernel, a channel of a convolution."""

    def tile(leaf):
        if len(leaf) < 2:
            raise ValueError(f"inputs lie along axis -2; got the shape {leaf}")
        return (*leaf[:-2], 1, leaf[-1])

    return Unit(tile, _reduction(reduce))


def keep_top(
    scores: masks.Scores,
    mask: masks.Mask,
    density: masks.Density,
    scope: str = "global",
    *,
    unit: Unit,
) -> masks.Mask:
    """The mask that keeps the highest units among those in which a weight lives.

    Density counts units: exactly `max(1, round(density * units))` are kept in each
    competition, and all else is as in `masks.keep_top`, which chooses. A unit keeps the
    weights that `mask` left in it, so that it is whole only if it was.
    """

    def pool(_, sizes, keep, score):
        alive = _tiles(keep, sizes)
        values = jnp.where(alive, _tiles(score, sizes), jnp.zeros((), score.dtype))
        return unit.reduce(values, alive, _lengths(keep.shape, sizes, score.dtype))

    def living(_, sizes, keep):
        return jnp.any(_tiles(keep, sizes), -1)

    def spread(_, sizes, keep, chosen):
        tiles = jnp.broadcast_to(chosen[..., None], (*chosen.shape, math.prod(sizes)))
        return _untile(tiles, sizes, keep.shape) & keep

    pooled = _map(pool, unit, mask, _floating(scores, mask))
    try:
        kept = masks.keep_top(pooled, _map(living, unit, mask), density, scope)
    except ValueError as error:
        error.add_note("structure.keep_top counts units, each of one or more weights")
        raise
    return _map(spread, unit, mask, kept)


def keep_n_of_m(
    scores: masks.Scores, mask: masks.Mask, n: int, m: int | None, axis: int = -2
) -> masks.Mask:
    """The mask that keeps the `n` highest of every `m` weights along `axis`.

    `n` are KEPT: 2:4 keeps two of four (tfmot's `m_by_n` counts the zeros). Axis -2 is
    the inputs that a sparse matrix product reads. Groups start at index 0; a shorter
    last one of `l` weights keeps min(n, l). `m=None` makes the whole axis one group,
    which compares weights per output as Wanda does (arXiv:2306.11695). Ties: the lower
    index stays. A group in which `mask` left fewer than `n` keeps those.
    NaN is an error; inside `jit` it keeps nothing of its group.
    """
    group = _line(n, m, axis)
    return _keep_each(scores, mask, jax.tree.map(lambda _: n, mask), group, min)


def keep_within(
    scores: masks.Scores,
    mask: masks.Mask,
    density: masks.Density,
    m: int | None = None,
    axis: int = -2,
) -> masks.Mask:
    """The mask that keeps `max(1, round(density * m))` of every `m` along `axis`.

    N:M by its density, which may be traced or a tree: a schedule from 1 down to n / m
    grows into the pattern that `keep_n_of_m` cuts at once. Groups and ties are as
    there. More than `mask` left in a group is an error, as in `masks.keep_top`.
    """
    single = jax.tree.structure(density) == jax.tree.structure(0.0)
    each = jax.tree.map(lambda _: density, mask) if single else density
    return _keep_each(scores, mask, each, _line(1, m, axis), select.round_count)


def check(mask: masks.Mask, unit: Unit) -> None:
    """ValueError unless every unit is whole or gone, with the place of the first."""

    def wrong(count, size):
        return (count > 0) & (count < size)

    _check(mask, unit, wrong, "is pruned in part")


def check_n_of_m(
    mask: masks.Mask, n: int, m: int | None, axis: int = -2, exact: bool = True
) -> None:
    """ValueError unless each group of `m` keeps `n`, or at most `n` if not `exact`.

    A shorter last group of `l` weights keeps min(n, l), as in `keep_n_of_m`.
    """

    def wrong(count, size):
        right = np.minimum(n, size)
        return count != right if exact else count > right

    rule = f"does not keep {'exactly' if exact else 'at most'} {n} of its weights"
    _check(mask, _line(n, m, axis), wrong, rule)


def _check(mask: masks.Mask, unit: Unit, wrong: Callable, fault: str) -> None:
    def leaf(path, sizes, keep):
        count = jnp.sum(_tiles(keep, sizes), -1)
        _refuse(path, sizes, wrong(count, _lengths(keep.shape, sizes)), fault)

    _map(leaf, unit, mask)


def _keep_each(scores, mask, amounts, group: Unit, quota: Callable) -> masks.Mask:
    """The highest of each tile, `quota(amount, length)` of them."""

    def leaf(path, sizes, keep, score, amount):
        alive, lengths = _tiles(keep, sizes), _lengths(keep.shape, sizes)
        rows, grid = (-1, math.prod(sizes)), alive.shape[:-1]
        full, rest = int(lengths.max()), int(lengths.min())
        k = jnp.where(lengths == full, quota(amount, full), quota(amount, rest))
        values, each = _tiles(score, sizes), jnp.broadcast_to(k, grid)
        (kept,), left, nan = _top(
            values.reshape(rows), alive.reshape(rows), each.ravel()
        )
        _refuse(path, sizes, nan.reshape(grid), "has NaN among its scores")
        if quota is not min:  # N:M is an upper bound, a density a promise
            short = left.reshape(grid) < k
            _refuse(path, sizes, short, f"has fewer weights left than density {amount}")
        return _untile(kept.reshape(alive.shape), sizes, keep.shape)

    return _map(leaf, group, mask, _floating(scores, mask), amounts)


@jax.jit
@jax.vmap
def _top(score, alive, k):
    return select.top([score], [alive], k)


def _line(n: int, m: int | None, axis: int) -> Unit:
    """Groups of `m` along one axis. Nothing is pooled: the weights inside compete."""
    if not 1 <= n <= (n if m is None else m):
        raise ValueError(f"n of every m weights are kept, 1 <= n <= m; got {n} of {m}")

    def tile(leaf):
        if not -len(leaf) <= axis < len(leaf):
            raise ValueError(f"groups lie along axis {axis}; got the shape {leaf}")
        sizes = [1] * len(leaf)
        sizes[axis] = m or leaf[axis]
        return tuple(sizes)

    return Unit(tile, REDUCE["max"])


def _map(function: Callable, unit: Unit, mask: masks.Mask, *trees: Any) -> Any:
    """`function(path, sizes of a tile, *leaves)` of each prunable leaf."""

    def leaf(path, keep, *others):
        try:
            sizes = unit.tile(keep.shape)
        except ValueError as error:
            raise ValueError(f"{masks.name(path)}: {error}") from None
        return function(masks.name(path), sizes, keep, *others)

    return jax.tree_util.tree_map_with_path(leaf, mask, *trees)


def _floating(scores: masks.Scores, mask: masks.Mask) -> masks.Scores:
    """The scores that the mask covers, in 32 bits or more, to be added up."""

    def leaf(path, score, keep):
        if keep is None:
            return None
        kind = jnp.result_type(score)
        if not jnp.issubdtype(kind, jnp.floating):
            raise TypeError(f"scores are floating point; {masks.name(path)} is {kind}")
        return jnp.asarray(score, jnp.promote_types(kind, jnp.float32))

    return jax.tree_util.tree_map_with_path(leaf, scores, mask)


def _tiles(leaf: jax.Array, sizes: Shape) -> jax.Array:
    """[units along each axis, weights in a unit]; past the edge there are zeros."""
    padding = [(0, -n % size) for n, size in zip(leaf.shape, sizes, strict=True)]
    grid = [-(-n // size) for n, size in zip(leaf.shape, sizes, strict=True)]
    split = [n for pair in zip(grid, sizes, strict=True) for n in pair]
    order = [*range(0, 2 * leaf.ndim, 2), *range(1, 2 * leaf.ndim, 2)]
    boxes = jnp.pad(leaf, padding).reshape(split).transpose(order)
    return boxes.reshape(*grid, math.prod(sizes))


def _untile(tiles: jax.Array, sizes: Shape, shape: Shape) -> jax.Array:
    """The leaf of which `_tiles` made tiles."""
    grid, rank = tiles.shape[:-1], len(shape)
    order = [axis for i in range(rank) for axis in (i, rank + i)]
    boxes = tiles.reshape(*grid, *sizes).transpose(order)
    padded = boxes.reshape([n * size for n, size in zip(grid, sizes, strict=True)])
    return padded[tuple(slice(n) for n in shape)]


def _lengths(shape: Shape, sizes: Shape, dtype: Any = np.int32) -> np.ndarray:
    """The weights in each unit; 1 long along an axis where all units are alike."""
    sides = [
        np.minimum(size, n - np.arange(0, n, size if n % size else n))
        for n, size in zip(shape, sizes, strict=True)
    ]
    return functools.reduce(np.multiply.outer, sides).astype(dtype)


def _reduction(name: str) -> Callable:
    if name not in REDUCE:
        raise ValueError(f"a unit is scored by {', '.join(REDUCE)}; got {name!r}")
    return REDUCE[name]


def _refuse(path: str, sizes: Shape, broken: jax.Array, fault: str) -> None:
    """ValueError for the first unit that is broken, where the values are known."""
    if isinstance(broken, Tracer) or not jnp.any(broken):
        return
    index = np.argwhere(broken)[0].tolist()
    corner = [i * size for i, size in zip(index, sizes, strict=True)]
    raise ValueError(
        f"{path}: unit {index}, of shape {list(sizes)} at {corner}, {fault}"
    )
