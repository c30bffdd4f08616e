"""Batch-norm averages that fit the weights they stand beside."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lth.train import Loss, TrainState


def reestimate(
    loss: Loss,
    sample: Callable,
    state: TrainState,
    data: Any,
    key: jax.Array,
    steps: int | jax.Array,
) -> TrainState:
    """Take the batch-norm averages of a state anew.

    Forward passes in training mode and nothing else: averages made before weights were
    pruned, rewound or averaged do not fit them (NNCF's batch-norm adaptation).

    Args:
      loss: as of `train.make_train`; only the stats that it returns are asked for.
      sample: `sample(key, step, data)`, as of `data.make_sample`.
      state: whose params are run.
      data: what `sample` takes batches from.
      key: of the batches and of dropout.
      steps: how many batches, the first ones; or their numbers. Averages are running
        ones, so they are to be several times what those remember.

    Returns:
      The state with other stats.
    """

    def one(stats, step):
        batch = sample(key, step, data)
        return loss(state.params, stats, batch, key)[1][0], None

    at = jnp.arange(steps) if isinstance(steps, int) else steps
    return state._replace(stats=jax.lax.scan(one, state.stats, at)[0])
