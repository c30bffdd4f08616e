"""Scores of channels that take examples one by one: Taylor's and Fisher's.

Gates are put on what is read (`models.taps`), so that a batch costs one backward pass
and no gradient of a weight. What t is, `channel_gates` says.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lth import masks
from lth.criteria.channel_pooling import Channels, Space
from lth.criteria.gates import at_operands
from lth.criteria.gradients import Loss, mean_over
from lth.masks import Params
from lth.models import taps, views


def taylor(
    loss: Loss, params: Params, spaces: Sequence[Space], batches: Any
) -> Channels:
    """Scores the mean over examples of |t|: Molchanov et al. (2017, arXiv:1611.06440).

    They divide by the positions of the map, the same for all channels of a layer, and
    then by the layer's l2 norm: under `normalised` the positions cancel.

    Args:
      loss: `loss(params, batch)`, the mean over a batch, in which examples stand apart,
        as in evaluation.
      params: of the network, masked weights 0.
      spaces: of the network.
      batches: a tree of arrays [b, n, …], b batches of n examples.

    Returns:
      The scores of each space.

    Raises:
      ValueError: with the path, for weights whose inputs take no gate.
    """
    return _mean_over_examples(loss, params, spaces, batches, function=jnp.abs)


def fisher(
    loss: Loss, params: Params, spaces: Sequence[Space], batches: Any
) -> Channels:
    """Scores half the mean over examples of t²: Theis et al. (2018, arXiv:1801.05787).

    At a minimum the mean of t is 0, and this estimates h/2 by the empirical Fisher of
    the gates. Twice it is the form by examples of Molchanov et al. (2019).

    Args:
      loss, params, spaces, batches: as in `taylor`.

    Returns:
      The scores of each space.

    Raises:
      ValueError: as `taylor` does.
    """

    def half(t):
        return jnp.square(t) / 2

    return _mean_over_examples(loss, params, spaces, batches, function=half)


def taylor_abs(
    loss: Loss, params: Params, spaces: Sequence[Space], batches: Any
) -> Channels:
    """Scores the mean over examples of Σ |z ∂L/∂z|: nothing cancels over the map.

    What code derived from that of Molchanov et al. (2019) computes. Of a channel with
    several readers each has its own ∂L/∂z, and they are added up.

    Args:
      loss, params, spaces, batches: as in `taylor`.

    Returns:
      The scores of each space.

    Raises:
      ValueError: as `taylor` does.
    """
    return _mean_over_examples(loss, params, spaces, batches, element=jnp.abs)


def _mean_over_examples(
    loss,
    params,
    spaces,
    batches,
    element: Callable = lambda x: x,
    function: Callable = lambda t: t,
) -> Channels:
    """The mean of `function` of the sums of `element` of z ∂L/∂z over the map."""
    paths = [f"params/{path}" for path in masks.paths(params)]
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    readers = {path for space in spaces for path, _ in space.having("reads")}
    leaves = {paths.index(path) for path in readers}
    places, one = at_operands(loss, params, batches, leaves)
    meetings = [*_meetings(places, paths, shapes, spaces)]

    def of_example(example):
        gradient, _ = one(example)
        found = {space.name: jnp.zeros(space.size) for space in spaces}
        for (at, read), axis, shape, space, index in meetings:
            total = _total(read, element(gradient[at].astype(jnp.float32)))
            line = _along(total, taps.arranged_factors(read), shape, axis)
            found[space] += jnp.sum(line[index], 1)
        return jax.tree.map(function, found)

    def batch_mean(batch):
        return jax.tree.map(lambda x: jnp.mean(x, 0), jax.vmap(of_example)(batch))

    return mean_over(batch_mean, batches)


def _meetings(places, paths, shapes, spaces) -> Iterator[tuple]:
    """Where each space is read: the site, the axis of the leaf, its shape, the places.

    Kernels that were joined to one meet the same operand, which counts once.
    """
    known = set()
    for at, read in places:
        path, shape = paths[read.leaf], shapes[read.leaf]
        for space in spaces:
            for where, axis in space.having("reads"):
                if where != path or read.by_place:
                    continue
                inside = _inside(taps.arranged_factors(read), shape, axis)
                if not inside:
                    continue
                if math.prod(n for _, n in inside) != shape[axis]:
                    raise ValueError(f"{path} is read in part along axis {axis}")
                if (at, read.part, space.name) not in known:
                    known.add((at, read.part, space.name))
                    index = space.members[path, axis]
                    yield (at, read), axis, shape, space.name, index


def _total(read: views.Read, gradient: jax.Array) -> jax.Array:
    """The sums over positions, with an axis for each factor that the read meets."""
    found = taps.arranged(read, gradient)
    return jnp.sum(found.values.reshape(-1, *(n for _, n in found.factors)), 0)


def _inside(
    met: views.Factors, shape: tuple[int, ...], axis: int
) -> list[views.Factor]:
    """Those factors that lie along one axis of a leaf."""
    stride = views.strides(shape)[axis]
    return [f for f in met if stride <= f[0] < stride * shape[axis]]


def _along(
    total: jax.Array, met: views.Factors, shape: tuple[int, ...], axis: int
) -> jax.Array:
    """The sums along that axis, of those with an axis for each factor."""
    inside = _inside(met, shape, axis)
    kept = jnp.sum(total, tuple(i for i, f in enumerate(met) if f not in inside))
    order = sorted(range(len(inside)), key=lambda i: -inside[i][0])
    return jnp.transpose(kept, order).ravel()
