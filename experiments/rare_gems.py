"""Rare gems: masks learned at initialisation, and whether they train as tickets do.

Sreenivasan et al. (2022, arXiv:2202.12002): masks whose scores are learned for weights
at rest, and which are then trained, match iterative magnitude pruning (IMP), pass the
checks that pruning at initialisation fails (worse when the mask is shuffled within
layers, or the weights are drawn anew), and are found up to 19 times faster.

    python experiments/rare_gems.py --data-dir DATA

LeNet-300-100 on 5 000 images of MNIST, 600 iterations of 60 for each training and each
learning (7 epochs; Adam, 1.2e-3; scores by Adam, 1e-2 along a cosine), 4 replicates
that share weights and batches across methods: 5 minutes on a busy core. Stopped, it
continues where it was. Writes a table and a figure to experiments/results/.

A gem is what scores of all layers together keep, fewer and fewer along a cubic from
step 60 to 420, while weights and biases rest: the paper's freezing of the lowest scores
without its penalty, scores from 0, not from random ones, and a gradient of the score
that is the loss's for the weight in use times the weight. Edge-popup keeps as many in
each layer from the first step on. IMP has four rounds, to 50, 20, 5 and 2 %.

What it gave (two CPU cores, jax 0.10.2, n = 4, 95 % intervals): test accuracy at the
end in %, dense 94.85 ± 0.38, of the initial weights trained under the mask; what it has
more than IMP's, than itself shuffled and than itself with fresh weights, in points,
within replicates; and accuracy of the initial weights as they are.

    density  mask           trained       less IMP  less shuffle  less reinit  untrained
       20 %  IMP        94.90 ± 0.37                 2.19 ± 0.29  2.13 ± 0.19
             gem        93.41 ± 0.51  -1.49 ± 0.18   1.24 ± 0.36  0.53 ± 0.33       87.0
             edge-popup 93.30 ± 0.46  -1.59 ± 0.09   1.45 ± 0.55  0.97 ± 0.60       91.8
        5 %  IMP        94.04 ± 0.27                 3.81 ± 0.45  2.93 ± 0.26
             gem        90.65 ± 0.32  -3.40 ± 0.55   0.39 ± 0.09 -0.52 ± 0.72       75.5
             edge-popup 90.00 ± 1.15  -4.04 ± 1.21   1.07 ± 1.10  1.15 ± 1.76       86.6
        2 %  IMP        92.30 ± 0.40                 5.16 ± 0.52  3.11 ± 0.98
             gem        88.12 ± 0.73  -4.17 ± 0.89   0.99 ± 1.24 -0.44 ± 0.73       55.0
             edge-popup 52.5 ± 29.9  -39.8 ± 29.5   -13.2 ± 30.6  -8.6 ± 36.1       35.8

That gems match IMP does not hold here: they are behind it at each density, and further
the fewer weights are left. At 20 % they pass both checks, though by less than IMP; at 5
and 2 % fresh weights do as well, so that such a mask says little of its weights. What
does show is that the sparse end is reached alive, by fewer and fewer weights chosen
from all layers together, where edge-popup, which has neither, fails.

At 5 %, two replicates with SGD for scores (momentum 0.9), one density for all layers,
or 1 800 iterations changed none of this (90.9, 89.7 and 92.5 %, fresh weights 91.0,
89.4 and 92.8). A gem costs two trainings, IMP at 2 % five: 2.5 times as many, not 19,
since that many rounds are not asked for here.
"""

from dataclasses import dataclass
from functools import partial

import optax
import pandas as pd
import study
from matplotlib.figure import Figure

import lth
from lth import data, models, plot, results, supermask, train
from lth.masks import schedules

EXAMPLES = 5000
PRUNED = {"20%": 0.2, "5%": 0.05, "2%": 0.02}
ROUNDS = (0.5, *PRUNED.values())  # of iterative pruning
CONTROLS = ("shuffle", "reinit")
NETWORK = models.from_linen(models.MLP(), (28, 28, 1))
MODEL = models.standardized(NETWORK, 0.0, 255.0)


@dataclass(frozen=True)
class Flags(study.Flags):
    """Where things are, and how much to run."""

    steps: int = 600


def made(flags, densities=(), learn=None, learn_tx=None) -> lth.lottery.Recipe:
    """Make the recipe of one way to a mask; what trains under masks is the same."""
    splits = data.load("mnist", flags.data_dir, 5000, 0)
    few = data.subsample(splits.train, EXAMPLES, 0)
    return lth.make_recipe(
        MODEL, optax.adam(1.2e-3), *train.classification(MODEL.apply),
        splits._replace(train=few), batch_size=60, steps=flags.steps,
        eval_every=flags.steps // 2, densities=densities,
        # A mask that is learned has not been trained under: "rewind" does it.
        branches=CONTROLS if densities else (*CONTROLS, "rewind"),
        replicates=flags.replicates, learn=learn, learn_tx=learn_tx,
        learn_by=learn and train.classification(learn.model.apply),
    )  # fmt: skip


def gem(flags, density: float) -> lth.lottery.Recipe:
    """Make the recipe that learns scores of weights at rest, and prunes as it does."""
    ramp = flags.steps // 10, 7 * flags.steps // 10, 20
    schedule = schedules.cubic(1 - density, *ramp)
    learn = supermask.movement(MODEL, schedule, scope="global", every=3)
    rate = optax.cosine_decay_schedule(1e-2, flags.steps)
    parts: dict = {"weights": optax.set_to_zero(), "gates": optax.adam(rate)}
    tx = optax.partition(parts, supermask.Gated("weights", "gates"))
    return made(flags, (), learn, tx)


def popped(flags, density: float) -> lth.lottery.Recipe:
    """Make the recipe that keeps as many from the first step on: edge-popup."""
    learn = supermask.edge_popup(MODEL, density, every=3, scale=True)
    rate = optax.cosine_decay_schedule(1e-2, flags.steps)
    return made(flags, (), learn, optax.adam(rate))


LEARNED = {"gem": gem, "edge-popup": popped}
CELLS: dict = {"IMP": partial(made, densities=ROUNDS)}
CELLS |= {
    f"{way} {name}": partial(make, density=share)
    for way, make in LEARNED.items()
    for name, share in PRUNED.items()
}


def at(way: str, name: str, variant: str = "") -> dict:
    """Say which trainings: those of a way's mask at a density, or of its control."""
    if way == "IMP":
        level = 1 + ROUNDS.index(PRUNED[name])
        return {"run": way, "level": level, "variant": variant or results.TICKET}
    return {"run": f"{way} {name}", "level": 0, "variant": variant or "rewind"}


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """Return accuracies, and differences within replicates, of each mask, in points."""
    rows = []
    for name in PRUNED:
        for way in ("IMP", *LEARNED):
            mask = at(way, name)
            row: dict = {"density": name, "mask": way}
            row |= {"n": table["replicate"].nunique()}
            pairs = {"trained": results.mean(table, mask)}
            pairs["less IMP"] = results.gap(table, mask, at("IMP", name))
            for other in CONTROLS:
                found = results.gap(table, mask, at(way, name, other))
                pairs[f"less {other}"] = found
            if way != "IMP":
                found = results.mean(table, at(way, name, results.TICKET))
                pairs["untrained"] = found
            for column, (mean, half) in pairs.items():
                row |= {column: mean, f"{column}_ci": half}
            rows.append(row)
    return pd.DataFrame(rows)


def claims(table: pd.DataFrame) -> str:
    """Write accuracies and differences, and what the dense network has."""
    dense = results.around(*results.mean(table, {"run": "IMP", "level": 0}))
    return f"dense {dense} %\n{results.text(ends(table)).replace('nan', '   ')}"


def figure(table: pd.DataFrame) -> Figure:
    """Draw accuracy after training, and gains over the shuffled mask, by density."""
    drawn = Figure(figsize=(9.5, 3.7), layout="constrained")
    left, right = drawn.subplots(1, 2)
    x = [100 * share for share in PRUNED.values()]
    ways = ends(table).groupby("mask", sort=False)
    for color, (way, of) in zip(plot.COLORS, ways, strict=False):
        for axes, column in ((left, "trained"), (right, "less shuffle")):
            pair = of[[column, f"{column}_ci"]].to_numpy().T
            axes.errorbar(x, *pair, fmt="o-", ms=3, color=color, label=way)
    dense, _ = results.mean(table, {"run": "IMP", "level": 0})
    left.axhline(dense, ls=":", color="0.5")
    left.set(ylabel="test accuracy (%)", title="trained from the initial weights")
    right.set(ylabel="points", title="more than the mask shuffled in layers")
    for axes in (left, right):
        plot.density_axis(axes)
    left.legend(frameon=False, fontsize="small")
    return drawn


if __name__ == "__main__":
    study.main(CELLS, claims, figure, "rare_gems", flags=Flags, written=ends)
