"""The k highest of many numbers, exactly, without sorting.

Each number becomes an integer of the same order. A pass counts how many numbers reach
each of a few cuts through the range that holds the threshold; the part in which the
count passes k is the next range. A sample places the first cuts, interpolation the
others: some five passes over millions of weights, and about twenty at the worst, since
each leaves a third of a range or less. Leaves of any shape take part without being
joined, and nothing of their size is stored on the way. Leaves that are spread over
devices along their first axis stay there: the sample alone is brought together.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

# A pass counts for these cuts through a range at once. Seven cost a CPU no more than
# reading the numbers, fifteen lack registers. Five lie about an estimate, in units of
# twice its largest standard error; thirds bound the passes where it is of no use.
NEAR = np.array([-2.0, -0.5, 0.0, 0.5, 2.0])
THIRDS = np.array([1 / 3, 2 / 3])


class Range(NamedTuple):
    """Holds where the threshold lies, and how many numbers reach either end, int32."""

    low: jax.Array  # reached by k or more
    high: jax.Array  # above the threshold, reached by fewer than k
    at_low: jax.Array
    at_high: jax.Array


def round_count(density: Any, total: int) -> Any:
    """Return `max(1, round(density * total))`, halves to even.

    An int for a Python number. A Python or NumPy number is multiplied in float64. A JAX
    value is a float32 that may have been rounded from a decimal: 0.35 arrives as
    0.34999999. The product is formed exactly in integers, and one closer to a half than
    that rounding can tell is taken as the half, so that `jit` agrees with the decimal
    outside it. Beyond some 2 million kept weights the exact product decides.

    Raises ValueError for a known density outside (0, 1].
    """
    if not isinstance(density, jax.Array):
        if not 0 < density <= 1:
            raise ValueError(
                f"density is the fraction of weights kept, in (0, 1]; got {density}"
            )
        return max(1, round(float(density) * total))
    if not isinstance(density, Tracer) and not 0 < density <= 1:
        raise ValueError(
            f"density is the fraction of weights kept, in (0, 1]; got {density}"
        )
    if density.dtype == jnp.float64:
        return jnp.maximum(1, jnp.round(density * total).astype(jnp.int32))
    return jnp.maximum(1, _round_product(density.astype(jnp.float32), total))


def _round_product(fraction: jax.Array, total: int) -> jax.Array:
    """round(fraction * total) of a float32 in (0, 1], in fixed point of 31 bits."""
    if not 0 < total < 2**31:
        raise ValueError(f"a mask covers 1 to 2**31 - 1 weights; got {total}")
    scaled = jnp.ldexp(fraction, 31).astype(jnp.uint32)
    high, low = scaled >> 16, scaled & 0xFFFF
    n_high, n_low = np.uint32(total >> 16), np.uint32(total & 0xFFFF)
    bottom = low * n_low
    # No overflow: the fraction is at most 2**31, so high is at most 2**15.
    middle = high * n_low + low * n_high + (bottom >> 16)
    whole = ((high * n_high) << 1) + (middle >> 15)
    rest = ((middle & 0x7FFF) << 16) | (bottom & 0xFFFF)  # 31 bits
    half = jnp.uint32(2**30)
    unsure = jnp.where(whole < 2**21, (whole + 1) << 7, 0)  # 2**-24 of the product
    apart = jnp.where(rest > half, rest - half, half - rest)
    tie = apart <= unsure
    up = jnp.where(tie, whole & 1, (rest > half).astype(jnp.uint32))
    return (whole + up).astype(jnp.int32)


@jax.jit
def top(
    scores: list[jax.Array], alive: list[jax.Array], k: Any
) -> tuple[list[jax.Array], jax.Array, jax.Array]:
    """Choose the `k` highest `scores` among those `alive`, over all arrays of the list.

    Ties: the lower index stays, counted through the arrays in order. `k` may be traced;
    when fewer are alive they all stay, when a score is NaN none does.

    Returns boolean arrays in the shapes of `scores`, how many were alive, and whether
    an alive score is NaN.
    """
    *starts, total = itertools.accumulate([0, *(s.size for s in scores)])
    if not 0 < total < 2**31:
        raise ValueError(f"a mask covers 1 to 2**31 - 1 weights; got {total}")
    shapes = [s.shape for s in scores]
    # Flat before the loops: XLA may index other shapes by divisions in every pass.
    scores = [s.ravel() for s in scores]
    alive = [a.ravel() for a in alive]
    dtype = jnp.result_type(*scores)

    def keys(now):
        # The barrier has the keys made again in each pass. XLA would store them, and
        # filling fresh memory costs a CPU as much as all the passes.
        (s, a), _ = jax.lax.optimization_barrier(((scores, alive), now))
        return [_key(x.astype(dtype), y) for x, y in zip(s, a, strict=True)]

    def high(now, cuts):
        return _counts([[x >= t for t in cuts] for x in keys(now)])

    infinity = _key(jnp.array(jnp.inf, dtype), True)
    dead = jnp.iinfo(infinity.dtype).min
    cuts = jnp.stack([dead + 1, -infinity, infinity + 1, *_guess(keys(k), k)])
    counts = high(cuts, cuts)
    available, nan = counts[0], counts[0] - counts[1] + counts[2] > 0
    k = jnp.where(nan, available, jnp.minimum(k, available)).astype(jnp.int32)
    zero = jnp.zeros_like(available)
    found = Range(-infinity, infinity + 1, available, zero)
    found = _search(high, _narrow(found, cuts[3:], counts[3:], k), k)

    def early(now, cuts):  # of those at the threshold, the ones before index -cut
        ties = zip([x == found.low for x in keys(now)], starts, strict=True)
        return _counts([[x & _before(-t - s, x) for t in cuts] for x, s in ties])

    ties = Range(zero - total, zero, found.at_low - found.at_high, zero)
    bound = -_search(early, ties, k - found.at_high).low
    chosen = [
        ((x > found.low) | (x == found.low) & _before(bound - s, x)) & ~nan
        for x, s in zip(keys(bound), starts, strict=True)
    ]
    shaped = [c.reshape(s) for c, s in zip(chosen, shapes, strict=True)]
    return shaped, available, nan


def _key(x: jax.Array, alive: Any) -> jax.Array:
    """Integers in the order of the floats; -0.0 is 0.0 and the dead are lowest."""
    # In integers: float comparisons on some CPUs take the smallest numbers for 0.
    raw = jax.lax.bitcast_convert_type(x, f"int{8 * x.dtype.itemsize}")
    dead = jnp.iinfo(raw.dtype).min
    return jnp.where(alive, jnp.where(raw < 0, dead - raw, raw), dead)


def _before(bound: jax.Array, x: jax.Array) -> jax.Array:
    """Whether each index of the flat `x` is below the bound."""
    return jax.lax.iota(jnp.int32, x.size) < bound


def _guess(keys: list[jax.Array], k: Any) -> jax.Array:
    """Cuts about the k-th highest key, from the order of every so many-th key."""
    total = sum(x.size for x in keys)
    stride = max(1, math.isqrt(total) // 4)
    sample = jnp.sort(jnp.concatenate([x[::stride] for x in keys]))
    rank = sample.size * (1 - k / total) + math.sqrt(sample.size) * NEAR
    cuts = sample[jnp.clip(rank.astype(jnp.int32), 0, sample.size - 1)]
    return jnp.append(
        cuts, cuts[2] + 1
    )  # where many tie with the estimate, it is known


def _counts(reached: list[list[jax.Array]]) -> jax.Array:
    """How many are true, for each cut, over the arrays; `reached` is by array, by cut.

    One reduction of many operands reads the data once; its rows are for the threads.
    """
    sums = []
    for leaf in reached:
        rows = (math.gcd(leaf[0].size, 1024), -1)
        ones = [x.reshape(rows).astype(jnp.int32) for x in leaf]
        zeros = [np.int32(0)] * len(ones)
        sums.append(
            jax.lax.reduce(ones, zeros, lambda a, b: jax.tree.map(jnp.add, a, b), (1,))
        )
    rows = jnp.stack([jnp.concatenate(each) for each in zip(*sums, strict=True)])
    return jnp.sum(rows, axis=1, dtype=jnp.int32)


def _search(count: Callable, start: Range, k: jax.Array) -> Range:
    """Narrows a range until it holds one number, or exactly `k` reach its low end.

    `count(now, cuts)` says how many reach each cut, once the value `now` is known.
    """

    def unfinished(r: Range) -> jax.Array:
        return (r.at_low > k) & (r.high - r.low != 1)

    def step(r: Range) -> Range:
        bits = 8 * r.low.dtype.itemsize
        unsigned, floating = f"uint{bits}", f"float{max(bits, 32)}"
        within = (r.at_low - r.at_high).astype(floating)
        near = jnp.asarray(NEAR, floating) / jnp.sqrt(within)
        near = jnp.clip((r.at_low - k) / within + near, 0, 1)
        place = jnp.concatenate([jnp.asarray(THIRDS, floating), near])
        width = (r.high - r.low).astype(unsigned)  # can be wider than `low` can say
        offsets = (place * width.astype(floating)).astype(unsigned)
        cuts = r.low + offsets.astype(r.low.dtype)
        return _narrow(r, cuts, count(r.low, cuts), k)

    return jax.lax.while_loop(unfinished, step, start)


def _narrow(r: Range, cuts: jax.Array, counts: jax.Array, k: jax.Array) -> Range:
    """The part of the range between the cuts that the threshold is between."""
    enough = counts >= k
    return Range(
        jnp.max(jnp.where(enough, cuts, r.low)),
        jnp.min(jnp.where(enough, r.high, cuts)),
        jnp.min(jnp.where(enough, counts, r.at_low)),
        jnp.max(jnp.where(enough, r.at_high, counts)),
    )
