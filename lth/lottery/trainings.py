"""The trainings of a run: level 0, the next level, a branch.

They are functions of a recipe. A laboratory stores what they return; a loop of your own
may do without.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lth import masks, train
from lth.lottery import loop
from lth.lottery.branches import Pruned
from lth.lottery.loop import Ticket
from lth.lottery.recipe import (
    PRUNE,
    REINIT,
    TRAIN,
    First,
    Keys,
    Recipe,
    Training,
    Watch,
    check_like,
    drawn,
    keys,
    shapes,
    stream,
)
from lth.train import Metrics, TrainState

NONE: Mapping[str, TrainState] = MappingProxyType({})


def ignore(state: TrainState, record: Metrics) -> None:
    """Watch nothing."""


def fit(
    recipe: Recipe,
    state: TrainState,
    mask: masks.Mask,
    watch: Watch = ignore,
    order: int = 0,
) -> tuple[TrainState, Metrics]:
    """Train to the last of `recipe.stops` and measure at each (see `train.fit`).

    Args:
      recipe: What the run is made of.
      state: Where to start, of all replicates.
      mask: Under what, of all replicates.
      watch: Is told each measurement.
      order: Names the order of the data, 0 being that of the trunk.

    Returns:
      The trained state and its curves.
    """
    return fit_in(recipe, state, mask, keys(recipe.replicates, TRAIN, order), watch)


def advanced(recipe: Recipe, state: TrainState, step: int, order: Keys) -> TrainState:
    """Return the state as dense training has it at a later step; nothing is measured.

    Args:
      recipe: What the run is made of.
      state: Of all replicates, before that step; it stays whole.
      step: Counted as in the state.
      order: The keys [r] that name the order of the data.

    Returns:
      The state at that step.
    """
    by = recipe._replace(measures={}, stops=(step,))
    return fit_in(by, state, recipe.mask, order)[0]


def trained(
    recipe: Recipe, training: Training, watch: Watch = ignore
) -> tuple[TrainState, Metrics]:
    """Train as `recipe.trained` says: once, by default."""
    if recipe.trained is not None:
        return recipe.trained(recipe, training, watch)
    order = ordered(recipe, training.orders)
    return fit_in(recipe, training.state, training.mask, order, watch)


def ordered(recipe: Recipe, orders: Sequence[int]) -> Keys:
    """Return the keys of all replicates in orders of the data: [orders * r]."""
    return _joined([keys(recipe.replicates, TRAIN, order) for order in orders])


def fit_in(
    recipe: Recipe,
    state: TrainState,
    mask: masks.Mask,
    order: Keys,
    watch: Watch = ignore,
) -> tuple[TrainState, Metrics]:
    """Train as `fit` does, as many networks as there are keys.

    Args:
      recipe: What the run is made of.
      state: Where to start, [k, …].
      mask: Under what, [k, …].
      order: The keys [k] that name the order of the data.
      watch: Is told each measurement.

    Returns:
      The trained state and its curves.
    """
    return train.fit(
        state,
        mask,
        train=lambda state, mask, n, *sums: recipe.train(state, mask, n, order, *sums),
        measures=recipe.measures,
        stops=recipe.stops,
        watch=watch,
        keep=recipe.keep,
        piece=piece(recipe),
    )


def piece(recipe: Recipe) -> int:
    """Say where a training may be cut; not at all if its function takes no sums."""
    taken = inspect.signature(recipe.train).parameters.values()
    several = any(p.kind is p.VAR_POSITIONAL for p in taken)
    return recipe.piece if several or len(taken) >= 5 else 0


def trained_dense(recipe: Recipe, watch: Watch = ignore) -> tuple[Ticket, dict]:
    """Return level 0 as the network trained whole."""
    training = Training(0, drawn(recipe), recipe.mask, (0,))
    return Ticket(0, recipe.mask, *trained(recipe, training, watch)), {}


def trained_masked(
    final: Callable[[TrainState], tuple[masks.Params, masks.Mask]],
    start: Callable[[Recipe], TrainState] = drawn,
) -> First:
    """Make the `first` of a recipe whose network ends training with a mask of its own.

    Such are those whose mask changes in training, in the optimizer or in the model.

    Args:
      final: Of one replicate: the trained state -> its params and their mask, as in
        `lambda state: (state.params, dynamic.state_of(state.opt_state).mask)`.
      start: `(recipe) -> state` of all replicates, where the training begins.

    Returns:
      `first(recipe, watch)`; what it measures on the way is the state as it trains.
    """

    def first(recipe: Recipe, watch: Watch = ignore) -> tuple[Ticket, dict]:
        state, metrics = fit(recipe, start(recipe), recipe.mask, watch)
        params, mask = recipe.each(final)(state)
        check_like(mask, recipe.mask, "the mask that the training ended with")
        return Ticket(0, mask, state._replace(params=params), metrics), {}

    return first


def first_ticket(recipe: Recipe, watch: Watch = ignore) -> tuple[Ticket, dict]:
    """Return level 0, by `recipe.first`, and the trees to store beside it."""
    ticket, beside = (recipe.first or trained_dense)(recipe, watch)
    return judged(ticket, None), beside


def next_ticket(
    recipe: Recipe, early: TrainState, ticket: Ticket, watch: Watch = ignore
) -> Ticket:
    """Return the next level: prune, rewind, retrain (`lottery.prune_once`).

    Args:
      recipe: What the run is made of.
      early: The state to rewind to.
      ticket: The one before.
      watch: Is told each measurement.

    Returns:
      The ticket, with who failed in its metrics (`judged`).
    """
    level = ticket.level + 1
    fresh = keys(recipe.replicates, REINIT, level)
    pruned = _pruned(recipe, recipe.prune, early, ticket)
    new = loop.prune_once(
        early,
        ticket._replace(state=pruned.state),
        recipe.densities[ticket.level],
        train=lambda state, mask: trained(
            recipe, Training(level, state, mask, (0,)), watch
        ),
        prune=lambda state, mask, density: pruned.mask,
        rewind=lambda early, late: recipe.rewind(early, late, fresh),
    )
    return judged(new, ticket)


def _pruned(recipe, prune, early, ticket) -> Pruned:
    """What `prune` makes of a ticket, checked."""
    drawn = keys(recipe.replicates, PRUNE, ticket.level + 1)
    made = prune(early, ticket, recipe.densities[ticket.level], drawn)
    if not isinstance(made, Pruned):
        made = Pruned(made, ticket.state)
    check_like(made.mask, recipe.mask, "the mask that `prune` returned")
    return made


def changed(recipe: Recipe, name: str) -> Recipe:
    """Return the recipe that a branch trains by: the run's own, unless it says so."""
    change = recipe.branches[name].changed
    return recipe if change is None else change(recipe)._replace(keep=recipe.keep)


def branched(
    recipe: Recipe,
    names: Sequence[str],
    early: TrainState,
    ticket: Ticket,
    before: Ticket | None = None,
    watch: Watch = ignore,
    states: Mapping[str, TrainState] = NONE,
) -> list[Ticket]:
    """Return what branches make of one ticket, trained together on the device.

    Args:
      recipe: What the run is made of, with the branches in it.
      names: Of the branches. Several must leave the recipe unchanged
        (`Branch.changed`), for they run as one training of [names x r] networks.
      early: The state that tickets are rewound to.
      ticket: The stored one that they hang off.
      before: The ticket of the level before, for branches that prune for themselves.
      watch: Is told each measurement, of all of them.
      states: Of the dense training, by the names that the branches need.

    Returns:
      A ticket of the same level for each name, in their order.
    """
    chosen = [recipe.branches[name] for name in names]
    if len(names) > 1 and any(branch.changed for branch in chosen):
        raise ValueError(f"{', '.join(names)}: one changes the recipe, so not together")
    by = changed(recipe, names[0])
    starts = [begun(recipe, name, early, ticket, before, states)[1:] for name in names]
    orders = tuple(branch.order for branch in chosen)
    first, mask = (_joined([pair[i] for pair in starts]) for i in (0, 1))
    state, metrics = trained(by, Training(ticket.level, first, mask, orders), watch)
    parts: list[Any] = [(mask, state, metrics)]
    if len(names) > 1:
        parts = _parted((mask, state, metrics), len(names), len(recipe.replicates))
    return [judged(Ticket(ticket.level, *part), ticket) for part in parts]


def _parted(tree: Any, parts: int, count: int) -> list:
    """Each `count` of what leads with [parts * count]."""
    return [
        jax.tree.map(lambda x, i=i: x[i * count : (i + 1) * count], tree)
        for i in range(parts)
    ]


def begun(
    recipe: Recipe,
    name: str,
    early: TrainState,
    ticket: Ticket,
    before: Ticket | None = None,
    states: Mapping[str, TrainState] = NONE,
) -> tuple[Recipe, TrainState, masks.Mask]:
    """Return the recipe that a branch trains by, and where it begins.

    Args:
      recipe: What the run is made of, with the branch in it.
      name: Of the branch.
      early: The state that tickets are rewound to.
      ticket: The stored one that it hangs off.
      before: The ticket of the level before, for a branch that prunes for itself.
      states: Of the dense training, by the names that the branch needs.

    Returns:
      That recipe, and the state and mask of all replicates.

    Raises:
      ValueError: for a branch that prunes, at level 0; for what does not fit the recipe
        that it trains by.
    """
    branch, by = recipe.branches[name], changed(recipe, name)
    needed = [{n: states[n] for n in branch.needs}] if branch.needs else []
    if branch.prune is not None:
        if before is None:
            raise ValueError(f"the branch {name} prunes, and nothing at level 0 is")
        prune = partial(branch.prune, recipe)
        made = _pruned(recipe, lambda *args: prune(*args, *needed), early, before)
        metrics = {**ticket.metrics, **made.facts}
        ticket = ticket._replace(mask=made.mask, state=made.state, metrics=metrics)
    drawn = keys(recipe.replicates, stream(name), ticket.level)
    state, mask = recipe.each(branch.start)(early, ticket, drawn, *needed)
    check_like(mask, by.mask, f"the mask of the branch {name}")
    if branch.changed is not None:
        weights = f"what the branch {name} begins with"
        check_like(state.params, shapes(by).params, weights)
    return by, state, mask


def _joined(trees: list) -> Any:
    if len(trees) == 1:
        return trees[0]
    return jax.tree.map(lambda *x: jnp.concatenate(x), *trees)


def judged(ticket: Ticket, before: Ticket | None) -> Ticket:
    """Return the ticket with `failed` [r, 2]: where each replicate was not finite.

    That is the level and step of the first loss, or of the weights at the end of
    training. It is (-1, -1) for replicates that never failed, and stays once it is set.
    """
    finite = _finite(ticket.state.params)
    ended = np.where(finite, train.NEVER, ticket.state.step)
    diverged = np.minimum(ticket.metrics["diverged"], ended)
    failed = np.full((len(diverged), 2), -1)
    now = diverged != train.NEVER
    failed[now, 0], failed[now, 1] = ticket.level, diverged[now]
    if before is not None:
        earlier = before.metrics["failed"]
        failed = np.where(earlier[:, :1] >= 0, earlier, failed)
    return ticket._replace(metrics={**ticket.metrics, "failed": failed})


@jax.jit
@jax.vmap
def _finite(params: masks.Params) -> jax.Array:
    leaves = jax.tree.leaves(params)
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]))
