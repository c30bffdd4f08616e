"""Batch-norm averages that fit the weights they stand beside."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lth.train import TrainState


def reestimate(
    apply: Callable,
    sample: Callable,
    state: TrainState,
    data: Any,
    key: jax.Array,
    n: int,
) -> TrainState:
    """`state` with its batch-norm averages taken anew, over `n` batches.

    Forward passes in training mode and nothing else: averages made before weights were
    pruned, rewound or averaged do not fit them (NNCF's batch-norm adaptation). They are
    running averages, so `n` is to be several times what they remember.
    """

    def one(stats, step):
        batch = sample(key, step, data)
        return apply(state.params, stats, batch.inputs, True, key)[1], None

    return state._replace(stats=jax.lax.scan(one, state.stats, jnp.arange(n))[0])
