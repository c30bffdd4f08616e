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

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lth import masks
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


def taylor_abs(loss: Loss, params: Params, batches: Any) -> Scores:
    """The mean over examples of the sum over positions of |x ∂L/∂x|, x the input.

    What code derived from that of Molchanov et al. (2019) computes. In a dense layer
    with one position it is `taylor`; over a map it takes a gate on each element, which
    Dense and Conv layers of Flax Linen are given here, so `loss` must not be
    compiled. Leaves that multiply no input score 0.
    """

    def inputs(batch):
        found = {}
        _with_inputs(found.setdefault, loss, params, batch)
        return found

    shapes = jax.eval_shape(inputs, jax.tree.map(lambda x: x[0, :1], batches))
    gates = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), shapes)

    def gated(gates, batch):
        met = set()

        def gate(path, x):
            met.add(path)
            return x * gates[path]

        value = _with_inputs(gate, loss, params, batch)
        if not met or met != gates.keys():  # a compiled loss is not called again
            raise ValueError(
                "the loss calls no Dense or Conv of Flax Linen, or is compiled"
            )
        return value

    def of_example(gradient):
        return jax.tree.map(
            lambda g: jnp.sum(jnp.abs(g).reshape(-1, g.shape[-1]), 0), gradient
        )

    found = mean_over_examples(gated, gates, batches, of_example)

    def leaf(path, w):
        return found.get(masks.name(path), jnp.zeros(w.shape[-2:-1]))

    return _spread(jax.tree_util.tree_map_with_path(leaf, params), params)


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


def _with_inputs(change: Callable, loss: Loss, params: Params, batch: Any) -> jax.Array:
    """The loss with `change(path, x)` in place of the input x of each kernel."""

    def intercept(call, args, kwargs, context):
        module = context.module
        if isinstance(module, nn.Dense | nn.Conv) and context.method_name == "__call__":
            x, *rest = args
            args = change("/".join((*module.path, "kernel")), x), *rest
        return call(*args, **kwargs)

    with nn.intercept_methods(intercept):
        return loss(params, batch)


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
