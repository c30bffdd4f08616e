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

import itertools
from functools import partial

import optax
import pandas as pd
import study
from matplotlib.figure import Figure

from lth import lottery, results, supermask, train
from lth.masks import schedules

PRUNED = {"20%": 0.2, "5%": 0.05, "2%": 0.02}
ROUNDS = (0.5, *PRUNED.values())  # of iterative pruning
LEARNED, CONTROLS = ("gem", "edge-popup"), ("shuffle", "reinit")
DENSE = {"run": "IMP", "level": 0}


def learned(flags, way: str, density: float) -> lottery.Recipe:
    """Make the recipe that learns a mask, which a branch then trains under."""
    scores = tx = optax.adam(optax.cosine_decay_schedule(1e-2, flags.steps))
    if way == "gem":  # the weights rest, and fewer and fewer are kept
        ramp = flags.steps // 10, 7 * flags.steps // 10, 20
        schedule = schedules.cubic(1 - density, *ramp)
        learn = supermask.movement(study.LENET, schedule, scope="global", every=3)
        parts: dict = {"weights": optax.set_to_zero(), "gates": scores}
        tx = optax.partition(parts, supermask.Gated("weights", "gates"))
    else:
        learn = supermask.edge_popup(study.LENET, density, every=3, scale=True)
    by = train.classification(learn.model.apply)
    options: dict = {"learn": learn, "learn_tx": tx, "learn_by": by}
    # A mask that is learned has not been trained under: "rewind" does it.
    return study.lenet(flags, branches=(*CONTROLS, "rewind"), **options)


CELLS: dict = {"IMP": partial(study.lenet, densities=ROUNDS, branches=CONTROLS)}
for way, (name, share) in itertools.product(LEARNED, PRUNED.items()):
    CELLS[f"{way} {name}"] = partial(learned, way=way, density=share)


def at(way: str, name: str, variant: str = "") -> dict:
    """Say which trainings: those of a way's mask at a density, or of its control."""
    if way == "IMP":
        level = 1 + ROUNDS.index(PRUNED[name])
        return {"run": way, "level": level, "variant": variant or results.TICKET}
    return {"run": f"{way} {name}", "level": 0, "variant": variant or "rewind"}


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """Return accuracies, and differences within replicates, of each mask, in points."""
    rows = []
    for name, way in itertools.product(PRUNED, ("IMP", *LEARNED)):
        others = {"IMP": at("IMP", name)} | {c: at(way, name, c) for c in CONTROLS}
        compared = study.compared(table, at(way, name), others, "trained")
        rows.append({"density": name, "mask": way} | compared)
        if way in LEARNED:
            untrained = results.mean(table, at(way, name, results.TICKET))
            rows[-1] |= study.columns({"untrained": untrained})
    return pd.DataFrame(rows)


def figure(table: pd.DataFrame) -> Figure:
    """Draw accuracy after training, and gains over the shuffled mask, by density."""
    ways = ends(table).groupby("mask", sort=False)
    trained, gained = (
        {way: study.line(rows, column, [20, 5, 2]) for way, rows in ways}
        for column in ("trained", "less shuffle")
    )
    lines = {"trained from the initial weights": trained}
    lines["more than the mask shuffled in layers"] = gained
    dotted = results.mean(table, DENSE)[:1]
    return study.panels(lines, "test accuracy (%)", "points", dotted=dotted)


if __name__ == "__main__":
    claims = partial(study.told, rows=ends, dense=DENSE)
    flags = study.Flags(steps=600)
    study.main(CELLS, claims, figure, "rare_gems", flags=flags, written=ends)
