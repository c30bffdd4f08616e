"""Curvature against whole matrices, eigenvalues by NumPy, and sums written out."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from lth import masks
from lth.analysis import curvature, krylov
from lth.models import convolution
from lth.models.convolution import LAYOUT


class Case(NamedTuple):
    """Holds a tiny network, what it is shown, and two masks of it, [2, …] stacked."""

    params: dict
    batches: dict
    masks: dict  # the first keeps everything
    hessians: np.ndarray  # [2, size, size], of masked params, masked
    size: int


def loss(params, stats, batch, key):
    """Squares of a network with all that may matter: stats, a key, an unmasked bias."""
    hidden = jnp.tanh(batch["x"] @ params["one"] + params["bias"][None])
    noise = 0.1 * jax.random.normal(key, batch["y"].shape)
    out = (hidden @ params["two"]) * stats["scale"]
    value = jnp.mean((out - batch["y"] - noise) ** 2)
    return value, (stats, {"loss": value})


STATS = {"scale": jnp.float32(1.5)}
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def case() -> Case:
    rng = np.random.default_rng(0)
    draw = lambda *s: jnp.asarray(rng.normal(size=s), jnp.float32)  # noqa: E731
    params = {"one": draw(3, 4), "bias": draw(4), "two": draw(4, 2)}
    batches = {"x": draw(3, 5, 3), "y": draw(3, 5, 2)}
    some = {
        "one": rng.uniform(size=(3, 4)) < 0.5,
        "two": rng.uniform(size=(4, 2)) < 0.6,
    }
    every = {name: np.ones_like(m) for name, m in some.items()}
    both = {n: jnp.stack([every[n], some[n]]) for n in some} | {"bias": None}

    def whole(mask):
        kept, unravel = ravel_pytree(masks.apply(params, mask))
        keep = ravel_pytree(masks.apply(jax.tree.map(jnp.ones_like, params), mask))[0]

        def mean(flat):
            values = [
                loss(
                    unravel(flat),
                    STATS,
                    jax.tree.map(lambda x, i=i: x[i], batches),
                    jax.random.fold_in(KEY, i),
                )[0]
                for i in range(3)
            ]
            return sum(values) / 3

        return jax.hessian(mean)(kept) * keep[:, None] * keep[None, :]

    hessians = np.asarray(jax.jit(jax.vmap(whole))(both), np.float64)
    return Case(params, batches, both, hessians, len(hessians[0]))


@pytest.fixture(scope="module")
def found(case):
    """The top eigenvalues and the spectrum under both masks, in one mapped program."""

    @jax.jit
    @jax.vmap
    def looked(mask):
        product = curvature.make_hvp(loss, case.params, STATS, case.batches, mask, KEY)
        top = curvature.top_eigenvalues(
            product, case.params, 4, jax.random.key(1), mask=mask, steps=30
        )
        vector = krylov.direction(case.params, jax.random.key(2))  # not masked
        return top, vector, product(vector)

    return looked(case.masks)


def test_products_are_those_of_the_whole_hessian(case, found):
    _, vector, image = found
    for i, hessian in enumerate(case.hessians):
        v, hv = (
            ravel_pytree(jax.tree.map(lambda x, i=i: x[i], tree))[0]
            for tree in (vector, image)
        )
        np.testing.assert_allclose(hv, hessian @ v, rtol=1e-4, atol=1e-4)
    dead = ~np.asarray(case.masks["one"][1])
    assert dead.any()
    assert (np.asarray(image["one"][1])[dead] == 0).all()


def test_the_largest_eigenvalues_are_numpys(case, found):
    top = found[0]
    for i, hessian in enumerate(case.hessians):
        wanted = np.linalg.eigvalsh(hessian)[::-1][:4]
        np.testing.assert_allclose(top.values[i], wanted, rtol=1e-4)
        assert (top.bounds[i] <= 1e-4 * wanted[0]).all()
    assert abs(top.values[0, 0] - top.values[1, 0]) > 0.01 * top.values[0, 0]


def dense(matrix):
    matrix = jnp.asarray(matrix, jnp.float32)
    return lambda v: jnp.dot(matrix, v, precision="highest")


def symmetric(seed: int, n: int) -> np.ndarray:
    a = np.random.default_rng(seed).normal(size=(n, n))
    return (a + a.T) / 2


def test_lanczos_is_the_matrix_in_an_orthonormal_basis():
    matrix = symmetric(0, 12)
    start = jnp.arange(1.0, 13)
    found = jax.jit(partial(krylov.lanczos, dense(matrix), steps=8))(start)
    v = np.asarray(found.vectors, np.float64)
    np.testing.assert_allclose(v @ v.T, np.eye(8), atol=2e-6)
    np.testing.assert_allclose(v[0], start / np.linalg.norm(start), atol=1e-6)
    off = np.asarray(found.off[:-1])
    wanted = np.diag(found.diagonal) + np.diag(off, 1) + np.diag(off, -1)
    np.testing.assert_allclose(v @ matrix @ v.T, wanted, atol=2e-5)
    assert found.done == 8


def test_a_space_that_ends_is_told():
    diagonal = jnp.asarray([-3.0, -2.0, -2.0, -1.0, -1.0, -1.0])
    like = jnp.zeros(6)
    product = lambda v: diagonal * v  # noqa: E731
    found = krylov.lanczos(product, jnp.ones(6), 9)
    assert found.done == 3
    assert not np.any(found.vectors[3:])
    top = curvature.top_eigenvalues(product, like, 5, KEY, steps=9)
    np.testing.assert_allclose(top.values[:3], [-1, -2, -3], rtol=1e-5)
    assert np.isnan(top.values[3:]).all()
    np.testing.assert_array_equal(top.bounds[:3], 0)
    # Of the identity, and of nothing at all, there is one.
    for value in (1.0, 0.0):
        scaled = lambda v, c=value: c * v  # noqa: E731
        alone = curvature.spectrum(scaled, like, KEY, steps=3, draws=1)
        area = np.trapezoid(np.asarray(alone.density), np.asarray(alone.grid))
        assert area == pytest.approx(1, abs=1e-3)
        assert alone.moment(1) == pytest.approx(value, abs=1e-5)


def test_bounds_hold_before_all_is_found():
    """With few steps values are off, and an eigenvalue lies within the bounds."""
    matrix = symmetric(1, 60)
    exact = np.linalg.eigvalsh(matrix)
    top = curvature.top_eigenvalues(dense(matrix), jnp.zeros(60), 3, KEY, steps=12)
    off = np.min(np.abs(exact[:, None] - np.asarray(top.values)[None]), 0)
    assert (off <= np.asarray(top.bounds) + 1e-4).all()
    assert top.bounds[2] > 0.01


def test_at_a_million_the_top_is_known():
    rng = np.random.default_rng(0)
    values = rng.uniform(-1, 1, 10**6).astype(np.float32)
    values[rng.choice(10**6, 4, replace=False)] = 9, 7, 5, 3
    diagonal = jnp.asarray(values)

    @jax.jit
    def found(diagonal, keep):
        like, mask = {"w": diagonal}, {"w": keep}
        product = lambda v: {"w": diagonal * v["w"]}  # noqa: E731
        return curvature.top_eigenvalues(product, like, 4, KEY, mask=mask, steps=24)

    keep = np.ones(10**6, bool)
    top = found(diagonal, keep)
    np.testing.assert_allclose(top.values, [9, 7, 5, 3], rtol=1e-5)
    keep[np.argmax(values)] = False
    left = found(diagonal, keep)
    np.testing.assert_allclose(left.values[:3], [7, 5, 3], rtol=1e-5)
    assert left.values[3] == pytest.approx(1, abs=0.05)


def test_the_quadrature_has_the_moments_of_the_matrix():
    """Starts that are a basis weigh eigenvalues evenly: tr H / n and tr H² / n."""
    n = 12
    matrix = symmetric(2, n)

    @jax.jit
    @jax.vmap
    def each(start):
        found = krylov.lanczos(dense(matrix), start, 5)
        nodes, vectors = krylov.ritz(found, found.diagonal[0])
        return nodes, vectors[0] ** 2

    found = curvature.Spectrum(jnp.zeros(1), jnp.zeros(1), *each(jnp.eye(n)))
    power = np.eye(n)
    for order in range(10):  # to degree 2 * 5 - 1
        wanted = np.trace(power) / n
        assert found.moment(order) == pytest.approx(wanted, rel=2e-4, abs=2e-3)
        power = power @ matrix


def test_the_density_has_area_one_and_the_moments_of_the_matrix():
    n, draws = 40, 64
    matrix = symmetric(3, n) / np.sqrt(n) + np.eye(n)
    found = curvature.spectrum(
        dense(matrix), jnp.zeros(n), KEY, steps=20, draws=draws, width=0.01
    )
    grid, density = (np.asarray(x, np.float64) for x in (found.grid, found.density))
    assert (density >= 0).all()
    np.testing.assert_allclose(np.sum(found.weights, 1), 1, rtol=1e-5)
    area = np.trapezoid(density, grid)
    mean = np.trapezoid(density * grid, grid)
    square = np.trapezoid(density * grid**2, grid)
    assert area == pytest.approx(1, abs=1e-4)
    assert mean == pytest.approx(float(found.moment(1)), rel=1e-4)
    sigma = 0.01 * float(np.max(found.nodes) - np.min(found.nodes))
    assert square == pytest.approx(float(found.moment(2)) + sigma**2, rel=1e-4)
    # Over starts: v'Av of a random unit vector varies by 2 |A - tr A / n|² / (n² + 2n).
    for power, value in ((1, mean), (2, square - sigma**2)):
        a = np.linalg.matrix_power(matrix, power)
        spread = a - np.eye(n) * np.trace(a) / n
        deviation = np.sqrt(2 * np.sum(spread**2) / (n * n + 2 * n) / draws)
        assert abs(value - np.trace(a) / n) < 3 * deviation
        assert deviation < 0.05 * np.trace(a) / n
    # Most of the mass is where the eigenvalues are: within their range.
    exact = np.linalg.eigvalsh(matrix)
    inside = (grid > exact[0] - 3 * sigma) & (grid < exact[-1] + 3 * sigma)
    assert np.trapezoid(density[inside], grid[inside]) > 0.999


def by_hand(case, mask):
    """The gradient of each batch, one after the other: [n, size]."""
    params = masks.apply(case.params, mask)
    rows = []
    for i in range(3):
        batch = jax.tree.map(lambda x, i=i: x[i], case.batches)
        key = jax.random.fold_in(KEY, i)
        slope = jax.grad(lambda p, b=batch, k=key: loss(p, STATS, b, k)[0])(params)
        rows.append(ravel_pytree(masks.apply(slope, mask))[0])
    return np.asarray(rows, np.float64)


def test_noise_is_that_of_two_batch_sizes(case):
    """Written out as McCandlish et al. have it, from a small and a large batch."""
    measure = jax.jit(
        jax.vmap(
            lambda mask: curvature.gradient(
                loss, case.params, STATS, case.batches, mask, KEY
            )
        )
    )
    found = measure(case.masks)
    small, big = 5, 15
    for i in range(2):
        rows = by_hand(case, jax.tree.map(lambda m, i=i: m[i], case.masks))
        of_small = np.mean(np.sum(rows**2, 1))
        of_big = np.sum(rows.mean(0) ** 2)
        signal = (big * of_big - small * of_small) / (big - small)
        trace = (of_small - of_big) / (1 / small - 1 / big)
        np.testing.assert_allclose(found.norm[i], np.sqrt(of_big), rtol=1e-5)
        np.testing.assert_allclose(found.signal[i], signal, rtol=1e-4)
        np.testing.assert_allclose(found.noise[i], trace / small, rtol=1e-4)
        np.testing.assert_allclose(found.noise[i], rows.var(0, ddof=1).sum(), rtol=1e-4)
        wanted = trace / signal if signal > 0 else np.inf
        np.testing.assert_allclose(found.scale[i], wanted, rtol=1e-3)
    assert (found.signal > 0).any()


def linear(params, stats, batch, key):
    """A loss whose gradient is the mean of the batch."""
    value = jnp.mean(batch @ params["w"])
    return value, (stats, {})


def test_noise_by_hand_and_at_a_million():
    mask, params = {"w": jnp.asarray([True, True, False])}, {"w": jnp.ones(3)}
    batches = jnp.asarray([[[3.0, 0, 7]], [[5.0, 2, -7]]])  # means (4, 1), pruned 0
    found = curvature.gradient(linear, params, {}, batches, mask, KEY)
    # S = 2 (1 + 1) / 1 = 4, |ḡ|² = 17, |G|² = 17 - 2 = 15
    wanted = [np.sqrt(17), 15, 4, 4 / 15]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    opposed = jnp.asarray([[[1.0, 0, 0]], [[-1.0, 0, 0]]])
    drowned = curvature.gradient(linear, params, {}, opposed, mask, KEY)
    np.testing.assert_allclose(drowned, [0, -1, 2, np.inf])
    # Of a million weights, noise a thousandth of the gradient: sums of squares less
    # squares of sums would have lost it.
    rng = np.random.default_rng(0)
    rows = 1 + 1e-3 * rng.normal(size=(4, 1, 10**6))
    batches = jnp.asarray(rows, jnp.float32)
    size = {"w": jnp.ones(10**6)}
    found = curvature.gradient(linear, size, {}, batches, masks.unmasked(size), KEY)
    exact = np.asarray(batches, np.float64)[:, 0].var(0, ddof=1).sum()
    np.testing.assert_allclose(found.noise, exact, rtol=1e-4)
    assert found.scale == pytest.approx(1e-6, rel=0.01)


def test_convolutions_have_products_too():
    """A forward derivative of a gradient, through the convolution of our own."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(1, 2, 3, 3, 1)), jnp.float32)
    params = {"kernel": jnp.asarray(rng.normal(size=(2, 2, 1, 2)), jnp.float32)}
    mask = masks.ones(params)

    def rough(params, stats, batch, key):
        out = convolution.convolve(
            batch, params["kernel"], (1, 1), "VALID", dimension_numbers=LAYOUT
        )
        return jnp.mean(jnp.tanh(out) ** 2), (stats, {})

    def flat(kernel):
        return rough({"kernel": kernel.reshape(2, 2, 1, 2)}, {}, images[0], None)[0]

    @jax.jit
    def both(params):
        product = curvature.make_hvp(rough, params, {}, images, mask, KEY)
        found = curvature.top_eigenvalues(product, params, 2, KEY, mask=mask, steps=12)
        return found.values, jax.hessian(flat)(params["kernel"].ravel())

    values, hessian = both(params)
    wanted = np.linalg.eigvalsh(np.asarray(hessian, np.float64))[::-1][:2]
    np.testing.assert_allclose(values, wanted, rtol=1e-4)


def test_what_does_not_fit_is_refused():
    product, like = dense(np.eye(3)), jnp.zeros(3)
    with pytest.raises(ValueError, match="1 to the steps, 5; got 6"):
        curvature.top_eigenvalues(product, like, 6, KEY, steps=5)
    with pytest.raises(ValueError, match="at least 1; got 0"):
        krylov.lanczos(product, jnp.ones(3), 0)
    with pytest.raises(ValueError, match=r"width of 0.0001 and 512 points"):
        curvature.spectrum(product, like, KEY, width=0.0001)
    one = jnp.ones((1, 2, 3))
    with pytest.raises(ValueError, match="two batches or more; got 1"):
        curvature.gradient(linear, {"w": like}, {}, one, {"w": None}, KEY)
