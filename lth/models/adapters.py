"""The model protocol, and what turns Linen and NNX modules into it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Stats = Any  # a tree: batch-norm averages and other state that gradients do not train


class Model(NamedTuple):
    """A network as two pure functions.

    `init(key) -> (params, stats)` draws the weights. `apply(params, stats, inputs, train,
    key) -> (outputs, stats)` runs it on a batch; `train` is a Python bool, `key` feeds
    dropout and is unused when `train` is false, and the returned stats replace the given
    ones after a training step.
    """

    init: Callable[[jax.Array], tuple[Any, Stats]]
    apply: Callable[[Any, Stats, jax.Array, bool, jax.Array | None], tuple[Any, Stats]]


def from_linen(module: nn.Module, shape: tuple[int, ...]) -> Model:
    """A Linen module whose `__call__(inputs, train)` takes inputs of `shape`, no batch.

    Every collection beside `params` (such as `batch_stats`) becomes stats. Dropout draws
    from the `dropout` stream.
    """

    def init(key):
        variables = module.init({"params": key}, jnp.zeros((1, *shape)), train=False)
        return variables["params"], {k: v for k, v in variables.items() if k != "params"}

    def apply(params, stats, inputs, train, key):
        variables = {"params": params, **stats}
        if not train:
            return module.apply(variables, inputs, train=False), stats
        outputs, stats = module.apply(
            variables, inputs, train=True, rngs={"dropout": key}, mutable=list(stats)
        )
        return outputs, stats

    return Model(init, apply)


def from_nnx(make: Callable[[Any], Any]) -> Model:
    """An NNX module: `make(rngs)` builds it, and calling it runs it.

    `nnx.Param` variables are params; all other state (batch statistics, random streams)
    is stats. Train and evaluation mode are set with the module's own `train` and `eval`.
    """
    from flax import nnx  # only here: its import fails where flax lags behind jax

    def split(module):
        graph, params, rest = nnx.split(module, nnx.Param, ...)
        return graph, nnx.to_pure_dict(params), nnx.to_pure_dict(rest)

    shell = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    graph, params_like, rest_like = nnx.split(shell, nnx.Param, ...)

    def fill(like, values):
        state = jax.tree.map(lambda x: x, like)
        nnx.replace_by_pure_dict(state, values)
        return state

    def init(key):
        _, params, rest = split(make(nnx.Rngs(key)))
        return params, rest

    def apply(params, stats, inputs, train, key):
        module = nnx.merge(
            graph, fill(params_like, params), fill(rest_like, stats), copy=True
        )
        if train:
            module.train()
            nnx.reseed(module, default=key, dropout=key)
        else:
            module.eval()
        outputs = module(inputs)
        return outputs, split(module)[2] if train else stats

    return Model(init, apply)


def standardized(model: Model, shift: float, scale: float) -> Model:
    """The model on raw pixels: its inputs become `(pixels - shift) / scale`, float32."""
    factor = np.float32(1 / scale)

    def apply(params, stats, inputs, train, key):
        inputs = (inputs.astype(jnp.float32) - np.float32(shift)) * factor
        return model.apply(params, stats, inputs, train, key)

    return Model(model.init, apply)
