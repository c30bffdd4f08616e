"""What becomes of kept and of pruned weights: the actions of Zhou et al. (2019).

"Deconstructing lottery tickets" (arXiv:1905.01067) asks what of the initial weights a
ticket needs. A mask-1 action says where kept weights start a round, a mask-0 action
what pruned weights are while the others train. All act on each prunable leaf by itself
and leave the leaves that are not prunable as they are; the paper's code treats biases
like kernels. All can be jitted and mapped over replicates, `mask` being an argument.

Mask-1 actions are given the initial weights, pruned ones included:

| start of a kept weight                      | function                  |
|---------------------------------------------|---------------------------|
| rewound                                     | `rewind.weights`          |
| drawn anew                                  | `rewind.make_reinit`      |
| drawn anew, with its own sign               | `signs_kept` of a draw    |
| permuted with all weights of the leaf       | `permuted`                |
| permuted with the kept weights              | `reshuffled`              |
| the same, with its own sign                 | `reshuffled_signs_kept`   |
| its sign times a constant of the leaf       | `signed_constant`         |
| the same, permuted with the whole leaf      | `random_signed_constant`  |
| any of these, larger where fewer are kept   | `rescaled`                |

Mask-0 actions give a tree `frozen`, of use where the mask prunes: what the weights of
the network are there, which `with_frozen` puts into a loss. None is needed for zeros.
A weight shrank if it ended a round nearer to 0 than it began it. Over several rounds,
give them the network's weights with what was `filled` in for those pruned before, and
what was decided for these stays.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from lth.masks import Mask, Params


def signs_kept(fresh: Params, params: Params) -> Params:
    """Return |fresh| with the signs of `params`, in all leaves; 0 stays 0."""
    return jax.tree.map(lambda new, w: jnp.abs(new) * jnp.sign(w), fresh, params)


def permuted(params: Params, mask: Mask, key: jax.Array) -> Params:
    """Put all weights of a leaf in random places, kept and pruned ones alike.

    What the authors' code calls random reinitialisation. The paper draws anew from the
    distribution, as `rewind.make_reinit` does.
    """
    return _map(lambda w, _, k: jax.random.permutation(k, w.ravel()), params, mask, key)


def reshuffled(params: Params, mask: Mask, key: jax.Array) -> Params:
    """Put the kept weights of a leaf in random places among the kept ones."""
    return _map(_shuffled_within, params, mask, key)


def reshuffled_signs_kept(params: Params, mask: Mask, key: jax.Array) -> Params:
    """Put the kept magnitudes in random places among the kept ones; signs stay put."""

    def leaf(w, keep, key):
        return jnp.copysign(_shuffled_within(jnp.abs(w), keep, key), w.ravel())

    return _map(leaf, params, mask, key)


def signed_constant(
    params: Params, mask: Mask, deviation: float | None = None
) -> Params:
    """Return the sign of each weight times `deviation`, by default that of its leaf."""

    def leaf(w, keep):
        if keep is None:
            return w
        size = jnp.std(w) if deviation is None else deviation
        return (jnp.sign(w) * size).astype(w.dtype)

    return jax.tree.map(leaf, params, mask)


def random_signed_constant(
    params: Params, mask: Mask, key: jax.Array, deviation: float | None = None
) -> Params:
    """Permute `signed_constant`: only the numbers of signs remain.

    Args:
      params: the initial weights, pruned ones included.
      mask: what is prunable; other leaves stay as they are.
      key: of the permutation.
      deviation: the size of all weights, by default the standard deviation of each
        leaf.

    Returns:
      A tree like `params`.
    """
    return permuted(signed_constant(params, mask, deviation), mask, key)


def rescaled(params: Params, mask: Mask) -> Params:
    """Multiply a leaf's weights by size / kept, so that fewer sum up to as much."""

    def leaf(w, keep):
        if keep is None:
            return w
        kept = jnp.maximum(jnp.sum(keep, dtype=jnp.int32), 1)
        return (w * (keep.size / kept)).astype(w.dtype)

    return jax.tree.map(leaf, params, mask)


def zero_shrunk(initial: Params, final: Params, mask: Mask) -> Params:
    """Return the initial weights, 0 where |final| < |initial|, kept and pruned alike.

    As a start of kept weights beside `freeze_init_zero_shrunk` it is the paper's "0 for
    all weights that moved toward it" (`freeze_init_zero_all` in its code).
    """
    return _zero_where(lambda i, f: jnp.abs(f) < jnp.abs(i), initial, final, mask)


def freeze_init(initial: Params, mask: Mask) -> Params:
    """Keep pruned weights at their initial values."""
    return _pruned(initial, mask)


def freeze_init_zero_shrunk(initial: Params, final: Params, mask: Mask) -> Params:
    """Set pruned weights to 0 if they shrank, else keep their initial values.

    `freeze_init_zero_mask` in the paper's code.
    """
    return _pruned(zero_shrunk(initial, final, mask), mask)


def freeze_init_zero_grown(initial: Params, final: Params, mask: Mask) -> Params:
    """Set pruned weights to 0 if they grew: the reverse (`freeze_init_zero_rev`)."""
    start = _zero_where(lambda i, f: jnp.abs(f) > jnp.abs(i), initial, final, mask)
    return _pruned(start, mask)


def freeze_init_zero_reshuffled(
    initial: Params, frozen: Params, mask: Mask, key: jax.Array
) -> Params:
    """Set as many pruned weights to 0 as are 0 in `frozen`, in random places.

    The others stay at their initial values (`freeze_init_zero_reshuffle`).

    Args:
      initial: the initial weights.
      frozen: comes of another action; read where the mask prunes.
      mask: what is kept.
      key: of the places.

    Returns:
      A tree `frozen` anew, of use where the mask prunes.
    """
    zeros = jax.tree.map(lambda f: f == 0, frozen)
    pruned = jax.tree.map(jnp.logical_not, mask)
    zeros = _map(_shuffled_within, zeros, pruned, key)

    def leaf(i, zero, keep):
        return i if keep is None else jnp.where(keep | zero, jnp.zeros_like(i), i)

    return jax.tree.map(leaf, initial, zeros, mask)


def filled(params: Params, mask: Mask, frozen: Params) -> Params:
    """Return what a network computes with: kept weights, and `frozen` where pruned."""

    def leaf(w, f, keep):
        return w if keep is None else jnp.where(keep, w, f)

    return jax.tree.map(leaf, params, frozen, mask)


def with_frozen(function: Callable, mask: Mask, frozen: Params) -> Callable:
    """Wrap `function(params, …)`, a loss or an `apply`, with `frozen` where pruned.

    What trains are the masked weights as ever: `train.make_train` takes the wrapped
    loss as it is. Inside a jitted function `mask` and `frozen` may be its arguments.
    """

    def wrapped(params, *rest):
        return function(filled(params, mask, frozen), *rest)

    return wrapped


def _pruned(params: Params, mask: Mask) -> Params:
    """`params` with exactly 0 where the mask keeps."""

    def leaf(w, keep):
        return w if keep is None else jnp.where(keep, jnp.zeros_like(w), w)

    return jax.tree.map(leaf, params, mask)


def _zero_where(test: Callable, initial: Params, final: Params, mask: Mask) -> Params:
    def leaf(i, f, keep):
        return i if keep is None else jnp.where(test(i, f), jnp.zeros_like(i), i)

    return jax.tree.map(leaf, initial, final, mask)


def _map(function: Callable, params: Params, mask: Mask, key: jax.Array) -> Params:
    """`function(w, keep, key)` of each prunable leaf, its result given its shape."""
    leaves, structure = jax.tree.flatten(params)
    keeps = structure.flatten_up_to(mask)
    keys = jax.random.split(key, len(leaves))
    new = [
        w if keep is None else function(w, keep, k).reshape(w.shape)
        for w, keep, k in zip(leaves, keeps, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, new)


def _shuffled_within(values: jax.Array, chosen: jax.Array, key: jax.Array) -> jax.Array:
    """The chosen values in random places among the chosen; flat, the others as were.

    How many are chosen may be traced: both sorts bring them to the front, one in a
    random order, one in their own.
    """
    values, chosen = jnp.ravel(values), jnp.ravel(chosen)
    drawn = jax.random.permutation(key, values.size)
    first = partial(jnp.argsort, stable=True, descending=True)
    source, target = drawn[first(chosen[drawn])], first(chosen)
    moved = values.at[target].set(values[source])
    return jnp.where(chosen, moved, values)
