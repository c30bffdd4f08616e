"""Masks that are learned: models whose trained tree holds scores, not weights.

Each function takes a `models.Model` and gives a `Supermask`, whose `model` trains in
`train.make_train` as any other, under `masks.unmasked`. Weights that are frozen lie in
its stats, so replicates have their own and checkpoints are whole; training returns them
as they came, to the bit. What was learned is an ordinary mask (`choose`), and the
ordinary params under it (`weights`) can be trained further, stored, or compared.

| function            | trained                 | mask                        |
|---------------------|-------------------------|-----------------------------|
| `bernoulli`         | logits                  | drawn at each step          |
| `edge_popup`        | scores                  | the highest, so many        |
| `multi_prize`       | scores                  | the same, of binary weights |
| `hard_concrete`     | weights and logits      | drawn, stretched, clipped   |
| `continuous`        | weights and gate values | a sigmoid that hardens      |
| `movement`          | weights and scores      | the highest, ever fewer     |
| `movement_soft`     | weights and scores      | those above a threshold     |

Gradients pass a mask that is all or nothing as if it were the score itself (of
`bernoulli`, its sigmoid): the straight-through estimator.
"""

from lth.supermask import search, superposition
from lth.supermask.base import Supermask, penalised, sampled
from lth.supermask.frozen import (
    Chosen,
    Frozen,
    bernoulli,
    binarised,
    edge_popup,
    multi_prize,
    rounded,
)
from lth.supermask.gated import (
    Counted,
    Gated,
    alive_probability,
    continuous,
    hard_concrete,
    movement,
    movement_soft,
)

__all__ = [
    "Chosen",
    "Counted",
    "Frozen",
    "Gated",
    "Supermask",
    "alive_probability",
    "bernoulli",
    "binarised",
    "continuous",
    "edge_popup",
    "hard_concrete",
    "movement",
    "movement_soft",
    "multi_prize",
    "penalised",
    "rounded",
    "sampled",
    "search",
    "superposition",
]
