"""Masks learned beside the weights they gate."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lth import masks
from lth.masks import Params, refresh, schedules
from lth.models import Model
from lth.supermask.base import (
    Prunable,
    Supermask,
    check_probability,
    no_penalty,
    scaled,
    straight_through,
    uniforms,
)

# Louizos et al. (2018): the temperature, and the ends of the stretched interval.
BETA, LOW, HIGH = 2 / 3, -0.1, 1.1


class Gated(NamedTuple):
    """Holds the params of a model whose weights are trained beside their gates."""

    weights: Params
    gates: Any  # a number for each prunable weight, None for other leaves


class Counted(NamedTuple):
    """Holds the stats of a model that counts its steps."""

    inner: Any
    step: jax.Array
    mask: Any = None  # where it stands still between choices: as it was last chosen


def hard_concrete(
    model: Model, *, start: float = 0.5, prunable: Prunable = masks.is_kernel
) -> Supermask:
    """Draw gates from a hard concrete (Louizos et al. 2018, arXiv:1712.01312).

    A gate is clip(1.2 σ((log u - log(1 - u) + a) / β) - 0.1, 0, 1), exactly 0 and
    exactly 1 with some probability each; weights are trained too. `penalty` is the
    expected share of gates that are not 0. Evaluation has no noise. Gates begin with a
    = log(start / (1 - start)).
    """
    check_probability("start", start)

    def noisy(a, u):
        return _stretched(jax.nn.sigmoid((jnp.log(u / (1 - u)) + a) / BETA))

    def gates(params, stats, train, key):
        if not train:
            return jax.tree.map(lambda a: _stretched(jax.nn.sigmoid(a)), params.gates)
        return jax.tree.map(noisy, params.gates, uniforms(params.gates, key))

    def penalty(params, stats):
        return _mean(jax.tree.map(alive_probability, params.gates))

    logit = math.log(start / (1 - start))
    return _gated(model, logit, prunable, gates, penalty)


def alive_probability(a: jax.Array) -> jax.Array:
    """Return P(gate is not 0) of a hard concrete: σ(a - β log(0.1 / 1.1))."""
    return jax.nn.sigmoid(a - BETA * math.log(-LOW / HIGH))


def continuous(
    model: Model,
    *,
    steps: int,
    final: float = 200.0,
    start: float = 0.0,
    prunable: Prunable = masks.is_kernel,
) -> Supermask:
    """Sparsify continuously, by gates σ(β s) (Savarese et al. 2020, arXiv:1912.04427).

    The temperature β grows by equal factors, so that the gates end all but hard;
    evaluation has those of s >= 0. `penalty` is the mean of σ(β s), which stands for
    the number of weights.

    Args:
      model: the network, whose weights are trained too.
      steps: over which β grows, at least 1.
      final: β at their end, from 1.
      start: where s begins; at 0 all are there at first.
      prunable: as in `masks.ones`.

    Returns:
      A supermask of params `Gated`.

    Raises:
      ValueError: for `steps` below 1.
    """
    if steps < 1:
        raise ValueError(f"steps is how long is trained, 1 or more; got {steps}")

    def beta(stats):
        return final ** jnp.clip(stats.step / steps, 0, 1)

    def gates(params, stats, train, key):
        if not train:
            return jax.tree.map(lambda s: (s >= 0) * jnp.float32(1), params.gates)
        return jax.tree.map(lambda s: jax.nn.sigmoid(beta(stats) * s), params.gates)

    def penalty(params, stats):
        return _mean(
            jax.tree.map(lambda s: jax.nn.sigmoid(beta(stats) * s), params.gates)
        )

    return _gated(model, start, prunable, gates, penalty)


def movement(
    model: Model,
    schedule: schedules.Schedule,
    *,
    scope: str = "layer",
    every: int = 1,
    prunable: Prunable = masks.is_kernel,
) -> Supermask:
    """Keep the highest scores: hard movement pruning (Sanh et al. 2020).

    In the paper (arXiv:2005.07683) and here the gradient of a score is that of the loss
    for the weight in use times the weight, for pruned weights too, so scores rise where
    weights move away from 0. A pruned weight itself has no gradient, and may return.

    Args:
      model: the network, whose weights are trained too.
      schedule: as many weights count as it has in force at the step.
      scope, every: as in `edge_popup`.
      prunable: as in `masks.ones`.

    Returns:
      A supermask of params `Gated`.

    Raises:
      ValueError: for `every` below 1.
    """
    refresh.check_every(every)

    def top(given):
        scores, step = given
        # In evaluation the step is that of the training that came before.
        density = schedules.in_force(schedule, step)
        ones = jax.tree.map(lambda s: jnp.ones(s.shape, bool), scores)
        return masks.keep_top(scores, ones, density, scope)

    def gates(params, stats, train, key):
        return jax.tree.map(straight_through, stats.mask, params.gates)

    def chosen(params, stats, train):
        often, given = every if train else 1, (params.gates, stats.step)
        return refresh.every_steps(often, stats.step, top, stats.mask, given)

    return _gated(model, 0.0, prunable, gates, chosen=chosen)


def movement_soft(
    model: Model,
    threshold: float | schedules.Schedule,
    *,
    at_least: float = 0.0,
    by_matrix: bool = False,
    prunable: Prunable = masks.is_kernel,
) -> Supermask:
    """Keep the weights with σ(score) above a threshold: movement pruning, soft.

    How many there are is a result: `penalty`, the mean of σ(score), lowers it. Along a
    schedule scores start at 0 and the penalty grows as threshold / final threshold.
    Over a fixed threshold scores start by a hair, and the first step of an optimizer
    whose steps have one size, such as Adam, drops all weights that it lowers.

    Args:
      model: the network, whose weights are trained too.
      threshold: in (0, 1), or a schedule, whose sparsity in force is the threshold; the
        paper's is `schedules.cubic(0.1, …)`.
      at_least: the fraction of each matrix that stays, whatever the scores. The
        authors' code keeps 0.5 %: `at_least=0.005`, exactly so many. With 0 a matrix
        may empty, and `penalised` ends the training once all have.
      by_matrix: whether the mean is over the means of the matrices, as in the authors'
        code, and not over all weights: a weight is charged more there the smaller its
        matrix.
      prunable: as in `masks.ones`.

    Returns:
      A supermask of params `Gated`.

    Raises:
      ValueError: for a threshold, or the last one of a schedule, outside (0, 1).
    """
    if isinstance(threshold, schedules.Schedule):
        final, start = 1 - threshold.density(threshold.end_step), 0.0
        check_probability("threshold", final)
    else:
        final = threshold
        check_probability("threshold", final)
        # Just above it: with all scores equal at it, none would be there.
        start = math.log(final / (1 - final)) + 1e-3

    def in_force(stats):
        if isinstance(threshold, schedules.Schedule):
            return 1 - schedules.in_force(threshold, stats.step)
        return threshold

    def gates(params, stats, train, key):
        limit = in_force(stats)
        mask = jax.tree.map(lambda s: jax.nn.sigmoid(s) > limit, params.gates)
        if at_least:
            ones = jax.tree.map(jnp.ones_like, mask)
            top = masks.keep_top(params.gates, ones, at_least, "layer")
            mask = jax.tree.map(jnp.logical_or, mask, top)
        return jax.tree.map(straight_through, mask, params.gates)

    def penalty(params, stats):
        sigma = jax.tree.map(jax.nn.sigmoid, params.gates)
        if by_matrix:
            sigma = jax.tree.map(jnp.mean, sigma)
        return _mean(sigma) * in_force(stats) / final

    return _gated(model, start, prunable, gates, penalty)


def _gated(
    model: Model,
    start: float,
    prunable: Prunable,
    gates: Callable[..., Any],
    penalty: Callable[[Any, Any], jax.Array] = no_penalty,
    chosen: Callable[..., Any] = lambda params, stats, train: None,
) -> Supermask:
    """The model with weights times `gates(params, stats, train, key)`.

    They see, and stats keep, the mask that is `chosen(params, stats, train)`.
    """

    def now(params, stats, train):
        return stats._replace(mask=chosen(params, stats, train))

    def init(key):
        weights, inner = model.init(key)
        ones = masks.ones(weights, prunable)
        values = jax.tree.map(lambda m: jnp.full(m.shape, start, jnp.float32), ones)
        params, stats = Gated(weights, values), Counted(inner, jnp.int32(0))
        return params, now(params, stats, False)

    def apply(params, stats, inputs, train, key):
        drawn, rest = jax.random.split(key) if train else (None, None)
        stats = now(params, stats, train)
        seen = scaled(params.weights, gates(params, stats, train, drawn))
        outputs, inner = model.apply(seen, stats.inner, inputs, train, rest)
        step = stats.step + 1 if train else stats.step
        return outputs, stats._replace(inner=inner, step=step)

    def fixed(params, stats):
        return gates(params, now(params, stats, False), False, None)

    def choose(params, stats, key):
        return jax.tree.map(lambda g: g > 0, fixed(params, stats))

    def weights(params, stats, mask):
        return scaled(masks.apply(params.weights, mask), fixed(params, stats))

    return Supermask(Model(init, apply), choose, weights, penalty)


def _stretched(s: jax.Array) -> jax.Array:
    return jnp.clip(s * (HIGH - LOW) + LOW, 0, 1)


def _mean(tree: Any) -> jax.Array:
    leaves = jax.tree.leaves(tree)
    return sum((jnp.sum(x) for x in leaves), jnp.float32(0)) / sum(
        x.size for x in leaves
    )
