"""Linear connectivity on CIFAR-10: when a VGG with batch norm becomes stable.

Frankle et al. (2020, arXiv:1912.05671): on CIFAR-10, at the standard learning rate,
VGG-16 is unstable to the order of the data at initialisation, and becomes stable early
in training.

    python experiments/connectivity_cifar.py --data-dir DATA

An eighth of the channels, SGD at 0.1 that drops twice, 300 steps of 64. Of each state k
two children are trained to the end, in data orders of their own. Barriers are on test,
in points, at 11 places on the line (error at the worst less the mean of the ends), with
the averages of batch norm taken anew at each place over 20 batches, and as mixed from
the ends. Some 40 minutes of processor time, half of it for the barriers; stopped, it
continues where it was.

What it gave (two CPU cores, jax 0.10.2, n = 4, 95 % intervals):

      k      barrier averages mixed   second child, test %
      0 21.64 ± 6.64   28.34 ± 3.19           39.98 ± 3.97
     30  1.39 ± 1.28    5.47 ± 5.44           37.27 ± 2.57
    100  0.57 ± 0.50    1.37 ± 1.13           36.61 ± 3.44

So the claim holds: unstable at step 0, stable (below 2 points) 30 steps later. Averages
of batch norm that are mixed like weights do not fit the mixture, and make a barrier of
5 points where there is one of 1. Training is short, 300 steps where the presets have
63 000, so that "early" is a tenth of it here.
"""

from dataclasses import dataclass

import pandas as pd
import study
from matplotlib.figure import Figure

from lth import plot, results

STEPS = (0, 30, 100)
SETTINGS = {
    "model.width": 0.125,
    "optimizer.milestones": "200it,260it",
    "batch_size": 64,
    "rewind.to": "100it",
    "checkpoint_at": "30it",
    "steps": "300it",
    "eval_every": "150it",
    "levels": 0,
}
CELLS = {"VGG-16": ("vgg16", SETTINGS)}
PLACES = {0: "init", 100: "early"}  # what the states are called that all runs have
BRANCHES = [
    ("order", {"at": PLACES.get(k, f"{k}it"), "levels": (0,), "name": f"second-{k}"})
    for k in STEPS
]
BATCHES = 20  # after which the averages of batch norm are those of the point
PROBES = [
    ("barrier", {"to": f"second-{k}", "batches": batches})
    for k in STEPS
    for batches in (0, BATCHES)
]


@dataclass(frozen=True)
class Flags(study.Flags):
    """Where things are, and how much to run."""


def barriers(table: pd.DataFrame) -> pd.DataFrame:
    """Return barriers by rewind point, and what the second child reaches."""
    ends, found = results.final(table), []
    for k in STEPS:
        row: dict = {"k": k}
        for name, suffix in (
            ("barrier", f"-batches={BATCHES}"),
            ("averages mixed", ""),
        ):
            rows = table[table["split"] == f"barrier-to=second-{k}{suffix}"]
            rows = rows[rows["metric"] == "accuracy"]
            row[name], row[f"{name}_ci"] = results.interval(100 * rows["value"])
        values = 100 * ends.loc[ends["variant"] == f"second-{k}", "value"]
        row["test %"], row["test %_ci"] = results.interval(values)
        found.append(row)
    return pd.DataFrame(found)


def claims(table: pd.DataFrame) -> str:
    """Write barriers and accuracies."""
    n = table["replicate"].nunique()
    return f"n = {n}; barriers in points on test\n{results.text(barriers(table))}"


def figure(table: pd.DataFrame) -> Figure:
    """Draw barriers by rewind point, averages of batch norm taken anew and mixed."""
    drawn = Figure(figsize=(5.6, 3.9), layout="constrained")
    ax, found = drawn.subplots(), barriers(table)
    for color, name in zip(plot.COLORS, ("barrier", "averages mixed"), strict=False):
        label = {"barrier": "averages of batch norm anew"}.get(name, name)
        style = {"fmt": "o-", "ms": 3, "capsize": 2, "color": color, "label": label}
        ax.errorbar(found["k"], found[name], found[f"{name}_ci"], **style)
    ax.set_ylim(bottom=0)
    ax.set(xlabel="step k that both children start from")
    ax.set(ylabel="barrier between children (points)")
    ax.legend(frameon=False, fontsize="small")
    steps, n = table["step"].max(), table["replicate"].nunique()
    drawn.suptitle(f"VGG-16 at an eighth of its width, {steps} steps, n = {n}")
    return drawn


if __name__ == "__main__":
    options = {"branches": BRANCHES, "probes": PROBES, "flags": Flags}
    study.main(CELLS, claims, figure, "connectivity_cifar", **options)
