"""Criteria: what ranks weights. Each gives a tree of scores; higher is kept.

A criterion is a function of what it looks at and of nothing else: the weights
(`weights`), a loss on batches (`gradients`), what flows into each kernel
(`activations`), or how the weights moved (`history`). `masks.keep_top` makes a mask of
the scores, with the same count, the same ties and the same meaning of density for all.
Optimal brain surgery, which moves the weights that stay as well, is in `obs`; what all
of them estimate, the loss without a weight or a unit, in `oracle`. `channels` ranks
whole channels, with all that belongs to one.
"""

from lth.criteria import channels, history, obs, oracle
from lth.criteria.activations import (
    activation_magnitude,
    mean_activation,
    nonzero_share,
    wanda,
)
from lth.criteria.gates import normalised as taylor_normalised
from lth.criteria.gates import taylor, taylor_abs, taylor_batch, taylor_squared
from lth.criteria.gradients import (
    adam_second_moment,
    empirical_fisher,
    gradient_magnitude,
    grasp,
    hutchinson,
    mean_gradient,
    obd,
    snip,
    synflow,
    weight_gradient,
)
from lth.criteria.weights import (
    inverted,
    lamp,
    magnitude,
    normalised_magnitude,
    random,
    standardised_magnitude,
)

__all__ = [
    "activation_magnitude",
    "adam_second_moment",
    "channels",
    "empirical_fisher",
    "gradient_magnitude",
    "grasp",
    "history",
    "hutchinson",
    "inverted",
    "lamp",
    "magnitude",
    "mean_activation",
    "mean_gradient",
    "nonzero_share",
    "normalised_magnitude",
    "obd",
    "obs",
    "oracle",
    "random",
    "snip",
    "standardised_magnitude",
    "synflow",
    "taylor",
    "taylor_abs",
    "taylor_batch",
    "taylor_normalised",
    "taylor_squared",
    "wanda",
    "weight_gradient",
]
