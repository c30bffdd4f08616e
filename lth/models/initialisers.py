"""How weights are drawn, by name.

Each is `init(key, shape, dtype)` for a kernel whose last axis counts outputs and whose
other axes count inputs (a dense kernel [in, out], a convolution's [h, w, in, out]);
fan_in is the product of the others, as PyTorch counts it. Biases start at 0
everywhere, where PyTorch's own layers draw them from U(±1/sqrt(fan_in)).

All draw a flat array of the same bits and shape it. XLA indexes other shapes by
divisions in every round of the generator: of a kernel [100, 10] of 8 replicates that
takes a CPU 3 s to compile, flat 0.3 s.
"""

import math
from typing import Any, Literal

import jax

Initialiser = Any  # (key, shape, dtype) -> array


def signed_constant(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Draw plus or minus sqrt(2 / fan_in), each sign with probability 1/2.

    Ramanujan et al. (2020, arXiv:1911.13299), section 3.3; "binary" in OpenLTH, which
    takes the deviation of the sample instead.
    """
    deviation = math.sqrt(2 / math.prod(shape[:-1]))
    signs = jax.random.rademacher(key, (math.prod(shape),), dtype)
    return deviation * signs.reshape(shape)


def scaled(
    scale: float,
    mode: Literal["fan_in", "fan_avg"],
    distribution: Literal["normal", "truncated_normal", "uniform"],
) -> Initialiser:
    """Make JAX's `variance_scaling`, drawn flat."""

    def init(key, shape, dtype=None):
        fan_in = math.prod(shape[:-1])
        fan_out = math.prod(shape) / shape[-2]
        fan = {"fan_in": fan_in, "fan_avg": (fan_in + fan_out) / 2}[mode]
        # Of one input: its variance is the scale alone.
        one = jax.nn.initializers.variance_scaling(scale / fan, "fan_in", distribution)
        return one(key, (1, math.prod(shape)), dtype).reshape(shape)

    return init


INITIALISERS: dict[str, Initialiser] = {
    # Glorot & Bengio (2010): variance 2 / (fan_in + fan_out), truncated at two sigma.
    "glorot_normal": scaled(1.0, "fan_avg", "truncated_normal"),
    # He et al. (2015): variance 2 / fan_in, the gain of ReLU. Untruncated, as PyTorch
    # and OpenLTH draw it, and within ±sqrt(6 / fan_in).
    "kaiming_normal": scaled(2.0, "fan_in", "normal"),
    "kaiming_uniform": scaled(2.0, "fan_in", "uniform"),
    # Saxe et al. (2014): the kernel as a matrix [fan_in, out] has orthonormal columns,
    # or rows where there are fewer of them. Gain 1, the default of PyTorch.
    "orthogonal": jax.nn.initializers.orthogonal(),
    "signed_constant": signed_constant,
}

NORM_SCALES: dict[str, Initialiser] = {
    # The scale of a normalisation: 1, or U(0, 1) as OpenLTH draws it.
    "ones": jax.nn.initializers.ones,
    "uniform": jax.nn.initializers.uniform(1.0),
}
