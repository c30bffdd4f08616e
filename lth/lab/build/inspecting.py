"""Probes by name that look into one network: its curvature, gradients and examples.

They are made as those of `probing` are.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import jax
import numpy as np

from lth.analysis import curvature, examples
from lth.lab.build.probing import Numbers, Probe, objective_of
from lth.lottery import Recipe, Ticket
from lth.lottery import recipe as recipes
from lth.train import Loss, TrainState


@cache
def _sharp(loss: Loss, count: int, steps: int) -> Callable:
    def one(params, stats, batches, mask, key):
        product = curvature.make_hvp(loss, params, stats, batches, mask, key)
        options = {"mask": mask, "steps": steps}
        return curvature.top_eigenvalues(product, params, count, key, **options)

    return one


@cache
def _sloped(loss: Loss) -> Callable:
    return partial(curvature.gradient, loss)


def _at_start(recipe: Recipe, early: TrainState, ticket: Ticket, batches: int) -> tuple:
    """The rewind point under the ticket's mask, with batches of the run's order."""
    order = recipes.keys(recipe.replicates, recipes.TRAIN)
    drawn = objective_of(recipe).batches(order, batches)
    return early.params, early.stats, drawn, ticket.mask, order


def sharpness(count: int = 1, batches: int = 8, steps: int = 40) -> Probe:
    """Find the largest eigenvalues of the Hessian at the rewind point, under the mask.

    Args:
      count: How many.
      batches: Of the training data, over which the loss is the mean.
      steps: Of Lanczos.

    Returns:
      The probe: `top_1`, `top_2`, …
    """

    def probe(recipe, early, ticket):
        one = recipe.each(_sharp(objective_of(recipe).loss, count, steps))
        found = one(*_at_start(recipe, early, ticket, batches)).values
        return {f"top_{i + 1}": found[:, i] for i in range(count)}

    return probe


def gradient(batches: int = 8) -> Probe:
    """Measure the gradient at the rewind point under the mask: its norm, and its noise.

    `batches` of the training data are compared; see `analysis.curvature.gradient`.
    """

    def probe(recipe, early, ticket):
        one = recipe.each(_sloped(objective_of(recipe).loss))
        return one(*_at_start(recipe, early, ticket, batches))._asdict()

    return probe


def spectrum(
    batches: int = 8, steps: int = 40, draws: int = 4, zero: float = 0.01
) -> Probe:
    """Estimate how the Hessian's eigenvalues are spread at the rewind point, masked.

    Args:
      batches: Of the training data, over which the loss is the mean.
      steps: Of Lanczos.
      draws: How many random starts.
      zero: What counts as zero, as a share of the largest in size, in [0, 1).

    Returns:
      The probe: `mean` of the eigenvalues and `deviation`, `top` and `bottom`, and the
      shares that are `positive`, `negative` and neither, `flat`.
    """
    if not 0 <= zero < 1:
        raise ValueError(f"zero is a share in [0, 1); got {zero}")

    def probe(recipe, early, ticket):
        one = recipe.each(_spread(objective_of(recipe).loss, steps, draws))
        nodes, weights = one(*_at_start(recipe, early, ticket, batches))
        return _spread_in_numbers(nodes, weights, zero)

    return probe


@cache
def _spread(loss: Loss, steps: int, draws: int) -> Callable:
    def one(params, stats, batches, mask, key):
        product = curvature.make_hvp(loss, params, stats, batches, mask, key)
        options = {"mask": mask, "steps": steps, "draws": draws}
        found = curvature.spectrum(product, params, key, **options)
        return found.nodes, found.weights

    return one


def _spread_in_numbers(nodes: Any, weights: Any, zero: float) -> Numbers:
    """What a quadrature [r, draws, steps] says of the eigenvalues of each replicate."""
    nodes, axes = np.asarray(nodes), (1, 2)
    weights = np.asarray(weights) / nodes.shape[1]
    mean = (weights * nodes).sum(axes)
    spread = (weights * (nodes - mean[:, None, None]) ** 2).sum(axes)
    limit = zero * np.abs(nodes).max(axes, keepdims=True)
    up = (weights * (nodes > limit)).sum(axes)
    down = (weights * (nodes < -limit)).sum(axes)
    numbers = {"mean": mean, "deviation": np.sqrt(spread)}
    numbers |= {"top": nodes.max(axes), "bottom": nodes.min(axes)}
    return numbers | {"positive": up, "negative": down, "flat": 1 - up - down}


def _parts(objective: recipes.Objective) -> Iterator[Any]:
    """The training examples, from where they may meet a network on any device."""
    for part in objective.examples():
        yield jax.tree.map(np.asarray, part)


def el2n() -> Probe:
    """Measure the mean EL2N score of the training examples, by the trained network."""

    def probe(recipe, early, ticket):
        objective = objective_of(recipe)

        def one(params, stats):
            parts = list(_parts(objective))
            if not all(hasattr(part, "targets") for part in parts):
                raise ValueError("EL2N is of data with inputs and targets")
            return examples.scores_of(
                objective.apply, params, stats, parts, examples.el2n
            ).mean()

        return {"el2n": jax.vmap(one)(ticket.state.params, ticket.state.stats)}

    return probe


def forgetting() -> Probe:
    """Count what pruning makes networks forget of the training examples.

    `forgotten` is the share of examples that the level before had right and this one
    has wrong, `learned` the reverse, and `count` how often the mean example has been
    forgotten from the first level on (`analysis.examples.forgetting`, of the ends of
    levels in the place of epochs). Levels are those of what is measured, the tickets or
    a branch. An example is right where its accuracy is above a half.
    """

    def probe(recipe, early, ticket, stored):
        objective = objective_of(recipe)

        def one(params, stats):
            parts = _parts(objective)
            told = examples.measured(objective.measure, params, stats, parts)
            if "accuracy" not in told:
                raise ValueError(
                    "forgetting is of networks whose measure has an accuracy; it has "
                    f"{', '.join(told)}"
                )
            return told["accuracy"] > 0.5

        past = sorted(n for n in stored.levels() if n < ticket.level)
        levels = [stored(level=n).state for n in past] + [ticket.state]
        every = [jax.vmap(one)(state.params, state.stats) for state in levels]
        right = jax.numpy.stack(every, 1)  # [r, levels, examples]
        found = {"count": jax.vmap(examples.forgetting)(right).mean(-1)}
        if ticket.level - 1 in past:
            before, now = right[:, -2], right[:, -1]
            found["forgotten"] = (before & ~now).mean(-1)
            found["learned"] = (~before & now).mean(-1)
        return found

    return probe
