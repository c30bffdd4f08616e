"""Branches: trainings that hang off a ticket, such as controls and ablations.

A `Branch` says where a training starts and under what mask, given the early state and a
ticket of the run. It is a function of one replicate; its randomness comes in as a key,
which depends on the branch's name, the replicate and the level alone. Each function
here makes one. `recipe.branches` maps names to them.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from lth import masks
from lth.lottery import rewind as rewinding
from lth.lottery import starts
from lth.lottery.rewind import Rewind
from lth.train import TrainState


class Branch(NamedTuple):
    """Holds a training that hangs off a ticket, and never changes it."""

    # Of one replicate: (early, ticket, key) -> the state to start from, and its mask
    start: Callable[..., tuple[TrainState, masks.Mask]]
    title: str  # what tables and legends call it
    order: int = 0  # which data order; 0 is the trunk's
    # The recipe it trains by: other data, steps or measures. None: the run's own.
    changed: Callable[[Any], Any] | None = None
    # In place of the ticket's mask one of its own, of all replicates, from the ticket
    # of the level before: (recipe, early, before, density, keys [r]) -> mask or Pruned
    prune: Callable[..., Any] | None = None
    settings: Mapping[str, Any] = {}  # its amounts; a part of its id
    # Stored states of the dense training, by name, which `start` and `prune` are given
    # as one more argument: a dict by these names
    needs: tuple[str, ...] = ()
    # Whether it is of another task, so that the dense network of the run is not what it
    # has to match
    apart: bool = False


NO_STATES: Mapping[str, TrainState] = MappingProxyType({})


class Pruned(NamedTuple):
    """Holds what pruning gives where it is more than a mask."""

    mask: masks.Mask
    state: TrainState  # what the trained state is taken for from here on
    facts: Mapping[str, Any] = {}  # of `start`, in `ticket.metrics`: arrays [r, …]


class Frozen(NamedTuple):
    """Holds the stats of a network whose pruned weights are not 0 (mask-0 actions)."""

    inner: Any
    mask: masks.Mask
    frozen: masks.Params  # what the weights are where the mask prunes
    facts: Any = None


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


def random_mask(rewind: Rewind = rewinding.weights) -> Branch:
    """Put a random mask on the early weights that keeps as many of each layer.

    That is what shuffling within layers draws; under a name of its own it is another
    draw of it.
    """
    return shuffled("layer", rewind)._replace(title="random mask, equal in each layer")


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

    def chosen(recipe, *args):
        return prune(*args)

    return rewound(rewind)._replace(title=title, prune=chosen)


def acted(
    action: Callable[..., masks.Params],
    title: str,
    rewind: Rewind = rewinding.weights,
) -> Branch:
    """Start kept weights elsewhere: a mask-1 action of Zhou et al. (2019).

    `action(params, mask, key)` is one of `lottery.starts`; it is given the early
    weights.
    """

    def start(early, ticket, key):
        state = rewind(early, early)
        params = action(state.params, ticket.mask, key)
        return state._replace(params=masks.apply(params, ticket.mask)), ticket.mask

    return Branch(start, title)


def held(
    action: Callable[..., masks.Params],
    title: str,
    changed: Callable[[Any], Any],
    rewind: Rewind = rewinding.weights,
) -> Branch:
    """Hold pruned weights at values that are not 0: a mask-0 action of Zhou et al.

    What a weight did in training is seen in the ticket of the level before, where
    weights that were pruned earlier are 0, and so have shrunk.

    Args:
      action: `action(initial, final, mask, key)` gives the values of pruned weights.
      title: What tables and legends call it.
      changed: The recipe whose loss and measures know `Frozen` stats (`on_frozen`).
      rewind: How the kept weights are rewound.

    Returns:
      The branch.
    """

    def start(early, ticket, key):
        state = rewind(early, early)
        frozen = action(early.params, ticket.state.params, ticket.mask, key)
        stats = Frozen(state.stats, ticket.mask, frozen)
        return state._replace(stats=stats), ticket.mask

    return Branch(start, title, changed=changed, prune=as_the_trunk)


def as_the_trunk(recipe, early, before, density, keys) -> Pruned:
    """Prune as the trunk does: the ticket's mask, and the state it was chosen by.

    It is the `prune` of branches whose start looks at the training before the ticket's.

    Args:
      recipe: That of the run.
      early: The state that tickets are rewound to.
      before: The ticket of the level before.
      density: Of the ticket.
      keys: Of each replicate, [r].

    Returns:
      The mask and that state.
    """
    return Pruned(recipe.prune(early, before, density, keys), before.state)


def on_frozen(loss: Callable, measure: Callable) -> tuple[Callable, Callable]:
    """Make loss and measure of a network those of one whose stats are `Frozen`."""

    def whole(params, stats):
        return starts.filled(params, stats.mask, stats.frozen)

    def lost(params, stats, *rest):
        value, (inner, metrics) = loss(whole(params, stats), stats.inner, *rest)
        return value, (stats._replace(inner=inner), metrics)

    def measured(params, stats, *rest):
        return measure(whole(params, stats), stats.inner, *rest)

    return lost, measured


def reordered(
    order: int = 1, rewind: Rewind = rewinding.weights, at: str = ""
) -> Branch:
    """Train the ticket again on the same data in another order.

    Two that differ in nothing but `order` are the children of one state (Frankle et al.
    2020, arXiv:1912.05671, section 3). The state is the early one, or that of a
    checkpoint of the dense training, under the ticket's mask.

    Args:
      order: Names the order of the data; 0 is the trunk's.
      rewind: What becomes of the early state.
      at: The name of a checkpoint, such as `step_37`; by default the rewind point.

    Returns:
      The branch.
    """

    def start(early, ticket, key, states=NO_STATES):
        state = states[at] if at else rewind(early, early)
        return state, ticket.mask

    where = f" from {at.replace('_', ' ')}" if at else ""
    title = f"data order {order}{where}"
    settings = {"order": order} | ({"at": at} if at else {})
    needs = (at,) if at else ()
    return Branch(start, title, order, settings=settings, needs=needs)
