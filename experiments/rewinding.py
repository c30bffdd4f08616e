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
GPU.
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
from lth.lab.config import Prune, Rewind
from lth.lab.config.presets import PRESETS

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Flags:
    """Where things are, and how much to run."""

    data_dir: Path | None = None
    runs: Path = Path("runs")
    out: Path = RESULTS
    to: tuple[int, ...] = (0, 100)
    """Iterations to rewind to; the first is compared with the others."""
    steps: int = 600
    levels: int = 4
    replicates: int = 2


def main() -> None:
    flags = tyro.cli(Flags)
    preset = PRESETS["resnet20-fast"].experiment
    drops = f"{flags.steps // 2}it,{3 * flags.steps // 4}it"
    tables = []
    for k in flags.to:
        chosen = replace(
            preset,
            optimizer=replace(preset.optimizer, milestones=drops),
            prune=Prune(rate=0.6),
            rewind=Rewind(to=f"{k}it"),
            steps=f"{flags.steps}it",
            eval_every=f"{flags.steps // 4}it",
            levels=flags.levels,
            replicates=flags.replicates,
        )

        def watch(p, k=k):
            if p.step == p.steps:
                print(f"k = {k}, level {p.level}: {100 * p.accuracy:.2f} %", flush=True)

        name = "resnet20-fast"
        outcome = runner.run(chosen, name, flags.runs, flags.data_dir, watch)
        tables.append(lth.open_run(outcome.path).table.assign(run=f"k = {k}"))
    table = pd.concat(tables, ignore_index=True)
    flags.out.mkdir(parents=True, exist_ok=True)
    results.summary(table).round(5).to_csv(flags.out / "rewinding.csv", index=False)
    figure = Figure(figsize=(5.4, 3.9), layout="constrained")
    axes = plot.accuracy(table, figure.subplots(), band=False)
    axes.set_title(
        f"ResNet-20 (half as wide), {flags.steps} iterations, n = {flags.replicates}",
        size=10,
    )
    figure.savefig(flags.out / "rewinding.png", dpi=90)
    print(verdict(table))


def verdict(table: pd.DataFrame) -> str:
    """The claim beside the numbers: test accuracy at the end of each replicate."""
    # Any: the type stubs of pandas do not follow an index of three levels.
    ends: Any = results.final(table).set_index(["run", "level", "replicate"])
    ends = ends.sort_index()
    runs = list(dict.fromkeys(table["run"]))
    lines = [
        f"{'density':>9}" + "".join(f"{run:>18}" for run in runs) + "  differences"
    ]
    for level in sorted(table["level"].unique()):
        found = [100 * ends.loc[(run, level), "value"] for run in runs]
        density = 100 * ends.loc[(runs[0], level), "density"].mean()
        cells = [" ".join(f"{v:.2f}" for v in values) for values in found]
        gaps = [
            " ".join(f"{v:+.2f}" for v in values - found[0]) for values in found[1:]
        ]
        lines.append(
            f"{density:8.2f}%"
            + "".join(f"{c:>18}" for c in cells)
            + "  "
            + "; ".join(gaps)
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
