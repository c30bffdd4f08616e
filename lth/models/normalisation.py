"""Batch normalisation, in the formulation that measures fastest where it runs.

On a GPU or TPU that is Flax's. On a CPU the compiler adds up all but the last axis in
scalar steps, a sum at a time, and stores what it adds up. Here a pass adds up 32 rows
of 128 numbers at a time, of channels side by side, both sums of a pass at once; and the
derivative is written out, so that it has no more sums than it needs. A forward and a
backward pass take a quarter to a seventh of the time
(`experiments/bench/normalisation.py`), and sums of parts are the more exact.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

COLUMNS = 128  # numbers side by side: a few registers of a CPU
ROWS = 32  # added up at once; 16 and 64 took twice as long


class BatchNorm(nn.BatchNorm):
    """Is Flax's batch normalisation (Ioffe & Szegedy 2015), over the last axis.

    It has the same fields, variables and values, but for the rounding of sums.
    """

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Normalise by the batch, and move the averages; or by the averages."""
        fixed = nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        usual = self.use_scale and self.use_bias and self.axis in (-1, x.ndim - 1)
        usual = usual and mask is None and self.axis_name is None
        if fixed or not usual or jax.default_backend() != "cpu":
            return super().__call__(x, use_running_average, mask=mask)
        shape, kind = (x.shape[-1],), jnp.float32
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, kind)
        variance = self.variable("batch_stats", "var", jnp.ones, shape, kind)
        scale = self.param("scale", self.scale_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, shape, self.param_dtype)
        values, *found = normalised(x.astype(kind), scale, bias, self.epsilon)
        if not self.is_initializing():
            for average, of_batch in zip((mean, variance), found, strict=True):
                kept = self.momentum * average.value
                average.value = kept + (1 - self.momentum) * of_batch
        return values.astype(self.dtype or jnp.result_type(x, scale, bias))


@jax.custom_jvp
def normalised(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalise each channel to mean 0 and variance 1, then scale and shift it.

    Args:
      x: [..., channels], float32.
      scale: [channels].
      bias: [channels].
      epsilon: Added to the variance.

    Returns:
      Values in the shape of `x`, and the mean and the biased variance [channels].
    """
    count = x.size // x.shape[-1]
    first, second = (total / count for total in _moments(x))
    variance = jnp.maximum(0, second - first * first)
    factor = lax.rsqrt(variance + epsilon)
    values = (x - _row(first, x)) * _row(factor * scale, x) + _row(bias, x)
    return values, first, variance


@normalised.defjvp
def _tangent(primals: Any, tangents: Any) -> Any:
    x, scale, _, epsilon = primals
    dx, dscale, dbias, _ = tangents
    values, mean, variance = normalised(*primals)
    count = x.size // x.shape[-1]
    factor = lax.rsqrt(variance + epsilon)
    units = (x - _row(mean, x)) * _row(factor, x)
    dmean, along = _sums(dx) / count, _sums(units * dx) / count
    steep = factor * scale
    dvalues = (
        _row(steep, x) * dx
        + units * _spread(dscale - steep * along, x)
        + _spread(dbias - steep * dmean, x)
    )
    return (values, mean, variance), (dvalues, dmean, 2 * along / factor)


def _row(row: jax.Array, x: jax.Array) -> jax.Array:
    return row.reshape((1,) * (x.ndim - 1) + row.shape)


def _parts(x: jax.Array) -> tuple[int, int, int]:
    """The shape in which `x` is added up, along the middle first."""
    channels = x.shape[-1]
    each = math.gcd(x.size // channels, max(1, COLUMNS // channels))
    rows = math.gcd(x.size // (each * channels), ROWS)
    return x.size // (rows * each * channels), rows, each * channels


def _moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sums of each channel and of its squares, in one pass."""
    parts = x.reshape(_parts(x))
    zeros = (np.zeros((), x.dtype),) * 2
    sums = lax.reduce((parts, parts * parts), zeros, _both, (1,))
    return _folded(sums[0], x), _folded(sums[1], x)


def _both(a: tuple[Any, Any], b: tuple[Any, Any]) -> tuple[Any, Any]:
    return a[0] + b[0], a[1] + b[1]


def _folded(sums: jax.Array, x: jax.Array) -> jax.Array:
    return sums.reshape(-1, x.shape[-1]).sum(0)


def _sums(x: jax.Array) -> jax.Array:
    return _folded(x.reshape(_parts(x)).sum(1), x)


def _spread(row: jax.Array, x: jax.Array) -> jax.Array:
    """A number for each channel in the shape of `x`; transposed, sums in parts."""
    many, _, columns = parts = _parts(x)
    wide = jnp.broadcast_to(jnp.tile(row, columns // row.size), (many, columns))
    # Else both sums of the transpose would be one again.
    wide = lax.optimization_barrier(wide)
    return jnp.broadcast_to(wide[:, None], parts).reshape(x.shape)
