"""The lottery: prune, rewind, retrain, again and again; and what hangs off a ticket."""

from lth.lottery import (
    ablations,
    averaging,
    branches,
    choosing,
    early_bird,
    filters,
    narrow,
    rewind,
    starts,
    transfer,
)
from lth.lottery.branches import Branch, Frozen, Pruned
from lth.lottery.given import begun_from
from lth.lottery.loop import (
    Prune,
    Ticket,
    Train,
    imp,
    prune_once,
    prune_untrained,
)
from lth.lottery.pruning import make_prune, make_prune_early
from lth.lottery.recipe import (
    Objective,
    Recipe,
    Training,
    check,
    fingerprint,
    keys,
    only,
)
from lth.lottery.trainings import (
    advanced,
    begun,
    branched,
    first_ticket,
    fit,
    next_ticket,
    trained_dense,
    trained_masked,
)

__all__ = [
    "Branch",
    "Frozen",
    "Objective",
    "Prune",
    "Pruned",
    "Recipe",
    "Ticket",
    "Train",
    "Training",
    "ablations",
    "advanced",
    "averaging",
    "begun",
    "begun_from",
    "branched",
    "branches",
    "check",
    "choosing",
    "early_bird",
    "filters",
    "fingerprint",
    "first_ticket",
    "fit",
    "imp",
    "keys",
    "make_prune",
    "make_prune_early",
    "narrow",
    "next_ticket",
    "only",
    "prune_once",
    "prune_untrained",
    "rewind",
    "starts",
    "trained_dense",
    "trained_masked",
    "transfer",
]
