"""Ways of retraining, compared at equal budget from one dense training.

Renda et al. (2020, arXiv:2003.02389, figures 1 and 2): after pruning, rewinding the
learning rate alone does as well as rewinding weights too, or better, and both beat
fine-tuning at the last rate. Frankle & Carbin (2019): a fresh initialisation falls
behind. Le & Hua (2021, arXiv:2105.03193): it is the larger rate of the schedule that
counts, so that early weights under the last rate do worst.

    python experiments/retraining_modes.py

The MLP of 64-128-64-10 on digits, 600 steps of Adam under a cosine, pruned once to each
density and retrained for 552 steps in each mode: the same mask, batches and number of
steps. `weights` are rewound to step 48, `weights of init` are those of step 0 at its
place, and with fresh moments the optimizer's begin anew.

RESULT
"""

from dataclasses import dataclass

import pandas as pd
import study
from matplotlib.figure import Figure

from lth import plot, results

SETTINGS = {
    "optimizer.cosine": True,
    "steps": "600it",
    "eval_every": "200it",
    "rewind.to": "48it",
    "prune.scope": "global",
    "prune.rates": "",
    "prune.rate": 0.2,
    "levels": 1,
}
DENSITIES = (0.2, 0.05, 0.02)
CELLS = {
    f"{100 * d:g} %": ("digits", SETTINGS | {"prune.densities": str(d)})
    for d in DENSITIES
}
MODES = ("learning_rate", "finetune", "weights_low_rate", "reinit")
BRANCHES = [
    *(("retrain", {"mode": mode}) for mode in MODES),
    ("retrain", {"mode": "weights", "moments": "drop"}),
    ("retrain", {"mode": "learning_rate", "moments": "drop"}),
    ("rewound_to", {"at": "init"}),
]


@dataclass(frozen=True)
class Flags(study.Flags):
    """Where things are, and how much to run."""

    replicates: int = 5


def claims(table: pd.DataFrame) -> str:
    """Write the test accuracy of each mode, and its difference from weights."""
    ends = results.final(table[table["level"] == 1])
    ends["value"] *= 100
    rows = []
    for variant, of_mode in ends.groupby("variant", sort=False):
        row: dict[str, object] = {"mode": str(variant).replace("retrain-", "")}
        for cell in CELLS:
            mine = of_mode[of_mode["run"] == cell]
            weights = ends.query(f"run == {cell!r} and variant == 'ticket'")
            row[cell], row[f"{cell}_ci"] = results.interval(mine["value"])
            pair = mine.set_index("replicate")["value"]
            less = pair - weights.set_index("replicate")["value"]
            name = f"less weights at {cell}"
            row[name], row[f"{name}_ci"] = results.interval(less)
        rows.append(row)
    dense = results.summary(table[table["level"] == 0])["accuracy"].mean()
    return (
        f"dense {100 * dense:.2f} %; test accuracy and differences within replicates "
        f"in points, n = {table['replicate'].nunique()} (the ticket is `weights`)\n"
        f"{results.text(pd.DataFrame(rows))}"
    )


def figure(table: pd.DataFrame) -> Figure:
    """Draw test accuracy by density, a line for each mode."""
    drawn = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = drawn.subplots()
    one = results.summary(table[table["level"] == 1])
    for i, (variant, rows) in enumerate(one.groupby("variant", sort=False)):
        label = (
            "weights" if variant == "ticket" else str(variant).replace("retrain-", "")
        )
        color, style = plot.COLORS[i % len(plot.COLORS)], "o-" if i < 6 else "s--"
        x, y, half = (rows[n] for n in ("density", "accuracy", "accuracy_ci"))
        axes.errorbar(
            100 * x, 100 * y, 100 * half, fmt=style, ms=3, color=color, label=label
        )
    plot.density_axis(axes)
    axes.set(ylabel="test accuracy at the end (%)")
    axes.legend(frameon=False, fontsize="x-small")
    axes.set_title(
        f"MLP on digits, one shot, n = {table['replicate'].nunique()}", size=10
    )
    return drawn


if __name__ == "__main__":
    study.main(
        CELLS, claims, figure, "retraining_modes", branches=BRANCHES, flags=Flags
    )
