"""Criteria that look at what flows into each kernel.

`inputs` is a tree like the params: for a kernel [..., in, out] its inputs [..., in],
examples and positions in front, and `None` for biases and norms, which score 0.
`models.Model.intermediates` gives it, with `models.Inputs` for a kernel that reads its
inputs along other axes, or along several. A weight that several inputs meet has them
all. What enters a layer has passed the nonlinearity before it, which is where
activations are to be measured. Sums are in float32 or wider, and so are scores.

Every criterion raises ValueError, with the paths, for kernels whose inputs are not
there: 0 would prune them first. To score the others, make such a leaf None in the
params and in the inputs.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lth import masks
from lth.criteria.gradients import wide
from lth.masks import Params, Scores
from lth.models import Inputs, Unseen, views

Seen = Any  # a tree like params: arrays [..., in], or `Inputs`; None for norms


def wanda(params: Params, inputs: Seen) -> Scores:
    """Scores |w| ‖x‖₂, x being the weight's input over all examples.

    Sun et al. (2023, arXiv:2306.11695), who have the weights of one output compete:
    `structure.keep_within` of the whole axis. Of a convolution, x is the input channel
    over all examples and positions.
    """
    return _scored(params, inputs, jnp.square, lambda total, n: jnp.sqrt(total))


def activation_magnitude(params: Params, inputs: Seen) -> Scores:
    """Scores |w| mean |x|: ShrinkBench's activation-weighted magnitude."""
    return _scored(params, inputs, jnp.abs, jnp.divide)


def mean_activation(params: Params, inputs: Seen) -> Scores:
    """Scores mean x of the input alone, the same for all weights that it meets.

    To prune input channels and rows by (`structure.inputs("mean")`).
    """
    return _scored(params, inputs, lambda x: x, jnp.divide, weighted=False)


def nonzero_share(params: Params, inputs: Seen) -> Scores:
    """Scores the share of examples and positions at which the input is not exactly 0.

    One less the average percentage of zeros, by which high is unimportant (Hu et al.
    2016, arXiv:1607.03250). A dead unit scores 0.
    """
    return _scored(params, inputs, lambda x: x != 0, jnp.divide, weighted=False)


def _scored(
    params: Params,
    inputs: Seen,
    each: Callable,
    finish: Callable,
    weighted: bool = True,
) -> Scores:
    """`finish(sum of each(x), n)` of the n x that meet a weight, times |w| or not."""
    _refuse(params, inputs)

    def leaf(path, w, x):
        if x is None:
            return jnp.zeros_like(w)
        w = wide(w)
        total, count = 0, 0
        for one in _inputs(path, w, x):
            one_total, n = _summed(one, each, w.shape)
            total, count = total + one_total, count + n
        return finish(total, count) * (jnp.abs(w) if weighted else jnp.ones_like(w))

    return jax.tree_util.tree_map_with_path(leaf, params, inputs)


def _refuse(params: Params, inputs: Seen) -> None:
    """ValueError for the kernels whose inputs are not there."""
    wrong = []

    def leaf(path, w, x):
        where = masks.name(path)
        if isinstance(x, Unseen):
            wrong.append(f"{where} ({x.why})")
        elif x is None and masks.is_kernel(where, w):
            wrong.append(where)

    jax.tree_util.tree_map_with_path(leaf, params, inputs)
    if wrong:
        raise ValueError(
            f"the inputs of {', '.join(wrong)} are not seen, and without them a kernel "
            "has no score: leave it out, as None in params and in inputs"
        )


def _inputs(path: tuple, w: jax.Array, x: Any) -> tuple[Inputs, ...]:
    """All that meets a leaf."""
    if isinstance(x, Inputs):
        return (x,)
    if isinstance(x, tuple):
        return x
    if w.ndim < 2 or x.shape[-1] != w.shape[-2]:
        raise ValueError(
            f"{masks.name(path)} {w.shape} takes inputs [..., in], in being its "
            f"axis before the last; got {x.shape}"
        )
    factors = views.factors(w.shape)[-2]
    return (Inputs(x if factors else jnp.reshape(x, x.shape[:-1]), factors),)


def _summed(x: Inputs, each: Callable, shape: tuple[int, ...]) -> tuple[jax.Array, int]:
    """The sum of `each(x)` over rows, spread over a leaf, and the number of rows."""
    sizes = [size for _, size in x.factors]
    values = jnp.asarray(x.values)
    if x.index:  # of a 1 among zeros, `each` is that 1 and else 0
        *before, length = sizes
        values = values.reshape(-1, *before)
        places = jax.nn.one_hot(values, length, dtype=bool)
        total = jnp.sum(places, 0, dtype=jnp.float32)
    else:
        values = values.reshape(-1, *sizes)
        values = wide(values)
        total = jnp.sum(each(values), 0, dtype=values.dtype)
    return views.spread(total, x.factors, shape), len(values)
