"""The convolution of CPUs against the library's: values, gradients, and what it leaves.

Numbers are small integers, so sums are exact and results equal to the bit.
"""

import itertools
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lth.models import convolution

KINDS = {
    "same": "SAME",
    "valid": "VALID",
    "explicit": ((1, 1), (2, 2)),
    "asymmetric": ((0, 2), (3, 1)),
    "wide": ((5, 5), (0, 4)),  # more than a window reaches: outputs that see nothing
    "cropped": ((-1, 0), (1, -2)),
}
SIZES = (1, 2, 3)
LAYOUT = convolution.LAYOUT


def integers(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(-4, 5, shape), jnp.float32)


def library(x, kernel, strides, padding):
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=LAYOUT
    )


def ours(x, kernel, strides, padding):
    return convolution.convolve(x, kernel, strides, padding, dimension_numbers=LAYOUT)


def values(convolve, x, kernel, weight, strides, padding):
    """Output and both gradients of the outputs' sum weighted by `weight`."""
    y, back = jax.vjp(lambda x, k: convolve(x, k, strides, padding), x, kernel)
    return y, *back(weight[: y.shape[0], : y.shape[1], : y.shape[2]])


def agree(x, kernel, strides, padding, mapped=False):
    weight = integers(2, *x.shape[:-3], 20, 20, kernel.shape[-1])

    def both(*arrays):
        return [values(f, *arrays, strides, padding) for f in (library, ours)]

    results = jax.jit(jax.vmap(both) if mapped else both)(x, kernel, weight)
    for expected, found in zip(*results, strict=True):
        assert found.shape == expected.shape
        assert (found == expected).all()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_values_and_gradients_are_the_librarys(stride, name):
    # Each padding and each stride meets each size once.
    size, padding = SIZES[(list(KINDS).index(name) + stride) % 3], KINDS[name]
    x, kernel = integers(0, 4, 7, 8, 2), integers(1, size, size, 2, 3)
    agree(x, kernel, (stride, stride), padding)


@pytest.mark.parametrize(
    ("size", "strides", "padding"),
    [
        ((5, 5), (1, 1), "SAME"),
        ((7, 7), (2, 2), ((3, 3), (3, 3))),
        ((4, 4), (2, 2), ((0, 2), (3, 1))),
        ((3, 1), (2, 1), "SAME"),
        ((1, 4), (1, 3), ((0, 0), (2, 1))),
    ],
)
def test_windows_may_be_large_or_oblong(size, strides, padding):
    agree(integers(0, 2, 9, 11, 3), integers(1, *size, 3, 4), strides, padding)


@pytest.mark.parametrize("padding", ["SAME", ((0, 2), (3, 1))], ids=str)
def test_replicates_by_vmap_are_the_same(padding):
    x, kernel = integers(0, 3, 2, 6, 5, 2), integers(1, 3, 3, 3, 2, 4)
    agree(x, kernel, (2, 2), padding, mapped=True)


def forward(convolve, x, kernel, dx, dk):
    """Derivatives along (dx, dk), of the outputs and of a loss's gradients."""

    def outputs(x, k):
        return convolve(x, k, (2, 1), "SAME")

    def gradients(x, k):
        return jax.grad(lambda *a: jnp.sum(outputs(*a) ** 2), (0, 1))(x, k)

    pairs = (x, kernel), (dx, dk)
    slope = jax.linearize(outputs, x, kernel)[1](dx, dk)
    second = jax.jvp(gradients, *pairs)[1]
    back = jax.grad(lambda *a: jnp.sum(jax.jvp(outputs, a, pairs[1])[1] ** 2), (0, 1))
    return jax.jvp(outputs, *pairs)[1], slope, second, back(x, kernel)


def test_derivatives_forward_and_twice_are_the_librarys():
    arrays = [integers(i, 2, 5, 4, 2) for i in (0, 2)]
    kernels = [integers(i, 3, 3, 2, 3) for i in (1, 3)]
    args = arrays[0], kernels[0], arrays[1], kernels[1]
    expected, found = (jax.jit(partial(forward, f))(*args) for f in (library, ours))
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        assert (a == b).all()


def test_a_hessian_is_the_librarys():
    x, kernel = integers(0, 2, 4, 3, 1), integers(1, 2, 2, 1, 2)

    def curvature(convolve):
        def loss(k):
            return jnp.sum(convolve(x, k, (1, 1), "SAME") ** 3)

        return jax.jit(jax.hessian(loss))(kernel)

    assert (curvature(library) == curvature(ours)).all()


@pytest.mark.parametrize("over", [(0, None), (None, 0), (0, 0), (1, 3)])
def test_gradients_through_maps_are_the_librarys(over):
    """Mapped before it is differentiated, over images, the kernel or both."""
    x, kernel = integers(0, 3, 3, 5, 4, 2), integers(1, 3, 3, 2, 3, 4)
    if over[0] is None:
        x = x[0]
    if over[1] is None:
        kernel = kernel[..., 0, :]
    elif over[1] == 0:
        kernel = jnp.moveaxis(kernel, 3, 0)

    def gradients(convolve):
        def loss(x, k):
            one = lambda x, k: convolve(x, k, (2, 1), "SAME")  # noqa: E731
            return jnp.sum(jax.vmap(jax.vmap(one, (0, None)), over)(x, k) ** 2)

        return jax.jit(jax.grad(loss, (0, 1)))(x, kernel)

    x = x[..., None, :, :, :]  # a second map, over images alone
    for a, b in zip(gradients(library), gradients(ours), strict=True):
        assert (a == b).all()


@pytest.mark.parametrize("block", [1, 700, 10**6])
def test_blocks_of_images_add_up(monkeypatch, block):
    monkeypatch.setattr(convolution, "BLOCK", block)
    agree(integers(0, 6, 5, 5, 2), integers(1, 3, 3, 2, 2), (1, 1), "SAME")


def test_half_precision_sums_in_single():
    single = integers(0, 4, 6, 6, 2), integers(1, 3, 3, 2, 2), integers(2, 4, 6, 6, 2)
    half = [a.astype(jnp.bfloat16) for a in single]
    call = jax.jit(lambda *arrays: values(ours, *arrays, (1, 1), "SAME"))
    for found, exact in zip(call(*half), call(*single), strict=True):
        assert found.dtype == jnp.bfloat16
        assert (found == exact.astype(jnp.bfloat16)).all()


def test_a_plain_convolution_takes_our_gradients_on_a_cpu():
    text = str(jax.make_jaxpr(lambda x, k: ours(x, k, (1, 1), "SAME"))(*small()))
    assert ("= convolve[" in text) == (jax.default_backend() == "cpu")


@pytest.mark.parametrize(
    "options",
    [
        {"feature_group_count": 2},
        {"lhs_dilation": (2, 2)},
        {"rhs_dilation": (1, 2)},
        {"precision": lax.Precision.HIGHEST},
        {"preferred_element_type": jnp.float32},
        {"dimension_numbers": ("NHWC", "HWIO", "NCHW")},
    ],
    ids=lambda options: next(iter(options)),
)
def test_other_convolutions_are_left_to_the_library(options):
    x, kernel = small()
    if "feature_group_count" in options:
        kernel = kernel[:, :, :1]
    options, pads = {"dimension_numbers": LAYOUT, **options}, ((1, 1), (1, 1))
    calls = [
        jax.make_jaxpr(lambda x, k, f=f: f(x, k, (1, 1), pads, **options))(x, kernel)
        for f in (convolution.convolve, lax.conv_general_dilated)
    ]
    assert str(calls[0]) == str(calls[1])


def test_one_dimension_is_left_to_the_library():
    x, kernel = integers(0, 2, 6, 2), integers(1, 3, 2, 3)
    numbers = ("NWC", "WIO", "NWC")
    options = {"dimension_numbers": numbers}
    y = convolution.convolve(x, kernel, (1,), "SAME", **options)
    assert (y == lax.conv_general_dilated(x, kernel, (1,), "SAME", **options)).all()


def test_flax_convolves_with_it():
    x, kernel = small()
    module = nn.Conv(
        2,
        (3, 3),
        strides=2,
        padding=1,
        use_bias=False,
        conv_general_dilated=convolution.convolve,
    )
    expected = library(x, kernel, (2, 2), ((1, 1), (1, 1)))
    assert (module.apply({"params": {"kernel": kernel}}, x) == expected).all()


def small() -> tuple[jax.Array, jax.Array]:
    return integers(0, 2, 5, 6, 2), integers(1, 3, 3, 2, 2)


def test_what_outputs_see_is_what_they_read():
    for shift, n, out, stride in itertools.product(
        range(-9, 10), range(1, 6), range(1, 5), range(1, 4)
    ):
        reads = {i: stride * i + shift for i in range(out)}
        inside = {i: at for i, at in reads.items() if 0 <= at < n}
        first, where = convolution._seen(shift, n, out, stride)
        assert list(range(n))[where] == list(inside.values())
        assert not inside or first == min(inside)
        assert 0 <= first <= out
