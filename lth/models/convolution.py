"""Convolution of images, in the formulation that measures fastest where it runs.

On a GPU or TPU that is the library's. On a CPU the library's forward convolution runs
near the rate of a matrix product, but its gradients, once inside a compiled loop, run
on one thread or a hundred times slower. There, the gradient for the inputs is one more
forward convolution, with the kernel turned around, and the gradient for the kernel a
sum of matrix products over blocks of images whose patches fit in the cache.
`experiments/bench/convolution.py` measures the formulations against each other.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

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
    """Convolve as `jax.lax.conv_general_dilated` does, to the same values.

    Flax's `nn.Conv` takes it as `conv_general_dilated`. What is not a plain convolution
    of images (grouped, dilated, other dimensions) is left to the library.

    Args:
      lhs: the images, of a plain convolution [batch, h, w, in].
      rhs: the kernel, of a plain convolution [h, w, in, out].
      window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers: as there.
      feature_group_count: as there, 1 unless grouped.
      settings: what else the library takes.

    Returns:
      The outputs, of a plain convolution [batch, h, w, out].
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


def _convolve(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], pads: Pads):
    return convolve_p.bind(x, kernel, strides=strides, pads=pads, mapped=())


def _library(x, kernel, strides, pads):
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=LAYOUT)


def _values(x, kernel, *, strides, pads, mapped):
    """The convolution under maps, each over axis 0 of the images, the kernel or both.

    `mapped` says over which, outermost first: (images, kernel) as two booleans.
    """
    function = partial(_library, strides=strides, pads=pads)
    for over in reversed(mapped):
        function = jax.vmap(function, [0 if m else None for m in over])
    return function(x, kernel)


def _shape(x, kernel, **options):
    shape = jax.eval_shape(partial(_values, **options), x, kernel)
    return ShapedArray(shape.shape, shape.dtype)


def _batched(arrays, axes, *, mapped, **options):
    moved = [
        a if at is None else jnp.moveaxis(a, at, 0)
        for a, at in zip(arrays, axes, strict=True)
    ]
    over = tuple(at is not None for at in axes)
    return convolve_p.bind(*moved, mapped=(over, *mapped), **options), 0


def _to_inputs(grad, x, kernel, *, strides, pads, mapped):
    """The gradient for the images: transposed, as the convolution is linear in them."""
    shape = x.aval.shape[sum(images for images, _ in mapped) :]

    def function(grad, kernel):
        return _inputs_gradient(shape, kernel, grad, strides, pads)

    return _transposed(function, [(k, i) for i, k in mapped])(grad, kernel)


def _to_kernel(grad, x, kernel, *, strides, pads, mapped):
    shape = kernel.aval.shape[sum(over for _, over in mapped) :]

    def function(grad, x):
        return _kernel_gradient(x, shape, kernel.aval.dtype, grad, strides, pads)

    return _transposed(function, mapped)(grad, x)


def _transposed(function: Callable, mapped: Sequence[tuple[bool, bool]]) -> Callable:
    """A function (gradient, other) under maps: (over other, over what it is for)."""
    for other, own in reversed(mapped):
        each = jax.vmap(function, (0, 0 if other else None))
        function = each if own else _summed(each)
    return function


def _summed(function: Callable) -> Callable:
    return lambda *args: jnp.sum(function(*args), 0)


# A primitive of its own, not a function with a custom gradient: JAX then derives every
# derivative, forward ones as well, from the convolution being linear in either operand.
convolve_p = Primitive("convolve")
convolve_p.def_impl(jax.jit(_values, static_argnames=("strides", "pads", "mapped")))
convolve_p.def_abstract_eval(_shape)
mlir.register_lowering(convolve_p, mlir.lower_fun(_values, multiple_results=False))
ad.defbilinear(convolve_p, _to_inputs, _to_kernel)
batching.primitive_batchers[convolve_p] = _batched


def _inputs_gradient(shape, kernel, grad, strides, pads):
    """A forward convolution of the output's gradient, spread out by the strides."""
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    around = []
    for axis, (stride, (low, _)) in enumerate(zip(strides, pads, strict=True), 1):
        window = kernel.shape[axis - 1]
        spread = (grad.shape[axis] - 1) * stride + 1
        before = window - 1 - low
        around.append((before, shape[axis] - spread - before + window - 1, stride - 1))
    zero = jnp.zeros((), grad.dtype)
    grad = lax.pad(grad, zero, [(0, 0, 0), *around, (0, 0, 0)])
    # Not the library's: second derivatives go through here once more.
    return _convolve(grad, turned, (1, 1), ((0, 0), (0, 0)))


def _kernel_gradient(x, shape, dtype, grad, strides, pads):
    """The sum over blocks of images of (output gradient)ᵀ · patches.

    The patches of a block are written into one buffer. It is zero where they reach over
    the edge of an image, which is in the same places for all and never written.
    """
    *window, channels, features = shape
    size = grad.shape[1:3]
    inner = window[0] * window[1] * channels
    images = _divisor(len(x), BLOCK // (size[0] * size[1] * inner))
    axes = zip(window, x.shape[1:3], size, strides, pads, strict=True)
    seen = [
        [_seen(offset - low, n, out, stride) for offset in range(reach)]
        for reach, n, out, stride, (low, _) in axes
    ]

    def block(carry, part):
        total, patches = carry
        x, grad = part
        for at, ((row, rows), (column, columns)) in enumerate(itertools.product(*seen)):
            place = (0, row, column, at * channels)
            patches = lax.dynamic_update_slice(patches, x[:, rows, columns], place)
        product = jnp.matmul(
            grad.reshape(-1, features).T,
            patches.reshape(-1, inner),
            preferred_element_type=total.dtype,
        )
        return (total + product, patches), None

    def blocks(a):
        return a.reshape(-1, images, *a.shape[1:])

    total = jnp.zeros((features, inner), jnp.promote_types(dtype, jnp.float32))
    patches = jnp.zeros((images, *size, inner), x.dtype)
    (total, _), _ = lax.scan(block, (total, patches), (blocks(x), blocks(grad)))
    return total.T.reshape(shape).astype(dtype)


def _seen(shift: int, n: int, out: int, stride: int) -> tuple[int, slice]:
    """What `out` outputs see of `n` inputs where they read `stride * index + shift`.

    That is along one axis: the first output that reads inside the image, and the inputs
    that it and those after it read there.
    """
    first = min(max(0, -(shift // stride)), out)
    count = max(0, min(out, (n - 1 - shift) // stride + 1) - first)
    start = first * stride + shift
    return first, slice(start, start + max(0, (count - 1) * stride + 1), stride)


def _divisor(n: int, most: int) -> int:
    """The largest divisor of `n` that is at most `most`, or 1."""
    return max((d for d in range(1, min(n, most) + 1) if n % d == 0), default=1)
