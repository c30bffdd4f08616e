"""Criteria that look at what flows into each kernel.

`inputs` is a tree like the params: for a kernel [..., in, out] its inputs [..., in],
examples and positions in front, and `None` for the other leaves, which score 0.
`models.Model.seen` gives it. What enters a layer has passed the nonlinearity before
it, which is where activations are to be measured.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lth import masks
from lth.masks import Params, Scores

Inputs = Any  # a tree like params: arrays [..., in], None for what multiplies no input


def wanda(params: Params, inputs: Inputs) -> Scores:
    """|w| ‖x‖₂, x being the weight's input over all examples.

    Sun et al. (2023, arXiv:2306.11695), who have the weights of one output compete:
    `structure.keep_within` of the whole axis. Of a convolution, x is the input channel
    over all examples and positions.
    """
    return _scored(params, inputs, lambda x: jnp.sqrt(jnp.sum(jnp.square(x), 0)))


def activation_magnitude(params: Params, inputs: Inputs) -> Scores:
    """|w| mean |x|: ShrinkBench's activation-weighted magnitude."""
    return _scored(params, inputs, lambda x: jnp.mean(jnp.abs(x), 0))


def mean_activation(params: Params, inputs: Inputs) -> Scores:
    """mean x of the input alone, the same for all weights that it meets.

    To prune input channels and rows by (`structure.inputs("mean")`).
    """
    return _scored(params, inputs, lambda x: jnp.mean(x, 0), weighted=False)


def nonzero_share(params: Params, inputs: Inputs) -> Scores:
    """The share of examples and positions at which the input is not exactly 0.

    One less the average percentage of zeros, by which high is unimportant (Hu et al.
    2016, arXiv:1607.03250). A dead unit scores 0.
    """
    return _scored(params, inputs, lambda x: jnp.mean(x != 0, 0), weighted=False)


def _scored(
    params: Params, inputs: Inputs, reduce: Callable, weighted: bool = True
) -> Scores:
    """For each kernel, `reduce(x [n, in]) -> [in]` spread over it, times |w| or not."""

    def leaf(path, w, x):
        if x is None:
            return jnp.zeros_like(w)
        if w.ndim < 2 or x.shape[-1] != w.shape[-2]:
            raise ValueError(
                f"{masks.name(path)} {w.shape} takes inputs [..., in], in being its "
                f"axis before the last; got {x.shape}"
            )
        w = jnp.asarray(w)
        value = reduce(jnp.reshape(x, (-1, x.shape[-1]))).astype(w.dtype)
        value = value.reshape((1,) * (w.ndim - 2) + (-1, 1))
        return value * (jnp.abs(w) if weighted else jnp.ones_like(w))

    return jax.tree_util.tree_map_with_path(leaf, params, inputs)
