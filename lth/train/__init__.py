"""Training: one step, many steps in one compiled loop, losses, curves."""

from lth.train import optimizers
from lth.train.loop import (
    copied,
    fit,
    make_evaluate,
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
)

__all__ = [
    "NEVER",
    "Loss",
    "Metrics",
    "Stats",
    "TrainState",
    "add_sums",
    "classification",
    "copied",
    "fit",
    "init_state",
    "make_evaluate",
    "make_train",
    "mask_slots",
    "masked_slots",
    "optimizers",
    "regression",
    "weighted_mean",
]
