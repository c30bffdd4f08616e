"""Baselines to cite: eight ways to a sparse network, at equal budget, on one page.

What a new method is compared with is mostly copied from papers whose networks, budgets
and schedules differ. Here all ways share the network, the data, the length of each
training, its schedule, and the replicates' seeds and batches.

    python experiments/baselines.py --data-dir DATA [--networks lenet conv2 resnet20]

| way | the mask | weights it is trained from | trainings, for all four |
|---|---|---|---|
| IMP | magnitude, in rounds (Frankle & Carbin 2019) | the initial ones | 1 + rounds |
| rewinding | the same (Frankle et al. 2020) | those of an early step | 1 + rounds |
| LRR | the same (Renda et al. 2020) | the trained ones | 1 + rounds |
| SNIP | one shot, 10 batches (Lee et al. 2019) | the initial ones | 4 |
| SynFlow | 100 rounds (Tanaka et al. 2020) | the initial ones | 4 |
| GraSP | one shot, 10 batches (Wang et al. 2020) | the initial ones | 4 |
| RigL | changes in training (Evci et al. 2020) | the initial ones | 4 |
| edge-popup | learned (Ramanujan et al. 2020) | none is: the weights are frozen | 4 |

All weights compete, but in RigL (Erdős-Rényi densities) and edge-popup (each layer).
Between two of the densities IMP takes several rounds; all three ways by rounds train
each ticket as long as the dense network, less the rewind point, which
is at 5 % of the training.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import pandas as pd
import study
import tyro
from matplotlib.figure import Figure

import lth
from lth import plot, results
from lth.lab.config import Experiment, Learn, Optimizer, presets

DENSITIES = (0.2, 0.1, 0.05, 0.02)
WAYS = ("IMP", "rewinding", "LRR", "SNIP", "SynFlow", "GraSP", "RigL", "edge-popup")
SHARED = {
    "optimizer.cosine": True,
    "optimizer.milestones": "",
    "rewind.to": "0",
    "checkpoint_at": "",
    "controls": "",
    "prune.scope": "global",
    "prune.rates": "",
    "prune.exclude": "",
}


class Network(NamedTuple):
    """Says what is trained, for how long, and in how many rounds IMP prunes it."""

    title: str
    preset: str
    steps: int
    rounds: tuple[int, ...]  # to each of the densities from the one before
    popup: float  # learning rate of the scores of edge-popup


LENET = "LeNet-300-100 on MNIST", "lenet-mnist-sgd", 2000
CONV = "Conv-2, a quarter of its width, on CIFAR-10", "conv2-fast", 1000
RESNET = "ResNet-20 on CIFAR-10", "resnet20", 63_000  # for a GPU
NETWORKS = {
    "lenet": Network(*LENET, (7, 3, 3, 4), 0.5),
    "conv2": Network(*CONV, (3, 1, 1, 2), 0.05),
    "resnet20": Network(*RESNET, (7, 3, 3, 4), 0.05),
}


@dataclass(frozen=True)
class Flags(study.Flags):
    """Where things are, and how much to run."""

    replicates: int = 3
    networks: tuple[str, ...] = ("lenet", "conv2")


def rounds(network: Network) -> dict:
    """Return the levels of IMP: by equal factors from one density to the next."""
    found, before = [], 1.0
    for density, count in zip(DENSITIES, network.rounds, strict=True):
        between = [before * (density / before) ** (i / count) for i in range(1, count)]
        found += [*between, density]
        before = density
    return {"prune.densities": ",".join(map(str, found)), "levels": len(found)}


def cells(network: Network, steps: int) -> dict:
    """Return the experiments of one network, by way."""
    shared = SHARED | {"steps": f"{steps}it", "eval_every": f"{steps // 2}it"}
    chain, later = rounds(network), f"{steps // 20}it"
    listed = ",".join(map(str, DENSITIES))
    early = {"prune.at": "early", "prune.densities": listed, "levels": len(DENSITIES)}
    ways = {
        "IMP": chain,
        "rewinding": chain | {"rewind.to": later},
        "LRR": chain | {"rewind.mode": "learning_rate"},
        "SNIP": early | {"prune.criterion": "snip", "prune.batches": 10},
        "SynFlow": early | {"prune.criterion": "synflow", "prune.rounds": 100},
        "GraSP": early | {"prune.criterion": "grasp", "prune.batches": 10},
    }
    rigl = {"dynamic.rule": "rigl", "dynamic.scope": "erk", "levels": 0}
    ways |= {f"RigL {d:g}": rigl | {"dynamic.density": d} for d in DENSITIES}
    found: dict = {way: (network.preset, shared | own) for way, own in ways.items()}
    popup = {f"edge-popup {d:g}": partial(popped, network, d) for d in DENSITIES}
    return found | popup


def popped(network: Network, density: float, flags: Flags) -> lth.lottery.Recipe:
    """Make the recipe of edge-popup: the network of the others, its weights frozen."""
    base = presets.PRESETS[network.preset].experiment
    rate = Optimizer("sgd", network.popup, momentum=0.9, cosine=True)
    learn = Learn("edge_popup", rate, density, every=3, rescale=True)
    experiment = Experiment(
        data=base.data,
        model=replace(base.model, initialiser="signed_constant"),
        learn=learn,
        batch_size=base.batch_size,
        steps=f"{flags.steps or network.steps}it",
        eval_every=f"{(flags.steps or network.steps) // 2}it",
        levels=0,
        replicates=flags.replicates,
    )
    return lth.build(experiment, data_dir=flags.data_dir)


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row of each network, way and density: test accuracy in %."""
    last, rows = results.final(table), []
    names = last["run"].str.extract(r"(?P<network>\w+), (?P<way>[\w-]+)")
    for (network, way), of in last.join(names).groupby(["network", "way"], sort=False):
        for density in (1.0, *DENSITIES):
            mine = of[(of["density"] / density - 1).abs() < 0.01]
            if len(mine):  # some have no dense network
                both = results.interval(100 * mine["value"])
                rows.append((network, way, density, *both, len(mine)))
    columns = ["network", "way", "density", "accuracy", "accuracy_ci", "n"]
    return pd.DataFrame(rows, columns=columns)


def claims(table: pd.DataFrame) -> str:
    """Write the table; a density of 1 is the dense network, of each way its own."""
    return results.text(ends(table))


def figure(table: pd.DataFrame) -> Figure:
    """Draw accuracy by density, a panel for each network."""
    found = ends(table)
    panels = found.groupby("network", sort=False)
    drawn = Figure(figsize=(5.2 * len(panels), 4.2), layout="constrained")
    for i, (name, of) in enumerate(panels, 1):
        axes = drawn.add_subplot(1, len(panels), i, title=NETWORKS[str(name)].title)
        for style, way in zip(plot.styles(), WAYS, strict=False):
            rows = of[(of["way"] == way) & (of["density"] < 1)]
            x, y, half = (rows[c] for c in ("density", "accuracy", "accuracy_ci"))
            axes.errorbar(100 * x, y, half, ms=3, capsize=2, label=way, **style)
        dense = of.loc[of["density"] == 1, "accuracy"].mean()
        axes.axhline(dense, color="0.5", lw=0.8, ls=":", label="dense")
        plot.density_axis(axes)
    drawn.axes[0].set_ylabel("test accuracy (%)")
    drawn.axes[0].legend(frameon=False, fontsize="x-small", loc="lower left")
    return drawn


if __name__ == "__main__":
    flags, every = tyro.cli(Flags), {}
    for name in flags.networks:
        network = NETWORKS[name]
        made = cells(network, flags.steps or network.steps)
        every |= {f"{name}, {way}": cell for way, cell in made.items()}
    study.main(every, claims, figure, "baselines", written=ends, flags=Flags)
