"""The lottery-ticket experiment on LeNet-300-100 and MNIST.

Frankle & Carbin (2019, arXiv:1803.03635), figures 1, 3 and 4: a network is trained, the
smallest fifth of its weights is pruned (a tenth in the output layer), the rest goes
back to its initial values and is trained again; and so on. The paper's claims, as
tested here:

1. tickets match or beat the dense network's test accuracy down to a few percent of the
   weights (the paper: down to 3.6 %);
2. the same masks with fresh initial weights, and masks shuffled within layers, fall
behind
   as density falls;
3. tickets reach their lowest validation loss sooner than the dense network (at 21 % of
   the weights, say) and sooner than the controls.

    python experiments/lottery_ticket.py --data-dir DATA

A fifth of the paper's iterations, five replicates, 18 levels and both controls: 20 to
40 minutes on two cores. Stopped, it continues where it was. Writes a table and a figure
to experiments/results/.

What it gave (two CPU cores, jax 0.10.2, n = 5, 95 % intervals of differences within
replicates; accuracy on test at the step of the lowest validation loss, in points):

     density   ticket - dense   ticket - fresh  ticket - shuffled  steps / dense
      51.28%     +0.13 ± 0.16     +0.20 ± 0.17       +0.35 ± 0.35           0.48
      21.07%     +0.29 ± 0.24     +0.50 ± 0.10       +0.63 ± 0.06           0.47
       6.95%     +0.26 ± 0.21     +0.83 ± 0.20       +1.56 ± 0.12           0.66
       3.58%     +0.05 ± 0.25     +1.22 ± 0.08       +2.80 ± 0.39           1.01
       1.85%     -0.32 ± 0.23     +1.91 ± 0.08       +5.25 ± 0.36           1.27

The dense network: 98.06 % at step 6280. All three claims hold: tickets match it down to
3.6 %, and learn sooner than it down to 4.5 %. (The runs trained five replicates in one
`vmap`; experiments now train two at a time on a CPU, which may round differently.)
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import tyro
from matplotlib.figure import Figure

import lth
from lth import plot, results
from lth.lab import runner
from lth.lab.config.presets import PRESETS

RESULTS = Path(__file__).parent / "results"
LEVELS = (3, 7, 12, 15, 18)  # 51 %, 21 %, 7 %, 3.5 % and 1.8 % of the weights


@dataclass(frozen=True)
class Flags:
    """Where things are, and how much to run."""

    data_dir: Path | None = None
    runs: Path = Path("runs")
    out: Path = RESULTS
    levels: int = 18
    replicates: int = 5


def main() -> None:
    flags = tyro.cli(Flags)
    chosen = replace(
        PRESETS["lenet-mnist-fast"].experiment,
        levels=flags.levels,
        replicates=flags.replicates,
        controls="reinit,shuffle",
    )

    def watch(p):
        if p.step == p.steps:
            print(
                f"level {p.level} {p.variant}: {100 * p.accuracy:.2f} % on validation"
            )

    outcome = runner.run(chosen, "lenet-mnist-fast", flags.runs, flags.data_dir, watch)
    table = lth.open_run(outcome.path).table
    flags.out.mkdir(parents=True, exist_ok=True)
    results.summary(table).drop(columns="run").round(5).to_csv(
        flags.out / "lottery_ticket.csv", index=False
    )
    title = f"{chosen.steps.removesuffix('it')} iterations, n = {flags.replicates}"
    draw(table, title).savefig(flags.out / "lottery_ticket.png", dpi=90)
    print(verdict(table))


def draw(table: pd.DataFrame, title: str) -> Figure:
    """The paper's two figures: accuracy and early-stopping step against density."""
    figure = Figure(figsize=(10.5, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    plot.accuracy(table, left, at="stop_accuracy")
    left.set_ylim(92, 99)
    plot.stopping(table, right)
    figure.suptitle(f"LeNet-300-100 on MNIST, {title}", size=11)
    return figure


def verdict(table: pd.DataFrame) -> str:
    """The claims beside the numbers: differences within replicates, 95 % intervals."""
    # Any: the type stubs of pandas do not follow an index of three levels.
    stops: Any = results.early_stop(table).set_index(["variant", "level", "replicate"])
    stops = stops.sort_index()
    dense = stops.loc[("ticket", 0)]
    lines = [
        f"dense: {100 * dense['accuracy'].mean():.2f} % at early stopping, "
        f"step {dense['step'].mean():.0f}",
        "",
        "test accuracy at early stopping, in percentage points; steps as a ratio",
        f"{'density':>8} {'ticket - dense':>16} {'ticket - fresh':>16} "
        f"{'ticket - shuffled':>18} {'steps / dense':>14} {'fresh / ticket':>15}",
    ]
    for level in LEVELS:
        if ("ticket", level) not in stops.index.droplevel("replicate"):
            continue
        ticket, fresh, shuffled = (
            stops.loc[(variant, level)] for variant in ("ticket", "reinit", "shuffle")
        )
        gaps = [
            100 * (ticket["accuracy"] - o["accuracy"]) for o in (dense, fresh, shuffled)
        ]
        cells = [f"{m:+.2f} ± {h:.2f}" for m, h in map(results.interval, gaps)]
        lines.append(
            f"{100 * ticket['density'].mean():7.2f}% {cells[0]:>16} {cells[1]:>16} "
            f"{cells[2]:>18} {ticket['step'].mean() / dense['step'].mean():14.2f} "
            f"{fresh['step'].mean() / ticket['step'].mean():15.2f}"
        )
    means = stops["accuracy"].groupby(["variant", "level"]).mean()["ticket"]
    at_least = [level for level in means.index if means[level] >= means[0]]
    density = stops.loc[("ticket", max(at_least)), "density"].mean()
    lines += [
        "",
        f"tickets match the dense mean down to {100 * density:.2f} % of weights",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
