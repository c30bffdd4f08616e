"""Criteria that look at how weights moved.

Those of Zhou et al. (2019, arXiv:1905.01067) compare two trees: `initial`, the weights
at the start of a round of training, and `final`, those at its end. They were proposed
for a density per layer and rounds that all rewind to the same `initial`. No score
changes when a weight has its sign flipped in both trees.

`karnin` and `movement_accumulated` need the way as well as its ends: an optimizer
wrapped in `history` adds it up.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lth.criteria.gradients import wide
from lth.masks import Mask, Params, Scores

LAST = float("-inf")  # as a score: kept when nothing else is left


def large_final(initial: Params, final: Params) -> Scores:
    """Scores |w_f|: the magnitude of a trained weight."""
    return jax.tree.map(jnp.abs, final)


def small_final(initial: Params, final: Params) -> Scores:
    """Scores -|w_f|: the control that keeps what `large_final` prunes."""
    return jax.tree.map(lambda f: -jnp.abs(f), final)


def large_init(initial: Params, final: Params) -> Scores:
    """Scores |w_i|: as if training had told nothing."""
    return jax.tree.map(jnp.abs, initial)


def small_init(initial: Params, final: Params) -> Scores:
    """Scores -|w_i|: the control of `large_init`."""
    return jax.tree.map(lambda i: -jnp.abs(i), initial)


def magnitude_increase(initial: Params, final: Params) -> Scores:
    """Scores |w_f| - |w_i|: how far training drove the weight away from 0."""
    return jax.tree.map(
        lambda i, f: jnp.abs(f) - jnp.abs(i), wide(initial), wide(final)
    )


def movement(initial: Params, final: Params) -> Scores:
    """Scores |w_f - w_i|: how far the weight came, in either direction.

    Not the movement pruning of Sanh et al. (see `movement_accumulated`).
    """
    return jax.tree.map(lambda i, f: jnp.abs(f - i), wide(initial), wide(final))


def large_init_large_final(initial: Params, final: Params) -> Scores:
    """Scores high where a weight was large and is large: the lower of its two ranks.

    The authors' code moves one percentile for both magnitudes until the weights above
    it in each of them are as many as wanted. A weight is above a percentile in both
    exactly when the lower of its ranks is, so the same weights are the highest in it.
    Ranks are shares of the leaf, in [0, 1), exact to 2**23 weights a leaf. A weight
    that is exactly 0 in `final` counts as pruned before and ranks below the others.
    """
    return jax.tree.map(partial(_lower_rank, 1), initial, final)


def small_init_small_final(initial: Params, final: Params) -> Scores:
    """Scores high where a weight was small and is small.

    `large_init_large_final` reversed. What was pruned before ranks above the others
    here, where it disturbs no order.
    """
    return jax.tree.map(partial(_lower_rank, -1), initial, final)


def large_final_same_sign(
    initial: Params, final: Params, excluded: float = LAST
) -> Scores:
    """Scores |w_f| of weights that kept their sign; the others rank below all of them.

    Those others tie at `excluded`, -inf, so that the lower index stays when some must.
    0 as in the paper's formula gives the same order: no |w_f| is less.
    """
    scores = large_final(initial, final)
    return _where_sign(True, scores, initial, final, excluded)


def large_final_diff_sign(
    initial: Params, final: Params, excluded: float = LAST
) -> Scores:
    """Scores |w_f| of weights that changed their sign: see `large_final_same_sign`."""
    scores = large_final(initial, final)
    return _where_sign(False, scores, initial, final, excluded)


def magnitude_increase_same_sign(
    initial: Params, final: Params, excluded: float = LAST
) -> Scores:
    """Scores |w_f| - |w_i| of weights that kept their sign; the others rank below them.

    The authors' code scores those others 0, which outranks every weight that shrank:
    for its order pass `excluded=0.0`.
    """
    scores = magnitude_increase(initial, final)
    return _where_sign(True, scores, initial, final, excluded)


def magnitude_increase_diff_sign(
    initial: Params, final: Params, excluded: float = LAST
) -> Scores:
    """Scores |w_f| - |w_i| of weights that changed their sign; the others below them.

    `excluded=0.0` as in `magnitude_increase_same_sign`.
    """
    scores = magnitude_increase(initial, final)
    return _where_sign(False, scores, initial, final, excluded)


def same_sign_mask(initial: Params, final: Params, mask: Mask) -> Mask:
    """Keeps the weights of `mask` that kept their sign, however many they are."""
    return _sign_mask(True, initial, final, mask)


def diff_sign_mask(initial: Params, final: Params, mask: Mask) -> Mask:
    """Keeps the weights of `mask` that changed their sign, however many they are."""
    return _sign_mask(False, initial, final, mask)


class History(NamedTuple):
    """Holds the state of an optimizer that `history` wraps.

    Both sums are float32 or wider. `g` is the gradient that came in at a step, `w` the
    weight there, and `dw` the update that went out.
    """

    inner: Any  # the state of the wrapped optimizer
    sensitivity: Params  # sum over the steps of -g dw: by how much the loss fell
    movement: Params  # sum over the steps of -g w: how far it pushed |w| up


def history(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Wraps `tx`, to add up as well what `karnin` and `movement_accumulated` need.

    Updates are those of `tx`. Outermost, it sees the gradients that `train.make_train`
    has masked, and the sums of pruned weights are 0 as all slots are. They begin with
    the state: weight rewinding goes back to the sums at the rewind point,
    `rewind.make_fresh_moments` to 0.
    """
    tx = optax.with_extra_args_support(tx)

    def init(params):
        # Two trees, not one twice: a donated state must not share its memory.
        return History(tx.init(params), _zeros(params), _zeros(params))

    def update(updates, state, params=None, **extra):
        if params is None:
            raise ValueError("a history of weights needs them: update(…, params)")
        new, inner = tx.update(updates, state.inner, params, **extra)
        sensitivity = jax.tree.map(_less_product, state.sensitivity, updates, new)
        moved = jax.tree.map(_less_product, state.movement, updates, params)
        return new, History(inner, sensitivity, moved)

    return optax.GradientTransformationExtraArgs(init, update)


def karnin(state: History, initial: Params, final: Params) -> Scores:
    """Scores -(Σ g dw) w_f / (w_f - w_i), and 0 for a weight that did not move.

    By how much the error would grow without the weight, if along the rest of its way
    from 0 it changed as it did on the way seen (Karnin 1990, IEEE Trans. Neural
    Networks 1(2)). `initial` are the weights where the sums of `state` began.
    """

    def leaf(total, i, f):
        way = f - i
        # Some CPUs take the smallest numbers for 0 in one place and not in another.
        still = jnp.abs(way) < jnp.finfo(way.dtype).tiny
        return jnp.where(still, 0, total * (f / jnp.where(still, 1, way)))

    return jax.tree.map(leaf, state.sensitivity, wide(initial), wide(final))


def movement_accumulated(state: History) -> Scores:
    """Scores -Σ g w: high where training pushed the weight away from 0.

    Up to the scores' learning rate this is what the scores of movement pruning come to
    under SGD (Sanh et al. 2020, arXiv:2005.07683), without training scores; SparseML
    prunes by it. There a pruned weight may return; here its sum is 0.
    """
    return state.movement


def _lower_rank(sign: int, initial: jax.Array, final: jax.Array) -> jax.Array:
    alive = jnp.where(final == 0, 0, jnp.abs(initial))
    return jnp.minimum(_rank(sign * alive), _rank(sign * jnp.abs(final)))


def _rank(values: jax.Array) -> jax.Array:
    """The share of the leaf that ranks below each value, NaN for NaN.

    Of equal values the lower index ranks higher, as in `masks.keep_top`.
    """
    flat = values.ravel()
    order = jnp.argsort(flat, stable=True, descending=True)
    last = flat.size - 1
    below = last - jnp.arange(flat.size, dtype=jnp.float32)
    rank = jnp.zeros(flat.shape, jnp.float32).at[order].set(below) / flat.size
    return jnp.where(jnp.isnan(values), jnp.nan, rank.reshape(values.shape))


def _where_sign(same: bool, scores, initial, final, excluded: float) -> Scores:
    def leaf(s, i, f):
        eligible = _same_sign(i, f) == same
        return jnp.where(eligible | jnp.isnan(s), s, excluded)

    return jax.tree.map(leaf, scores, initial, final)


def _sign_mask(same: bool, initial, final, mask) -> Mask:
    def leaf(i, f, keep):
        return None if keep is None else keep & (_same_sign(i, f) == same)

    return jax.tree.map(leaf, initial, final, mask)


def _same_sign(initial: jax.Array, final: jax.Array) -> jax.Array:
    return jnp.sign(initial) == jnp.sign(final)


def _zeros(params: Params) -> Params:
    def leaf(w):
        return jnp.zeros(w.shape, jnp.promote_types(w.dtype, jnp.float32))

    return jax.tree.map(leaf, params)


def _less_product(total: jax.Array, one: jax.Array, other: jax.Array) -> jax.Array:
    return total - one.astype(total.dtype) * other.astype(total.dtype)
