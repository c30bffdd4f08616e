"""Linear connectivity of a ResNet on CIFAR-10, with batch norm.

Frankle et al. (2020, arXiv:1912.05671, figures 3 and 5): ResNet-20 at the standard
learning rate is unstable to the order of the data at initialisation and becomes stable
early in training; its tickets match where they are stable, which takes rewinding.

    python experiments/connectivity_resnet.py --data-dir DATA
"""

from dataclasses import dataclass

import pandas as pd
import study
from matplotlib.figure import Figure

from lth import plot, results

STEPS = (0, 30, 100)
LEVELS = (0, 1)
SETTINGS = {
    "model.width": 0.25,
    "optimizer.milestones": "250it,350it",
    "prune.rate": 0.8,
    "rewind.to": "100it",
    "batch_size": 64,
    "checkpoint_at": "30it",
    "steps": "400it",
    "eval_every": "200it",
    "levels": 1,
}
CELLS = {"ResNet-20": ("resnet20", SETTINGS)}
BATCHES = 20  # after which the averages of batch norm are those of the point


def place(k: int) -> str:
    """Name a stored state as branches do."""
    return {0: "init", 100: "early"}.get(k, f"{k}it")


BRANCHES = [
    *(
        ("order", {"at": place(k), "levels": LEVELS, "name": f"second-{k}"})
        for k in STEPS
    ),
    *(
        ("rewound_to", {"at": place(k), "levels": (1,), "name": f"first-{k}"})
        for k in STEPS
        if k != 100
    ),
]


def between(k: int, level: int) -> str:
    """Name the networks that are compared: of the trunk, the first child is its own."""
    mine = level == 0 or k == 100
    return f"second-{k}" if mine else f"first-{k},second-{k}"


PROBES = [
    ("barrier", {"to": between(k, level), "levels": (level,), "batches": batches})
    for k in STEPS
    for level in LEVELS
    for batches in (0, BATCHES)
]


@dataclass(frozen=True)
class Flags(study.Flags):
    """Where things are, and how much to run."""

    replicates: int = 4


def barriers(table: pd.DataFrame) -> pd.DataFrame:
    """Return barriers by rewind point and level, and what the first child reaches."""
    ends, found = results.final(table), []
    for level in LEVELS:
        for k in STEPS:
            to = between(k, level)
            row: dict = {"level": level, "k": k}
            for name, batches in (("barrier", BATCHES), ("averages kept", 0)):
                split = f"barrier-to={to}" + f"-batches={batches}" * (batches > 0)
                rows = table[(table["split"] == split) & (table["level"] == level)]
                rows = rows[rows["metric"] == "accuracy"]
                row[name], row[f"{name}_ci"] = results.interval(100 * rows["value"])
            first = "ticket" if "," not in to else to.partition(",")[0]
            unit = (ends["level"] == level) & (ends["variant"] == first)
            values = 100 * ends.loc[unit, "value"]
            row["test %"], row["test %_ci"] = results.interval(values)
            row["density %"] = 100 * ends.loc[unit, "density"].mean()
            found.append(row)
    return pd.DataFrame(found)


def claims(table: pd.DataFrame) -> str:
    """Write barriers and accuracies."""
    n = table["replicate"].nunique()
    return f"n = {n}; barriers in points on test\n{results.text(barriers(table))}"


def figure(table: pd.DataFrame) -> Figure:
    """Draw barriers by rewind point, averages of batch norm taken anew and kept."""
    drawn = Figure(figsize=(5.6, 3.9), layout="constrained")
    ax = drawn.subplots()
    groups = barriers(table).groupby("density %", sort=False)
    for color, (density, rows) in zip(plot.COLORS, groups, strict=False):
        for name, line in (("barrier", "o-"), ("averages kept", "o:")):
            y, half = rows[name], rows[f"{name}_ci"]
            label = f"{density:.0f} %" + ", averages kept" * (line == "o:")
            style = {"fmt": line, "ms": 3, "capsize": 2, "color": color}
            ax.errorbar(rows["k"], y, half, label=label, **style)
    ax.set_xscale("symlog", linthresh=30)
    ax.set_ylim(bottom=0)
    ax.set(xlabel="step k that both children start from")
    ax.set(ylabel="barrier between children (points)")
    ax.legend(frameon=False, fontsize="small")
    steps, n = table["step"].max(), table["replicate"].nunique()
    drawn.suptitle(f"ResNet-20 at a quarter width, {steps} steps, n = {n}")
    return drawn


if __name__ == "__main__":
    options = {"branches": BRANCHES, "probes": PROBES, "flags": Flags}
    study.main(CELLS, claims, figure, "connectivity_resnet", **options)
