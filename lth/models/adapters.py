"""The model protocol, and what turns Linen and NNX modules into it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lth.models import taps

Stats = Any  # a tree: batch-norm averages and other state that gradients do not train


class Model(NamedTuple):
    """A network as two pure functions.

    `init(key) -> (params, stats)` draws the weights. `apply(params, stats, inputs,
    train, key) -> (outputs, stats)` runs it on a batch; `train` is a Python bool, `key`
    feeds dropout and is unused when `train` is false, and the returned stats replace
    the given ones after a training step. `seen(params, stats, inputs)`, where a model
    has it, gives what enters and what leaves each kernel in evaluation: two trees like
    params with arrays [batch, …, in] and [batch, …, out], and `None` for other leaves.
    """

    init: Callable[[jax.Array], tuple[Any, Stats]]
    apply: Callable[[Any, Stats, jax.Array, bool, jax.Array | None], tuple[Any, Stats]]
    seen: Callable[[Any, Stats, jax.Array], tuple[Any, Any]] | None = None


def from_linen(
    module: nn.Module, shape: tuple[int, ...], dtype: Any = jnp.float32
) -> Model:
    """A Linen module whose `__call__(inputs, train)` takes inputs of `shape`, no batch.

    `dtype` is that of the inputs, an integer one where they are tokens.
    Every collection beside `params` (such as `batch_stats`) becomes stats. Dropout
    draws from the `dropout` stream.
    """

    def init(key):
        variables = module.init(
            {"params": key}, jnp.zeros((1, *shape), dtype), train=False
        )
        return variables["params"], {
            k: v for k, v in variables.items() if k != "params"
        }

    def apply(params, stats, inputs, train, key):
        variables = {"params": params, **stats}
        if not train:
            return module.apply(variables, inputs, train=False), stats
        outputs, stats = module.apply(
            variables, inputs, train=True, rngs={"dropout": key}, mutable=list(stats)
        )
        return outputs, stats

    return Model(init, apply, taps.make_seen(apply))


def from_nnx(make: Callable[[Any], Any]) -> Model:
    """An NNX module: `make(rngs)` builds it, and calling it runs it.

    `nnx.Param` variables are params; other variables (batch statistics) are stats.
    Random streams are neither: in training they are set from the step's key, each
    differently. Train and evaluation mode are set with the module's own `train` and
    `eval`.
    """
    from flax import nnx  # only here: its import fails where flax lags behind jax

    shell = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    kinds = (nnx.Param, nnx.RngState, ...)
    graph, params_like, streams, stats_like = nnx.split(shell, *kinds)

    def values(state):
        return nnx.to_pure_dict(state)

    def filled(like, new):
        state = jax.tree.map(lambda x: x, like)
        nnx.replace_by_pure_dict(state, new)
        return state

    def seeded(key):
        leaves, structure = jax.tree.flatten(streams)
        new = [
            jax.random.fold_in(key, i)
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else jnp.zeros(leaf.shape, leaf.dtype)
            for i, leaf in enumerate(leaves)
        ]
        return jax.tree.unflatten(structure, new)

    def init(key):
        _, params, _, stats = nnx.split(make(nnx.Rngs(key)), *kinds)
        return values(params), values(stats)

    def apply(params, stats, inputs, train, key):
        module = nnx.merge(
            graph,
            filled(params_like, params),
            seeded(key if train else jax.random.key(0)),
            filled(stats_like, stats),
            copy=True,
        )
        module.train() if train else module.eval()
        outputs = module(inputs)
        return outputs, values(nnx.split(module, *kinds)[3])

    return Model(init, apply, taps.make_seen(apply))


def standardized(
    model: Model, shift: float | np.ndarray, scale: float | np.ndarray
) -> Model:
    """The model on raw pixels: it sees `(pixels - shift) / scale` in float32.

    Arrays have the rank of the inputs, such as [1, 1, 1, channels].
    """
    offset, factor = (np.asarray(v, np.float32) for v in (shift, 1 / scale))

    def scaled(inputs):
        return (inputs.astype(jnp.float32) - offset) * factor

    def apply(params, stats, inputs, train, key):
        return model.apply(params, stats, scaled(inputs), train, key)

    def seen(params, stats, inputs):
        assert model.seen is not None
        return model.seen(params, stats, scaled(inputs))

    return Model(model.init, apply, seen if model.seen else None)
