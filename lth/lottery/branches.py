"""Branches: trainings that hang off a ticket, such as controls and ablations.

A `Branch` says where a training starts and under what mask, given the early state and a
ticket of the run. It is a function of one replicate; its randomness comes in as a key,
which depends on the branch's name, the replicate and the level alone. Each function
here makes one. `recipe.branches` maps names to them.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from lth import masks
from lth.lottery import rewind as rewinding
from lth.lottery.loop import Ticket
from lth.lottery.rewind import Rewind
from lth.train import TrainState


class Branch(NamedTuple):
    """Holds a training that hangs off a ticket, and never changes it."""

    # Of one replicate: (early, ticket, key) -> the state to start from, and its mask
    start: Callable[[TrainState, Ticket, jax.Array], tuple[TrainState, masks.Mask]]
    title: str  # what tables and legends call it
    order: int = 0  # which data order; 0 is the trunk's
    # The recipe it trains by: other data, steps or measures. None: the run's own.
    changed: Callable[[Any], Any] | None = None
    # In place of the ticket's mask one of its own, of all replicates, pruned from the
    # ticket of the level before: (early, ticket, density, keys [r]) -> mask
    prune: Callable[..., masks.Mask] | None = None
    settings: Mapping[str, Any] = {}  # its amounts; a part of its id


def rewound(rewind: Rewind = rewinding.weights) -> Branch:
    """Put the ticket's mask on the early weights."""

    def start(early, ticket, key):
        return rewind(early, early), ticket.mask

    return Branch(start, "initial weights trained")


def trained_on(rewind: Rewind = rewinding.weights) -> Branch:
    """Put the ticket's mask on its trained weights, under the early schedule."""

    def start(early, ticket, key):
        late = ticket.state
        moved = early._replace(params=late.params, stats=late.stats)
        return rewind(moved, moved), ticket.mask

    return Branch(start, "its weights trained")


def reinit(init: Callable[[jax.Array], TrainState], rewind_to: int = 0) -> Branch:
    """Put the ticket's mask on a new draw of the initialisation, `init(key)`.

    The optimizer's schedule stands where it does at the rewind point.
    """

    def start(early, ticket, key):
        if not rewind_to:  # a fresh state is one of step 0, whatever its optimizer
            return init(key), ticket.mask
        fresh = rewinding.make_reinit(init, key)
        return fresh(early, early), ticket.mask

    return Branch(start, "fresh initialisation")


def shuffled(scope: str = "layer", rewind: Rewind = rewinding.weights) -> Branch:
    """Shuffle the ticket's mask, within layers or over all prunable weights.

    `scope` is `layer` or `global`; the early weights stay where they are.
    """

    def start(early, ticket, key):
        return rewind(early, early), masks.shuffle(ticket.mask, key, scope=scope)

    titles = {"layer": "mask shuffled in layers", "global": "mask shuffled globally"}
    return Branch(start, titles[scope])


def repruned(
    prune: Callable[..., masks.Mask], title: str, rewind: Rewind = rewinding.weights
) -> Branch:
    """Put another mask in the ticket's place, as many weights chosen by `prune`.

    `prune(early, ticket, density, keys)` is that of a recipe, of all replicates; the
    ticket it is given is that of the level before.
    """
    return rewound(rewind)._replace(title=title, prune=prune)


def reordered(order: int = 1, rewind: Rewind = rewinding.weights) -> Branch:
    """Train the ticket again on the same data in another order.

    Two that differ in nothing but `order` are the children of one state (Frankle et al.
    2020, arXiv:1912.05671, section 3).
    """
    return rewound(rewind)._replace(
        title=f"data order {order}", order=order, settings={"order": order}
    )
