"""The model protocol, and what turns Linen and NNX modules into it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.core
import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lth.models import taps

Stats = Any  # a tree: batch-norm averages and other state that gradients do not train


MUTABLE = flax.core.DenyList("intermediates")  # as `nn.Module.init` has it


class Model(NamedTuple):
    """Holds a network as two pure functions.

    `init(key) -> (params, stats)` draws the weights. `apply(params, stats, inputs,
    train, key) -> (outputs, stats)` runs it on a batch; `train` is a Python bool, `key`
    feeds dropout and is unused when `train` is false, and the returned stats replace
    the given ones after a training step. `intermediates(params, stats, inputs)`, where
    a model has it, gives what enters and what leaves each kernel in evaluation: two
    trees like params with arrays [batch, …, in] and [batch, …, out], and `None` for
    biases, norms and other leaves that meet no input in a product. What leaves is
    before a bias, and None for a kernel of several products. Where a kernel is called
    several times, its inputs are [n, in], of all calls. One that reads along other axes
    has a tuple of `Inputs`, and one whose inputs cannot be seen `Unseen`.
    `functools.partial(taps.intermediates, apply)` is one for any `apply`.
    """

    init: Callable[[jax.Array], tuple[Any, Stats]]
    apply: Callable[[Any, Stats, jax.Array, bool, jax.Array | None], tuple[Any, Stats]]
    intermediates: Callable[[Any, Stats, jax.Array], tuple[Any, Any]] | None = None


def from_linen(
    module: nn.Module, shape: tuple[int, ...], dtype: Any = jnp.float32
) -> Model:
    """Make a model of a Linen module whose `__call__(inputs, train)` takes inputs.

    They are of `shape`, without the batch, and of `dtype`, an integer one where they
    are tokens. Every collection beside `params` (such as `batch_stats`) becomes stats.
    Dropout draws from the `dropout` stream. Boxes around params
    (`nn.with_partitioning`) are taken off: arrays are placed by whoever holds them.

    What `sow` puts into `intermediates` is ignored. Another collection that the module
    runs without, such as sown `losses`, is of one training step alone: stats hold what
    the last one left, for a loss to read. `init` raises ValueError where its shapes
    follow the batch, which no loop of training can carry.
    """

    def variables(key, count=1, mutable=MUTABLE):
        given = jnp.zeros((count, *shape), dtype)
        found = module.init({"params": key}, given, train=False, mutable=mutable)
        return nn.meta.unbox(found)

    @functools.cache
    def passing(name):
        """Whether the module runs without a collection."""
        without = flax.core.DenyList(("intermediates", name))
        key = jax.eval_shape(lambda: jax.random.key(0))
        try:
            jax.eval_shape(functools.partial(variables, mutable=without), key)
        except (
            flax.errors.ScopeVariableNotFoundError,
            flax.errors.ScopeCollectionNotFound,
            flax.errors.ModifyScopeVariableError,
        ):
            return False
        return True

    def init(key):
        params, stats = _parted(variables(key))
        for name in filter(passing, stats):
            two = jax.eval_shape(functools.partial(variables, count=2), key)[name]
            if [x.shape for x in jax.tree.leaves(two)] != [
                x.shape for x in jax.tree.leaves(stats[name])
            ]:
                raise ValueError(
                    f"the collection {name!r} holds values whose shapes follow the "
                    "batch: sow their mean, or sow them into 'intermediates', which "
                    "training ignores"
                )
        return params, stats

    def apply(params, stats, inputs, train, key):
        if not train:
            return module.apply({"params": params, **stats}, inputs, train=False), stats
        kept = {name: value for name, value in stats.items() if not passing(name)}
        outputs, stats = module.apply(
            {"params": params, **kept},
            inputs,
            train=True,
            rngs={"dropout": key},
            mutable=list(stats),
        )
        return outputs, stats

    return Model(init, apply, functools.partial(taps.intermediates, apply))


def from_nnx(make: Callable[[Any], Any]) -> Model:
    """Make a model of an NNX module: `make(rngs)` builds it, and calling it runs it.

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

    return Model(init, apply, functools.partial(taps.intermediates, apply))


def _parted(variables: Any) -> tuple[Any, dict]:
    rest = {name: value for name, value in variables.items() if name != "params"}
    return variables["params"], rest


def standardized(
    model: Model, shift: float | np.ndarray, scale: float | np.ndarray
) -> Model:
    """Run the model on raw pixels: it sees `(pixels - shift) / scale` in float32.

    Arrays have the rank of the inputs, such as [1, 1, 1, channels].
    """
    offset, factor = (np.asarray(v, np.float32) for v in (shift, 1 / scale))

    def scaled(inputs):
        return (inputs.astype(jnp.float32) - offset) * factor

    def apply(params, stats, inputs, train, key):
        return model.apply(params, stats, scaled(inputs), train, key)

    def intermediates(params, stats, inputs):
        assert model.intermediates is not None
        return model.intermediates(params, stats, scaled(inputs))

    return Model(model.init, apply, intermediates if model.intermediates else None)
