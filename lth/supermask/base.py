"""What all learned masks share."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32

from lth import masks
from lth.masks import Mask, Params
from lth.models import Model

Prunable = Callable[[str, jax.Array], bool]


def no_penalty(params: Any, stats: Any) -> jax.Array:
    """Charge nothing."""
    return jnp.float32(0)


class Supermask(NamedTuple):
    """Holds a model that learns its mask, and how to take the mask out."""

    model: Model
    choose: Callable[[Any, Any, jax.Array], Mask]  # (params, stats, key) -> mask
    weights: Callable[[Any, Any, Mask], Params]  # (params, stats, mask) -> params
    # params, stats -> what the loss is to be charged with, as a share of all weights
    penalty: Callable[[Any, Any], jax.Array] = no_penalty


def sampled(
    supermask: Supermask, measure: Callable, samples: int = 10
) -> Callable[..., dict[str, jax.Array]]:
    """Average `measure` over masks drawn from a supermask, an example at a time.

    `measure(params, stats, batch)` is of the model inside, as `train.classification` of
    its `apply` gives it; so is the result, for `train.make_evaluate`.
    """

    def measured(params, stats, batch):
        def one(key):
            mask = supermask.choose(params, stats, key)
            return measure(supermask.weights(params, stats, mask), stats.inner, batch)

        found = jax.lax.map(one, jax.random.split(jax.random.key(0), samples))
        return jax.tree.map(lambda x: jnp.mean(x, 0), found)

    return measured


def penalised(loss: Callable, supermask: Supermask, weight: float) -> Callable:
    """Add `weight` times its penalty to a loss of a supermask's model.

    It is NaN once no weight is left, which ends the training as a loss does that is not
    finite: nothing would bring weights back, and nothing would be learned.
    """

    def total(params, stats, batch, key):
        value, (stats_after, metrics) = loss(params, stats, batch, key)
        extra = weight * supermask.penalty(params, stats)
        left = masks.count(supermask.choose(params, stats, key))
        value = jnp.where(left > 0, value + extra, jnp.nan)
        return value, (stats_after, {**metrics, "penalty": extra})

    return total


def straight_through(mask: jax.Array, score: jax.Array) -> jax.Array:
    """Return 0 or 1 as the mask says, with the gradient of the score."""
    # In this order the value is exact: the difference is 0.
    return mask.astype(score.dtype) + (score - jax.lax.stop_gradient(score))


def uniforms(tree: Any, key: jax.Array) -> Any:
    """Draw a number in (0, 1) for each entry of a tree: the middle of a 2**-16 part.

    Drawing is most of what a random mask costs. So it is one draw for all leaves, and
    both words of each Threefry block are used, of which `jax.random` makes one, and
    both halves of each word; a probability is met to 2**-17.
    """
    leaves, structure = jax.tree.flatten(tree)
    ends = list(itertools.accumulate(leaf.size for leaf in leaves))
    seed = jax.random.bits(key, (2,), jnp.uint32)  # of any implementation of keys
    words = threefry_2x32(seed, jnp.arange((ends[-1] + 1) // 2, dtype=jnp.uint32))
    halves = jnp.concatenate([words & 0xFFFF, words >> 16])
    numbers = (halves.astype(jnp.float32) + 0.5) / 2**16
    parts = jnp.split(numbers[: ends[-1]], ends[:-1])
    shaped = [p.reshape(leaf.shape) for p, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(structure, shaped)


def scaled(weights: Params, gates: Any, rescale: bool = False) -> Params:
    """Multiply weights by gates; with `rescale`, by size / sum of the gates too."""

    def leaf(w, gate):
        if gate is None:
            return w
        factor = gate.size / jnp.maximum(jnp.sum(gate), 1) if rescale else 1
        return w * gate * factor

    return jax.tree.map(leaf, weights, gates)


def check_probability(name: str, value: float) -> None:
    """Refuse what does not lie between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name} is in (0, 1); got {value}")
