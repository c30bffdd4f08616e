"""Edge-popup: how many of the untrained weights to keep, and how many to choose from.

Ramanujan et al. (2020, arXiv:1911.13299): a subnetwork of untrained weights is best
with about half of them kept (figure 4), for few leave nothing to combine and all leave
nothing to choose; and the wider the network it is chosen from, the nearer it comes to
trained weights (figure 5). Conv-2 to Conv-8 on CIFAR-10 there, LeNet-300-100 on MNIST
here.

    python experiments/edge_popup.py --data-dir DATA [--steps N] [--replicates 3]

Kept fractions from 2 to 95 % at width 1; widths of the hidden layers from an eighth to
twice, half of the weights kept, beside the same networks with trained weights (Adam,
1.2e-3). Scores by SGD, learning rate 0.5 along a cosine, momentum 0.9, batch 250, the
mask chosen every 3 steps; signed constants, over the root of the kept fraction.

Without gradients, as a control: as many evaluations as there are steps, each of a whole
mask on a fixed batch of 1 000, by random search and by hill climbing (`--swaps` weights
exchanged at a time), half of the weights kept. About eight minutes on two cores. What
is trained is stored in runs/edge_popup, and a call that was stopped goes on there; a
table and a figure go to experiments/results/.

What an earlier form of this study gave, with other draws (two CPU cores, jax 0.10.2, n
= 3): test accuracy in % with 95 % intervals.

    kept     10 %          20 %          30 %          40 %          50 %
         93.93 ± 2.01  96.32 ± 1.05  96.67 ± 0.15  96.32 ± 0.22  96.48 ± 0.09
             60 %          70 %          80 %          90 %          95 %
         96.21 ± 0.39  95.93 ± 0.43  95.41 ± 0.09  94.33 ± 0.27  91.97 ± 0.36

    width          0.125          0.25           0.5             1             2
    edge-popup  89.20 ± 1.62  93.63 ± 0.29  95.58 ± 0.94  96.48 ± 0.09  96.93 ± 0.17
    trained     96.02 ± 0.25  97.31 ± 0.26  97.77 ± 0.09  98.06 ± 0.45  98.01 ± 0.18

    random search 19.20 ± 3.21, hill climbing 30.0 ± 20.6

Both claims show: the best lies between 20 and 60 % and falls off to both sides, and
width brings untrained weights from 6.8 points behind trained ones to 1.1. With 2 and
5 % kept it is at chance: the learning rate is too high for what is left. Masks tried
without gradients stay far behind at equal evaluations. How often the mask is chosen
matters: with two replicates every step gave 96.7 at one half, every 3 steps 96.5 and
every 10 only 93.5 (94.3 at a fifth of the learning rate); at 10 % kept it was 96.6 at a
fifth of the rate and every step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import study
from matplotlib.figure import Figure

import lth
from lth import data, lottery, masks, models, plot, results, train
from lth.lottery import recipe as recipes
from lth.supermask import search

KEPT = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)
STEPS, BATCH, TRIED = 2000, 250, 1000  # TRIED: the examples that a search looks at


@dataclass(frozen=True)
class Flags(study.Flags):
    """Where things are, and how much to run."""

    replicates: int = 3
    swaps: int = 100  # weights that hill climbing exchanges at a time


def widths(width: float) -> tuple[int, int]:
    return round(300 * width), round(100 * width)


def popped(width: float, keep: float) -> tuple:
    settings = {"model.widths": widths(width), "learn.keep": keep, "steps": STEPS}
    return "lenet-mnist-edge_popup", settings


def trained(width: float) -> tuple:
    model = {"widths": widths(width), "initialiser": "signed_constant"}
    settings = {"batch_size": BATCH, "steps": STEPS, "levels": 0}
    return "lenet-mnist", {"model": model, **settings}


def random_search(fitness, ones, key, trials: int, swaps: int) -> masks.Mask:
    return search.random_search(fitness, ones, 0.5, key, trials).mask


def hill_climbing(fitness, ones, key, trials: int, swaps: int) -> masks.Mask:
    start = masks.keep_top(masks.uniform(ones, key), ones, 0.5, "layer")
    return search.hill_climb(fitness, start, key, trials, swaps).mask


def searched(find: Callable, flags: Flags) -> lottery.Recipe:
    """Make the recipe whose level 0 a search finds, in as many trials as steps."""
    splits = data.load("mnist", flags.data_dir, 5000, 0)
    module = models.MLP(initialiser="signed_constant")
    model = models.standardized(models.from_linen(module, (28, 28, 1)), 0.0, 255.0)
    loss, measure = train.classification(model.apply)
    steps = flags.steps or STEPS
    recipe = lth.make_recipe(
        model, optax.sgd(0.0), loss, measure, splits,
        batch_size=BATCH, steps=steps, densities=(), replicates=flags.replicates,
    )  # fmt: skip
    tried = data.Dataset(*(jnp.asarray(x[:TRIED]) for x in splits.train))
    evaluate = train.make_evaluate(measure)

    def found(params, ones, key):
        def fitness(mask):
            return evaluate(masks.apply(params, mask), {}, tried)["accuracy"]

        mask = find(fitness, ones, key, steps, flags.swaps)
        return mask, masks.apply(params, mask)

    def first(recipe, watch):
        init = recipe.init(lottery.keys(recipe.replicates, recipes.INIT))
        keys = lottery.keys(recipe.replicates, recipes.LEARN)
        mask, params = recipe.each(found)(init.params, recipe.mask, keys)

        def no_steps(state, mask, n):
            count = len(keys)
            sums = {"diverged": [train.NEVER] * count, "loss": np.full(count, np.nan)}
            return state._replace(step=state.step + n, params=params), sums

        options = {"measures": recipe.measures, "stops": (steps,), "watch": watch}
        state, metrics = train.fit(init, mask, train=no_steps, **options)
        return lottery.Ticket(0, mask, state, metrics), {}

    return recipe._replace(first=first, stamp={**recipe.stamp, "search": find.__name__})


CELLS = {
    **{f"kept {keep:.0%}": popped(1.0, keep) for keep in KEPT},
    **{f"width {w:g}, kept 50%": popped(w, 0.5) for w in WIDTHS if w != 1},
    **{f"width {w:g}, trained": trained(w) for w in WIDTHS},
    "random search": partial(searched, random_search),
    "hill climbing": partial(searched, hill_climbing),
}


def ends(table: pd.DataFrame, cells: list[str]) -> tuple:
    """Return mean test accuracies in % and half their intervals, cell by cell."""
    values = results.final(table)
    each = [100 * values.loc[values["run"] == name, "value"] for name in cells]
    return tuple(np.transpose([results.interval(v) for v in each]))


def lines() -> dict[str, list[str]]:
    """Name the cells of each line of the figure."""
    half = [(w, f"width {w:g}, kept 50%") for w in WIDTHS]
    return {
        "by density": [f"kept {keep:.0%}" for keep in KEPT],
        "edge-popup, half kept": [name if w != 1 else "kept 50%" for w, name in half],
        "trained": [f"width {w:g}, trained" for w in WIDTHS],
    }


def claims(table: pd.DataFrame) -> str:
    """Write test accuracy in %, cell by cell, and what the width leaves of the gap."""
    mean, half = ends(table, list(CELLS))
    rows = pd.DataFrame({"cell": list(CELLS), "accuracy": mean, "accuracy_ci": half})
    _, popped, trained = lines().values()
    told = [results.text(rows), "trained weights - edge-popup, in points:"]
    for width, one, other in zip(WIDTHS, trained, popped, strict=True):
        gap = results.gap(table, {"run": one}, {"run": other})
        told.append(f"  width {width:g}: {results.around(*gap)}")
    return "\n".join(told)


def figure(table: pd.DataFrame) -> Figure:
    """Draw accuracy against the kept fraction, and against width."""
    drawn = Figure(figsize=(9.5, 3.7), layout="constrained")
    left, right = drawn.subplots(1, 2, sharey=True)
    by_density, *by_width = lines().items()
    left.errorbar(100 * np.array(KEPT), *ends(table, by_density[1]), fmt="o-")
    left.set(xlabel="weights kept (%)", ylabel="test accuracy (%)", ylim=(85, 99))
    for color, (name, cells) in zip(plot.COLORS, by_width, strict=False):
        right.errorbar(WIDTHS, *ends(table, cells), fmt="o-", color=color, label=name)
    right.set(xlabel="width, times 300 and 100 units", xscale="log")
    right.set_xticks(WIDTHS, [f"{w:g}" for w in WIDTHS])
    right.minorticks_off()
    right.legend(frameon=False)
    n = table["replicate"].nunique()
    drawn.suptitle(f"Untrained LeNet-300-100 on MNIST, n = {n}", size=11)
    return drawn


if __name__ == "__main__":
    study.main(CELLS, claims, figure, "edge_popup", flags=Flags)
