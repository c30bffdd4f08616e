"""What a unit's output is worth to the loss, to first order: the Taylor criteria.

Let a gate of 1 stand on an input of a layer: a row of a dense kernel, an input channel
of a convolution. Scaling the input scales the weights that read it, so the gradient at
the gate is the sum over those weights of w ∂L/∂w: no activation has to be kept. The
inputs of a layer have passed the nonlinearity before it, where the papers measure.

The name covers sums that rank differently. Here, with t(x) the gate's gradient for one
example: `taylor` |t| averaged over examples; `taylor_batch` the absolute value of the
average, in which signs cancel; `taylor_squared` the square of that average; and
`taylor_abs`, in which neither the positions of a map nor the examples cancel. The sum
of |w ∂L/∂w| over a unit is `weight_gradient` pooled by a structure.
"""

import math
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp

from lth import masks
from lth.criteria.gradients import (
    Loss,
    mean_gradient,
    mean_over,
    mean_over_examples,
    wide,
)
from lth.masks import Params, Scores, sides
from lth.models import axes, taps, views


def taylor(loss: Loss, params: Params, batches: Any, axes: sides.Axes = None) -> Scores:
    """Scores the mean over examples of |t| (Molchanov et al. 2017, arXiv:1611.06440).

    The paper divides by the positions of a map, which are the same within a layer, and
    by the layer's l2 norm: `normalised` does, and the positions then cancel.

    Args:
      loss: `loss(params, batch)`, the mean over a batch.
      params: the weights, masked ones 0.
      batches: a tree of arrays [b, n, ...], b batches of n examples.
      axes: which axes are inputs where shapes do not say so (see `sides`).

    Returns:
      A tree like `params`, alike for all weights of a unit. Leaves of fewer than two
      axes score 0.

    Raises:
      ValueError: with the path, for a shape that does not tell and of which `axes` does
        not either.
    """

    def of_example(gradient):
        return jax.tree.map(jnp.abs, _gates(params, gradient, axes))

    return _spread(mean_over_examples(loss, params, batches, of_example), params)


def taylor_batch(
    loss: Loss, params: Params, batches: Any, axes: sides.Axes = None
) -> Scores:
    """Scores |mean of t|, in which examples of opposite sign cancel.

    What a popular implementation of the paper computes, and what is left of any
    implementation that looks at the gradient of a batch alone.

    Args:
      loss, params, batches, axes: as in `taylor`.

    Returns:
      A tree like `params`, as in `taylor`.

    Raises:
      ValueError: as `taylor` does.
    """
    gates = _gates(params, mean_gradient(loss, params, batches), axes)
    return _spread(jax.tree.map(jnp.abs, gates), params)


def taylor_squared(
    loss: Loss, params: Params, batches: Any, axes: sides.Axes = None
) -> Scores:
    """Scores (mean of t)², the gate form of Molchanov et al. (2019, arXiv:1906.10771).

    It ranks as `taylor_batch` does within a layer, and otherwise across layers.

    Args:
      loss, params, batches, axes: as in `taylor`.

    Returns:
      A tree like `params`, as in `taylor`.

    Raises:
      ValueError: as `taylor` does.
    """
    gates = _gates(params, mean_gradient(loss, params, batches), axes)
    return _spread(jax.tree.map(jnp.square, gates), params)


def taylor_abs(loss: Loss, params: Params, batches: Any) -> Scores:
    """Scores the mean over examples of the sum over positions of |x ∂L/∂x|.

    x is the input. What code derived from that of Molchanov et al. (2019) computes. In
    a dense layer with one position it is `taylor`; over a map it takes a gate on each
    element that meets a weight. The input of a look-up is a 1 among zeros. Leaves that
    meet no input in a product, such as biases, score 0.

    Raises ValueError, with the paths, for kernels whose inputs take no gate.
    """
    places, met_by = at_operands(loss, params, batches)

    def one(example):
        gradient, met = met_by(example)
        return [_of_read(read, gradient[at], met[at]) for at, read in places]

    def batch_mean(batch):
        return jax.tree.map(lambda g: jnp.mean(g, 0), jax.vmap(one)(batch))

    leaves, structure = jax.tree.flatten(params)
    scores = [jnp.zeros_like(w) for w in wide(leaves)]
    means = mean_over(batch_mean, batches)
    for (_, read), total in zip(places, means, strict=True):
        factors = taps.arranged_factors(read)
        scores[read.leaf] += views.spread(total, factors, leaves[read.leaf].shape)
    return structure.unflatten(scores)


def at_operands(
    loss: Loss, params: Params, batches: Any, leaves: Collection[int] | None = None
) -> tuple[list[tuple[tuple, views.Read]], Callable]:
    """Put a gate of 1 on each element that meets a weight in a product or a look-up.

    Args:
      loss, params, batches: as in `taylor`.
      leaves: the places, among those of `params`, of the leaves whose inputs are
        wanted; None is all.

    Returns:
      The sites with what they read (`taps.sites`), and a function of one example: the
      gradient at the gates of each site, and what meets the weights there.

    Raises:
      ValueError: with the paths, for leaves whose inputs take no gate, and where the
        loss reads no weight.
    """
    first = jax.tree.map(lambda x: x[0, :1], batches)
    whole = lambda params, rest: loss(params, *rest)  # noqa: E731
    closed, plan = axes.trace(whole, params, (first,), (True,))
    wanted = range(len(jax.tree.leaves(params))) if leaves is None else leaves
    places = [(at, read) for at, read in taps.sites(plan) if read.leaf in wanted]
    _refuse(plan, params, wanted)

    def run(batch, gates=None):
        values = jax.tree.leaves((params, (batch,)))
        (value,), found = taps.evaluate(
            closed.jaxpr, closed.consts, values, plan, gates
        )
        own = {at: found[at][2] for at, _ in places}
        index = {at: own[at][..., 0] for at, read in places if read.by_place}
        return value, own | index

    shapes = jax.eval_shape(run, first)[1]
    gates = {
        at: jnp.ones(x.shape, closed.out_avals[0].dtype) for at, x in shapes.items()
    }

    def one(example):
        alone = jax.tree.map(lambda x: x[None], example)
        return jax.grad(lambda g: run(alone, g), has_aux=True)(gates)

    return places, one


def _refuse(plan: axes.Plan, params: Params, wanted: Collection[int]) -> None:
    why = plan.lost | {read.leaf: reason for read, reason in plan.hidden}
    mine = {leaf: reason for leaf, reason in why.items() if leaf in wanted}
    axes.refuse(plan._replace(lost=mine), params)
    if not any(read.leaf in wanted for read in plan.reads()):
        raise ValueError("the loss reads no weight in a product or a look-up")


def _of_read(read: views.Read, gradient: jax.Array, met: jax.Array) -> jax.Array:
    """The sums of |gate gradients| over positions, by what the weights meet."""
    found = taps.arranged(read, jnp.abs(gradient.astype(jnp.float32)))
    if not read.by_place:
        sizes = [size for _, size in found.factors]
        return jnp.sum(found.values.reshape(-1, *sizes), 0)
    where = taps.arranged(read, met)
    *before, length = (size for _, size in found.factors)
    values, places = (x.values.reshape(-1, *before) for x in (found, where))
    hit = jax.nn.one_hot(places, length, dtype=bool)
    return jnp.sum(jnp.where(hit, values[..., None], 0), 0)


def normalised(scores: Scores, axes: sides.Axes = None) -> Scores:
    """Divides scores of units by the l2 norm of their layer's, to compare layers.

    `scores` are as the functions above give them, alike for all weights of a unit.
    `axes` says which axes are inputs where shapes do not (see `sides`).
    """

    def leaf(s, side):
        # Kernels that lie side by side are layers of their own.
        every = (*side.summed, *side.outputs)
        units, size = (math.prod(s.shape[i] for i in at) for at in (side.inputs, every))
        norm = jnp.sqrt(jnp.sum(jnp.square(s), every, keepdims=True) * units / size)
        return s / jnp.where(norm > 0, norm, 1)

    return _by_input(leaf, lambda s: s, axes, scores)


def _gates(params: Params, gradient: Params, axes: sides.Axes) -> Any:
    """The gradient at the gate of each input, of length 1 along all other axes."""

    def leaf(w, side, g):
        return jnp.sum(w * g, (*side.window, *side.outputs), keepdims=True)

    return _by_input(leaf, jnp.zeros_like, axes, wide(params), gradient)


def _spread(gates: Any, params: Params) -> Scores:
    return jax.tree.map(lambda g, w: jnp.broadcast_to(g, w.shape), gates, params)


def _by_input(
    kernel: Callable, vector: Callable, axes: sides.Axes, tree: Any, *rest: Any
) -> Any:
    """`kernel(leaf, its sides, …)`; vectors read no input."""
    given = sides.lookup(axes)

    def leaf(path, x, *others):
        if x.ndim < 2:
            return vector(x)
        name = masks.name(path)
        return kernel(x, sides.named(name, x, given(name, x)), *others)

    return jax.tree_util.tree_map_with_path(leaf, tree, *rest)
