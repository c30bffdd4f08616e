"""Batch normalisation on a CPU: Flax's values, averages and derivatives."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lth.models import layers, normalisation

SHAPES = [(8, 4, 4, 16), (7, 3, 5, 4), (5, 200)]
OPTIONS = {"use_running_average": False, "momentum": 0.9, "epsilon": 1e-5}


def both(shape, **options):
    """Flax's module and ours, their variables, and inputs."""
    options |= OPTIONS | {"scale_init": nn.initializers.uniform(1.0)}
    theirs, ours = nn.BatchNorm(**options), normalisation.BatchNorm(**options)
    x = 3 * jax.random.normal(jax.random.key(1), shape) + 2
    started = [module.init(jax.random.key(0), x) for module in (theirs, ours)]
    assert jax.tree.structure(started[0]) == jax.tree.structure(started[1])
    assert all(jax.tree.leaves(jax.tree.map(jnp.array_equal, *started)))
    return theirs, ours, started[0], x


def derivatives(module, variables, x):
    """Outputs and averages, gradients of a function of them, and of a norm of those."""
    weights = jax.random.normal(jax.random.key(2), x.shape)

    def value(params, x):
        y, moved = module.apply(
            variables | {"params": params}, x, mutable="batch_stats"
        )
        told = sum(jnp.sum(jnp.cos(a)) for a in jax.tree.leaves(moved))
        return jnp.sum(jnp.sin(y) * weights) + told, (y, moved)

    def gradients(params, x):
        return jax.grad(value, (0, 1), has_aux=True)(params, x)

    def norm(params, x):
        leaves = jax.tree.leaves(gradients(params, x)[0])
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in leaves)

    at = variables["params"], x
    along = jax.tree.map(lambda a: jnp.full_like(a, 0.3), at)
    forward = jax.jvp(lambda *a: gradients(*a)[0], at, along)[1]
    return gradients(*at), jax.grad(norm, (0, 1))(*at), forward


@pytest.mark.parametrize("shape", SHAPES)
def test_values_averages_and_derivatives_are_those_of_flax(shape):
    theirs, ours, variables, x = both(shape)
    found = (
        jax.jit(derivatives, static_argnums=0)(m, variables, x) for m in (theirs, ours)
    )
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=3e-5 * np.abs(a).max())


def test_half_precision_is_rounded_once_at_the_end():
    theirs, ours, variables, x = both((8, 4, 4, 16), dtype=jnp.bfloat16)
    a, b = (m.apply(variables, x, mutable="batch_stats") for m in (theirs, ours))
    assert a[0].dtype == b[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(*(np.float32(y[0]) for y in (a, b)), rtol=2**-7)
    for one, other in zip(*(jax.tree.leaves(y[1]) for y in (a, b)), strict=True):
        assert other.dtype == jnp.float32
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_a_million_numbers_far_from_zero_are_added_up_as_in_double_precision():
    x = np.random.default_rng(0).normal(5, 1, (64, 16, 16, 64)).astype(np.float32)
    ones, zeros = jnp.ones(64), jnp.zeros(64)
    values, mean, variance = jax.jit(normalisation.normalised)(x, ones, zeros, 1e-5)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(variance, exact.var((0, 1, 2)), rtol=1e-5)
    expected = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(values, expected, atol=1e-4)


def test_several_at_once_are_each_alone():
    _, ours, variables, x = both((4, 6, 3, 5, 8))

    def alone(x):
        def value(x):
            y, moved = ours.apply(variables, x, mutable="batch_stats")
            return jnp.sum(jnp.sin(y)), moved

        return jax.grad(value, has_aux=True)(x)

    for a, b in zip(
        jax.tree.leaves(jax.vmap(alone)(x)),
        jax.tree.leaves(jax.lax.map(alone, x)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_channel_that_never_changes_is_its_bias():
    x = jnp.full((6, 2, 2, 3), 7.0)
    module = layers.batch_norm(train=True, norm_scale="ones", dtype=None, name="n")
    variables = module.init(jax.random.key(0), x)
    slope = jax.grad(
        lambda x: module.apply(variables, x, mutable="batch_stats")[0].sum()
    )
    y, _ = module.apply(variables, x, mutable="batch_stats")
    assert not np.asarray(y).any()
    assert np.isfinite(slope(x)).all()


def test_by_its_averages_it_is_flax_own():
    theirs, ours, variables, x = both((8, 4, 4, 16))
    _, moved = ours.apply(variables, x, mutable="batch_stats")
    a, b = (
        m.clone(use_running_average=True).apply(variables | moved, x)
        for m in (theirs, ours)
    )
    np.testing.assert_array_equal(a, b)
