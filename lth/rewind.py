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
| `finetune`            | late                         | late     |
| `weights_low_rate`    | early                        | late     |
| `make_reinit(…)`      | fresh                        | early    |

A schedule at `late` has run its course and stays at its last value.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

from lth.train import TrainState

Rewind = Callable[[TrainState, TrainState], TrainState]


def weights(early: TrainState, late: TrainState) -> TrainState:
    """Everything as it was at the rewind point (Frankle et al. 2020, arXiv:1912.05671).

    With `early` at step 0 this is the lottery-ticket experiment of Frankle & Carbin
    (2019). Optimizer state is restored too; OpenLTH drops it (see
    `make_fresh_moments`).
    """
    return early


def learning_rate(early: TrainState, late: TrainState) -> TrainState:
    """The trained network again under the schedule from the rewind point on.

    Moments are those of the trained network, as in Renda et al.'s code.
    """
    opt_state = with_schedule(late.opt_state, early.opt_state)
    return late._replace(step=early.step, opt_state=opt_state)


def finetune(early: TrainState, late: TrainState) -> TrainState:
    """The trained network at the last learning rate."""
    return late._replace(step=early.step)


def weights_low_rate(early: TrainState, late: TrainState) -> TrainState:
    """The early network at the last learning rate; Renda et al. call it lr_lottery."""
    return early._replace(opt_state=with_schedule(early.opt_state, late.opt_state))


def make_reinit(init: Callable[[jax.Array], TrainState], key: jax.Array) -> Rewind:
    """A new draw of the initialisation, `init(key)`, under the schedule of `early`."""

    def reinit(early, late):
        fresh = init(key)
        opt_state = with_schedule(fresh.opt_state, early.opt_state)
        return fresh._replace(step=early.step, opt_state=opt_state)

    return reinit


def make_fresh_moments(rewind: Rewind, tx: optax.GradientTransformation) -> Rewind:
    """`rewind` with the optimizer's moments started afresh; the schedule stays put.

    This is OpenLTH's rewinding, which saves no optimizer state.
    """

    def fresh(early, late):
        state = rewind(early, late)
        opt_state = with_schedule(tx.init(state.params), state.opt_state)
        return state._replace(opt_state=opt_state)

    return fresh


def with_schedule(opt_state: Any, source: Any) -> Any:
    """`opt_state` with the schedule positions, and nothing else, of `source`.

    Schedules are known by Optax's `ScaleByScheduleState` and `inject_hyperparams`;
    Adam's own count, which corrects the bias of its moments, belongs to the moments.
    """
    injected = (optax.InjectHyperparamsState, optax.InjectStatefulHyperparamsState)

    def known(state):
        return isinstance(state, (optax.ScaleByScheduleState, *injected))

    def swap(mine, other):
        if isinstance(mine, injected):
            inner = with_schedule(mine.inner_state, other.inner_state)
            return other._replace(inner_state=inner)
        return other if known(mine) else mine

    return jax.tree.map(swap, opt_state, source, is_leaf=known)
