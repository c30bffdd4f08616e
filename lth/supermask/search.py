"""Masks found by trying: random search, hill climbing, a particle filter.

No gradient and no criterion: what a network's `fitness(mask)`, such as its accuracy on
validation data, says of whole masks. All masks of a search keep equally many weights,
as the density says or as the mask it begins with does, and each search spends a stated
number of evaluations, so that they compare with one another and with what claims to do
better. A mask whose fitness is NaN is below all others.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lth import masks
from lth.masks import Mask, topk

Fitness = Callable[[Mask], jax.Array]


class Found(NamedTuple):
    """Holds the best mask of a search, and how it got there."""

    mask: Mask
    fitness: jax.Array  # []
    curve: jax.Array  # [rounds]: the best so far after each round


def swapped(mask: Mask, key: jax.Array, count: int) -> Mask:
    """Exchange `count` kept weights of a mask for as many pruned ones.

    With fewer if there are fewer of either. Raises ValueError for a count below 1.
    """
    if count < 1:
        raise ValueError(f"1 or more weights are exchanged; got {count}")
    alive, structure = jax.tree.flatten(mask)
    kept = masks.count(mask)
    most = jnp.minimum(count, jnp.minimum(kept, masks.size(mask) - kept))
    free = [~m for m in alive]
    from_kept, from_free = (
        topk.top(jax.tree.leaves(masks.uniform(mask, k)), places, most)[0]
        for k, places in zip(jax.random.split(key), (alive, free), strict=True)
    )
    pairs = zip(alive, from_kept, from_free, strict=True)
    return structure.unflatten([(m & ~gone) | new for m, gone, new in pairs])


def random_search(
    fitness: Fitness, mask: Mask, density: float, key: jax.Array, evaluations: int
) -> Found:
    """Return the fittest of so many random masks of one density.

    Args:
      fitness: `fitness(mask)`, []; higher is better.
      mask: which weights may be kept.
      density: of the masks, in (0, 1], of all prunable weights.
      key: of the draws.
      evaluations: of the fitness, at least 1.

    Returns:
      The best mask, its fitness, and the best so far after each evaluation.

    Raises:
      ValueError: for `evaluations` below 1, and as `masks.keep_top` does.
    """
    _check(evaluations)
    fitness = _known(fitness)

    def draw(key):
        return masks.keep_top(masks.uniform(mask, key), mask, density)

    def one(carry, key):
        best, highest = carry
        new = draw(key)
        value = fitness(new)
        carry = _better(best, highest, new, value)
        return carry, carry[1]

    start = draw(key)
    keys = jax.random.split(jax.random.fold_in(key, 1), evaluations - 1)
    value = fitness(start)
    (best, highest), curve = jax.lax.scan(one, (start, value), keys)
    return Found(best, highest, jnp.concatenate([value[None], curve]))


def hill_climb(
    fitness: Fitness, mask: Mask, key: jax.Array, evaluations: int, swaps: int = 1
) -> Found:
    """Exchange weights of a mask, some at a time, and keep what is no worse.

    Args:
      fitness, key, evaluations: as in `random_search`.
      mask: where to begin.
      swaps: weights exchanged at a time, at least 1.

    Returns:
      As `random_search`.

    Raises:
      ValueError: for `evaluations` or `swaps` below 1.
    """
    _check(evaluations)
    fitness = _known(fitness)

    def one(carry, key):
        best, highest = carry
        new = swapped(best, key, swaps)
        carry = _better(best, highest, new, fitness(new))
        return carry, carry[1]

    value = fitness(mask)
    keys = jax.random.split(key, evaluations - 1)
    (best, highest), curve = jax.lax.scan(one, (mask, value), keys)
    return Found(best, highest, jnp.concatenate([value[None], curve]))


def particle_filter(
    fitness: Fitness,
    start: Mask,
    key: jax.Array,
    *,
    rounds: int = 10,
    swaps: int = 1,
    sharpness: float = 30.0,
) -> Found:
    """Weigh many masks by fitness, resample, perturb, again and again.

    Anwar et al. (2017, arXiv:1512.08571). A particle is resampled in proportion to its
    weight, so that good ones multiply. Spends rounds * particles evaluations.

    Args:
      fitness: `fitness(mask)`, []; higher is better.
      start: the particles, masks with a leading axis.
      key: of the draws.
      rounds: of weighing and resampling.
      swaps: weights exchanged in each particle after a round, at least 1.
      sharpness: a particle's weight is exp(sharpness * fitness).

    Returns:
      The best mask, its fitness, and the best so far after each round.

    Raises:
      ValueError: for `swaps` below 1.
    """
    count = jax.tree.leaves(start)[0].shape[0]
    fitness = _known(fitness)

    def one(carry, key):
        particles, best, highest = carry
        values = jax.lax.map(fitness, particles)
        top = jnp.argmax(values)
        best, highest = _better(best, highest, _pick(particles, top), values[top])
        chosen, moved = jax.random.split(key)
        picks = jax.random.categorical(chosen, sharpness * values, shape=(count,))
        particles = _pick(particles, picks)
        keys = jax.random.split(moved, count)
        particles = jax.vmap(lambda m, k: swapped(m, k, swaps))(particles, keys)
        return (particles, best, highest), highest

    first = _pick(start, 0)
    carry = (start, first, jnp.float32(-jnp.inf))
    (_, best, highest), curve = jax.lax.scan(one, carry, jax.random.split(key, rounds))
    return Found(best, highest, curve)


def _known(fitness: Fitness) -> Fitness:
    """The fitness, below all others where it is NaN, which is no reason to keep a mask.

    `argmax` and `maximum` would take it for the highest, and nothing is above it.
    """

    def known(mask: Mask) -> jax.Array:
        value = fitness(mask)
        return jnp.where(jnp.isnan(value), -jnp.inf, value)

    return known


def _check(evaluations: int) -> None:
    if evaluations < 1:
        raise ValueError(f"a search takes 1 or more evaluations; got {evaluations}")


def _better(best: Mask, highest: jax.Array, new: Mask, value: jax.Array):
    won = value >= highest  # equals may wander: a plateau is crossed so
    mask = jax.tree.map(lambda a, b: jnp.where(won, b, a), best, new)
    return mask, jnp.maximum(highest, value)


def _pick(tree: Mask, index) -> Mask:
    return jax.tree.map(lambda leaf: leaf[index], tree)
