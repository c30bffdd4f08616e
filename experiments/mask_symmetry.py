"""Masks carried to another initialisation, as they are and permuted to fit it.

Adnan et al. (2025, arXiv:2505.05143): a ticket's mask fails under another
initialisation since the units of two trained networks do the same work in another
order; permuted by an order that matches the activations of both dense networks, it
trains better there than the naive mask and comes near the network's own ticket, the
nearer the wider the networks are.

    python experiments/mask_symmetry.py --data-dir DATA

LeNet-300-100 and networks a quarter and twice as wide, 5 000 examples of MNIST, 500
steps of Adam under a cosine, rewound to step 50 or 0; the output layer is dense. The
mask of each replicate is put on the early weights of another: as it is (`naive`),
permuted (on what 1 000 training images give the units at the end of dense training),
and its own shuffled within layers (`random`). Three minutes on two busy cores.

What it gave (n = 4, jax 0.10.2, 95 % intervals; less the network's own ticket, points):

                        density  permuted       naive          random
    width 1/4, k = 50     10 %   -5.10 ± 1.12   -8.28 ± 1.84   -9.90 ± 1.87
                           5 %   -9.32 ± 2.62  -20.19 ± 5.14  -30.01 ± 8.72
    width 1, k = 50       20 %   -2.53 ± 0.28   -2.95 ± 0.30   -3.03 ± 0.25
                          10 %   -2.83 ± 0.31   -3.78 ± 0.62   -4.35 ± 0.26
                           5 %   -3.90 ± 0.90   -5.80 ± 0.71   -9.23 ± 1.03
                           3 %   -4.47 ± 1.57   -7.98 ± 0.57  -15.60 ± 1.66
    width 2, k = 50       20 %   -2.20 ± 0.23   -2.77 ± 0.12   -2.89 ± 0.29
                          10 %   -2.67 ± 0.18   -3.53 ± 0.13   -3.93 ± 0.30
                           5 %   -3.07 ± 0.35   -4.91 ± 0.30   -6.22 ± 0.63
                           3 %   -3.03 ± 0.60   -6.25 ± 0.64   -9.76 ± 0.93
    width 1, k = 0         5 %   -2.66 ± 0.20   -3.15 ± 0.52   -4.71 ± 0.79
                           3 %   -2.47 ± 0.79   -3.56 ± 0.67   -6.46 ± 1.36

Permuted masks beat naive ones: from step 50 at every density and width, by 0.41 ± 0.31
to 3.50 ± 1.02 points at width 1 and 0.56 ± 0.25 to 3.22 ± 0.42 at width 2 (of the
narrowest at 3 % the interval holds 0: 11.7 ± 15.5). They do not come near the ticket:
what they make up for grows from a tenth or fifth of what the naive mask loses at 20 %
to about half of it. Wider networks are nearer: at 3 % -17.4, -4.5 and -3.0 points.
Rewound to the initialisation itself the order counts for less, 0.06 ± 0.46 to 1.09 ±
0.47 points, and the naive mask is nearer too.
"""

from functools import partial
from pathlib import Path
from typing import Any

import elsewhere
import pandas as pd
import study
from matplotlib.figure import Figure

from lth import compress, data, results
from lth.analysis import matching

SETTINGS: dict = {"data.examples": 5000, "optimizer.cosine": True, "levels": 4}
SETTINGS |= {"prune.rates": "", "prune.densities": "0.2,0.1,0.05,0.03"}
SETTINGS |= {"prune.exclude": "output", "controls": "shuffle"}
SETTINGS |= {"steps": "500it", "eval_every": "500it"}
CELLS = {}
for width, k in [(0.25, 50), (1, 50), (2, 50), (1, 0)]:
    more = {"model.widths": (int(300 * width), int(100 * width)), "rewind.to": f"{k}it"}
    CELLS[f"width {width:g}, k = {k}"] = ("lenet-mnist", SETTINGS | more)
HEAD = "test accuracy of the network's own ticket, and what others have more, in "
HEAD += "points, n = {n}"
WAYS = {"permuted": "permuted mask", "naive": "naive mask", "shuffle": "random mask"}


def matched(run, flags: study.Flags) -> tuple[Any, list[dict]]:
    """Match the units of each dense network with those of the replicate after it."""
    apply = run.recipe().objective.apply
    inputs = data.load("mnist", flags.data_dir, 5000, 0).train.inputs[:1000]
    tickets = [run.ticket(0, replicate=replicate) for replicate in run.replicates]
    networks = [(apply, one.params, one.stats, inputs) for one in tickets]
    spaces = compress.find(*networks[0])
    seen = [matching.activations(spaces, *network) for network in networks]
    pairs = zip(seen, [*seen[1:], seen[0]], strict=True)
    return spaces, [matching.match_activations(spaces, *pair) for pair in pairs]


def beside(flags: study.Flags, folder: Path) -> pd.DataFrame:
    """Return the rows of masks that were carried from one replicate to another."""
    tables = []
    for name in CELLS:
        run = study.opened(flags, folder, name)
        spaces, orders = matched(run, flags)
        for way, order in (("permuted", orders), ("naive", [{}] * len(orders))):
            branch = elsewhere.of_the_next(run, spaces, order, WAYS[way])
            run.branch(branch, name=way)
        rows = run.table[run.table["variant"].isin(["permuted", "naive"])]
        tables.append(rows.assign(run=name))
    return pd.concat(tables)


def gaps(table: pd.DataFrame) -> pd.DataFrame:
    """Return what tickets reach, and by how much other masks fall behind them."""
    rows, pruned = [], table[table["level"] > 0]
    for (run, level), group in pruned.groupby(["run", "level"], sort=False):
        own: dict = {"run": run, "level": level}
        each = {way: own | {"variant": way} for way in WAYS}
        pairs = {"ticket": results.mean(table, own)}
        pairs |= {way: results.gap(table, where, own) for way, where in each.items()}
        pairs["permuted - naive"] = results.gap(table, each["permuted"], each["naive"])
        row = {"run": run, "density %": 100 * group["density"].mean()}
        rows.append(row | study.columns(pairs))
    return pd.DataFrame(rows)


def figure(table: pd.DataFrame) -> Figure:
    """Draw by how much each mask falls behind, a panel for each run."""
    lines = {}
    for run, rows in gaps(table).groupby("run", sort=False):
        lines[run] = {title: study.line(rows, way) for way, title in WAYS.items()}
    looks = {"size": (11, 3.3), "dotted": [0] * len(CELLS)}
    drawn = study.panels(lines, "less the own ticket (points)", **looks)
    drawn.axes[0].set_ylim(-20, 1)
    return drawn


if __name__ == "__main__":
    claims = partial(study.told, rows=gaps, head=HEAD)
    study.main(CELLS, claims, figure, "mask_symmetry", beside=beside)
