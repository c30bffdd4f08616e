"""Runs that begin from weights of one's own, such as those of a pre-trained network."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lth import masks
from lth.lottery import recipe as recipes
from lth.lottery.recipe import Recipe


def begun_from(recipe: Recipe, params: Any, stats: Any = None) -> Recipe:
    """Begin each replicate of a recipe from these weights, in place of drawn ones.

    Replicates then differ in the order of their data alone. Level 0 trains the weights
    on, a rewind to step 0 leads back to them, and controls that draw anew, such as
    `reinit`, still draw. What identifies the run has a digest of the weights.

    Args:
      recipe: whose optimizer's state does not hang on the weights at step 0, as of
        those that keep a copy of them.
      params: of one network, as `recipe.init` makes them.
      stats: the same; None leaves those that it makes.

    Returns:
      The recipe.

    Raises:
      ValueError: for weights that do not fit, with the leaf and both shapes, and for
        such an optimizer.
    """
    like = recipes.shapes(recipe)
    _check(params, like.params, "params")
    if stats is not None:
        _check(stats, like.stats, "stats")
    _check_moments(recipe)

    def init(keys):
        state = recipe.init(keys)

        def each(value, drawn):
            value = jnp.asarray(value, drawn.dtype)
            return jnp.broadcast_to(value[None], drawn.shape)

        new = jax.tree.map(each, params, state.params)
        kept = state.stats if stats is None else jax.tree.map(each, stats, state.stats)
        return state._replace(params=new, stats=kept)

    stamp = {**recipe.stamp, "weights": _digest((params, stats))}
    return recipe._replace(init=init, stamp=stamp)


def begun_from_each(recipe: Recipe, params: Any, stats: Any) -> Recipe:
    """Begin the replicates of a recipe each from weights of its own.

    There are no more replicates than that: one without weights begins with NaN, which
    training refuses. All else is as in `begun_from`.

    Args:
      recipe: as in `begun_from`.
      params, stats: of its replicates in their order, [r, ...].

    Returns:
      The recipe.

    Raises:
      ValueError: as `begun_from` does, and for other numbers of networks.
    """
    like, count = recipes.shapes(recipe), len(recipe.replicates)
    for tree, expected, what in (
        (params, like.params, "params"),
        (stats, like.stats, "stats"),
    ):
        _check(jax.tree.map(lambda x: x[0], tree), expected, what)
        sizes = {len(leaf) for leaf in jax.tree.leaves(tree)}
        if sizes - {count}:
            raise ValueError(
                f"{what} are of {sorted(sizes)} networks, the replicates are {count}"
            )
    _check_moments(recipe)
    known = jax.random.key_data(recipes.keys(recipe.replicates, recipes.INIT))

    def init(keys):
        state = recipe.init(keys)
        asked = jax.random.key_data(keys)
        same = (asked[:, None] == known[None]).all(-1)  # [k, r]
        place, there = same.argmax(1), same.any(1)

        def each(value, drawn):
            value = jnp.asarray(value, drawn.dtype)[place]
            has = there.reshape((-1,) + (1,) * (value.ndim - 1))
            return jnp.where(has, value, jnp.nan)

        new = jax.tree.map(each, params, state.params)
        return state._replace(params=new, stats=jax.tree.map(each, stats, state.stats))

    stamp = {**recipe.stamp, "weights": _digest((params, stats))}
    return recipe._replace(init=init, stamp=stamp)


def _check(tree: Any, like: Any, what: str) -> None:
    """Refuse a tree that is not one replicate's."""
    ours, theirs = (
        {masks.name(p): x.shape for p, x in jax.tree_util.tree_leaves_with_path(t)}
        for t in (like, tree)
    )
    for path in dict.fromkeys([*ours, *theirs]):
        a, b = ours.get(path), theirs.get(path)
        if a is None or b is None:
            raise ValueError(f"{what} {'lack' if b is None else 'have also'} {path}")
        if a[1:] != b:
            raise ValueError(
                f"{what} have {path} of shape {list(b)}; the recipe's is {list(a[1:])}"
            )


def _check_moments(recipe: Recipe) -> None:
    """Refuse an optimizer whose state at step 0 is another for other weights."""
    keys = recipes.keys((0, 1), recipes.INIT)
    first, second = (
        jax.tree.leaves(recipe.init(key[None]).opt_state) for key in (keys[0], keys[1])
    )
    for a, b in zip(first, second, strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            continue
        if not np.array_equal(a, b, equal_nan=jnp.issubdtype(a.dtype, jnp.floating)):
            raise ValueError(
                "the optimizer's state begins from the weights that are drawn: make "
                "the recipe of a model whose `init` returns your weights"
            )


def _digest(tree: Any) -> str:
    """A hash of the numbers of a tree."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        found.update(f"{masks.name(path)} {array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()
