"""Initialisers and layers against closed forms."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lth import models
from lth.models import layers, vit
from tests.conftest import normal

KEY = jax.random.key(0)
# fan_in, fan_out as PyTorch counts them.
KERNELS = {(784, 30): (784, 30), (3, 3, 32, 64): (9 * 32, 9 * 64)}
VARIANCE = {
    "glorot_normal": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "kaiming_normal": lambda fan_in, _: 2 / fan_in,
    "kaiming_uniform": lambda fan_in, _: 2 / fan_in,
    "signed_constant": lambda fan_in, _: 2 / fan_in,
    # Orthonormal columns: each has the squared length 1.
    "orthogonal": lambda fan_in, _: 1 / fan_in,
}


@pytest.mark.parametrize("shape", KERNELS)
@pytest.mark.parametrize("name", models.INITIALISERS)
def test_initialisers_have_the_variance_of_their_papers(name, shape):
    variance = VARIANCE[name](*KERNELS[shape])
    kernel = np.asarray(models.INITIALISERS[name](KEY, shape, jnp.float32))
    assert kernel.dtype == np.float32
    assert kernel.var() == pytest.approx(variance, rel=0.03)
    assert abs(kernel.mean()) < 5 * (variance / kernel.size) ** 0.5
    largest = np.abs(kernel).max() / variance**0.5
    if name == "glorot_normal":  # truncated at two sigma, then rescaled
        assert 2.2 < largest < 2.3
    elif name == "kaiming_uniform":
        assert 1.72 < largest <= 3**0.5
    elif name == "kaiming_normal":
        assert largest > 3.5


def test_the_signed_constant_has_two_values():
    kernel = models.INITIALISERS["signed_constant"](KEY, (3, 3, 32, 64), jnp.float32)
    values, counts = np.unique(kernel, return_counts=True)
    np.testing.assert_allclose(values, [-1 / 12, 1 / 12], rtol=1e-6)
    assert abs(counts[0] - counts[1]) < 5 * kernel.size**0.5


def test_norm_scales_are_ones_or_uniform():
    ones, uniform = (
        models.NORM_SCALES[name](KEY, (10_000,), jnp.float32)
        for name in ("ones", "uniform")
    )
    assert (ones == 1).all()
    assert 0 <= uniform.min() < uniform.max() < 1
    assert float(uniform.mean()) == pytest.approx(1 / 2, rel=0.03)
    assert float(uniform.var()) == pytest.approx(1 / 12, rel=0.03)


@pytest.mark.parametrize("shape", [(3, 3, 4, 8), (3, 3, 4, 50), (20, 7)])
def test_orthogonal_kernels_are_orthonormal(shape):
    kernel = models.INITIALISERS["orthogonal"](KEY, shape, jnp.float32)
    matrix = kernel.reshape(-1, shape[-1])
    small = matrix.T @ matrix if matrix.shape[0] > shape[-1] else matrix @ matrix.T
    np.testing.assert_allclose(small, np.eye(len(small)), atol=1e-5)


def test_initialisers_reach_the_kernels_and_biases_are_zero():
    module = models.MLP(widths=(30,), initialiser="signed_constant")
    params, _ = models.from_linen(module, (784,)).init(KEY)
    kernel = jnp.abs(params["hidden_0"]["kernel"])
    np.testing.assert_allclose(kernel, (2 / 784) ** 0.5, rtol=1e-6)
    assert not any(layer["bias"].any() for layer in params.values())


def test_strided_convolutions_pad_both_sides():
    module = layers.conv(1, 3, 2, initialiser="kaiming_normal")
    ones = jnp.ones((1, 4, 4, 1))
    out = module.apply({"params": {"kernel": jnp.ones((3, 3, 1, 1))}}, ones)
    assert out[0, :, :, 0].tolist() == [[4, 6], [6, 9]]  # "SAME" gives [[9, 6], [6, 4]]


def test_batch_norm_moves_its_averages_a_tenth_of_the_way():
    module = layers.batch_norm(train=True, norm_scale="ones", dtype=None, name="norm")
    x = np.array([[1.0, 0.0], [3.0, 4.0]], np.float32)
    variables = module.init(KEY, x)
    y, new = module.apply(variables, x, mutable=["batch_stats"])
    stats = new["batch_stats"]
    np.testing.assert_allclose(stats["mean"], [0.2, 0.2], rtol=1e-6)
    # The biased variances are 1 and 4; PyTorch would take 2 and 8.
    np.testing.assert_allclose(stats["var"], [0.9 + 0.1, 0.9 + 0.4], rtol=1e-6)
    expected = [-((1 + 1e-5) ** -0.5), -((1 + 1e-5 / 4) ** -0.5)]
    np.testing.assert_allclose(y[0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "size", "padding"),
    [(4, 6, 2, 0), (5, 7, 2, 0), (4, 5, 3, 1)],
)
def test_pooling_equals_the_library(height, width, size, padding):
    def library(x):
        return nn.max_pool(x, (size, size), (2, 2), ((padding, padding),) * 2)

    def ours(x):
        return layers.max_pool(x, size, padding)

    @functools.partial(jax.jit, static_argnums=2)
    def values(x, weight, pool):
        y, back = jax.vjp(pool, x)
        return y, back(weight[:, : y.shape[1], : y.shape[2]])[0]

    x, weight = normal(KEY, (2, 2, height, width, 3))
    y, gradient = values(x, weight, ours)
    expected, slope = values(x, weight, library)
    assert (y == expected).all()
    np.testing.assert_allclose(gradient, slope, rtol=1e-6)


def test_equal_values_share_the_gradient_and_dead_ones_pass_none():
    slope = jax.jit(jax.grad(lambda x: layers.max_pool(nn.relu(x)).sum()))
    alive = slope(jnp.full((1, 2, 2, 1), 3.0))
    assert (alive > 0).all()
    assert alive.sum() == 1
    assert not slope(jnp.full((1, 2, 2, 1), -3.0)).any()
    mixed = jnp.array([0.0, -1.0, -2.0, 2.0]).reshape(1, 2, 2, 1)
    assert slope(mixed).ravel().tolist() == [0, 0, 0, 1]


def test_ties_of_equal_patches_leave_the_gradient_of_weights():
    image = jnp.full((1, 8, 8, 1), 0.5).at[:, :3].set(0.0)
    kernel = normal(KEY, (2, 3, 3, 1, 4))
    kernel = [kernel[0], normal(KEY, (3, 3, 4, 4))]

    def loss(kernel, pool):
        x = image
        for weights in kernel:
            x = pool(
                nn.relu(
                    nn.Conv(4, (3, 3), use_bias=False).apply(
                        {"params": {"kernel": weights}}, x
                    )
                )
            )
        return jnp.sum(x**2)

    slope = jax.jit(jax.grad(loss), static_argnums=1)
    ours = slope(kernel, layers.max_pool)
    library = slope(kernel, lambda x: nn.max_pool(x, (2, 2), (2, 2)))
    for a, b in zip(ours, library, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_patches_are_those_of_a_strided_convolution():
    images = normal(KEY, (2, 4, 6, 3))
    kernel = normal(jax.random.key(1), (2, 2, 3, 5))
    conv = nn.Conv(5, (2, 2), 2, "VALID", use_bias=False)
    expected = conv.apply({"params": {"kernel": kernel}}, images).reshape(2, 6, 5)
    rows = vit.patches(images, 2) @ kernel.reshape(12, 5)
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5)
