"""A recipe whose mask changes while the dense network trains."""

from collections.abc import Callable

import jax
import optax

from lth import dynamic, lottery
from lth.lab.build import finding
from lth.lottery import Recipe
from lth.lottery import recipe as recipes
from lth.models import Model
from lth.train import TrainState


def changing_mask(
    recipe: Recipe,
    model: Model,
    optimizer: Callable[[jax.Array], optax.GradientTransformation],
    dense: Callable[[], TrainState] | None = None,
) -> Recipe:
    """Return the recipe whose level 0 is what a rule in training ends with.

    It starts under the rule's first mask, and its ticket has the last. Each update of
    the mask is told to who watches (`finding.telling`).

    Args:
      recipe: Made with such an optimizer (`lth.make_recipe`), whatever its key.
      model: What it trains.
      optimizer: `optimizer(key)` is `dynamic.sparsify(…, key=key)`, or what may stand
        around that. Each replicate draws by a key of its own.
      dense: Gives the state of all replicates to go on from, with the optimizer afresh;
        by default they start from their initialisation.

    Returns:
      The recipe with another `init` and `first`.
    """

    def begun(state: TrainState, key: jax.Array) -> TrainState:
        opt_state = optimizer(jax.random.fold_in(key, recipes.DYNAMIC)).init(
            state.params
        )
        params = dynamic.masked(state.params, opt_state)
        return state._replace(params=params, opt_state=opt_state)

    def init(key: jax.Array) -> TrainState:
        params, stats = model.init(key)
        return begun(TrainState(jax.numpy.int32(0), params, stats, None), key)

    def start(recipe: Recipe) -> TrainState:
        if dense is None:
            return recipes.drawn(recipe)
        keys = recipes.keys(recipe.replicates, recipes.INIT)
        return recipe.each(begun)(dense(), keys)

    def final(state: TrainState):
        return state.params, dynamic.state_of(state.opt_state).mask

    def updates(state: TrainState):
        return dynamic.records(state.opt_state)

    first = finding.telling(lottery.trained_masked(final, start), updates)
    return recipe._replace(init=jax.jit(jax.vmap(init)), first=first)
