"""Models that are sparse in the forward pass while dense weights are trained.

Each function takes a `models.Model` and gives one, which `train.classification` and
`train.make_train` treat as any other. What it has to remember is part of its stats.
Train it under `masks.unmasked`; `final(params, stats)` is the sparse network found.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lth import criteria, masks
from lth.masks import Density, Mask, Params, refresh
from lth.models import Model

Final = Callable[[Params, Any], tuple[Params, Mask]]


class Refreshed(NamedTuple):
    """Holds the stats of a model whose mask is chosen anew every so many steps."""

    inner: Any
    mask: Mask
    step: jax.Array


class Thresholded(NamedTuple):
    """Holds the params of a model with a learned threshold for each prunable leaf."""

    weights: Params
    thresholds: Any  # [], None where a leaf is not prunable


def straight_through(
    model: Model,
    density: Density,
    *,
    scope: str = "global",
    every: int = 1,
    scores: Callable[[Params, jax.Array], masks.Scores] | None = None,
    prunable: Callable[[str, jax.Array], bool] = masks.is_kernel,
) -> tuple[Model, Final]:
    """Run forward with the highest weights, and train all as if all were there.

    The straight-through estimator with magnitude (Bengio et al. 2013, arXiv:1308.3432,
    as jaxpruner applies it). At low densities take densities by layer
    (`allocation.erdos_renyi`): a layer that a global choice leaves empty at the start
    passes no gradient, and stays so.

    Args:
      model: the dense one.
      density: in (0, 1], or a tree of such numbers.
      scope: what competes, as in `masks.keep_top`.
      every: steps of training from one choice of the mask to the next, at least 1. For
        each evaluation it is chosen anew.
      scores: `scores(params, key)`, another rule than magnitude, such as `lambda
        params, key: criteria.random(params, key)`, which draws a mask each time.
      prunable: as in `masks.ones`.

    Returns:
      The sparse model, and `final(params, stats)`, which gives its masked params and
      their mask.

    Raises:
      ValueError: for `every` below 1.
    """
    scores = scores or (lambda params, key: criteria.magnitude(params))

    def choose(params, key):
        ones = masks.ones(params, prunable)
        return masks.keep_top(scores(params, key), ones, density, scope)

    def sparse(w, keep):
        return w if keep is None else w + jax.lax.stop_gradient(_where(keep, w) - w)

    return _refreshing(model, choose, every, sparse)


def top_kast(
    model: Model,
    density: Density,
    backward: Density,
    *,
    scope: str = "global",
    every: int = 1,
    prunable: Callable[[str, jax.Array], bool] = masks.is_kernel,
) -> tuple[Model, Final, Callable[[Params, Any], jax.Array]]:
    """Run a model sparse both ways: Top-KAST (Jayakumar et al. 2020, arXiv:2106.03517).

    The forward pass uses the highest weights (A); gradients reach more of them (B). The
    penalty is |A|² / 2 + |B without A|² / (2 density), to be added to the loss times
    the weight decay; it brings down weights outside A so that others may enter. The
    paper stops weights outside B; here the moments of an optimizer that has them may
    still move such a weight.

    Args:
      model: the dense one.
      density: of A, in (0, 1], or a tree of such numbers.
      backward: of B, in [density, 1], or a tree like `density`.
      scope, every, prunable: as in `straight_through`.

    Returns:
      The sparse model, `final(params, stats)` as in `straight_through`, and
      `penalty(params, stats)`.

    Raises:
      ValueError: for densities out of these ranges or of two structures, and for
        `every` below 1.
    """
    if jax.tree.structure(density) != jax.tree.structure(backward):
        raise ValueError(
            "Top-KAST's densities are two numbers or two trees of one structure; got "
            f"{density} and {backward}"
        )
    pairs = zip(jax.tree.leaves(density), jax.tree.leaves(backward), strict=True)
    for few, more in pairs:
        if not 0 < few <= more <= 1:
            raise ValueError(
                f"Top-KAST needs 0 < density <= backward <= 1; got {few} and {more}"
            )

    def top(params, fraction):
        ones = masks.ones(params, prunable)
        size = criteria.magnitude(params)
        return masks.keep_top(size, ones, fraction, scope)

    def choose(params, key):
        # Two masks in one tree of integers: 2 in A, 1 in B alone.
        both = top(params, density), top(params, backward)
        return jax.tree.map(lambda a, b: a.astype(jnp.int8) + b, *both)

    def sparse(w, keep):
        if keep is None:
            return w
        reached = _where(keep >= 1, w)
        return reached + jax.lax.stop_gradient(_where(keep == 2, w) - reached)

    def penalty(params, stats):
        chosen = stats.mask if every > 1 else choose(params, None)
        chosen = jax.lax.stop_gradient(chosen)
        each = jax.tree.leaves(density)
        each = each if len(each) > 1 else each * len(jax.tree.leaves(chosen))
        each = jax.tree.unflatten(jax.tree.structure(chosen), each)

        def leaf(w, keep, share):
            if keep is None:
                return jnp.zeros(())
            weight = jnp.where(keep == 2, 1, jnp.where(keep == 1, 1 / share, 0))
            return jnp.sum(weight * jnp.square(w)) / 2

        found = jax.tree.map(leaf, params, chosen, each)
        return sum(jax.tree.leaves(found), jnp.zeros(()))

    wrapped, final = _refreshing(model, choose, every, sparse, lambda m: m == 2)
    return wrapped, final, penalty


def soft_threshold(
    model: Model,
    start: float = -10.0,
    prunable: Callable[[str, jax.Array], bool] = masks.is_kernel,
) -> tuple[Model, Final]:
    """Use sign(w) relu(|w| - sigmoid(s)): STR (Kusupati et al. 2020, arXiv:2002.03231).

    Every prunable leaf learns a threshold s with its weights, from `start` on. Density
    is no argument but a result: weight decay on s, which the optimizer brings as it
    decays all params, lowers it.
    """

    def init(key):
        weights, stats = model.init(key)
        ones = masks.ones(weights, prunable)
        thresholds = jax.tree.map(lambda _: jnp.float32(start), ones)
        return Thresholded(weights, thresholds), stats

    def sparse(w, s):
        if s is None:
            return w
        return jnp.sign(w) * jax.nn.relu(jnp.abs(w) - jax.nn.sigmoid(s))

    def seen(params):
        return jax.tree.map(sparse, params.weights, params.thresholds)

    def apply(params, stats, inputs, train, key):
        return model.apply(seen(params), stats, inputs, train, key)

    def final(params, stats):
        weights = seen(params)
        mask = jax.tree.map(
            lambda w, s: None if s is None else w != 0, weights, params.thresholds
        )
        return weights, mask

    return Model(init, apply), final


def _refreshing(
    model: Model,
    choose: Callable[[Params, Any], Any],
    every: int,
    sparse: Callable,
    kept: Callable = lambda m: m,
) -> tuple[Model, Final]:
    """`model` on `sparse(w, mask)`, the mask being chosen every so many steps.

    `kept` says which entries of what is chosen belong to the mask.
    """
    refresh.check_every(every)

    def init(key):
        params, stats = model.init(key)
        mask = choose(params, jax.random.fold_in(key, 0))
        return params, Refreshed(stats, mask, jnp.int32(0))

    def apply(params, stats, inputs, train, key):
        mask = refresh.every_steps(
            every if train else 1,
            stats.step,
            lambda given: choose(*given),
            stats.mask,
            (params, jax.random.fold_in(key, 1) if train else jax.random.key(0)),
        )
        seen = jax.tree.map(sparse, params, mask)
        outputs, inner = model.apply(seen, stats.inner, inputs, train, key)
        step = stats.step + 1 if train else stats.step
        return outputs, Refreshed(inner, mask, step)

    def final(params, stats):
        mask = jax.tree.map(kept, choose(params, jax.random.key(0)))
        return masks.apply(params, mask), mask

    return Model(init, apply), final


def _where(keep: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.where(keep, w, 0)
