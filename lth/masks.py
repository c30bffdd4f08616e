"""Masks: which weights of a network are kept.

A mask has the structure of `params`, boolean leaves (`True` keeps), and `None` where a
leaf is not prunable. Hence params go first in `jax.tree.map(f, params, mask)`, and a
function of masks alone never meets a leaf that is not pruned.
"""

import operator
import re
from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lth import select

Params = Any  # a tree of arrays
Mask = Any  # the same tree with boolean leaves, None where nothing is pruned
Scores = Any  # the same tree with floating leaves; higher is kept
Density = Any  # a number in (0, 1], or a tree of them with the structure of a mask


def name(path: tuple) -> str:
    """The path of a leaf as text, such as `params/hidden_0/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def is_kernel(path: str, leaf: jax.Array) -> bool:
    """The default of what is prunable: kernels and embeddings, no biases, no norms."""
    return leaf.ndim >= 2 and path.rsplit("/", 1)[-1] in ("kernel", "embedding")


def ones(
    params: Params, prunable: Callable[[str, jax.Array], bool] = is_kernel
) -> Mask:
    """The mask that keeps everything: level 0.

    `prunable(path, leaf)` says whether a leaf takes part in pruning; `path` is text
    such as `hidden_0/kernel`.
    """

    def leaf(path, value):
        return jnp.ones(value.shape, bool) if prunable(name(path), value) else None

    mask = jax.tree_util.tree_map_with_path(leaf, params)
    if not jax.tree.leaves(mask):
        raise ValueError(
            f"nothing is prunable; the leaves are {', '.join(paths(params))}"
        )
    return mask


def nothing(params: Params) -> Mask:
    """The mask that covers no leaf: what training without one is given."""
    return jax.tree.map(lambda _: None, params)


def paths(tree: Any) -> list[str]:
    """The paths of the leaves of a tree; of a mask, those of its prunable leaves."""
    return [name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def matching(pattern: str, tree: Any) -> list[str]:
    """The paths in which the regular expression is found; none is a ValueError."""
    try:
        found = [path for path in paths(tree) if re.search(pattern, path)]
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
    if not found:
        raise ValueError(
            f"the pattern {pattern!r} matches no leaf; "
            f"there are {', '.join(paths(tree))}"
        )
    return found


def apply(params: Params, mask: Mask) -> Params:
    """`params` with exactly 0 where the mask prunes. Serves gradients as well."""

    def leaf(value, keep):
        return value if keep is None else jnp.where(keep, value, jnp.zeros_like(value))

    return jax.tree.map(leaf, params, mask)


def size(mask: Mask) -> int:
    """The number of prunable weights."""
    return sum(leaf.size for leaf in jax.tree.leaves(mask))


@jax.jit
def count(mask: Mask) -> jax.Array:
    """The number of kept weights, int32."""
    kept = [jnp.sum(leaf, dtype=jnp.int32) for leaf in jax.tree.leaves(mask)]
    return reduce(operator.add, kept)


def density(mask: Mask) -> jax.Array:
    """Kept / prunable weights, in (0, 1]."""
    return count(mask) / size(mask)


@jax.jit
def densities(mask: Mask) -> dict[str, jax.Array]:
    """The density of each prunable leaf, by path."""
    leaves = jax.tree_util.tree_leaves_with_path(mask)
    return {name(path): jnp.mean(leaf, dtype=jnp.float32) for path, leaf in leaves}


def overlap(mask: Mask, other: Mask) -> jax.Array:
    """Jaccard index of two masks: weights both keep / weights either keeps, in [0, 1].

    Two independent random masks of densities a and b have about ab / (a + b - ab).
    """
    return count(jax.tree.map(operator.and_, mask, other)) / count(
        jax.tree.map(operator.or_, mask, other)
    )


def shuffle(mask: Mask, key: jax.Array) -> Mask:
    """The mask permuted within each leaf: the same count per layer in random places.

    The control that asks whether *which* weights were kept matters, or only how many in
    each layer (Frankle & Carbin 2019, arXiv:1803.03635, appendix).
    """
    leaves, structure = jax.tree.flatten(mask)
    keys = jax.random.split(key, len(leaves))
    moved = [
        jax.random.permutation(k, m.ravel()).reshape(m.shape)
        for k, m in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, moved)


def keep_top(
    scores: Scores, mask: Mask, density: Density, scope: str = "global"
) -> Mask:
    """The mask that keeps the highest scores among the weights `mask` still keeps.

    Exactly `max(1, round(density * prunable))` weights are kept in each competition:
    all prunable weights together with `scope="global"`, each leaf by itself with
    `scope="layer"` or where `density` is a tree. `prunable` counts every weight of the
    mask, kept or not, so density is absolute and the result is a subset of `mask`.
    Equal scores: the lower index stays (leaves in tree order, then row-major).

    `density` may be traced. JAX then holds it as float32, and a product that float32
    cannot tell from a tie is rounded as the tie it was before (`select.round_count`).

    Raises ValueError for a density outside (0, 1], one that asks for more weights than
    `mask` keeps, and for NaN among the competing scores. Inside `jit` or `vmap` nothing
    can be raised: fewer weights than asked survive there, and NaN keeps none, which is
    no valid mask and which `lottery.imp` refuses.
    """
    leaves = [_floating(path, leaf) for path, leaf in _competing(scores, mask)]
    alive, structure = jax.tree.flatten(mask)
    names = paths(mask)
    if scope not in ("global", "layer"):
        raise ValueError(f"scope is 'global' or 'layer'; got {scope!r}")
    if jax.tree.structure(density) == jax.tree.structure(0.0):
        each = scope == "layer"
        wanted = [density] * len(leaves) if each else [density]
    else:
        each = True
        wanted = jax.tree.leaves(density)
        if jax.tree.structure(density) != structure:
            raise ValueError(
                "a tree of densities has the structure of the mask, "
                f"{', '.join(names)}; got {', '.join(paths(density))}"
            )
    groups = [[i] for i in range(len(leaves))] if each else [list(range(len(leaves)))]
    kept: list[Any] = [None] * len(leaves)
    for group, value in zip(groups, wanted, strict=True):
        where = ", ".join(names[i] for i in group)
        total = sum(leaves[i].size for i in group)
        k = select.round_count(value, total)
        chosen, available, nan = select.top(
            [leaves[i] for i in group], [alive[i] for i in group], k
        )
        _refuse(where, value, total, k, available, nan)
        for i, leaf in zip(group, chosen, strict=True):
            kept[i] = leaf
    return jax.tree.unflatten(structure, kept)


def _competing(scores: Scores, mask: Mask) -> list[tuple[str, jax.Array]]:
    """The leaves of `scores` that the mask covers, with their paths."""
    picked = jax.tree.map(lambda s, m: None if m is None else s, scores, mask)
    return [(name(p), leaf) for p, leaf in jax.tree_util.tree_leaves_with_path(picked)]


def _floating(path: str, leaf: jax.Array) -> jax.Array:
    leaf = jnp.asarray(leaf)
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise TypeError(f"scores are floating point; {path} is {leaf.dtype}")
    return leaf


def _refuse(where, density, total, k, available, nan) -> None:
    """Raise for what a mask cannot be made of, as far as the values are known."""
    if isinstance(nan, Tracer):
        return
    if np.any(nan):
        raise ValueError(f"NaN among the scores of {where}")
    if isinstance(k, int) and k > int(available):
        raise ValueError(
            f"density {density} keeps {k} of {total} weights in {where}, but the mask "
            f"to prune further keeps only {int(available)}"
        )
