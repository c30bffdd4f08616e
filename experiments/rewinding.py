"""Rewinding to a little after initialisation: ResNet-20 on CIFAR-10.

Frankle et al. (2020, arXiv:1912.05671, and 2019, arXiv:1903.01611): at the standard
learning rate a deeper network has no winning tickets at its initialisation, but has
them when the weights are rewound to some early iteration k.

    python experiments/rewinding.py --data-dir DATA

Half of the paper's channels, 600 iterations (the paper: 63 000), rewound to k = 0 and
to k = 100, 60 % of the weights pruned at each of 4 levels, 2 replicates: about half an
hour on two cores. Stopped, it continues where it was. Writes a table and a figure to
experiments/results/.

What it gave (two CPU cores, jax 0.10.2; test accuracy at the end, replicate by
replicate, and the differences between them):

      density             k = 0           k = 100  differences
      100.00%       52.43 53.24       52.43 53.24  +0.00 +0.00
       40.00%       57.45 58.24       55.88 55.87  -1.57 -2.37
       16.00%       58.85 60.09       57.70 56.97  -1.15 -3.12
        6.40%       58.32 58.94       55.52 56.28  -2.80 -2.66
        2.56%       48.87 54.60       47.09 49.74  -1.78 -4.86

The claim does not show here, but its reverse: in all eight pairs the initial weights
are the better start. That does not refute it at its own length. A ticket has the steps
that are left after k, and 100 of 600 are a sixth of the training (the paper's 2 000, a
thirtieth); and so short a training ends before any network has learned, which pruning
itself helps, down to 6 %. `lth run resnet20` is the experiment at full length, for a
GPU. (The numbers are from before the study was a sweep of cells, of the same preset.)
"""

from dataclasses import dataclass
from functools import partial

import pandas as pd
import study
from matplotlib.figure import Figure

import lth
from lth import plot, results


@dataclass(frozen=True)
class Flags(study.Flags):
    """Where things are, and how much to run."""

    replicates: int = 2
    levels: int = 4
    steps: int = 600


def rewound(flags: Flags, to: int) -> lth.lottery.Recipe:
    """Make the recipe that rewinds to step `to`."""
    return lth.build(
        "resnet20-fast",
        data_dir=flags.data_dir,
        optimizer={"milestones": f"{flags.steps // 2}it,{3 * flags.steps // 4}it"},
        prune={"rate": 0.6},
        rewind={"to": f"{to}it"},
        steps=f"{flags.steps}it",
        eval_every=f"{flags.steps // 4}it",
        levels=flags.levels,
        replicates=flags.replicates,
    )


CELLS = {f"k={k}": partial(rewound, to=k) for k in (0, 100)}


def claims(table: pd.DataFrame) -> str:
    """Write test accuracy at the end of each replicate, and the differences."""
    ends = results.final(table).assign(value=lambda ends: 100 * ends["value"])
    found = ends.pivot(index=["level", "replicate"], columns="run", values="value")
    first, *others = found.columns
    for other in others:
        found[f"{other} less {first}"] = found[other] - found[first]
    density = 100 * ends.groupby("level")["density"].mean().rename("density %")
    found = found.reset_index().merge(density, on="level").drop(columns="level")
    return results.text(found[["density %", *found.columns[:-1]]])


def figure(table: pd.DataFrame) -> Figure:
    """Draw accuracy at the end by density."""
    drawn = Figure(figsize=(5.4, 3.9), layout="constrained")
    axes = plot.accuracy(table, drawn.subplots(), band=False)
    steps, n = table["step"].max(), table["replicate"].nunique()
    axes.set_title(f"ResNet-20 (half as wide), {steps} iterations, n = {n}", size=10)
    return drawn


if __name__ == "__main__":
    study.main(CELLS, claims, figure, "rewinding", flags=Flags)
