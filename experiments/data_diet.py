"""Data diet: a rewind point from few examples, and which ones.

Paul, Larsen et al. (2022, arXiv:2206.01278): before the point that tickets are rewound
to, a network need not see all data. As many steps on a small random subset give as good
a rewind point, and of easy examples fewer steps do.

    python experiments/data_diet.py --data-dir DATA

LeNet-300-100 on 5 000 images of MNIST, batches of 60, Adam at 1.2e-3: k steps on all
examples, or on 5 % of them (250: random, or with the lowest or highest EL2N in the mean
over four other networks trained for two epochs); from there 500 steps on all of them,
dense, for the mask, and for each ticket, rewound to k and pruned in three rounds to 20,
5 and 2 %. 4 replicates that share weights across methods: 3 minutes on a busy core.
Stopped, it continues where it was. Writes a table and a figure to experiments/results/.

What it gave (two CPU cores, jax 0.10.2, n = 4, 95 % intervals): test accuracy at the
end in % of tickets of 2 %, and less that of k = 0, of all examples at the same k and of
random ones, in points, within replicates. Dense 94.58 ± 0.55.

      k  examples      accuracy    less k = 0      less all   less random
      0            91.92 ± 0.30
     25  all       92.30 ± 0.25   0.37 ± 0.36                 0.05 ± 0.33
         random    92.25 ± 0.22   0.32 ± 0.09  -0.05 ± 0.33
         easiest   92.39 ± 0.19   0.47 ± 0.27   0.09 ± 0.19   0.14 ± 0.22
         hardest   92.04 ± 0.14   0.11 ± 0.33  -0.26 ± 0.16  -0.21 ± 0.27
    100  all       92.82 ± 0.43   0.90 ± 0.38                 0.16 ± 0.45
         random    92.66 ± 0.65   0.74 ± 0.40  -0.16 ± 0.45
         easiest   92.89 ± 0.30   0.96 ± 0.46   0.06 ± 0.31   0.22 ± 0.71
         hardest   92.57 ± 0.37   0.65 ± 0.27  -0.25 ± 0.57  -0.09 ± 0.49

The first claim holds as far as n = 4 tells: rewinding to step 100 is worth 0.9 points
over initialisation, and 0.74 ± 0.40 of that is there after 250 random images, at 24
passes over them; no choice of examples is apart from all of them but the hardest at 25
steps, which are worse. The second is not decided: the easiest are ahead of random ones
at both k, by less than their intervals, and k = 25 is worth half of k = 100 for either.
At 20 % nothing is to be gained (0.15 ± 0.23 at k = 100), since LeNet has tickets at its
initialisation; the paper's ResNet-20 has not. All tickets train for 500 steps, so a
rewound one has k steps more behind it in all.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import study
from matplotlib.figure import Figure

import lth
from lth import data, models, plot, results, train
from lth.analysis import examples

SHOWN, SHARE, BATCH = 5000, 0.05, 60
DENSITIES = (0.2, 0.05, 0.02)
MODEL = models.standardized(models.from_linen(models.MLP(), (28, 28, 1)), 0.0, 255.0)
WHICH = ("all", "random", "easiest", "hardest")
EARLY = (25, 100)  # steps of pre-training


@dataclass(frozen=True)
class Flags(study.Flags):
    """Where things are, and how much to run."""

    steps: int = 500  # of each ticket, after its rewind point


def made(flags, early: int = 0, replicates=None, **options) -> lth.lottery.Recipe:
    """Make a recipe of tickets that train for as long from step `early` on."""
    steps = flags.steps + early
    return lth.make_recipe(
        MODEL, optax.adam(1.2e-3), *train.classification(MODEL.apply), shown(flags),
        batch_size=BATCH, steps=steps, eval_every=steps, rewind_to=early,
        **{"densities": DENSITIES, **options},
        replicates=replicates or flags.replicates,
    )  # fmt: skip


def shown(flags) -> data.Splits:
    splits = data.load("mnist", flags.data_dir, 5000, 0)
    return splits._replace(train=data.subsample(splits.train, SHOWN, 0))


def difficulty(flags) -> jax.Array:
    """Score all examples by EL2N: the mean of other networks after two epochs."""
    others = [100 + i for i in range(4)]
    two = Flags(flags.data_dir, flags.runs, steps=2 * SHOWN // BATCH)
    recipe = made(two, replicates=others, densities=())
    state = lth.run(recipe, flags.runs / "data_diet" / "scored").ticket(0)
    seen = shown(flags).train
    parts = [(seen.inputs, seen.targets)]

    def one(params, stats):
        return examples.scores_of(MODEL.apply, params, stats, parts, examples.el2n)

    return jax.vmap(one)(state.params, state.stats).mean(0)


def dieted(flags, which: str, early: int) -> lth.lottery.Recipe:
    """Make the recipe that sees a choice of the examples before step `early`."""
    if which == "all":
        return made(flags, early)
    chosen: Any = partial(examples.chosen, key=jax.random.key(0))
    few = np.asarray(chosen(difficulty(flags), SHARE, which))
    whole = data.make_sample(BATCH, SHOWN)
    part = data.make_sample(BATCH, len(few))

    def sample(key, step, given):
        small = jax.tree.map(lambda x: x[few], given)
        batches = part(key, step, small), whole(key, step, given)
        return jax.tree.map(lambda a, b: jnp.where(step < early, a, b), *batches)

    return made(flags, early, sample=sample)


EACH = [(which, early) for early in EARLY for which in WHICH]
CELLS: dict = {f"{w}, {k}": partial(dieted, which=w, early=k) for w, k in EACH}
CELLS["all, 0"] = partial(dieted, which="all", early=0)


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """Return accuracies of tickets, and differences to all examples and to none."""
    rows = []
    for level, density in enumerate(DENSITIES, 1):
        for which, early in (("all", 0), *EACH):
            own = {"run": f"{which}, {early}", "level": level}
            row: dict = {"density": f"{density:.0%}", "steps": early, "seen": which}
            row["n"] = table["replicate"].nunique()
            row["accuracy"], row["accuracy_ci"] = results.mean(table, own)
            others = {"all": f"all, {early}", "random": f"random, {early}"}
            for column, run in {**others, "k = 0": "all, 0"}.items():
                if run not in CELLS:
                    continue
                gap = results.gap(table, own, {"run": run, "level": level})
                row[f"less {column}"], row[f"less {column}_ci"] = gap
            rows.append(row)
    return pd.DataFrame(rows)


def claims(table: pd.DataFrame) -> str:
    """Write accuracies and differences, and what the dense network has."""
    dense = results.around(*results.mean(table, {"run": "all, 0", "level": 0}))
    return f"dense {dense} %\n{results.text(ends(table)).replace('nan', '   ')}"


def figure(table: pd.DataFrame) -> Figure:
    """Draw what a rewind point gains over initialisation, by density."""
    drawn = Figure(figsize=(9.5, 3.7), layout="constrained")
    found, x = ends(table), [100 * d for d in DENSITIES]
    for axes, early in zip(drawn.subplots(1, 2, sharey=True), EARLY, strict=True):
        for i, (color, which) in enumerate(zip(plot.COLORS, WHICH, strict=False)):
            of = found[(found["seen"] == which) & (found["steps"] == early)]
            pair = of[["less k = 0", "less k = 0_ci"]].to_numpy().T
            beside = [d * (0.94 + 0.04 * i) for d in x]
            axes.errorbar(beside, *pair, fmt="o-", ms=3, color=color, label=which)
        axes.axhline(0, color="0.5", lw=0.8, ls=":")
        plot.density_axis(axes)
        axes.set_title(f"rewound to step {early}", size=10)
    drawn.axes[0].set_ylabel("more than from step 0 (points)")
    drawn.axes[0].legend(frameon=False, fontsize="small", title="examples seen")
    return drawn


if __name__ == "__main__":
    study.main(CELLS, claims, figure, "data_diet", flags=Flags, written=ends)
