"""From the names in a configuration to a mask that is learned, and its task."""

from collections.abc import Callable

import jax
import optax

from lth import masks, supermask
from lth.lab.build import finding, networks
from lth.lab.build.names import LEARNERS
from lth.lab.build.tasks import Task
from lth.lab.config import Learn, Optimizer
from lth.lab.config.validate.learning import FROZEN
from lth.lottery import recipe as recipes
from lth.models import Model
from lth.supermask import Supermask
from lth.train import TrainState

SAMPLES = 10  # masks that a Bernoulli supermask is measured by


def learner(learn: Learn, model: Model, mask: masks.Mask, steps: int) -> Supermask:
    """Make what learns a mask over the leaves that `mask` covers.

    Args:
      learn: By which method, and its numbers.
      model: The network under the mask.
      mask: Covers what can be pruned.
      steps: How long it is learned.

    Returns:
      The learner.
    """
    covered = set(masks.paths(mask))
    return LEARNERS[learn.method](
        learn, model, steps, lambda path, leaf: path in covered
    )


def learned_task(learn: Learn, task: Task, learned: Supermask) -> Task:
    """The task as the scores of `learned` see it."""
    loss, measure = task.objective(learned.model.apply)
    if learn.penalty:
        loss = supermask.penalised(loss, learned, learn.penalty)
    if learn.method == "bernoulli":
        measure = _drawn_and_rounded(learned, task.measure)
    return task._replace(model=learned.model, loss=loss, measure=measure)


def _drawn_and_rounded(learned: Supermask, measure: Callable) -> Callable:
    """The mean over drawn masks, and beside it what the likelier half does."""
    drawn = supermask.sampled(learned, measure, SAMPLES)

    def measured(params, stats, batch):
        mask = supermask.rounded(params)
        found = measure(learned.weights(params, stats, mask), stats.inner, batch)
        rounded = {f"rounded_{name}": values for name, values in found.items()}
        return drawn(params, stats, batch) | rounded

    return measured


def optimizer(
    learn: Learn, weights: Optimizer, epoch: int, steps: int
) -> optax.GradientTransformation:
    """Make what moves scores, and the weights beside them where they are trained too.

    Args:
      learn: The method, and the optimizer of scores.
      weights: The optimizer of weights.
      epoch: How many steps go to an epoch.
      steps: How many there are.

    Returns:
      The optimizer of both.
    """
    scores = networks.optimizer(learn.optimizer, epoch, steps, "--learn.optimizer")
    if learn.method in FROZEN:
        return scores
    labels = supermask.Gated("weights", "gates")
    return optax.partition(
        {"weights": networks.optimizer(weights, epoch, steps), "gates": scores}, labels
    )


def make_first(
    learned: Supermask,
    init: Callable[[jax.Array], TrainState],
    programs: tuple[Callable, dict[str, Callable]],
    tx: optax.GradientTransformation,
) -> Callable:
    """Make the `first` of a recipe whose level 0 learns its mask.

    Its ticket is the ordinary network under the learned mask, as its weights count.
    Beside it `learned` is stored: what was trained, the scores. Of masks that are drawn
    it holds one more, while its metrics are means over several.

    Args:
      learned: What learns.
      init: Of one replicate: key -> a state that holds scores.
      programs: `train` and `measures` of such states, as a recipe has them.
      tx: The optimizer of the ordinary network.

    Returns:
      `first(recipe, watch)`.
    """
    begin = jax.jit(jax.vmap(init))

    def found(state, key):
        mask = learned.choose(state.params, state.stats, key)
        weights = learned.weights(state.params, state.stats, mask)
        return weights, state.stats.inner, mask

    return finding.make_first(
        lambda recipe: begin(recipes.keys(recipe.replicates, recipes.INIT)),
        found,
        programs,
        tx,
        stream=recipes.LEARN,
        beside="learned",
    )
