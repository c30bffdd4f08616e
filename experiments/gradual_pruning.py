"""When to prune: before, during or after training, with as many steps for each.

Claims: gradual pruning while training beats pruning once, before or after (Zhu & Gupta
2017, arXiv:1710.01878, prune gradually and find large sparse networks better than small
dense ones); SNIP (Lee et al. 2019, arXiv:1810.02340) makes pruning at initialisation
work; and tfmot's "pruning does not hurt", of a constant sparsity of 50 or 80 %, whether
the network was trained before or not: here, within 1 point of a baseline of at least
97.5 %.

    python experiments/gradual_pruning.py --data-dir DATA

LeNet-300-100 on MNIST, Adam at 1.2e-3, batches of 60, T = 3 000 steps; one mask over
all kernels; batches in the same order throughout. The T steps of each method:

- before: T under a mask by SNIP (of 600 examples), or under that mask shuffled within
  layers, which keeps as many weights in each;
- during: a cubic schedule over the first three quarters, a mask every 50 steps; or in
  the second half alone, from a trained network and a fresh optimizer, as tfmot is used;
- after: T / 2 dense, the largest weights kept at once, T / 2 more under the mask;
- a small dense network with no more weights, in two hidden layers of one width.

For reference, iterative pruning by 20 % a round, rewound to step 0: 8, 14, 18 and 21 T.
4 replicates, 11.5 minutes on two cores busy with other work, longer since each run is
stored; stopped, it continues where it was. One program trains under all masks; a rule
holds its density, so each has a program of its own. Writes a table and a figure to
experiments/results/.

What it gave (two CPU cores, jax 0.10.2, n = 4; test accuracy at the end in %, and
differences within replicates in points, with 95 % intervals; by an earlier form of the
study with the same trainings, but other draws of SNIP's examples and of shuffles):

    density                    20 %          5 %          2 %           1 %
    before: SNIP         97.46 ± 0.21 95.90 ± 0.31 93.33 ± 0.27  90.21 ±  0.59
    before: random       97.04 ± 0.24 94.72 ± 0.23 92.05 ± 0.46  87.98 ±  0.58
    during               97.91 ± 0.10 97.83 ± 0.09 97.22 ± 0.21  96.03 ±  0.24
    during, 2nd half     98.11 ± 0.08 97.63 ± 0.09 96.57 ± 0.15  95.04 ±  0.30
    after                98.04 ± 0.15 97.44 ± 0.11 95.58 ± 0.32  93.11 ±  0.56
    small and dense      96.84 ± 0.30 93.92 ± 0.24 88.80 ± 1.02  62.90 ± 28.88
    iteratively (8-21 T) 98.28 ± 0.15 98.21 ± 0.08 97.53 ± 0.14  96.14 ±  0.60

    during - after       -0.13 ± 0.05 +0.39 ± 0.16 +1.65 ± 0.31  +2.92 ±  0.50
    2nd half - after     +0.07 ± 0.14 +0.19 ± 0.05 +1.00 ± 0.35  +1.93 ±  0.27
    during - SNIP        +0.45 ± 0.25 +1.92 ± 0.25 +3.90 ± 0.29  +5.81 ±  0.63

    dense 97.66 ± 0.25   constant sparsity    fresh network, T     trained, T + T
    2 T:  97.81 ± 0.38   50 %                 97.60 ± 0.23         98.15 ± 0.21
                         80 %                 97.04 ± 0.07         98.28 ± 0.12

At 20 % it hardly matters whether one prunes during or after training. From 5 % down the
order is during, after, before; at 1 % one gradual training is as good as the 21 of
iterative pruning, which is ahead above that. SNIP beats its shuffled mask everywhere by
0.4 to 2.2 points, and stays below all that looks at trained weights. Small dense
networks are the worst; that of 1 % has layers of 3 units and sometimes fails. Constant
sparsity is within 1 point, in every replicate, as claimed; but 80 % from fresh weights
costs 0.61 ± 0.26, and the trained networks had 2 T, of which dense ones gain less (by
0.34 ± 0.23 and 0.47 ± 0.37). 3.3 epochs are short, and nothing was tuned.
"""

import math
from functools import cache, partial
from itertools import pairwise

import optax
import pandas as pd
import study
from matplotlib.figure import Figure

import lth
from lth import data, dynamic, lottery, models, plot, results, train
from lth.lab.build import changing
from lth.lottery import recipe as recipes
from lth.masks import schedules

DENSITIES = (0.2, 0.05, 0.02, 0.01)
CONSTANT = (0.5, 0.2)  # densities of a constant sparsity
METHODS = ["before: SNIP", "before: random", "during", "during, 2nd half", "after"]
METHODS += ["iteratively", "small and dense"]
PAIRS = (("during", "after"), ("during, 2nd half", "after"), ("during", "before: SNIP"))
DENSE = {"run": "iteratively", "level": 0}
SNIP = {"criterion": "snip", "at": "early", "batches": 10}
# Where pruning begins and training ends, in T
KINDS = {"during": (0, 1), "during, 2nd half": (0.5, 1)}
KINDS |= {"constant, fresh": (0, 1), "constant, trained": (1, 2)}
LENET = models.from_linen(models.MLP(widths=(300, 100)), (28, 28, 1))
MODEL = models.standardized(LENET, 0, 255)
load = cache(lambda data_dir: data.load("mnist", data_dir, 5000, 0))


def rounds() -> list[float]:
    """Densities of rounds of about 20 % that pass through all of `DENSITIES`."""
    found: list[float] = []
    for before, after in pairwise((1.0, *DENSITIES)):
        count = max(1, round(math.log(after / before) / math.log(0.8)))
        between = schedules.exponential(after / before, count)[:-1]
        found += [*(before * float(d) for d in between), after]
    return found


def named(flags, densities=(), prune=None, rewind=0.0, length=1, **settings):
    """Make a recipe of names; `rewind` and `length` count in the study's steps."""
    steps = flags.steps or 3000
    return lth.build(
        "lenet-mnist-fast",
        data_dir=flags.data_dir,
        prune={"scope": "global", "rates": "", "densities": densities} | (prune or {}),
        rewind={"to": f"{round(rewind * steps)}it"},
        levels=len(densities),
        replicates=flags.replicates,
        steps=f"{length * steps}it",
        eval_every=f"{length * steps}it",
        **settings,
    )


def small(flags: study.Flags, density: float) -> lottery.Recipe:
    """Make the widest two equal hidden layers of as many weights at most."""
    weights = round(density * (784 * 300 + 300 * 100 + 100 * 10))
    width = int((math.sqrt(794**2 + 4 * weights) - 794) / 2)
    return named(flags, model={"widths": (width, width)})


def during(flags, kind: str, density: float) -> lottery.Recipe:
    """Make a recipe that prunes as it trains, from step 0 or after dense training."""
    begin, end = (round(at * (flags.steps or 3000)) for at in KINDS[kind])
    schedule = schedules.cubic(1 - density, 0, (end - begin) * 3 // 4, 50)
    if kind.startswith("constant"):
        schedule = schedules.constant(1 - density, 0, end - begin)
    rule = dynamic.gradual(schedule, end - begin)

    def optimizer(key=None):
        return dynamic.sparsify(optax.adam(1.2e-3), rule, key=key)

    def dense():
        plain = named(flags)
        order = recipes.keys(plain.replicates, recipes.TRAIN)
        return plain.train(recipes.drawn(plain), plain.mask, begin, order)[0]

    sizes = {"batch_size": 60, "steps": end, "eval_every": end, "densities": ()}
    parts = (*train.classification(MODEL.apply), load(flags.data_dir))
    sizes["replicates"] = flags.replicates
    made = lth.make_recipe(MODEL, optimizer(), *parts, **sizes)
    return changing.changing_mask(made, MODEL, optimizer, dense if begin else None)


CELLS = {
    "iteratively": lambda flags: named(flags, rounds()),
    "twice as long": lambda flags: named(flags, length=2),
    "before": lambda flags: named(flags, DENSITIES, SNIP, controls="shuffle"),
    "after": lambda flags: named(flags, DENSITIES, {"at": "early"}, rewind=0.5),
    **{f"small and dense {d}": partial(small, density=d) for d in DENSITIES},
    **{
        f"{kind} {d}": partial(during, kind=kind, density=d)
        for kind in KINDS
        for d in (CONSTANT if kind.startswith("constant") else DENSITIES)
    },
}


def rows_of(method: str, density: float) -> dict:
    """Say which rows of the table are of a method at a density."""
    level = DENSITIES.index(density) + 1
    return {
        "before: SNIP": {"run": "before", "level": level},
        "before: random": {"run": "before", "level": level, "variant": "shuffle"},
        "after": {"run": "after", "level": level},
        "iteratively": {"run": "iteratively", "level": rounds().index(density) + 1},
    }.get(method, {"run": f"{method} {density}", "level": 0})


def claims(table: pd.DataFrame) -> str:
    """Write accuracies in %, and differences within replicates in points."""
    rows = {m: [results.mean(table, rows_of(m, d)) for d in DENSITIES] for m in METHODS}
    for one, other in PAIRS:
        gaps = [(rows_of(one, d), rows_of(other, d)) for d in DENSITIES]
        rows[f"{one} - {other}"] = [results.gap(table, *both) for both in gaps]
    written = {name: [results.around(*v) for v in row] for name, row in rows.items()}
    lines = [pd.DataFrame(written, [f"{d:.0%}" for d in DENSITIES]).T.to_string()]
    for run in ("twice as long", *(n for n in CELLS if n.startswith("constant"))):
        of = {"run": run, "level": 0}
        more = results.around(*results.gap(table, of, DENSE))
        lines.append(
            f"{run}: {results.around(*results.mean(table, of))}, over dense {more}"
        )
    return "\n".join([*lines, f"dense: {results.around(*results.mean(table, DENSE))}"])


def figure(table: pd.DataFrame) -> Figure:
    """Draw test accuracy against density, of all that has every density."""
    drawn = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = drawn.subplots()
    for method in METHODS:
        values = [results.mean(table, rows_of(method, d)) for d in DENSITIES]
        x, (y, half) = [100 * d for d in DENSITIES], zip(*values, strict=True)
        axes.errorbar(x, y, half, label=method)
    axes.axhline(results.mean(table, DENSE)[0], color="0.5", lw=0.8, ls=":")
    plot.density_axis(axes)
    axes.set(ylabel="test accuracy (%)", ylim=(86, 98.6))
    axes.set_title(f"LeNet-300-100, MNIST, n = {table['replicate'].nunique()}", size=10)
    axes.legend(frameon=False, fontsize="small", loc="lower left")
    return drawn


if __name__ == "__main__":
    study.main(CELLS, claims, figure, "gradual_pruning")
