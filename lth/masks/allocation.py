"""How density is divided among the leaves of a mask.

Each rule is a tree of densities for `masks.keep_top`. Those that divide a total give
whole weights, k of n in a leaf, so that any two rules keep equally many.
"""

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lth.masks import sides, topk, tree


def by_path(
    mask: tree.Mask, default: float, rules: Mapping[str, float]
) -> tree.Density:
    """Return a density for each prunable leaf: its rule's, or else `default`.

    `rules` maps regular expressions, which are searched for in the paths of leaves, to
    densities. Raises ValueError for a pattern that matches no leaf and for two that
    match the same one.
    """
    given: dict[str, str] = {}
    for pattern in rules:
        for path in tree.matching(pattern, mask):
            if path in given:
                raise ValueError(
                    f"{path} is matched by both {given[path]!r} and {pattern!r}"
                )
            given[path] = pattern

    def leaf(path, _):
        pattern = given.get(tree.name(path))
        return default if pattern is None else rules[pattern]

    return jax.tree_util.tree_map_with_path(leaf, mask)


def uniform(mask: tree.Mask, density: float) -> tree.Density:
    """Give each leaf the same density, to the nearest weight.

    The total is exact: the leaves together keep `round(density * prunable)`.
    (`scope="layer"` of `masks.keep_top` rounds each leaf by itself, and the total is
    what comes of it.)
    """
    return _divide(mask, density, np.ones(len(tree.paths(mask))), ())


def erdos_renyi(
    mask: tree.Mask,
    density: float,
    kernel: bool = False,
    *,
    power: float = 1.0,
    dense: Sequence[str] = (),
    axes: sides.Axes = None,
) -> tree.Density:
    """Divide a density in proportion to (sum of the dims / product of the dims)**power.

    ER takes inputs and outputs of a leaf as dims (Mocanu et al. 2018, SET,
    arXiv:1707.04780); ERK, with `kernel`, also those of the window (Evci et al. 2020,
    RigL, arXiv:1911.11134). Several axes of inputs, or of outputs, count as one dim of
    their product, and a leaf of one axis has that. A leaf that would be denser than 1
    is dense, as are those in whose path a pattern of `dense` is found, and the others
    share what remains.

    Args:
      mask: what is prunable.
      density: of all leaves together, in (0, 1].
      kernel: ERK in place of ER.
      power: of the ratio.
      dense: regular expressions of leaves that stay dense.
      axes: inputs and outputs of kernels whose shape does not tell, as in `sides`.

    Returns:
      A tree of densities with the structure of `mask`. The leaves together keep exactly
      `round(density * prunable)` weights: each its share rounded down and those
      furthest below theirs one more. A leaf keeps at least one.

    Raises:
      ValueError: for a density that the leaves forced dense leave no room for, and for
        a shape that does not tell and of which `axes` does not either.
    """
    leaves = zip(jax.tree.leaves(mask), sides.each(mask, axes), strict=True)
    dims = [_dims(leaf.shape, at, kernel) for leaf, at in leaves]
    raw = np.array([(sum(each) / np.prod(each)) ** power for each in dims])
    return _divide(mask, density, raw, dense)


def _dims(shape: tuple[int, ...], at: sides.Sides, kernel: bool) -> list[int]:
    window = [shape[axis] for axis in at.window] if kernel else []
    features = [math.prod(shape[i] for i in side) for side in at[:2] if side]
    return [*window, *features]


def from_table(mask: tree.Mask, table: Mapping[str, float]) -> tree.Density:
    """Look densities up in a table by path, such as `masks.densities` of another mask.

    The table names every prunable leaf and no other. The counts of that other mask
    return exactly, up to some 4 million kept weights in a leaf, as float32 can tell.
    """
    paths = tree.paths(mask)
    missing = [path for path in paths if path not in table]
    unknown = [path for path in table if path not in paths]
    if missing or unknown:
        raise ValueError(
            "a table of densities names each prunable leaf; "
            f"missing: {', '.join(missing) or 'none'}; "
            f"not prunable: {', '.join(unknown) or 'none'}"
        )
    for path in paths:
        if not 0 < table[path] <= 1:
            raise ValueError(
                f"density is the fraction of weights kept, in (0, 1]; "
                f"got {table[path]} for {path}"
            )
    values = [float(table[path]) for path in paths]
    return jax.tree.unflatten(jax.tree.structure(mask), values)


def threshold(scores: tree.Scores, mask: tree.Mask, cut: tree.Density) -> tree.Mask:
    """Keep the scores above `cut`, a number or a tree with one per leaf.

    Only weights that `mask` still keeps stay. What density comes of it is for the
    scores to say. Raises ValueError for NaN among them and where nothing at all is
    left; inside `jit` neither can be raised, and NaN is pruned.
    """
    if jax.tree.structure(cut) == jax.tree.structure(0.0):
        cut = jax.tree.map(lambda _: cut, mask)

    def leaf(path, score, keep, cut):
        if keep is None:
            return None
        nan = jnp.any(jnp.isnan(score) & keep)
        if not isinstance(nan, Tracer) and nan:
            raise ValueError(f"NaN among the scores of {tree.name(path)}")
        wide = jnp.promote_types(score.dtype, jnp.float32)  # holds the cut as given
        return keep & (score.astype(wide) > cut)

    kept = jax.tree_util.tree_map_with_path(leaf, scores, mask, cut)
    left = tree.count(kept)
    if not isinstance(left, Tracer) and left == 0:
        cuts = ", ".join(f"{float(value):g}" for value in jax.tree.leaves(cut))
        raise ValueError(
            f"no score is above its threshold, by leaf {cuts}: nothing would be left "
            f"of {', '.join(tree.paths(mask))}"
        )
    return kept


def by_deviation(
    params: tree.Params, mask: tree.Mask, quality: tree.Density
) -> tree.Mask:
    """Keep |w| > quality * (standard deviation of the leaf's kept w).

    Han et al. (2015, arXiv:1506.02626), who choose `quality` by layer: a number, or a
    tree such as `by_path` gives. The deviation is from the mean and divides by n.
    """
    if jax.tree.structure(quality) == jax.tree.structure(0.0):
        quality = jax.tree.map(lambda _: quality, mask)

    def cut(value, keep, factor):
        if keep is None:
            return None
        return factor * jnp.std(value.astype(jnp.float32), where=keep)

    cuts = jax.tree.map(cut, params, mask, quality)
    return threshold(jax.tree.map(jnp.abs, params), mask, cuts)


def _divide(mask, density: float, raw: np.ndarray, dense: Sequence[str]):
    """A total density shared in proportion to `raw`, in whole weights, none above 1."""
    if isinstance(dense, str):
        raise ValueError(f"`dense` is a sequence of patterns; got the text {dense!r}")
    paths = tree.paths(mask)
    forced = {path for pattern in dense for path in tree.matching(pattern, mask)}
    full = np.array([path in forced for path in paths])
    sizes = np.array([leaf.size for leaf in jax.tree.leaves(mask)])
    total = int(topk.round_count(density, int(sizes.sum())))
    least = int(np.where(full, sizes, 1).sum())
    if total < least:
        raise ValueError(
            f"density {density} is {total} of {sizes.sum()} weights, too few for the "
            f"dense leaves ({', '.join(sorted(forced)) or 'none'}) and one weight in "
            f"each other; the least density is {least / sizes.sum():.6g}"
        )
    counts = _whole(_shares(total, sizes, raw, full), sizes, total)
    values = [int(k) / int(n) for k, n in zip(counts, sizes, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(mask), values)


def _shares(total: int, sizes, raw, full) -> np.ndarray:
    """Weights per leaf, not yet whole: in proportion to `raw` where not `full`.

    Leaves above 1 join the dense ones together: making one dense only raises the scale
    for the rest, so that the order does not matter.
    """
    while not full.all():
        left = total - sizes[full].sum()
        density = raw * (left / (raw * sizes)[~full].sum())
        over = ~full & (density > 1)
        if not over.any():
            return np.where(full, sizes, density * sizes)
        full = full | over
    return sizes.astype(float)


def _whole(shares: np.ndarray, sizes: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers in [1, size] of the given total, nearest to the shares.

    The largest remainders round up; among equal ones the first leaf does.
    """
    counts = np.clip(np.floor(shares), 1, sizes).astype(np.int64)
    while counts.sum() < total:
        below = np.where(counts < sizes, shares - counts, -np.inf)
        counts[np.argmax(below)] += 1
    while counts.sum() > total:
        above = np.where(counts > 1, counts - shares, -np.inf)
        counts[np.argmax(above)] -= 1
    return counts
