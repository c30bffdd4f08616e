"""The k highest of many numbers, exactly, without sorting.

A threshold is found bit by bit: each number becomes an unsigned integer of the same
order, and counting how many reach a candidate decides one bit. That is a fixed number
of passes over the data, whatever it holds, and works on leaves of any shape without
joining them.
"""

import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def round_count(density: Any, total: int) -> Any:
    """`max(1, round(density * total))`, halves to even; an int for a Python number.

    A Python or NumPy number is multiplied in float64. A JAX value is a float32 that may
    have been rounded from a decimal: 0.35 arrives as 0.34999999. The product is formed
    exactly in integers, and one closer to a half than that rounding can tell is taken
    as the half, so that `jit` agrees with the decimal outside it. Beyond some 2 million
    kept weights the exact product decides.

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
    """The `k` highest `scores` among those `alive`, over all the arrays of the list.

    Ties: the lower index stays, counted through the arrays in order. `k` may be traced;
    when fewer are alive they all stay, when a score is NaN none does.

    Returns boolean arrays in the shapes of `scores`, how many were alive, and whether
    an alive score is NaN.
    """
    dtype = jnp.result_type(jnp.float32, *scores)  # 16-bit floats widen without loss
    keys = [
        jnp.where(a, _ordered(s.astype(dtype)), 0)
        for s, a in zip(scores, alive, strict=True)
    ]
    nan = reduce(
        operator.or_,
        [(jnp.isnan(s) & a).any() for s, a in zip(scores, alive, strict=True)],
    )
    available = _total([a.astype(jnp.int32) for a in alive])
    k = jnp.where(nan, 0, jnp.minimum(k, available))
    bits = jnp.iinfo(keys[0].dtype).bits
    zero = jnp.zeros((), keys[0].dtype)
    threshold = _largest(lambda t: _total([x >= t for x in keys]) >= k, bits, zero)
    above = _total([x > threshold for x in keys])
    tied = [x == threshold for x in keys]
    index = _indices(keys)
    wanted = k - above
    # Ties below this index stay: the largest bound that admits no more than are wanted.
    # Where all ties are wanted, the usual case, no pass is spent on it.
    first = jnp.where(_total(tied) == wanted, jnp.uint32(2**32 - 1), jnp.uint32(0))
    bound = _largest(
        lambda b: (
            _total([t & (i < b) for t, i in zip(tied, index, strict=True)]) <= wanted
        ),
        jnp.where(first == 0, 32, 0),
        first,
    )
    chosen = [
        (x > threshold) | (t & (i < bound))
        for x, t, i in zip(keys, tied, index, strict=True)
    ]
    return chosen, available, nan


def _ordered(x: jax.Array) -> jax.Array:
    """Unsigned integers above 0 in the order of the floats; -0.0 equals 0.0."""
    bits = 64 if x.dtype == jnp.float64 else 32
    unsigned = jnp.uint64 if bits == 64 else jnp.uint32
    raw = jax.lax.bitcast_convert_type(x, unsigned)
    sign = jnp.asarray(1, unsigned) << (bits - 1)
    # In integers: float comparisons on some CPUs take the smallest numbers for 0.
    raw = jnp.where(raw == sign, jnp.zeros_like(raw), raw)
    return jnp.where(raw & sign != 0, ~raw, raw | sign)


def _largest(holds: Callable, bits: Any, start: jax.Array) -> jax.Array:
    """The largest unsigned number for which `holds`: true at 0 and false from some on.

    Decides the lowest `bits` bits from the top one down, on top of those of `start`.
    """
    one = jnp.ones((), start.dtype)

    def step(i, value):
        candidate = value | (one << (bits - 1 - i).astype(start.dtype))
        return jnp.where(holds(candidate), candidate, value)

    return jax.lax.fori_loop(jnp.int32(0), jnp.asarray(bits, jnp.int32), step, start)


def _indices(arrays: list[jax.Array]) -> list[jax.Array]:
    """The flat index of each entry, counted through the arrays in order, uint32."""
    start, result = 0, []
    for a in arrays:
        flat = jax.lax.iota(jnp.uint32, a.size) + np.uint32(start)
        result.append(flat.reshape(a.shape))
        start += a.size
    return result


def _total(arrays: list[jax.Array]) -> jax.Array:
    return reduce(operator.add, [jnp.sum(a, dtype=jnp.int32) for a in arrays])
