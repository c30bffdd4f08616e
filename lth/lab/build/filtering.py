"""Scores of channels by name, and recipes whose levels prune them.

A score is `(objective, params, stats, spaces, batches, key) -> {space: [size]}` of one
network, in evaluation.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lth import masks
from lth.compress import Space
from lth.criteria import channels
from lth.criteria.channels import Channels
from lth.lab.build import probing
from lth.lottery import Recipe, choosing, filters
from lth.lottery import recipe as recipes
from lth.lottery.recipe import Objective
from lth.models import taps

Score = Callable[..., Channels]
SCOPES: Mapping[str, filters.Choose] = {
    "global": choosing.over_all,
    "layer": choosing.in_each,
}


def asked(criterion: Callable[..., Channels]) -> Score:
    """Make a score of a criterion that asks the loss; layers are compared by norms."""

    def score(objective: Objective, params, stats, spaces, batches, key):
        def loss(params, batch):
            return jnp.mean(objective.measure(params, stats, batch)["loss"])

        return channels.normalised(criterion(loss, params, spaces, batches))

    return score


def weighed(criterion: Callable[..., Channels]) -> Score:
    """Make a score of a criterion that looks at weights alone; compared as above."""

    def score(objective, params, stats, spaces, batches, key):
        return channels.normalised(criterion(params, spaces))

    return score


def read(criterion: Callable[..., Channels]) -> Score:
    """Make a score of a criterion that looks at what is read, of the first batch."""

    def score(objective: Objective, params, stats, spaces, batches, key):
        inputs = jax.tree.map(lambda x: x[0], batches).inputs
        met, _ = taps.intermediates(objective.apply, params, stats, inputs)
        return channels.normalised(criterion(params, met, spaces))

    return score


def drawn(objective, params, stats, spaces, batches, key) -> Channels:
    """Score channels at random.

    Args:
      objective, params, stats, spaces, batches, key: only the last is looked at, and
        which channels there are.

    Returns:
      The scores of each space.
    """
    return channels.random(spaces, key)


def filtered(
    recipe: Recipe,
    name: str,
    score: Score,
    densities: Sequence[float],
    *,
    scope: str = "global",
    least: int = 1,
    batches: int = 4,
    flops: float = 0,
) -> Recipe:
    """Have each level of a recipe prune channels, with all that belongs to them.

    Masks leave nothing of a channel where it is made or read, so a ticket can be sliced
    to what is left, exactly. Retraining and rewinding are the recipe's.

    Args:
      recipe: whose networks are followed; it has an `objective`.
      name: of the score, for what tells the run from others.
      score: ranks the channels of one network.
      densities: of channels, after each level, in (0, 1].
      scope: `global`, or `layer`: the same share of each space.
      least: how many channels a space keeps.
      batches: of training data, by which they are scored.
      flops: taken from a channel's score for each million multiply-accumulates that go
        with it (`choosing.priced`); the paper has 1e-3.

    Returns:
      The recipe.

    Raises:
      ValueError: for another scope, a network without spaces, a recipe without an
        objective, and, with `flops`, one whose multiplications are not counted.
    """
    if scope not in SCOPES:
        raise ValueError(f"scope is one of {', '.join(SCOPES)}; got {scope!r}")
    objective = probing.objective_of(recipe)
    spaces = probing.spaces_of(recipe, recipes.shapes(recipe))
    if not spaces:
        raise ValueError("the network has no channels that can be pruned")
    one = partial(_scored, objective, score, spaces)
    program = recipe.each(one)

    macs = recipe.work() if flops else {}
    if flops and not macs:
        raise ValueError("recipe.work, which flops need, counts no multiplications")
    own = jax.tree.map(lambda x: x[0], recipe.mask)
    costs = choosing.costs(macs, own, spaces)

    def ranked(early, state, mask, keys):
        drawn = objective.batches(keys, batches)
        scores = program(state.params, state.stats, mask, drawn, keys)
        return choosing.priced(scores, costs, flops) if flops else scores

    prune = filters.make_prune(ranked, spaces, choose=SCOPES[scope], least=least)
    told = f"{name}, {scope}, at least {least}, {batches} batches"
    told += f", {flops:g} a million multiplied" if flops else ""
    return recipe._replace(
        prune=prune,
        densities=tuple(densities),
        stamp={**recipe.stamp, "filters": told},
    )


def _scored(
    objective: Objective, score: Score, spaces: Sequence[Space], *args: Any
) -> Channels:
    params, stats, mask, batches, key = args
    return score(objective, masks.apply(params, mask), stats, spaces, batches, key)


def falling(keep: float, rounds: int) -> tuple[float, ...]:
    """Return densities that fall by as much in each round, down to `keep`.

    Each round then removes as many channels, a share of those of the whole network.
    Raises ValueError for what cannot be.
    """
    if not 0 < keep <= 1 or rounds < 1:
        raise ValueError(
            f"keep is a share of the channels, in (0, 1], and rounds are at least 1; "
            f"got {keep} and {rounds}"
        )
    return tuple(1 - (1 - keep) * i / rounds for i in range(1, rounds + 1))
