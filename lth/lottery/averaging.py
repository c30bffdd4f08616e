"""Averaging as a method: tickets that are means of several trainings of one network.

`soups` and `swamp` make of a recipe another, whose tickets are trained several times at
once, in orders of the data of their own, as particles that follow each other on the
axis of replicates. The particles live as long as the training, and are kept with it
while it is under way; the ticket that is stored, pruned and rewound is their mean.

Measurements on the way are of that mean too. Beside it stand the particles' own scores
on test data, in the split `particles`: `accuracy_0` and so on, `accuracy_mean` and
`accuracy_best`, the best of them on these data (of a loss, the lowest). A particle that
collects an average of its weights is scored by that. `train_…` are means over
particles. A replicate fails where a particle does.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lth import masks, train
from lth.lottery import trainings
from lth.lottery.recipe import Recipe, Training, Watch, shapes
from lth.train import Metrics, Stats, TrainState, averaging

BATCHES = 100  # ten times what batch norm usually remembers


class Collected(NamedTuple):
    """Holds the stats of networks in training, and a mean of their weights so far."""

    stats: Stats
    mean: masks.Params
    steps: jax.Array  # [k]: of how many of them it is the mean


class _Method(NamedTuple):
    """Says how a recipe averages."""

    particles: int
    reestimate: int
    level: int  # the first that is averaged
    # (recipe, step that training starts at) -> steps whose weights are collected
    collects: Callable[[Recipe, int], frozenset[int]] | None = None


def soups(recipe: Recipe, m: int, reestimate: int = BATCHES) -> Recipe:
    """Retrain each ticket m times, and average (Zimmer et al. 2024, arXiv:2306.16788).

    Sparse Model Soups: the m retrainings share the mask, so that their mean has it. It
    is what is pruned next, and a recipe whose `rewind` goes on from the trained weights
    (`rewind.learning_rate`) retrains from it, as the paper does; another rewinds it.

    Here particles differ in what the key of a training draws: the order of the data,
    augmentation and dropout. The paper also varies weight decay and the length and rate
    of retraining, and chooses greedily what to average (its uniform mean is ours). The
    moments of the mean, where it is trained on, are those of the first particle.

    Args:
      recipe: Whose tickets are averaged. Level 0 stays one training.
      m: How many retrainings, at least 1. Particle j of order i has the order
        `i * m + j`: that of one is the plain run.
      reestimate: Over how many batches of the first particle's order the averages of
        batch norm are taken anew (`Objective.reestimate`); 0: they are averaged too.

    Returns:
      The recipe, which `lth.run` takes as any other; runs of it are no others' by its
      `stamp`.

    Raises:
      ValueError: for numbers out of range, a recipe that is averaged already, and one
        with stats that does not tell how to take them anew.
    """
    _check(recipe, m, reestimate)
    told = f"soups of {m}, {reestimate} batches"
    return _averaged(recipe, _Method(m, reestimate, 1), told)


def swamp(
    recipe: Recipe,
    particles: int,
    reestimate: int = BATCHES,
    swa_from: float = 0.75,
    every: int | None = None,
) -> Recipe:
    """Train particles and collect averages (Choi et al. 2024, arXiv:2305.14852).

    SWAMP: in each round particles train from the same state under the same mask, each
    in an order of its own, and each averages its weights over the last part of its
    training (SWA, Izmailov et al. 2018, arXiv:1803.05407). The mean of those averages
    is the ticket, and is pruned. Level 0 is one network up to the rewind point and
    particles from there; its curves begin at that point.

    The learning rate follows the recipe's schedule to its end; SWA as published holds
    it high while it collects, which is a schedule to give the recipe's optimizer. As in
    the paper all rounds rewind to the early state, which it asks to be matching: late
    enough that particles stay in one basin. Checkpoints beyond the rewind point are
    those of one dense training.

    Args:
      recipe: Whose networks are averaged.
      particles: How many, at least 1; orders are as in `soups`.
      reestimate: As in `soups`.
      swa_from: The share of a training after which weights are collected, in [0, 1).
      every: Collect after so many steps, counted back from the end; by default at each
        of the recipe's `stops` in that part. The end is always one of them.

    Returns:
      The recipe, as of `soups`.

    Raises:
      ValueError: as `soups`, and for an `every` where trainings may not be cut.
    """
    _check(recipe, particles, reestimate)
    if not 0 <= swa_from < 1:
        raise ValueError(f"swa_from is a share of the steps, in [0, 1); got {swa_from}")
    if every is not None and (every < 1 or trainings.piece(recipe) != 1):
        raise ValueError(
            "every is at least 1, and None where a training may not be cut after any "
            f"step; got {every}, and pieces of {trainings.piece(recipe)}"
        )

    def collects(recipe: Recipe, start: int) -> frozenset[int]:
        last = recipe.stops[-1]
        steps = range(last, start, -every) if every else recipe.stops
        since = start + swa_from * (last - start)
        return frozenset({last, *(step for step in steps if step > since)})

    told = f"swamp of {particles}, {reestimate} batches, from {swa_from} every {every}"
    return _averaged(recipe, _Method(particles, reestimate, 0, collects), told)


def _check(recipe: Recipe, particles: int, reestimate: int) -> None:
    if particles < 1 or reestimate < 0:
        raise ValueError(
            "particles are at least 1 and batches to reestimate over at least 0; got "
            f"{particles} and {reestimate}"
        )
    if recipe.trained is not None:
        raise ValueError("the recipe has a way of training already: recipe.trained")
    has_stats = bool(jax.tree.leaves(shapes(recipe).stats))
    if reestimate and has_stats and recipe.objective is None:
        raise ValueError(
            "the network has averages, and recipe.objective does not say how they are "
            "taken anew; with reestimate=0 they are averaged as the weights are"
        )


def _averaged(recipe: Recipe, method: _Method, told: str) -> Recipe:
    stamp = {**recipe.stamp, "averaged": told}
    return recipe._replace(trained=partial(_trained, method), stamp=stamp)


def _trained(
    method: _Method, recipe: Recipe, training: Training, watch: Watch
) -> tuple[TrainState, Metrics]:
    """The mean of particles, and its curves."""
    plain, m = recipe._replace(trained=None), method.particles
    if training.level < method.level:
        return trainings.trained(plain, training, watch)
    order, state = trainings.ordered(recipe, training.orders), training.state
    if training.level == 0 and train.step_of(state) < recipe.rewind_to:
        # Not kept under way: it is short, and what follows is.
        alone = plain._replace(keep=None)
        state = trainings.advanced(alone, state, recipe.rewind_to, order)
    orders = [[o * m + j for o in training.orders] for j in range(m)]
    each = jnp.stack([trainings.ordered(recipe, o) for o in orders], 1)
    state, mask = _repeated((state, training.mask), m)
    if method.collects:
        steps = method.collects(recipe, train.step_of(state))
        plain, state = _collecting(plain, steps), _opened(state)
    mean = _remembered(partial(_mean, method, recipe, order))

    def told(state: TrainState, record: Metrics) -> None:
        watch(mean(state), _joined(record, m))

    measures = _measures(recipe, mean, m)
    plain = plain._replace(measures=measures)
    state, curves = trainings.fit_in(plain, state, mask, each.reshape(-1), told)
    return mean(state), _joined(curves, m)


def _mean(
    method: _Method, recipe: Recipe, order: jax.Array, state: TrainState
) -> TrainState:
    """The mean [k, …] of particles [k * m, …], with averages that fit it."""
    parts = _parted(_chosen(state), method.particles)
    mean = averaging.average(parts)._replace(opt_state=parts[0].opt_state)
    if not method.reestimate or not jax.tree.leaves(mean.stats):
        return mean
    assert recipe.objective is not None  # `_check` saw to that
    return recipe.objective.reestimate(mean, order, method.reestimate)


def _measures(recipe: Recipe, mean: Callable, m: int) -> dict[str, Callable]:
    """The measures of the mean, and on test data those of each particle."""

    def of_mean(measure, state):
        return measure(mean(state))

    def of_each(measure, state):
        found = {}
        for name, values in measure(_chosen(state)).items():
            values = np.asarray(values).reshape(-1, m)
            found |= {f"{name}_{j}": values[:, j] for j in range(m)}
            found[f"{name}_mean"] = values.mean(1, dtype=values.dtype)
            best = np.min if "loss" in name else np.max
            found[f"{name}_best"] = best(values, axis=1)
        return found

    whole = {split: partial(of_mean, f) for split, f in recipe.measures.items()}
    test = recipe.measures.get("test", [*recipe.measures.values()][-1])
    return {**whole, "particles": partial(of_each, test)}


def _remembered(function: Callable) -> Callable:
    """Compute of the same state once: several splits are measured of it."""
    last: list[tuple[Any, Any]] = []

    def call(state):
        if not last or last[0][0] is not state:
            last[:] = [(state, function(state))]
        return last[0][1]

    return call


def _joined(record: Metrics, m: int) -> Metrics:
    """What is told of particles [k * m, …], of their replicates [k, …]."""
    found = {}
    for name, values in record.items():
        if name == "step" or name == "diverged" or name.startswith("train_"):
            values = values.reshape(-1, m, *values.shape[1:])
            if name == "step":
                values = values[:, 0]
            else:
                values = values.min(1) if name == "diverged" else values.mean(1)
        found[name] = values
    return found


def _collecting(recipe: Recipe, steps: frozenset[int]) -> Recipe:
    """The recipe whose training collects its weights after some steps."""

    def trained(state, mask, n, order, *sums):
        at = train.step_of(state)
        end = at + n
        for step in sorted({end, *(s for s in steps if at < s < end)}):
            held, inner = state.stats, state._replace(stats=state.stats.stats)
            inner, *sums = recipe.train(inner, mask, step - at, order, *sums)
            held = held._replace(stats=inner.stats)
            if step in steps:
                held = _collect(held, inner.params)
            state, at = inner._replace(stats=held), step
        return state, *sums

    return recipe._replace(train=trained, piece=trainings.piece(recipe))


@jax.jit
def _collect(held: Collected, params: masks.Params) -> Collected:
    mean = averaging.collected(held.mean, held.steps, params)
    return held._replace(mean=mean, steps=held.steps + 1)


@jax.jit
def _opened(state: TrainState) -> TrainState:
    """A state that has collected nothing yet."""
    mean = jax.tree.map(jnp.zeros_like, state.params)
    return state._replace(
        stats=Collected(state.stats, mean, jnp.zeros_like(state.step))
    )


@jax.jit
def _chosen(state: TrainState) -> TrainState:
    """The collected weights where there are any, as a state without them."""
    if not isinstance(state.stats, Collected):
        return state
    stats, mean, steps = state.stats

    def leaf(w, collected):
        some = steps.reshape(-1, *[1] * (w.ndim - 1)) > 0
        return jnp.where(some, collected, w)

    params = jax.tree.map(leaf, state.params, mean)
    return state._replace(params=params, stats=stats)


@partial(jax.jit, static_argnums=1)
def _repeated(tree: Any, m: int) -> Any:
    """Each network of [k, …] m times, one after another: [k * m, …]."""
    return jax.tree.map(lambda x: jnp.repeat(x, m, axis=0), tree)


@partial(jax.jit, static_argnums=1)
def _parted(tree: Any, m: int) -> list:
    """The m particles of each of the k networks, particle by particle: [k, …]."""
    return [jax.tree.map(lambda x, j=j: x[j::m], tree) for j in range(m)]
