"""Masks learned for weights that are never trained."""

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from lth import masks
from lth.masks import Mask, Params, refresh, sides
from lth.models import Model
from lth.supermask.base import (
    Prunable,
    Supermask,
    scaled,
    straight_through,
    uniforms,
)

# Folded into a key for the scores: `split` and counting leave it to nobody else.
SCORES = 0x5C03E5


class Frozen(NamedTuple):
    """Holds the stats of a model whose weights are not trained."""

    weights: Params
    inner: Any  # the stats of the model itself


class Chosen(NamedTuple):
    """Holds the stats of one whose mask stands still between choices."""

    weights: Params
    inner: Any
    mask: Mask  # as it was last chosen
    step: jax.Array  # [], int32: of training, to know when to choose again


def bernoulli(
    model: Model,
    *,
    start: float = 0.0,
    rescale: bool = False,
    prunable: Prunable = masks.is_kernel,
) -> Supermask:
    """Keep each weight with probability σ(v) (Zhou et al. 2019, arXiv:1905.01067).

    A mask is drawn at every step, in evaluation too (with one key there: draw several
    with `choose` and take the mean); the gradient is that of σ(v). `rounded(params)` is
    the mask of v > 0.

    Args:
      model: the network; its weights are drawn once and stay.
      start: where the logits v begin.
      rescale: multiply a layer's weights by size / kept of the mask that was drawn; the
        gradient flows through the divisor.
      prunable: as in `masks.ones`.

    Returns:
      A supermask whose params are the logits.
    """

    def init(key):
        weights, inner = model.init(key)
        ones = masks.ones(weights, prunable)
        logits = jax.tree.map(lambda m: jnp.full(m.shape, start, jnp.float32), ones)
        return logits, Frozen(weights, inner)

    def choose(params, stats, key):
        return drawn(params, key)

    def apply(params, stats, inputs, train, key):
        drawing, rest = jax.random.split(key) if train else (jax.random.key(0), None)
        mask = drawn(params, drawing)
        soft = jax.tree.map(
            lambda m, v: straight_through(m, jax.nn.sigmoid(v)), mask, params
        )
        outputs, inner = model.apply(
            scaled(stats.weights, soft, rescale), stats.inner, inputs, train, rest
        )
        return outputs, stats._replace(inner=inner)

    def weights(params, stats, mask):
        full = jax.tree.map(lambda m: m.astype(jnp.float32), mask)
        return scaled(stats.weights, full, rescale)

    return Supermask(Model(init, apply), choose, weights)


def rounded(params: Any) -> Mask:
    """Keep the weights more likely than not to be there: logits above 0.

    Warns of layers that it leaves empty (not under `jit`).
    """
    mask = jax.tree.map(lambda v: v > 0, params)
    if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(mask)):
        empty = [path for path, kept in masks.densities(mask).items() if not kept]
        if empty:
            text = f"this mask keeps nothing of {', '.join(empty)}"
            warnings.warn(text, stacklevel=2)
    return mask


def edge_popup(
    model: Model,
    keep: float,
    *,
    rank: Callable[[jax.Array], jax.Array] = lambda s: s,
    scope: str = "layer",
    every: int = 1,
    scale: bool = False,
    weigh: Callable[[jax.Array, jax.Array], jax.Array] = lambda w, mask: w,
    prunable: Prunable = masks.is_kernel,
    axes: sides.Axes = None,
) -> Supermask:
    """Keep the weights of highest score (Ramanujan et al. 2020, arXiv:1911.13299).

    Scores start uniform within ±1/√fan_in. The highest are found exactly.

    Args:
      model: the network; its weights are drawn once and stay.
      keep: the fraction kept, everywhere, in (0, 1].
      rank: what scores are ranked by: s in the paper, `jnp.abs` in its code.
      scope: what competes, as in `masks.keep_top`.
      every: steps of training from one choice to the next, at least 1; in between the
        mask stands still while scores move. Evaluation and `choose` take the highest of
        that moment.
      scale: divide frozen kernels by √keep, which restores the variance of the
        activations (the code divides by √(1 - keep), the same at one half alone).
      weigh: `weigh(weights, mask)` is what a kernel is used as before it is masked.
      prunable: as in `masks.ones`.
      axes: which axes are inputs where shapes do not say so (see `sides`).

    Returns:
      A supermask whose params are the scores.

    Raises:
      ValueError: for `keep` outside (0, 1] and `every` below 1.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep is the fraction of weights kept, in (0, 1]; got {keep}")
    refresh.check_every(every)

    def top(params):
        scores = jax.tree.map(rank, params)
        ones = jax.tree.map(lambda s: jnp.ones(s.shape, bool), params)
        return masks.keep_top(scores, ones, keep, scope)

    def init(key):
        weights, inner = model.init(key)
        ones = masks.ones(weights, prunable)
        if scale:
            weights = jax.tree.map(
                lambda w, m: w if m is None else w / math.sqrt(keep), weights, ones
            )
        scores = _uniform_scores(ones, jax.random.fold_in(key, SCORES), axes)
        return scores, Chosen(weights, inner, top(scores), jnp.int32(0))

    def apply(params, stats, inputs, train, key):
        often = every if train else 1
        mask = refresh.every_steps(often, stats.step, top, stats.mask, params)
        soft = jax.tree.map(lambda m, s: straight_through(m, rank(s)), mask, params)
        seen = scaled(_weighed(stats.weights, mask), soft)
        outputs, inner = model.apply(seen, stats.inner, inputs, train, key)
        step = stats.step + 1 if train else stats.step
        return outputs, Chosen(stats.weights, inner, mask, step)

    def _weighed(params, mask):
        return jax.tree.map(lambda w, m: w if m is None else weigh(w, m), params, mask)

    def weights(params, stats, mask):
        return masks.apply(_weighed(stats.weights, mask), mask)

    return Supermask(
        Model(init, apply), lambda params, stats, key: top(params), weights
    )


def binarised(weights: jax.Array, mask: jax.Array) -> jax.Array:
    """Return signs times the mean magnitude of the kept: one bit for each weight."""
    kept = jnp.sum(jnp.abs(weights) * mask) / jnp.maximum(jnp.sum(mask), 1)
    return jnp.sign(weights) * kept


def multi_prize(model: Model, keep: float, **options: Any) -> Supermask:
    """Prune binary weights, never trained (Diffenderfer & Kailkhura 2021).

    Multi-prize tickets (arXiv:2103.09377): edge-popup on `binarised` weights, ranked by
    |s|; `options` are those of `edge_popup`. The gradient of a score is that of the
    loss for the weight in use times that weight, its scale included, which Adam does
    not see and SGD does.
    """
    return edge_popup(model, keep, **{"rank": jnp.abs, "weigh": binarised, **options})


def drawn(logits: Any, key: jax.Array) -> Mask:
    """Draw a mask of whose entries each is there with the probability σ(logit)."""
    return jax.tree.map(
        lambda v, u: u < jax.nn.sigmoid(v), logits, uniforms(logits, key)
    )


def _uniform_scores(ones: Mask, key: jax.Array, axes: sides.Axes) -> Any:
    # In full precision: scores that are equal would be ranked by where they are.
    leaves, structure = jax.tree.flatten(ones)
    found = []
    keys = jax.random.split(key, len(leaves))
    for m, k, side in zip(leaves, keys, sides.each(ones, axes), strict=True):
        bound = 1 / math.sqrt(math.prod(m.shape[i] for i in side.summed))
        drawn = jax.random.uniform(k, (m.size,), minval=-bound, maxval=bound)
        found.append(drawn.reshape(m.shape))
    return jax.tree.unflatten(structure, found)
