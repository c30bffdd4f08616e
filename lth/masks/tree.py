"""Masks: which weights of a network are kept.

A mask has the structure of `params`, boolean leaves (`True` keeps), and `None` where a
leaf is not prunable. Hence params go first in `jax.tree.map(f, params, mask)`, and a
function of masks alone never meets a leaf that is not pruned.

All functions here are of one network. Where masks of several replicates are stacked,
map them: `jax.vmap(masks.overlap)(masks_7, masks_3)` has a number for each.
"""

import operator
import re
import warnings
from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lth.masks import topk

Params = Any  # a tree of arrays
Mask = Any  # the same tree with boolean leaves, None where nothing is pruned
Scores = Any  # the same tree with floating leaves; higher is kept
Density = Any  # a number in (0, 1], or a tree of them with the structure of a mask

BOXED = jax.tree_util.GetAttrKey("value")


def name(path: tuple) -> str:
    """Return the path of a leaf as text, such as `params/hidden_0/kernel`.

    Boxes around a leaf are no part of it: `nnx.Param` and the like, and Linen's
    `nn.Partitioned`, hold it as their attribute `value`.
    """
    while len(path) > 1 and path[-1] == BOXED:
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")


def is_kernel(path: str, leaf: jax.Array) -> bool:
    """Say what is prunable by default: kernels and embeddings, no biases, no norms."""
    return leaf.ndim >= 2 and path.rsplit("/", 1)[-1] in ("kernel", "embedding")


def ones(
    params: Params, prunable: Callable[[str, jax.Array], bool] = is_kernel
) -> Mask:
    """Make the mask that keeps everything: level 0.

    `prunable(path, leaf)` says whether a leaf takes part in pruning; `path` is text
    such as `hidden_0/kernel`. Raises ValueError where none does.
    """

    def leaf(path, value):
        return jnp.ones(value.shape, bool) if prunable(name(path), value) else None

    mask = jax.tree_util.tree_map_with_path(leaf, params)
    if not jax.tree.leaves(mask):
        raise ValueError(
            f"nothing is prunable; the leaves are {', '.join(paths(params))}"
        )
    return mask


def unmasked(params: Params) -> Mask:
    """Make the mask that covers no leaf: what training without one is given."""
    return jax.tree.map(lambda _: None, params)


def paths(tree: Any) -> list[str]:
    """Return the paths of the leaves of a tree; of a mask, of its prunable leaves."""
    return [name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def matching(pattern: str, tree: Any) -> list[str]:
    """Return the paths in which a regular expression is found; none is a ValueError."""
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
    """Put exactly 0 into `params` where the mask prunes. Serves gradients as well."""

    def leaf(value, keep):
        return value if keep is None else jnp.where(keep, value, jnp.zeros_like(value))

    return jax.tree.map(leaf, params, mask)


def size(mask: Mask) -> int:
    """Return the number of prunable weights."""
    return sum(leaf.size for leaf in jax.tree.leaves(mask))


def count(mask: Mask) -> jax.Array:
    """Return the number of kept weights, int32."""
    _warn_of_replicates(mask)
    return _count(mask)


@jax.jit
def _count(mask: Mask) -> jax.Array:
    kept = [jnp.sum(leaf, dtype=jnp.int32) for leaf in jax.tree.leaves(mask)]
    return reduce(operator.add, kept)


def density(mask: Mask) -> jax.Array:
    """Return kept / prunable weights, in (0, 1]."""
    _warn_of_replicates(mask)
    return _count(mask) / size(mask)


def densities(mask: Mask) -> dict[str, jax.Array]:
    """Return the density of each prunable leaf, by path."""
    _warn_of_replicates(mask)
    return _densities(mask)


@jax.jit
def _densities(mask: Mask) -> dict[str, jax.Array]:
    leaves = jax.tree_util.tree_leaves_with_path(mask)
    return {name(path): jnp.mean(leaf, dtype=jnp.float32) for path, leaf in leaves}


def overlap(mask: Mask, other: Mask) -> jax.Array:
    """Return the Jaccard index of two masks, in [0, 1].

    That is weights both keep / weights either keeps. Two independent random masks of
    densities a and b have about ab / (a + b - ab).
    """
    _warn_of_replicates(mask)
    both = _count(jax.tree.map(operator.and_, mask, other))
    return both / _count(jax.tree.map(operator.or_, mask, other))


def shuffle(mask: Mask, key: jax.Array, scope: str = "layer") -> Mask:
    """Permute the mask: as many weights kept, in random places.

    With `scope="layer"` within each leaf, so that the count of each layer stays: the
    control that asks whether *which* weights were kept matters, or only how many in
    each layer (Frankle & Carbin 2019, arXiv:1803.03635, appendix). With
    `scope="global"` over all prunable weights, so that the total alone stays, and
    whether it matters how many are in each layer is asked as well.
    """
    _warn_of_replicates(mask)
    leaves, structure = jax.tree.flatten(mask)
    if scope == "layer":
        keys = jax.random.split(key, len(leaves))
        moved = [
            jax.random.permutation(k, m.ravel()).reshape(m.shape)
            for k, m in zip(keys, leaves, strict=True)
        ]
    elif scope == "global":
        every = jnp.concatenate([m.ravel() for m in leaves])
        ends = np.cumsum([m.size for m in leaves])[:-1]
        parts = jnp.split(jax.random.permutation(key, every), ends)
        moved = [p.reshape(m.shape) for p, m in zip(parts, leaves, strict=True)]
    else:
        raise ValueError(f"scope is 'global' or 'layer'; got {scope!r}")
    return jax.tree.unflatten(structure, moved)


def _warn_of_replicates(mask: Mask) -> None:
    """Say that what looks like masks of several replicates is taken for one network.

    Shapes do not tell for sure. A look at values alone: whoever traces has mapped.
    """
    leaves = jax.tree.leaves(mask)
    if len(leaves) < 2 or any(isinstance(leaf, Tracer) for leaf in leaves):
        return
    shapes = [np.shape(leaf) for leaf in leaves]
    n = max(shape[:1] for shape in shapes)
    # Kernels have two axes or more; square windows of convolutions are no replicates,
    # and one replicate has nobody to be pooled with.
    stacked = n > (1,) and all(
        shape[:1] == n
        and len(shape) > 2
        and not (len(shape) == 4 and shape[0] == shape[1])
        for shape in shapes
    )
    if stacked:
        (n,) = n
        warnings.warn(
            f"all {len(leaves)} leaves of the mask lead with an axis of {n} and are "
            f"taken for one network. If those are {n} replicates, look at one, as of "
            "run.ticket(level, replicate=0), or map the function: "
            "jax.vmap(masks.overlap)(a, b)",
            stacklevel=3,
        )


def uniform(tree: Any, key: jax.Array) -> Scores:
    """Draw uniformly in [0, 1) for each entry of a tree of arrays."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    scores = [
        jax.random.uniform(k, (w.size,)).reshape(w.shape)  # flat: fast to compile
        for k, w in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, scores)


def keep_top(
    scores: Scores, mask: Mask, density: Density, scope: str = "global"
) -> Mask:
    """Keep the highest scores among the weights `mask` still keeps.

    Exactly `max(1, round(density * prunable))` weights are kept in each competition.
    `prunable` counts every weight of the mask, kept or not, so density is absolute.
    Equal scores: the lower index stays (leaves in tree order, then row-major).

    Args:
      scores: a tree like `mask` with floating leaves; higher is kept. Leaves that the
        mask does not cover are not read.
      mask: what to prune further.
      density: in (0, 1], or a tree of such numbers with the structure of `mask`. It may
        be traced. JAX then holds it as float32, and a product that float32 cannot tell
        from a tie is rounded as the tie it was before (`topk.round_count`).
      scope: what competes: all prunable weights together with "global", each leaf by
        itself with "layer" or where `density` is a tree.

    Returns:
      A subset of `mask`. Inside `jit` or `vmap` nothing can be raised: fewer weights
      than asked survive there, and NaN keeps none, which is no valid mask and which
      `lottery.imp` refuses.

    Raises:
      ValueError: for a density outside (0, 1], one that asks for more weights than
        `mask` keeps, and for NaN among the competing scores.
      TypeError: for scores that are not floating point.
    """
    leaves = [_floating(path, leaf) for path, leaf in _competing(scores, mask)]
    _warn_of_replicates(mask)
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
        k = topk.round_count(value, total)
        chosen, available, nan = topk.top(
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
