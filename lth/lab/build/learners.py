"""From the names in a configuration to a mask that is learned, and its task."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from lth import masks, supermask
from lth.lab import config
from lth.lab.build import networks
from lth.masks import schedules
from lth.lab.config.validate.learning import FROZEN
from lth.lab.config import Experiment
from lth.models import Model
from lth.supermask import Supermask
from lth.lab.build.tasks import Task

SAMPLES = 10  # masks that a Bernoulli supermask is measured by
# Movement pruning begins after a tenth of its steps and ends a fifth before the last,
# as Sanh et al. have it on SQuAD.
RAMP = (0.1, 0.8)


def _bernoulli(learn: config.Learn, model: Model, steps: int, prunable: Any):
    logit = math.log(learn.start / (1 - learn.start))
    return supermask.bernoulli(
        model, start=logit, rescale=learn.rescale, prunable=prunable
    )


def _highest(make: Callable[..., Supermask]) -> Callable[..., Supermask]:
    def build(learn: config.Learn, model: Model, steps: int, prunable: Any):
        return make(
            model,
            learn.keep,
            rank=jnp.abs if learn.rank == "magnitude" else lambda s: s,
            scope=learn.scope,
            every=learn.every,
            scale=learn.rescale,
            prunable=prunable,
        )

    return build


def _hard_concrete(learn: config.Learn, model: Model, steps: int, prunable: Any):
    return supermask.hard_concrete(model, start=learn.start, prunable=prunable)


def _continuous(learn: config.Learn, model: Model, steps: int, prunable: Any):
    return supermask.continuous(model, steps=steps, prunable=prunable)


def _movement(learn: config.Learn, model: Model, steps: int, prunable: Any):
    return supermask.movement(
        model,
        _ramp(1 - learn.keep, steps),
        scope=learn.scope,
        every=learn.every,
        prunable=prunable,
    )


def _movement_soft(learn: config.Learn, model: Model, steps: int, prunable: Any):
    threshold = _ramp(learn.threshold, steps)
    return supermask.movement_soft(model, threshold, prunable=prunable)


def _ramp(sparsity: float, steps: int) -> schedules.Schedule:
    begin, end = (round(part * steps) for part in RAMP)
    return schedules.cubic(sparsity, begin, max(end, begin + 1), 1)


LEARNERS: dict[str, Callable[..., Supermask]] = {
    "bernoulli": _bernoulli,
    "edge_popup": _highest(supermask.edge_popup),
    "multi_prize": _highest(supermask.multi_prize),
    "hard_concrete": _hard_concrete,
    "continuous": _continuous,
    "movement": _movement,
    "movement_soft": _movement_soft,
}


def learner(e: Experiment, model: Model, mask: masks.Mask, steps: int) -> Supermask:
    """What learns a mask over the leaves that `mask` covers, in so many steps."""
    covered = set(masks.paths(mask))
    return LEARNERS[e.learn.method](
        e.learn, model, steps, lambda path, leaf: path in covered
    )


def learned_task(e: Experiment, task: Task, learned: Supermask) -> Task:
    """The task as the scores of `learned` see it."""
    loss, measure = task.objective(learned.model.apply)
    if e.learn.penalty:
        loss = supermask.penalised(loss, learned, e.learn.penalty)
    if e.learn.method == "bernoulli":
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


def optimizer(e: Experiment, epoch: int, steps: int) -> optax.GradientTransformation:
    """What moves scores, and the weights beside them where they are trained too."""
    scores = networks.optimizer(e.learn.optimizer, epoch, steps, "--learn.optimizer")
    if e.learn.method in FROZEN:
        return scores
    weights = networks.optimizer(e.optimizer, epoch, steps)
    labels = supermask.Gated("weights", "gates")
    return optax.partition({"weights": weights, "gates": scores}, labels)
