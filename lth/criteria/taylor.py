"""What a unit's output is worth to the loss, to first order: the Taylor criteria.

Let a gate of 1 stand on an input of a layer: a row of a dense kernel, an input channel
of a convolution. Scaling the input scales the weights that read it, so the gradient at
the gate is the sum over those weights of w ∂L/∂w: no activation has to be kept. The
inputs of a layer have passed the nonlinearity before it, where the papers measure.

The name covers sums that rank differently. Here, with t(x) the gate's gradient for one
example: `taylor` |t| averaged over examples; `taylor_batch` the absolute value of the
average, in which signs cancel; `taylor_squared` the square of that average. The sum of
|w ∂L/∂w| over a unit is `weight_gradient` pooled by a structure.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lth.criteria.gradients import Loss, mean_gradient, mean_over_examples
from lth.masks import Params, Scores


def taylor(loss: Loss, params: Params, batches: Any) -> Scores:
    """The mean over examples of |t| (Molchanov et al. 2017, arXiv:1611.06440).

    The paper divides by the positions of a map, which are the same within a layer, and
    by the layer's l2 norm: `normalised` does, and the positions then cancel.
    """

    def of_example(gradient):
        return jax.tree.map(jnp.abs, _gates(params, gradient))

    return _spread(mean_over_examples(loss, params, batches, of_example), params)


def taylor_batch(loss: Loss, params: Params, batches: Any) -> Scores:
    """|mean of t|, in which examples of opposite sign cancel.

    What a popular implementation of the paper computes, and what is left of any
    implementation that looks at the gradient of a batch alone.
    """
    gates = _gates(params, mean_gradient(loss, params, batches))
    return _spread(jax.tree.map(jnp.abs, gates), params)


def taylor_squared(loss: Loss, params: Params, batches: Any) -> Scores:
    """(mean of t)², the gate form of Molchanov et al. (2019, arXiv:1906.10771).

    It ranks as `taylor_batch` does within a layer, and otherwise across layers.
    """
    gates = _gates(params, mean_gradient(loss, params, batches))
    return _spread(jax.tree.map(jnp.square, gates), params)


def normalised(scores: Scores) -> Scores:
    """Scores of units over the l2 norm of those of their layer, to compare layers.

    `scores` are as the functions above give them, alike for all weights of a unit.
    """

    def leaf(s):
        if s.ndim < 2:
            return s
        norm = jnp.sqrt(jnp.sum(jnp.square(s)) * s.shape[-2] / s.size)
        return s / jnp.where(norm > 0, norm, 1)

    return jax.tree.map(leaf, scores)


def _gates(params: Params, gradient: Params) -> Any:
    """The gradient at the gate of each input: [in] for a kernel; 0 for a vector."""
    return _by_input(lambda w, g: jnp.sum(w * g, _others(w)), params, gradient)


def _spread(gates: Any, params: Params) -> Scores:
    def leaf(gate, w):
        return jnp.broadcast_to(gate.reshape(-1, 1), w.shape)

    return _by_input(leaf, gates, params)


def _by_input(kernel: Callable, first: Any, params: Params) -> Any:
    """A function of kernels; vectors read no input, and score 0."""

    def leaf(a, b):
        many = max(jnp.ndim(a), jnp.ndim(b)) >= 2
        return kernel(a, b) if many else jnp.zeros_like(b)

    return jax.tree.map(leaf, first, params)


def _others(w: jax.Array) -> tuple[int, ...]:
    return tuple(i for i in range(w.ndim) if i != w.ndim - 2)
