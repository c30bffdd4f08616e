"""The `first` of a recipe whose first training finds a mask: learned, or moving."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from lth import masks, train
from lth.lottery import Ticket
from lth.lottery import recipe as recipes
from lth.lottery.recipe import First, Recipe
from lth.train import TrainState

# (state) -> rows about the updates of its mask so far, of one replicate, with `step`
Updates = Callable[[TrainState], list[dict[str, Any]]]


def make_first(
    start: Callable[[Recipe], TrainState],
    found: Callable[[TrainState, jax.Array], tuple[masks.Params, Any, masks.Mask]],
    programs: tuple[Callable, dict[str, Callable]],
    tx: optax.GradientTransformation,
    *,
    stream: int,
    beside: str = "",
) -> First:
    """Make the `first` whose ticket is the ordinary network under a mask it found.

    What trains are states of another kind, and the ticket's optimizer starts afresh.

    Args:
      start: Gives the states of all replicates that train.
      found: Of one replicate: (state, key) -> params, stats and mask of the ordinary
        network.
      programs: `train` and `measures` of such states, as a recipe has them.
      tx: The optimizer of the ordinary network.
      stream: Of keys: number 0 is the order of the data, number 1 is `found`'s.
      beside: What to store the trained states under, beside the ticket; not at all if
        it is empty.

    Returns:
      `first(recipe, watch)`.
    """
    step, measures = programs
    end = jax.jit(jax.vmap(found))
    moments = jax.jit(jax.vmap(tx.init))

    @jax.jit
    @jax.vmap
    def density(state):
        return {"density": masks.density(found(state, jax.random.key(0))[2])}

    def first(recipe, watch):
        began = start(recipe)
        order = recipes.keys(recipe.replicates, stream)
        trained, metrics = train.fit(
            began,
            masks.unmasked(began.params),
            train=lambda state, mask, n, *sums: step(state, mask, n, order, *sums),
            measures={**measures, "mask": density},
            stops=recipe.stops,
            watch=watch,
            keep=recipe.keep,
            piece=recipe.piece,
        )
        drawn = recipes.keys(recipe.replicates, stream, 1)
        params, stats, mask = end(trained, drawn)
        state = TrainState(trained.step, params, stats, moments(params))
        stored = {beside: {"state": trained}} if beside else {}
        return Ticket(0, mask, state, metrics), stored

    return first


def telling(first: First, updates: Updates) -> First:
    """Make `first` tell who watches each update of the mask since the last measurement.

    They are `record["updates"]`, rows of `updates` with their replicate.
    """

    def told(recipe, watch):
        known: set[tuple[int, int]] = set()

        def watched(state, record):
            rows = []
            for i, replicate in enumerate(recipe.replicates):
                one = jax.tree.map(lambda x, i=i: x[i], state)
                rows += [{"replicate": replicate, **row} for row in updates(one)]
            news = [r for r in rows if (r["replicate"], r["step"]) not in known]
            known.update((row["replicate"], row["step"]) for row in news)
            watch(state, {**record, "updates": news} if news else record)

        return first(recipe, watched)

    return told
