"""Training: one step, many steps in one compiled loop, losses, curves."""

from lth.train import averaging, optimizers
from lth.train.loop import (
    Keep,
    Unfinished,
    copied,
    fit,
    make_evaluate,
    step_of,
    weighted_mean,
)
from lth.train.losses import (
    classification,
    regression,
)
from lth.train.step import (
    NEVER,
    Loss,
    Metrics,
    Stats,
    TrainState,
    add_sums,
    init_state,
    make_train,
    mask_slots,
    masked_slots,
    no_sums,
)

__all__ = [
    "NEVER",
    "Keep",
    "Loss",
    "Metrics",
    "Stats",
    "TrainState",
    "Unfinished",
    "add_sums",
    "averaging",
    "classification",
    "copied",
    "fit",
    "init_state",
    "make_evaluate",
    "make_train",
    "mask_slots",
    "masked_slots",
    "no_sums",
    "optimizers",
    "regression",
    "step_of",
    "weighted_mean",
]
