"""Masks that are learned: models whose trained tree holds scores, not weights.

Each function takes a `models.Model` and gives a `Supermask`, whose `model` trains in
`train.make_train` as any other, under `masks.nothing`. Its stats hold the frozen
weights, so replicates have their own and checkpoints are whole; training returns them
as they came, to the bit. What was learned is an ordinary mask (`choose`), and the
ordinary params under it (`weights`) can be trained further, stored, or compared.

| function            | trained                 | mask                        |
|---------------------|-------------------------|-----------------------------|
| `bernoulli`         | logits                  | drawn at each step          |
| `edge_popup`        | scores                  | the highest, so many        |
| `hard_concrete`     | weights and logits      | drawn, stretched, clipped   |
| `continuous`        | weights and gate values | a sigmoid that hardens      |
| `movement`          | weights and scores      | the highest, ever fewer     |
| `movement_soft`     | weights and scores      | those above a threshold     |

Gradients pass a mask that is all or nothing as if it were the score itself: the
straight-through estimator.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lth import masks, schedules
from lth.masks import Mask, Params
from lth.models import Model

Prunable = Callable[[str, jax.Array], bool]
# Louizos et al. (2018): the temperature, and the ends of the stretched interval.
BETA, LOW, HIGH = 2 / 3, -0.1, 1.1


def _nothing(params: Any, stats: Any) -> jax.Array:
    return jnp.float32(0)


class Frozen(NamedTuple):
    """Stats of a model whose weights are not trained."""

    weights: Params
    inner: Any  # the stats of the model itself
    mask: Mask  # as it was last chosen
    step: jax.Array


class Gated(NamedTuple):
    """Params of a model whose weights are trained beside their gates."""

    weights: Params
    gates: Any  # a number for each prunable weight, None for other leaves


class Counted(NamedTuple):
    """Stats of a model that counts its steps."""

    inner: Any
    step: jax.Array


class Supermask(NamedTuple):
    """A model that learns its mask."""

    model: Model
    choose: Callable[[Any, Any, jax.Array], Mask]  # (params, stats, key) -> mask
    weights: Callable[[Any, Any, Mask], Params]  # (params, stats, mask) -> params
    # params, stats -> what the loss is to be charged with, as a share of all weights
    penalty: Callable[[Any, Any], jax.Array] = _nothing


def bernoulli(
    model: Model,
    *,
    start: float = 0.0,
    rescale: bool = False,
    prunable: Prunable = masks.is_kernel,
) -> Supermask:
    """Zhou et al. (2019, arXiv:1905.01067): each weight is there with probability σ(v).

    A mask is drawn at every step, in evaluation too (with one key there: draw several
    with `choose` and take the mean); the gradient is that of σ(v). With `rescale` a
    layer's weights are multiplied by size / kept of the mask that was drawn, and the
    gradient flows through the divisor. `rounded(params)` is the mask of v > 0.
    """

    def init(key):
        weights, inner = model.init(key)
        ones = masks.ones(weights, prunable)
        logits = jax.tree.map(lambda m: jnp.full(m.shape, start, jnp.float32), ones)
        return logits, Frozen(weights, inner, ones, jnp.int32(0))

    def choose(params, stats, key):
        return _drawn(params, key)

    def apply(params, stats, inputs, train, key):
        mask = _drawn(params, key if train else jax.random.key(0))
        soft = jax.tree.map(lambda m, v: _through(m, jax.nn.sigmoid(v)), mask, params)
        outputs, inner = model.apply(
            _scaled(stats.weights, soft, rescale), stats.inner, inputs, train, key
        )
        return outputs, stats._replace(inner=inner)

    def weights(params, stats, mask):
        full = jax.tree.map(lambda m: m.astype(jnp.float32), mask)
        return _scaled(stats.weights, full, rescale)

    return Supermask(Model(init, apply), choose, weights)


def rounded(params: Any) -> Mask:
    """The mask of the weights more likely than not to be there: logits above 0."""
    return jax.tree.map(lambda v: v > 0, params)


def sampled(
    supermask: Supermask, measure: Callable, samples: int = 10
) -> Callable[..., dict[str, jax.Array]]:
    """`measure` averaged over masks drawn from a supermask, an example at a time.

    `measure(params, stats, batch)` is of the model inside, as `train.classification`
    of its `apply` gives it; so is the result, for `train.make_evaluate`.
    """

    def measured(params, stats, batch):
        def one(key):
            mask = supermask.choose(params, stats, key)
            return measure(supermask.weights(params, stats, mask), stats.inner, batch)

        found = jax.lax.map(one, jax.random.split(jax.random.key(0), samples))
        return jax.tree.map(lambda x: jnp.mean(x, 0), found)

    return measured


def edge_popup(
    model: Model,
    keep: float,
    *,
    rank: Callable[[jax.Array], jax.Array] = lambda s: s,
    scope: str = "layer",
    every: int = 1,
    scale: bool = False,
    prunable: Prunable = masks.is_kernel,
) -> Supermask:
    """Ramanujan et al. (2020, arXiv:1911.13299): the weights of highest score.

    `keep` is the fraction kept, everywhere. Scores start uniform within ±1/√fan_in and
    `rank` is what they are ranked by: s in the paper, `jnp.abs` in its code. With
    `scale`, frozen kernels are divided by √keep, which restores the variance of the
    activations (the code divides by √(1 - keep), the same at one half alone).

    The highest are found exactly, every `every` steps of training; in between the mask
    stands still while scores move. Evaluation and `choose` take those of that moment.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep is the fraction of weights kept, in (0, 1]; got {keep}")
    if every < 1:
        raise ValueError(f"a mask is chosen every 1 or more steps; got {every}")

    def top(params):
        scores = jax.tree.map(rank, params)
        ones = jax.tree.map(lambda s: jnp.ones(s.shape, bool), params)
        return masks.keep_top(scores, ones, keep, scope)

    def init(key):
        weights, inner = model.init(jax.random.fold_in(key, 0))
        ones = masks.ones(weights, prunable)
        if scale:
            weights = jax.tree.map(
                lambda w, m: w if m is None else w / math.sqrt(keep), weights, ones
            )
        scores = _uniform_scores(ones, jax.random.fold_in(key, 1))
        return scores, Frozen(weights, inner, top(scores), jnp.int32(0))

    def apply(params, stats, inputs, train, key):
        mask = stats.mask
        if not train or every == 1:
            mask = top(params)
        else:
            again = stats.step % every == 0
            mask = jax.lax.cond(again, lambda: top(params), lambda: stats.mask)
        soft = jax.tree.map(lambda m, s: _through(m, rank(s)), mask, params)
        outputs, inner = model.apply(
            _scaled(stats.weights, soft), stats.inner, inputs, train, key
        )
        step = stats.step + 1 if train else stats.step
        return outputs, Frozen(stats.weights, inner, mask, step)

    def weights(params, stats, mask):
        return masks.apply(stats.weights, mask)

    return Supermask(
        Model(init, apply), lambda params, stats, key: top(params), weights
    )


def hard_concrete(
    model: Model, *, start: float = 0.5, prunable: Prunable = masks.is_kernel
) -> Supermask:
    """Louizos et al. (2018, arXiv:1712.01312): gates drawn from a hard concrete.

    A gate is clip(1.2 σ((log u - log(1 - u) + a) / β) - 0.1, 0, 1), exactly 0 and
    exactly 1 with some probability each; weights are trained too. `penalty` is the
    expected share of gates that are not 0. Evaluation has no noise.
    `start` is the probability, of σ, that gates begin with.
    """
    _probability(start)

    def noisy(a, key):
        u = jax.random.uniform(key, a.shape, minval=1e-6, maxval=1 - 1e-6)
        return _stretched(jax.nn.sigmoid((jnp.log(u) - jnp.log1p(-u) + a) / BETA))

    def gates(params, stats, train, key):
        if not train:
            return jax.tree.map(lambda a: _stretched(jax.nn.sigmoid(a)), params.gates)
        return _with_keys(noisy, params.gates, key)

    def penalty(params, stats):
        return _mean(jax.tree.map(alive_probability, params.gates))

    logit = math.log(start / (1 - start))
    return _gated(model, logit, prunable, gates, penalty)


def alive_probability(a: jax.Array) -> jax.Array:
    """P(gate is not 0) of a hard concrete: σ(a - β log(0.1 / 1.1))."""
    return jax.nn.sigmoid(a - BETA * math.log(-LOW / HIGH))


def continuous(
    model: Model,
    *,
    steps: int,
    final: float = 200.0,
    start: float = 0.0,
    prunable: Prunable = masks.is_kernel,
) -> Supermask:
    """Continuous sparsification (Savarese et al. 2020, arXiv:1912.04427): σ(β s).

    The temperature β grows by equal factors from 1 to `final` over `steps`, so that the
    gates end all but hard; evaluation has those of s > 0. `penalty` is the mean of
    σ(β s), which stands for the number of weights.
    """

    def beta(stats):
        return final ** jnp.clip(stats.step / steps, 0, 1)

    def gates(params, stats, train, key):
        if not train:
            return jax.tree.map(lambda s: (s > 0) * jnp.float32(1), params.gates)
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
    prunable: Prunable = masks.is_kernel,
) -> Supermask:
    """Movement pruning, hard (Sanh et al. 2020, arXiv:2005.07683): the highest scores.

    As many weights count as the schedule has in force at the step, in each layer. The
    gradient of a score is that of the loss for the weight in use times the weight, for
    pruned weights too, so scores rise where weights move away from 0; a pruned weight
    itself stands still, and may return.
    """

    def gates(params, stats, train, key):
        # In evaluation the step is that of the training that came before.
        density = schedules.in_force(schedule, stats.step)
        ones = jax.tree.map(lambda s: jnp.ones(s.shape, bool), params.gates)
        mask = masks.keep_top(params.gates, ones, density, scope)
        return jax.tree.map(_through, mask, params.gates)

    return _gated(model, 0.0, prunable, gates)


def movement_soft(
    model: Model, threshold: float, *, prunable: Prunable = masks.is_kernel
) -> Supermask:
    """Movement pruning, soft: the weights with σ(score) above a threshold.

    How many there are is a result: `penalty`, the mean of σ(score), lowers it.
    """
    _probability(threshold)

    def gates(params, stats, train, key):
        mask = jax.tree.map(lambda s: jax.nn.sigmoid(s) > threshold, params.gates)
        return jax.tree.map(_through, mask, params.gates)

    def penalty(params, stats):
        return _mean(jax.tree.map(jax.nn.sigmoid, params.gates))

    # Just above it: with all scores equal at it, none would be there.
    start = math.log(threshold / (1 - threshold)) + 1e-3
    return _gated(model, start, prunable, gates, penalty)


def charged(loss: Callable, supermask: Supermask, weight: float) -> Callable:
    """A loss of a supermask's model with `weight` times its penalty added."""

    def total(params, stats, batch, key):
        value, (stats_after, metrics) = loss(params, stats, batch, key)
        extra = weight * supermask.penalty(params, stats)
        return value + extra, (stats_after, {**metrics, "penalty": extra})

    return total


def _gated(
    model: Model,
    start: float,
    prunable: Prunable,
    gates: Callable[..., Any],
    penalty: Callable[[Any, Any], jax.Array] = _nothing,
) -> Supermask:
    """The model with weights times `gates(params, stats, train, key)`."""

    def init(key):
        weights, inner = model.init(key)
        ones = masks.ones(weights, prunable)
        values = jax.tree.map(lambda m: jnp.full(m.shape, start, jnp.float32), ones)
        return Gated(weights, values), Counted(inner, jnp.int32(0))

    def apply(params, stats, inputs, train, key):
        drawn, rest = jax.random.split(key) if train else (None, None)
        seen = _scaled(params.weights, gates(params, stats, train, drawn))
        outputs, inner = model.apply(seen, stats.inner, inputs, train, rest)
        return outputs, Counted(inner, stats.step + 1 if train else stats.step)

    def choose(params, stats, key):
        return jax.tree.map(lambda g: g > 0, gates(params, stats, False, None))

    def weights(params, stats, mask):
        found = masks.apply(params.weights, mask)
        return _scaled(found, gates(params, stats, False, None))

    return Supermask(Model(init, apply), choose, weights, penalty)


def _through(mask: jax.Array, score: jax.Array) -> jax.Array:
    """0 or 1 as the mask says, with the gradient of the score."""
    # In this order the value is exact: the difference is 0.
    return mask.astype(score.dtype) + (score - jax.lax.stop_gradient(score))


def _drawn(logits: Any, key: jax.Array) -> Mask:
    def draw(v, key):
        return jax.random.bernoulli(key, jax.nn.sigmoid(v))

    return _with_keys(draw, logits, key)


def _with_keys(function: Callable, tree: Any, key: jax.Array) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    found = [function(leaf, k) for leaf, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, found)


def _scaled(weights: Params, gates: Any, rescale: bool = False) -> Params:
    """Weights times their gates; with `rescale`, times size / sum of the gates too."""

    def leaf(w, gate):
        if gate is None:
            return w
        factor = gate.size / jnp.maximum(jnp.sum(gate), 1) if rescale else 1
        return w * gate * factor

    return jax.tree.map(leaf, weights, gates)


def _uniform_scores(ones: Mask, key: jax.Array) -> Any:
    def draw(m, key):
        bound = 1 / math.sqrt(math.prod(m.shape[:-1]))
        return jax.random.uniform(key, m.shape, minval=-bound, maxval=bound)

    return _with_keys(draw, ones, key)


def _stretched(s: jax.Array) -> jax.Array:
    return jnp.clip(s * (HIGH - LOW) + LOW, 0, 1)


def _mean(tree: Any) -> jax.Array:
    leaves = jax.tree.leaves(tree)
    return sum((jnp.sum(x) for x in leaves), jnp.float32(0)) / sum(
        x.size for x in leaves
    )


def _probability(value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"a probability in (0, 1) is needed; got {value}")
