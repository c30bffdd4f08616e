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

from operator import itemgetter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pandas as pd
import study
from matplotlib.figure import Figure

import lth
from lth import compress, data, lottery, plot, results
from lth.analysis import matching

SETTINGS = {
    "data.examples": 5000,
    "optimizer.cosine": True,
    "prune.rates": "",
    "prune.densities": "0.2,0.1,0.05,0.03",
    "prune.exclude": "output",
    "steps": "500it",
    "eval_every": "500it",
    "levels": 4,
    "controls": "shuffle",
}
EACH = [(0.25, 50), (1, 50), (2, 50), (1, 0)]  # width, and the step rewound to


def cell(width: float, k: int):
    """Return the run of networks so many times as wide, rewound to step k."""
    widths = (int(300 * width), int(100 * width))
    more = {"model.widths": widths, "rewind.to": f"{k}it"}
    return ("lenet-mnist", SETTINGS | more)


CELLS = {f"width {w:g}, k = {k}": cell(w, k) for w, k in EACH}
WAYS = {"permuted": "permuted mask", "naive": "naive mask", "shuffle": "random mask"}


def matched(run, flags: study.Flags) -> tuple[Any, list[dict]]:
    """Match the units of each dense network with those of the replicate after it."""
    apply = run.recipe().objective.apply
    inputs = data.load("mnist", flags.data_dir, 5000, 0).train.inputs[:1000]
    each = [run.ticket(0, replicate=replicate) for replicate in run.replicates]
    spaces = compress.find(apply, each[0].params, each[0].stats, inputs)
    seen = [
        matching.activations(spaces, apply, one.params, one.stats, inputs)
        for one in each
    ]
    pairs = zip(seen, [*seen[1:], seen[0]], strict=True)
    return spaces, [matching.match_activations(spaces, *pair) for pair in pairs]


def carried(run, spaces: Any, orders: list[dict], title: str) -> lottery.Branch:
    """Put on the early weights the mask of the replicate after theirs, in an order.

    Args:
      run: Of the tickets.
      spaces: Of their networks.
      orders: Of each replicate those that bring the other's units to its own.
      title: What the branch is called.

    Returns:
      The branch, as the trunk trained.
    """

    def prune(recipe, early, before, density, keys):
        theirs, each = run.ticket(before.level + 1).mask, []
        for i in map(run.replicates.index, recipe.replicates):
            after = itemgetter((i + 1) % len(run.replicates))
            mask = jax.tree.map(after, theirs)
            each.append(matching.permuted(spaces, orders[i], mask=mask)[2])
        return jax.tree.map(lambda *m: jnp.stack(m), *each)

    return lottery.branches.rewound()._replace(title=title, prune=prune)


def beside(flags: study.Flags, folder: Path) -> pd.DataFrame:
    """Return the rows of masks that were carried from one replicate to another."""
    tables = []
    for name in CELLS:
        (path,) = folder.glob(f"{name}-*")
        run = lth.open_run(path, data_dir=flags.data_dir)
        spaces, orders = matched(run, flags)
        for way, order in (("permuted", orders), ("naive", [{}] * len(orders))):
            run.branch(carried(run, spaces, order, WAYS[way]), name=way)
        rows = run.table[run.table["variant"].isin(WAYS)]
        tables.append(rows[rows["variant"] != "shuffle"].assign(run=name))
    return pd.concat(tables)


def gaps(table: pd.DataFrame) -> pd.DataFrame:
    """Return what tickets reach, and by how much other masks fall behind them."""
    rows, pruned = [], table[table["level"] > 0]
    for (run, level), group in pruned.groupby(["run", "level"], sort=False):
        at: dict = {"run": run, "level": level}
        row = {"run": run, "density %": 100 * group["density"].mean()}
        row["ticket"], row["ticket_ci"] = results.mean(table, at)
        for way in WAYS:
            gap = results.gap(table, at | {"variant": way}, at)
            row[way], row[f"{way}_ci"] = gap
        pair = (at | {"variant": way} for way in ("permuted", "naive"))
        gap = results.gap(table, *pair)
        row["permuted - naive"], row["permuted - naive_ci"] = gap
        rows.append(row)
    return pd.DataFrame(rows)


def claims(table: pd.DataFrame) -> str:
    """Write what each mask reaches."""
    return (
        "test accuracy of the network's own ticket, and what others have more, in "
        f"points, n = {table['replicate'].nunique()}\n{results.text(gaps(table))}"
    )


def figure(table: pd.DataFrame) -> Figure:
    """Draw by how much each mask falls behind, a panel for each run."""
    drawn = Figure(figsize=(11, 3.3), layout="constrained")
    panels = drawn.subplots(1, len(CELLS), sharey=True)
    groups = gaps(table).groupby("run", sort=False)
    for axes, (run, rows) in zip(panels, groups, strict=True):
        for color, (way, title) in zip(plot.COLORS, WAYS.items(), strict=False):
            x, y, half = rows["density %"], rows[way], rows[f"{way}_ci"]
            axes.errorbar(x, y, half, fmt="o-", ms=3, color=color, label=title)
        axes.axhline(0, color="0.5", lw=0.8, ls=":")
        axes.set_title(run, size=10)
        plot.density_axis(axes)
    panels[0].set(ylabel="less the own ticket (points)", ylim=(-20, 1))
    panels[0].legend(frameon=False, fontsize="small")
    return drawn


if __name__ == "__main__":
    study.main(CELLS, claims, figure, "mask_symmetry", beside=beside)
