"""Rewinding: from the early and the late state of a network to the one to retrain.

Each function is `(early, late) -> state`. The result stands at the step of `early`, so
every way of rewinding retrains on the same batches for the same number of steps; they
differ in where the weights come from and in where the learning-rate schedule stands.
Renda et al. (2020, arXiv:2003.02389) compare weight rewinding, learning-rate rewinding
and fine-tuning.

| function              | weights, batch norm, moments | schedule |
|-----------------------|------------------------------|----------|
| `weights`             | early                        | early    |
| `learning_rate`       | late                         | early    |
| `finetune`            | late                         | last     |
| `weights_low_rate`    | early                        | last     |
| `make_reinit(…)`      | fresh                        | early    |

The last place of a schedule is that of the last step that trained: after
`optax.cosine_decay_schedule(0.1, 10)` and 10 steps a rate of 0.00245, not the 0 that
would come next. There it stays, constant as in Renda et al., for as long as
`train.make_train` trains up to the step of `late`. A loop of your own moves on from
there at its second step; give it a schedule that ends in a constant.

Schedules are found wherever Optax holds them (`optimizers.RATES`). Momo, Prodigy and
others that find their step sizes themselves (`optimizers.ONE_PIECE`) cannot be given
an early rate with late moments: ValueError, by name.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax import core

from lth.train import TrainState, optimizers

Rewind = Callable[[TrainState, TrainState], TrainState]


def weights(early: TrainState, late: TrainState) -> TrainState:
    """Return all as it was at the rewind point (Frankle et al. 2020, arXiv:1912.05671).

    With `early` at step 0 this is the lottery-ticket experiment of Frankle & Carbin
    (2019). Optimizer state is restored too; OpenLTH drops it (see
    `make_fresh_moments`).
    """
    return early


def learning_rate(early: TrainState, late: TrainState) -> TrainState:
    """Put the trained network under the schedule from the rewind point on.

    Moments are those of the trained network, as in Renda et al.'s code.
    """
    opt_state = with_schedule(late.opt_state, early.opt_state)
    return late._replace(step=early.step, opt_state=opt_state)


def finetune(early: TrainState, late: TrainState) -> TrainState:
    """Keep the trained network at the last learning rate that trained it."""
    opt_state = optimizers.taken(
        late.opt_state, early.opt_state, optimizers.BATCHES, one_piece={}
    )
    return late._replace(step=early.step, opt_state=optimizers.stepped_back(opt_state))


def weights_low_rate(early: TrainState, late: TrainState) -> TrainState:
    """Put the early network at the last learning rate.

    Renda et al. call it lr_lottery.
    """
    last = optimizers.stepped_back(late.opt_state)
    opt_state = optimizers.taken(early.opt_state, last, optimizers.RATES)
    return early._replace(opt_state=opt_state)


def make_reinit(init: Callable[[jax.Array], TrainState], key: jax.Array) -> Rewind:
    """Draw the initialisation anew, by `init(key)`, under the schedule of `early`."""

    def reinit(early, late):
        fresh = init(key)
        opt_state = _begun(fresh.opt_state, early)
        return fresh._replace(step=early.step, opt_state=opt_state)

    return reinit


def make_fresh_moments(rewind: Rewind, tx: optax.GradientTransformation) -> Rewind:
    """Start the optimizer's moments afresh after `rewind`; the schedule stays put.

    This is OpenLTH's rewinding, which saves no optimizer state.
    """

    def fresh(early, late):
        state = rewind(early, late)
        moments = tx.init(state.params)
        if state.opt_state is early.opt_state:
            return state._replace(opt_state=_begun(moments, early))
        opt_state = with_schedule(moments, state.opt_state)
        return state._replace(opt_state=opt_state)

    return fresh


def with_schedule(opt_state: Any, source: Any) -> Any:
    """Return `opt_state` with the schedule positions, and nothing else, of `source`.

    Adam's own count, which corrects the bias of its moments, belongs to the moments; so
    do gradients that `optax.MultiSteps` has accumulated. If how many it accumulates
    follows a schedule, rewind to and from where it has none.

    Raises ValueError, by name, for an optimizer whose schedule cannot be set apart from
    its moments.
    """
    return optimizers.with_schedule(opt_state, source)


def _begun(fresh: Any, early: TrainState) -> Any:
    """A fresh optimizer's state, with its schedule where that of `early` stands."""
    step = early.step
    if isinstance(step, core.Tracer) or np.any(step):
        return with_schedule(fresh, early.opt_state)
    # At step 0 a fresh state is one of its place, also where it is in one piece.
    fields = optimizers.RATES | optimizers.BATCHES
    return optimizers.taken(fresh, early.opt_state, fields, one_piece={})
