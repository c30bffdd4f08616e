"""How weights are drawn, by name.

Each is `init(key, shape, dtype)` for a kernel whose last axis counts outputs and whose
other axes count inputs (a dense kernel [in, out], a convolution's [h, w, in, out]);
fan_in is the product of the others, as PyTorch counts it. Biases start at 0
everywhere, where PyTorch's own layers draw them from U(±1/sqrt(fan_in)).
"""

import math
from typing import Any

import jax

Initialiser = Any  # (key, shape, dtype) -> array


def signed_constant(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Draw plus or minus sqrt(2 / fan_in), each sign with probability 1/2.

    Ramanujan et al. (2020, arXiv:1911.13299), section 3.3; "binary" in OpenLTH, which
    takes the deviation of the sample instead.
    """
    deviation = math.sqrt(2 / math.prod(shape[:-1]))
    return deviation * jax.random.rademacher(key, shape, dtype)


INITIALISERS: dict[str, Initialiser] = {
    # Glorot & Bengio (2010): variance 2 / (fan_in + fan_out), truncated at two sigma.
    "glorot_normal": jax.nn.initializers.glorot_normal(),
    # He et al. (2015): variance 2 / fan_in, the gain of ReLU. Untruncated, as PyTorch
    # and OpenLTH draw it, and within ±sqrt(6 / fan_in).
    "kaiming_normal": jax.nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
    "kaiming_uniform": jax.nn.initializers.variance_scaling(2.0, "fan_in", "uniform"),
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
