"""A recipe whose mask changes while the dense network trains."""

from collections.abc import Callable

import jax
import optax

from lth import dynamic, lottery, train
from lth.lottery import Recipe
from lth.models import Model
from lth.train import TrainState

RULE = 1  # folds into the key of a replicate's weights


def changing_mask(
    recipe: Recipe,
    model: Model,
    optimizer: Callable[[jax.Array], optax.GradientTransformation],
) -> Recipe:
    """Return the recipe whose level 0 is what a rule in training ends with.

    It starts under the rule's first mask, and its ticket has the last.

    Args:
      recipe: Made with such an optimizer (`lth.make_recipe`), whatever its key.
      model: What it trains.
      optimizer: `optimizer(key)` is `dynamic.sparsify(…, key=key)`, or what may stand
        around that. Each replicate draws by a key of its own.

    Returns:
      The recipe with another `init` and `first`.
    """

    def init(key: jax.Array) -> TrainState:
        tx = optimizer(jax.random.fold_in(key, RULE))
        state = train.init_state(model.init, tx, key)
        return state._replace(params=dynamic.masked(state.params, state.opt_state))

    def final(state: TrainState):
        return state.params, dynamic.state_of(state.opt_state).mask

    first = lottery.trained_masked(final)
    return recipe._replace(init=jax.jit(jax.vmap(init)), first=first)
