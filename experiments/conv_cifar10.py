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
iterations end before the validation loss has risen, for the dense network too.
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


@dataclass(frozen=True)
class Flags:
    """Where things are, and how much to run."""

    data_dir: Path | None = None
    runs: Path = Path("runs")
    out: Path = RESULTS
    levels: int = 5
    replicates: int = 4


def main() -> None:
    flags = tyro.cli(Flags)
    chosen = replace(
        PRESETS["conv2-fast"].experiment,
        levels=flags.levels,
        replicates=flags.replicates,
        controls="reinit",
    )

    def watch(p):
        if p.step == p.steps:
            print(f"level {p.level} {p.variant}: {100 * p.accuracy:.2f} %", flush=True)

    outcome = runner.run(chosen, "conv2-fast", flags.runs, flags.data_dir, watch)
    table = lth.open_run(outcome.path).table
    flags.out.mkdir(parents=True, exist_ok=True)
    results.summary(table).drop(columns="run").round(5).to_csv(
        flags.out / "conv_cifar10.csv", index=False
    )
    figure = Figure(figsize=(10.5, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    plot.accuracy(table, left, at="stop_accuracy")
    plot.stopping(table, right)
    figure.suptitle(
        f"Conv-2 (a quarter as wide) on CIFAR-10, n = {flags.replicates}", size=11
    )
    figure.savefig(flags.out / "conv_cifar10.png", dpi=90)
    print(verdict(table))


def verdict(table: pd.DataFrame) -> str:
    """The claims beside the numbers: differences within replicates, 95 % intervals."""
    # Any: the type stubs of pandas do not follow an index of three levels.
    stops: Any = results.early_stop(table).set_index(["variant", "level", "replicate"])
    stops = stops.sort_index()
    dense = stops.loc[("ticket", 0)]
    lines = [
        f"dense: {100 * dense['accuracy'].mean():.2f} % at early stopping, step "
        f"{dense['step'].mean():.0f}; test accuracy there, differences in points",
        f"{'density':>9} {'ticket - dense':>17} {'ticket - fresh':>17} "
        f"{'ticket steps':>13} {'fresh steps':>12}",
    ]
    for level in sorted(set(stops.index.get_level_values("level")) - {0}):
        ticket, fresh = (stops.loc[(v, level)] for v in ("ticket", "reinit"))
        gaps = [100 * (ticket["accuracy"] - o["accuracy"]) for o in (dense, fresh)]
        cells = [f"{m:+.2f} ± {h:.2f}" for m, h in map(results.interval, gaps)]
        lines.append(
            f"{100 * ticket['density'].mean():8.2f}% {cells[0]:>17} {cells[1]:>17} "
            f"{ticket['step'].mean():13.0f} {fresh['step'].mean():12.0f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
