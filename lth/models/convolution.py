"""Convolution of images, in the formulation that measures fastest where it runs.

On a GPU or TPU that is the library's. On a CPU the library's forward convolution runs
near the rate of a matrix product, but its gradients, once inside a compiled loop, run
on one thread or a hundred times slower. There, the gradient for the inputs is one more
forward convolution, with the kernel turned around, and the gradient for the kernel a
sum of matrix products over blocks of images whose patches fit in the cache.
`experiments/bench_convolution.py` measures the formulations against each other.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

LAYOUT = ("NHWC", "HWIO", "NHWC")
BLOCK = 1_200_000  # numbers in a block of patches: 4.8 MB, a part of the cache

Pads = tuple[tuple[int, int], ...]


def convolve(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any = None,
    rhs_dilation: Any = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    **settings: Any,
) -> jax.Array:
    """`jax.lax.conv_general_dilated` with the same arguments and the same values.

    Flax's `nn.Conv` takes it as `conv_general_dilated`. What is not a plain convolution
    of images (grouped, dilated, other dimensions) is left to the library.
    """
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    plain = (
        jax.default_backend() == "cpu"
        and lhs.ndim == 4
        and numbers == lax.conv_dimension_numbers(lhs.shape, rhs.shape, LAYOUT)
        and feature_group_count == 1
        and set(lhs_dilation or (1,)) == set(rhs_dilation or (1,)) == {1}
        and not any(settings.values())
    )
    if not plain:
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
            feature_group_count=feature_group_count,
            **settings,
        )
    if isinstance(padding, str):
        shape, window = lhs.shape[1:3], rhs.shape[:2]
        padding = lax.padtype_to_pads(shape, window, window_strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    strides = tuple(int(s) for s in window_strides)
    if rhs.shape[:2] == (1, 1) and not any(map(any, pads)):
        return lhs[:, :: strides[0], :: strides[1]] @ rhs[0, 0]
    return _convolve(lhs, rhs, strides, pads)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], pads: Pads):
    return _library(x, kernel, strides, pads)


def _library(x, kernel, strides, pads):
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=LAYOUT)


def _forward(x, kernel, strides, pads):
    return _library(x, kernel, strides, pads), (x, kernel)


def _backward(strides, pads, residuals, grad):
    x, kernel = residuals
    return (
        _inputs_gradient(x, kernel, grad, strides, pads),
        _kernel_gradient(x, kernel, grad, strides, pads),
    )


_convolve.defvjp(_forward, _backward)


def _inputs_gradient(x, kernel, grad, strides, pads):
    """A forward convolution of the output's gradient, spread out by the strides."""
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    around = []
    for axis, (stride, (low, _)) in enumerate(zip(strides, pads, strict=True), 1):
        window = kernel.shape[axis - 1]
        spread = (grad.shape[axis] - 1) * stride + 1
        before = window - 1 - low
        around.append(
            (before, x.shape[axis] - spread - before + window - 1, stride - 1)
        )
    zero = jnp.zeros((), grad.dtype)
    grad = lax.pad(grad, zero, [(0, 0, 0), *around, (0, 0, 0)])
    return _library(grad, turned, (1, 1), ((0, 0), (0, 0)))


def _kernel_gradient(x, kernel, grad, strides, pads):
    """The sum over blocks of images of (output gradient)ᵀ · patches."""
    height, width, channels, features = kernel.shape
    inner = height * width * channels
    rows, columns = grad.shape[1:3]
    images = _divisor(len(x), BLOCK // (rows * columns * inner))
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))

    def block(total, part):
        x, grad = part
        shifted = [
            x[
                :,
                i : i + (rows - 1) * strides[0] + 1 : strides[0],
                j : j + (columns - 1) * strides[1] + 1 : strides[1],
            ]
            for i in range(height)
            for j in range(width)
        ]
        patches = jnp.concatenate(shifted, -1).reshape(-1, inner)
        product = jnp.matmul(
            grad.reshape(-1, features).T, patches, preferred_element_type=total.dtype
        )
        return total + product, None

    def blocks(a):
        return a.reshape(-1, images, *a.shape[1:])

    zero = jnp.zeros((features, inner), jnp.promote_types(kernel.dtype, jnp.float32))
    total, _ = lax.scan(block, zero, (blocks(x), blocks(grad)))
    return total.T.reshape(kernel.shape).astype(kernel.dtype)


def _divisor(n: int, most: int) -> int:
    """The largest divisor of `n` that is at most `most`, or 1."""
    return max((d for d in range(1, min(n, most) + 1) if n % d == 0), default=1)
