"""Winning tickets of a convolutional network: Conv-2 on CIFAR-10.

Frankle & Carbin (2019, arXiv:1803.03635), figure 5: pruned iteratively and rewound to
their initial weights, convolutional networks match or beat the dense network, learn
sooner than it, and lose both when their initial weights are drawn anew.

    python experiments/conv_cifar10.py --data-dir DATA

A quarter of the paper's channels and units, 2 000 iterations at a learning rate of 1e-3
(the paper: 27 epochs at 2e-4), 4 replicates, 5 levels: about half an hour on two cores.
Stopped, it continues where it was. Writes a table and a figure to experiments/results/.

What it gave (two CPU cores, jax 0.10.2, n = 4; test accuracy at the step of the lowest
validation loss, differences within replicates in points, with 95 % intervals):

      density    ticket - dense    ticket - fresh  ticket steps  fresh steps
       80.13%      +0.21 ± 0.64      +2.36 ± 2.21          1938         2000
       64.21%      +0.53 ± 1.02      +4.02 ± 1.19          1938         1938
       51.47%      +0.85 ± 0.81      +5.28 ± 2.40          1938         2000
       41.27%      +1.28 ± 1.29      +7.57 ± 1.22          1812         1938
       33.10%      +1.17 ± 1.84      +8.88 ± 4.06          1875         1938

The dense network: 61.07 % at step 2000. Tickets match the dense network at every
density tried, and beat it by a hair at some; with fresh weights their masks fall behind
the more the sparser they are. Whether tickets learn sooner cannot be seen here: 2 000
iterations end before the validation loss has risen, for the dense network too. (The
numbers are from before the study was a sweep of cells, of the same preset.)
"""

from typing import Any

import pandas as pd
import study
from matplotlib.figure import Figure

from lth import plot, results

CELLS = {"conv2": ("conv2-fast", {"levels": 5, "controls": "reinit"})}


def claims(table: pd.DataFrame) -> str:
    """Write differences within replicates at early stopping, and how soon that is."""
    stops = results.stopped(table)
    grouped = results.early_stop(table).groupby(["variant", "level"])
    # Any: the type stubs of pandas do not follow an index of two levels.
    means: Any = grouped[["accuracy", "density", "step"]].mean()
    dense, rows = means.loc[("ticket", 0)], []
    for level, ticket in means.loc["ticket"].drop(0).iterrows():
        fresh = {"level": level, "variant": "reinit"}
        row = {"density %": 100 * ticket["density"]}
        for name, other in (("dense", {"level": 0}), ("fresh", fresh)):
            found = results.gap(stops, {"level": level}, other)
            row[f"ticket - {name}"], row[f"ticket - {name}_ci"] = found
        row["ticket steps"] = round(ticket["step"])
        row["fresh steps"] = round(means.loc[("reinit", level), "step"])
        rows.append(row)
    return (
        f"dense: {100 * dense['accuracy']:.2f} % at early stopping, step "
        f"{dense['step']:.0f}; test accuracy there, differences in points\n"
        f"{results.text(pd.DataFrame(rows))}"
    )


def figure(table: pd.DataFrame) -> Figure:
    """Draw accuracy and early-stopping step by density."""
    drawn = Figure(figsize=(10.5, 3.9), layout="constrained")
    left, right = drawn.subplots(1, 2)
    plot.accuracy(table, left, at="stop_accuracy")
    plot.stopping(table, right)
    n = table["replicate"].nunique()
    drawn.suptitle(f"Conv-2 (a quarter as wide) on CIFAR-10, n = {n}", size=11)
    return drawn


if __name__ == "__main__":
    study.main(CELLS, claims, figure, "conv_cifar10")
