"""What a barrier costs: all points of all lines in one call, against one by one.

    python experiments/bench/barrier.py

Four children of one network, their six lines at 11 points: 66 networks, of which the
ends of lines are shared, so that 58 are measured. The ratio is to the time of 66 plain
evaluations of one network each; with batch-norm averages taken anew, to those and as
many forward passes in training. Median and
quartiles of pairs taken in turn.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import timing
import tyro

import lth
from lth import analysis
from lth.analysis import connectivity
from lth.lottery import recipe as recipes

POINTS, CHILDREN, BATCHES = 11, 4, 5
PAIRS = CHILDREN * (CHILDREN - 1) // 2


@dataclass(frozen=True)
class Flags:
    """How often."""

    times: int = 7


def cells() -> dict[str, lth.lottery.Recipe]:
    """Return a network without and one with batch norm."""
    small: dict[str, Any] = {"replicates": 1, "levels": 0}
    resnet = small | {"model.name": "resnet20", "model.width": 0.5}
    return {
        "MLP, digits": lth.build("digits", **small),
        "ResNet-20, half as wide, digits": lth.build("digits", **resnet),
    }


def states_of(recipe: lth.lottery.Recipe) -> list:
    """Return four networks of the recipe: drawn, for what they know costs nothing."""
    keys = [recipes.keys((n,), recipes.INIT) for n in range(CHILDREN)]
    return [recipe.init(key) for key in keys]


def ratio(recipe: lth.lottery.Recipe, times: int, batches: int) -> str:
    """Return the time of `paths` over that of plain evaluations."""
    states, measure = states_of(recipe), recipe.measures["test"]
    order = recipes.keys((0,), recipes.TRAIN)
    objective = recipe.objective
    assert objective is not None

    def settle(state):
        keys = jax.numpy.tile(order, len(np.ravel(state.step)))
        return objective.reestimate(state, keys, batches)

    def together():
        settled = settle if batches else None
        return analysis.paths(measure, states, points=POINTS, settle=settled)

    def alone():
        found = []
        for _ in range(POINTS * PAIRS):
            state = states[0]
            if batches:
                state = settle(connectivity.mixed([state], [[1.0]]))
            found.append(jax.tree.map(np.asarray, measure(state)))
        return found

    seconds = timing.in_turn({"together": together, "alone": alone}, times)
    return timing.ratio(seconds["together"], seconds["alone"])


def main() -> None:
    flags = tyro.cli(Flags)
    for name, recipe in cells().items():
        for batches in (0, BATCHES) if "ResNet" in name else (0,):
            told = ratio(recipe, flags.times, batches)
            how = f"averages anew over {batches} batches" if batches else "as they are"
            print(f"{name}, {how}: {told}, n = {flags.times}", flush=True)


if __name__ == "__main__":
    main()
