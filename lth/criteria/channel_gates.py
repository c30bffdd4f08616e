"""What a channel is worth to the loss, by a gate of 1 on it.

The gate stands wherever the channel is read: closed, the channel says nothing and the
network is the one without it, whatever the nonlinearity makes of 0 (`oracle`). With z
the activations that are read and t = Σ z ∂L/∂z over the positions of the map, t is the
derivative of one example's loss at the gate: removing the channel changes that loss by
-t to first order, and by h/2 - t to second, h being the second derivative (`obd`).

The gates here are put on the weights that read, which is the same. Where examples count
one by one, `channel_examples` puts them on what is read.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lth import masks
from lth.criteria.channel_pooling import Channels, Space
from lth.criteria.gradients import Loss, mean_gradient, mean_over
from lth.masks import Params


def gated(params: Params, spaces: Sequence[Space], gates: Channels) -> Params:
    """Multiply the weights that read each channel by its gate.

    Args:
      params: of the network.
      spaces: of the network.
      gates: by the name of a space, [size]; other spaces stay open.

    Returns:
      The params of a network in which each channel is as many times what it was.
    """
    along: dict[str, list[tuple[int, np.ndarray, jax.Array]]] = {}
    for space in spaces:
        for path, axis in space.having("reads") if space.name in gates else ():
            where = axis, space.members[path, axis], gates[space.name]
            along.setdefault(path, []).append(where)

    def leaf(path, w):
        for axis, index, gate in along.get(f"params/{masks.name(path)}", ()):
            each = jnp.broadcast_to(gate[:, None], index.shape)
            line = jnp.ones(w.shape[axis], w.dtype).at[index].set(each.astype(w.dtype))
            w = w * line.reshape([-1 if i == axis else 1 for i in range(w.ndim)])
        return w

    return jax.tree_util.tree_map_with_path(leaf, params)


def taylor_batch(
    loss: Loss, params: Params, spaces: Sequence[Space], batches: Any
) -> Channels:
    """Scores |mean of t|, in which examples of opposite sign cancel.

    What a popular implementation of Molchanov et al. (2017) computes.

    Args:
      loss: `loss(params, batch)`, the mean over a batch.
      params: of the network, masked weights 0.
      spaces: of the network.
      batches: a tree of arrays [b, n, …], b batches of n examples.

    Returns:
      The scores of each space.
    """
    return jax.tree.map(jnp.abs, _gradient(loss, params, spaces, batches))


def taylor_squared(
    loss: Loss, params: Params, spaces: Sequence[Space], batches: Any
) -> Channels:
    """Scores (mean of t)², the gate form of Molchanov et al. (2019, arXiv:1906.10771).

    Args:
      loss, params, spaces, batches: as in `taylor_batch`.

    Returns:
      The scores of each space.
    """
    return jax.tree.map(jnp.square, _gradient(loss, params, spaces, batches))


def obd(loss: Loss, params: Params, spaces: Sequence[Space], batches: Any) -> Channels:
    """Scores h/2: optimal brain damage (LeCun et al. 1989), of gates and exactly.

    One product with the Hessian for each channel, so for small networks.

    Args:
      loss, params, spaces, batches: as in `taylor_batch`.

    Returns:
      The scores of each space; negative where the loss curves down.
    """

    def slope(gates, batch, direction):
        def at(gates):
            return loss(gated(params, spaces, _split(gates, spaces)), batch)

        return jax.grad(at)(gates) @ direction

    gates = _ones(spaces)

    def curvature(batch, channel):
        direction = jax.nn.one_hot(channel, len(gates))
        return jax.grad(slope)(gates, batch, direction) @ direction / 2

    def each(batch):
        every = jnp.arange(len(gates))
        return jax.lax.map(lambda channel: curvature(batch, channel), every)

    return _split(mean_over(each, batches), spaces)


def oracle(
    loss: Callable[[Params], jax.Array],
    params: Params,
    spaces: Sequence[Space],
    at_once: int = 1,
) -> Channels:
    """Scores L without the channel less L: what the others estimate.

    Signed: negative where the loss falls. Molchanov et al. (2017) rank by its absolute
    value, for which gains are changes like any other.

    Args:
      loss: `loss(params)`, over all data that is to count.
      params: of the network.
      spaces: of the network.
      at_once: how many channels, each with an evaluation of the loss.

    Returns:
      The changes of each space.
    """
    ones = _ones(spaces)
    base = loss(params)

    def change(channel):
        gates = _split(ones.at[channel].set(0), spaces)
        return loss(gated(params, spaces, gates)) - base

    every = jnp.arange(len(ones))
    return _split(jax.lax.map(change, every, batch_size=at_once), spaces)


def _gradient(loss, params, spaces, batches) -> Channels:
    """The mean of t."""

    def of_gates(gates, batch):
        return loss(gated(params, spaces, gates), batch)

    return mean_gradient(of_gates, _split(_ones(spaces), spaces), batches)


def _ones(spaces: Sequence[Space]) -> jax.Array:
    """Open gates of all channels, one space after the other."""
    return jnp.ones(sum(space.size for space in spaces))


def _split(values: jax.Array, spaces: Sequence[Space]) -> Channels:
    ends = np.cumsum([space.size for space in spaces])[:-1]
    parts = jnp.split(values, ends)
    return {space.name: part for space, part in zip(spaces, parts, strict=True)}
