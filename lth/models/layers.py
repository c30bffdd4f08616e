"""What the families build from: convolution, normalisation, pooling."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lth.models import convolution, initialisers, normalisation


def channels(count: int, width: float) -> int:
    """Scale `count` channels to a network `width` times as wide, at least one."""
    return max(1, round(width * count))


def conv(
    features: int, size: int = 3, stride: int = 1, *, initialiser: str, **options: Any
) -> nn.Conv:
    """Make a convolution of [batch, height, width, channels], `size` by `size`.

    Zeros pad each side by `size // 2` as in PyTorch; "SAME" of JAX pads an even image
    on one side only when the stride is 2. There is no bias.

    Args:
      features: channels of the output.
      size: of the window, in pixels.
      stride: in pixels, along both axes.
      initialiser: of the kernel, a name in `INITIALISERS`.
      options: fields of `flax.linen.Conv` (`name`, `dtype`, …), which can change
        padding and bias.

    Returns:
      The Linen module.
    """
    options = {"padding": size // 2, "use_bias": False, **options}
    return nn.Conv(
        features,
        (size, size),
        stride,
        kernel_init=initialisers.INITIALISERS[initialiser],
        conv_general_dilated=convolution.convolve,
        **options,
    )


def dense(features: int, *, initialiser: str, **options: Any) -> nn.Dense:
    """Make a dense layer with bias; `options` are fields of `flax.linen.Dense`."""
    kernel_init = initialisers.INITIALISERS[initialiser]
    return nn.Dense(features, kernel_init=kernel_init, **options)


def makers(module: Any, train: bool) -> tuple[Any, Any, Any]:
    """Bind what a network's fields fix of `conv`, `batch_norm` and `dense`."""
    options = {"initialiser": module.initialiser, "dtype": module.dtype}
    norm = functools.partial(
        batch_norm, train=train, norm_scale=module.norm_scale, dtype=module.dtype
    )
    return functools.partial(conv, **options), norm, functools.partial(dense, **options)


def batch_norm(*, train: bool, norm_scale: str, dtype: Any, name: str) -> nn.BatchNorm:
    """Make a batch normalisation with PyTorch's constants (Ioffe & Szegedy 2015).

    Averages move by 0.1 of the way (momentum 0.1 there, 0.9 here); epsilon is 1e-5. The
    average of the variance takes the biased variance of the batch, where PyTorch takes
    n / (n - 1) of it.

    Args:
      train: whether it goes by the batch, and moves the averages, or by the averages.
      norm_scale: how scales start, a name in `NORM_SCALES`.
      dtype: of the outputs. Statistics and parameters are float32 whatever it is.
      name: of the module.

    Returns:
      The Linen module.
    """
    return normalisation.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        scale_init=initialisers.NORM_SCALES[norm_scale],
        dtype=dtype,
        name=name,
    )


def layer_norm(*, norm_scale: str, dtype: Any, name: str) -> nn.LayerNorm:
    """Make a layer normalisation (Ba et al. 2016), in float32 inside.

    It is over the last axis.
    """
    scale_init = initialisers.NORM_SCALES[norm_scale]
    return nn.LayerNorm(epsilon=1e-5, scale_init=scale_init, dtype=dtype, name=name)


def max_pool(x: jax.Array, size: int = 2, padding: int = 0) -> jax.Array:
    """Return the largest value of each `size` by `size` window, at stride 2.

    What does not fill a window on the far side is left out, as in PyTorch. The maximum
    is taken over shifted slices: the library's pooling has a scatter for a gradient,
    which took 7 to 17 times as long on a CPU. Equal values of a window share the
    gradient, where PyTorch gives it to the first. The zeros that ReLU leaves pass none
    on, and equal values computed from equal patches give the weights the same gradient
    whoever receives it.
    """
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    x = jnp.pad(x, sides, constant_values=-jnp.inf)
    rows, columns = ((n - size) // 2 + 1 for n in x.shape[1:3])
    if rows < 1 or columns < 1:
        raise ValueError(f"no {size} x {size} window fits a map of shape {x.shape}")
    shifted = [
        x[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2]
        for i in range(size)
        for j in range(size)
    ]
    return functools.reduce(jnp.maximum, shifted)
