"""What the loss looks like about a network: its slope, the noise of it, its curvature.

All of it is of one network, can be jitted and mapped over replicates, and is of the
weights that a mask keeps and those that no mask covers: the others are held at 0, and
gradients and Hessian are those of the space that is left. `loss` is as of
`train.make_train`, and `batches` a tree of arrays [n, b, ...]: n batches of b examples,
such as `objective.batches` draws. Batch number i goes with the i-th key folded from
`key`, so that the same function is asked again and again.

A network of ReLUs has kinks, which these Hessians do not see.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lth import masks
from lth.analysis.krylov import MatVec, direction, lanczos, ritz
from lth.masks import Mask, Params
from lth.train import Loss, Stats

STEPS = 40  # of Lanczos: some outer eigenvalues come out long before the inner ones


class Gradient(NamedTuple):
    """Holds a mean gradient's length, and how far those of batches lie about it."""

    norm: jax.Array  # |ḡ|, of the mean over all batches
    signal: jax.Array  # |G|², unbiased: at times below 0, where noise drowns it
    noise: jax.Array  # tr cov of one batch's gradient, unbiased
    scale: jax.Array  # tr Σ / |G|², in examples; inf where `signal` is not above 0


def gradient(
    loss: Loss, params: Params, stats: Stats, batches: Any, mask: Mask, key: jax.Array
) -> Gradient:
    """Measure the mean gradient and its noise from batch to batch.

    With g of each of n batches of b examples, ḡ their mean and G the true gradient,

        S = Σ |g - ḡ|² / (n - 1)       the trace of the covariance of one batch's g
        |G|² = |ḡ|² - S / n            without the part of |ḡ|² that is noise
        tr Σ / |G|² = b S / |G|²       the simple noise scale, Σ being of one example

    These are the numbers that McCandlish et al. (2018, arXiv:1812.06162, appendix A.1)
    get from two batch sizes, taken as b and n b. Of batches that share no example, as
    those of one epoch, G is that of the distribution rather than of the training set.

    Args:
      loss: The mean over a batch, in training.
      params, stats: Of one network.
      batches: At least two.
      mask: Pruned weights have no gradient.
      key: Of dropout and the like.

    Returns:
      The numbers; a quotient of means over replicates is steadier than a mean of
      `scale`.

    Raises:
      ValueError: for fewer than two batches.
    """
    count, size = jax.tree.leaves(batches)[0].shape[:2]
    if count < 2:
        raise ValueError(f"noise shows between two batches or more; got {count}")
    slope = _slope(loss, stats, mask)
    params = masks.apply(params, mask)
    like = jax.tree.map(_wide, params)

    def add(sums, one):
        mean, spread = sums
        number, batch = one
        own = slope(params, batch, jax.random.fold_in(key, number))
        apart = jax.tree.map(lambda g, m: g - m, own, mean)
        # Welford's: sums of squares less squares of sums would lose the small noise.
        share = 1 / (number + 1).astype(jnp.float32)
        mean = jax.tree.map(lambda m, d: m + d * share.astype(m.dtype), mean, apart)
        return (mean, spread + _squares(apart) * (1 - share)), None

    zeros = jax.tree.map(jnp.zeros_like, like)
    start = zeros, jnp.zeros_like(_squares(zeros))
    (mean, spread), _ = jax.lax.scan(add, start, (jnp.arange(count), batches))
    square, noise = _squares(mean), spread / (count - 1)
    signal = square - noise / count
    scale = jnp.where(signal > 0, size * noise / jnp.where(signal > 0, signal, 1), 0)
    scale = jnp.where(signal > 0, scale, jnp.inf)
    return Gradient(jnp.sqrt(square), signal, noise, scale)


def make_hvp(
    loss: Loss, params: Params, stats: Stats, batches: Any, mask: Mask, key: jax.Array
) -> MatVec:
    """Make `product(vector)`: the Hessian of the mean loss over batches, times a tree.

    It is that of the weights left: pruned ones are held at 0, and 0 in the product,
    whatever the vector has there. Forward over reverse, so every part of the loss has
    to have a forward derivative, which JAX refuses of a `jax.custom_vjp`.

    Args:
      loss: The mean over a batch, in training.
      params, stats: Of one network.
      batches: At least one.
      mask: Of the weights to hold at 0.
      key: Of dropout and the like.

    Returns:
      The product, from a tree like `params` to one in float32 or wider.
    """
    slope = _slope(loss, stats, mask)
    params = masks.apply(params, mask)

    def product(vector: Params) -> Params:
        along = jax.tree.map(lambda v, w: v.astype(w.dtype), vector, params)
        along = masks.apply(along, mask)

        def add(total, one):
            number, batch = one
            own = jax.random.fold_in(key, number)
            _, bent = jax.jvp(lambda p: slope(p, batch, own), (params,), (along,))
            return jax.tree.map(jnp.add, total, bent), None

        count = jax.tree.leaves(batches)[0].shape[0]
        zeros = jax.tree.map(lambda w: jnp.zeros_like(_wide(w)), params)
        total, _ = jax.lax.scan(add, zeros, (jnp.arange(count), batches))
        return jax.tree.map(lambda x: x / count, total)

    return product


def _slope(loss: Loss, stats: Stats, mask: Mask) -> Callable[..., Params]:
    """The gradient at masked params, masked and in float32 or wider."""

    def value(params, batch, key):
        return loss(params, stats, batch, key)[0]

    def slope(params, batch, key):
        found = masks.apply(jax.grad(value)(params, batch, key), mask)
        return jax.tree.map(_wide, found)

    return slope


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _squares(tree: Params) -> jax.Array:
    return sum((jnp.sum(x**2) for x in jax.tree.leaves(tree)), jnp.float32(0))


class Top(NamedTuple):
    """Holds the largest eigenvalues, falling, and how far off each may be."""

    values: jax.Array  # [k], NaN where the Krylov space has no more
    bounds: jax.Array  # [k]: an eigenvalue lies within so much, but for rounding


def top_eigenvalues(
    matvec: MatVec,
    like: Params,
    k: int,
    key: jax.Array,
    *,
    mask: Mask | None = None,
    steps: int = STEPS,
) -> Top:
    """Find the k largest eigenvalues of a symmetric matrix, by Lanczos.

    An eigenvalue that is there several times is found once. For the lowest, give the
    matrix with its sign turned.

    Args:
      matvec: Such as `make_hvp` makes.
      like: What it takes: a tree of arrays or of their shapes.
      k: How many, at most `steps`.
      key: Of the start.
      mask: As of `make_hvp`; pruned weights then add no eigenvalues that are 0.
      steps: Of Lanczos, a product each; more of them bring the bounds down.

    Returns:
      The eigenvalues with their bounds.

    Raises:
      ValueError: for k outside 1 to `steps`.
    """
    if not 1 <= k <= steps:
        raise ValueError(f"k is from 1 to the steps, {steps}; got {k}")
    found = lanczos(matvec, direction(like, key, mask), steps)
    before = jnp.concatenate([jnp.zeros_like(found.off[:1]), found.off[:-1]])
    # By Gershgorin's circles no eigenvalue is below, so that what is not there is last.
    low = jnp.min(found.diagonal - found.off - before) - 1
    values, vectors = ritz(found, low)
    bounds = found.off[-1] * jnp.abs(vectors[-1])
    there = jnp.arange(k) < found.done
    return Top(
        jnp.where(there, values[::-1][:k], jnp.nan),
        jnp.where(there, bounds[::-1][:k], jnp.nan),
    )


class Spectrum(NamedTuple):
    """Holds the density of a matrix's eigenvalues, smooth and as it was found."""

    grid: jax.Array  # [points], rising, at equal distances
    density: jax.Array  # [points], of integral 1
    nodes: jax.Array  # [draws, steps], where the quadrature looks
    weights: jax.Array  # [draws, steps], each row of sum 1

    def moment(self, power: int) -> jax.Array:
        """Estimate tr(H ** power) / size: of `power` 0, 1 and up, before smoothing."""
        return jnp.mean(jnp.sum(self.weights * self.nodes**power, -1))


def spectrum(
    matvec: MatVec,
    like: Params,
    key: jax.Array,
    *,
    mask: Mask | None = None,
    steps: int = STEPS,
    draws: int = 4,
    points: int = 512,
    width: float = 0.005,
) -> Spectrum:
    """Estimate how the eigenvalues of a symmetric matrix are spread.

    Stochastic Lanczos quadrature (Ghorbani et al. 2019, arXiv:1901.10159): from a
    random start, Lanczos gives nodes and weights that integrate polynomials up to
    degree 2 `steps` - 1 exactly, as that start weighs eigenvalues; over starts that is
    the density without bias. Each node is drawn as a normal curve.

    Args:
      matvec: Such as `make_hvp` makes.
      like: What it takes: a tree of arrays or of their shapes.
      key: Of the starts.
      mask: As of `make_hvp`; the density is then that of the weights left.
      steps: Of Lanczos, a product each; theirs are 90.
      draws: How many starts, one after the other; theirs are 10.
      points: Of the grid.
      width: Of the curves, as a share of the distance between the outermost nodes;
        theirs is 0.0016, and asks for more points.

    Returns:
      The density on a grid that reaches six widths beyond the outermost nodes.

    Raises:
      ValueError: for curves too narrow for the grid.
    """
    reach = 1 + 12 * width
    if not 0 < reach <= width * (points - 1):
        raise ValueError(
            "curves are at least as wide as the points of the grid are apart; got a "
            f"width of {width} and {points} points"
        )

    def quadrature(key):
        found = lanczos(matvec, direction(like, key, mask), steps)
        # The first entry lies between the ends, and what is not there has no weight.
        nodes, vectors = ritz(found, found.diagonal[0])
        return nodes, vectors[0] ** 2

    nodes, weights = jax.lax.map(quadrature, jax.random.split(key, draws))
    low, high = jnp.min(nodes), jnp.max(nodes)
    # Of a multiple of the identity, whose nodes are all one: a share of that.
    size = jnp.maximum(jnp.abs(low), jnp.abs(high))
    across = jnp.maximum(high - low, jnp.where(size > 0, 0.1 * size, 1))
    sigma = width * across
    middle, half = (low + high) / 2, reach * across / 2
    grid = middle + half * jnp.linspace(-1, 1, points, dtype=nodes.dtype)
    away = (grid[:, None] - nodes.reshape(1, -1)) / sigma
    curves = jnp.exp(-(away**2) / 2) / (sigma * np.sqrt(2 * np.pi))
    density = jnp.sum(curves * weights.reshape(1, -1), 1) / draws
    return Spectrum(grid, density, nodes, weights)
