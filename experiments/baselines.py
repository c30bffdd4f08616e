"""Baselines to cite: eight ways to a sparse network, at equal budget, on one page.

What a new method is compared with is mostly copied from papers whose networks, budgets
and schedules differ. Here all ways share the network, the data, the length of each
training, its schedule, and the seeds and batches of the replicates.

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
each ticket as long as the dense network, less the rewind point, which is at 5 % of the
training. Learning rates are those of the presets, and of edge-popup 0.5: none is tuned.

What it gave on two CPU cores (jax 0.10.2, n = 3, 95 % intervals; the file is
`results/baselines.csv`): test accuracy in %, and gains on IMP in the same replicates,
in points. LeNet-300-100 on MNIST, SGD at 0.1 along a cosine, 1 000 steps of 128 (25
minutes of processor time):

    way            20 %            10 %             5 %             2 %
    IMP        96.21 ± 0.52    95.59 ± 0.14    94.59 ± 0.33    93.48 ± 0.31
    rewinding  96.05 ± 0.32    95.31 ± 0.28    94.53 ± 0.05    93.13 ± 0.44
    LRR        97.73 ± 0.29    97.67 ± 0.21    97.63 ± 0.20    97.14 ± 0.14
    SNIP       95.00 ± 0.05    93.96 ± 0.39    92.42 ± 0.57    88.75 ± 0.08
    SynFlow    94.46 ± 0.21    93.74 ± 0.39    92.77 ± 0.47    90.71 ± 0.64
    GraSP      91.72 ± 1.82    92.06 ± 0.90    91.79 ± 0.81    88.95 ± 0.12
    RigL       94.87 ± 0.10    93.45 ± 0.70    92.24 ± 0.32    89.92 ± 0.81
    edge-popup 93.00 ± 3.95  65.57 ± 119.98   31.05 ± 72.96     9.80 ± 0.00

    gain on IMP
    rewinding  -0.16 ± 0.41    -0.28 ± 0.36    -0.06 ± 0.28    -0.35 ± 0.14
    LRR        +1.51 ± 0.63    +2.09 ± 0.20    +3.04 ± 0.21    +3.66 ± 0.42
    SNIP       -1.22 ± 0.56    -1.63 ± 0.29    -2.17 ± 0.24    -4.73 ± 0.36
    SynFlow    -1.76 ± 0.36    -1.85 ± 0.36    -1.83 ± 0.14    -2.77 ± 0.38
    GraSP      -4.49 ± 2.07    -3.52 ± 0.97    -2.80 ± 0.67    -4.53 ± 0.24
    RigL       -1.35 ± 0.44    -2.14 ± 0.70    -2.35 ± 0.56    -3.56 ± 1.08

Conv-2 of a quarter of its width on CIFAR-10, Adam at 0.001 along a cosine, 500 steps
of 60 (109 minutes, beside other work):

    way             20 %            10 %             5 %             2 %
    IMP         48.95 ± 1.90    48.75 ± 2.38    47.64 ± 1.94    43.01 ± 1.83
    rewinding   47.95 ± 3.18    47.59 ± 2.91    46.67 ± 2.97    41.60 ± 2.65
    LRR         56.33 ± 1.28    57.50 ± 0.91    56.92 ± 1.49    54.07 ± 2.73
    SNIP        38.29 ± 5.76    34.15 ± 5.38    30.85 ± 3.89    29.19 ± 2.11
    SynFlow     42.56 ± 2.69    40.79 ± 1.63    37.48 ± 5.67    32.10 ± 3.97
    GraSP       22.55 ± 6.71    20.65 ± 8.24    22.09 ± 9.38    16.66 ± 4.62
    RigL        36.53 ± 1.78    29.87 ± 1.69    25.48 ± 5.07   13.86 ± 13.12
    edge-popup 17.28 ± 15.00   14.62 ± 10.38    10.00 ± 0.00    10.00 ± 0.00

    gain on IMP
    rewinding  -1.00 ± 1.68    -1.16 ± 2.16    -0.97 ± 2.36    -1.40 ± 1.02
    LRR        +7.38 ± 0.96    +8.75 ± 1.48    +9.28 ± 0.52   +11.06 ± 1.91
    SNIP      -10.67 ± 4.28   -14.60 ± 3.25   -16.79 ± 4.65   -13.82 ± 0.74
    SynFlow    -6.39 ± 0.96    -7.96 ± 1.06   -10.16 ± 4.30   -10.90 ± 3.43
    GraSP     -26.40 ± 5.21   -28.10 ± 9.31  -25.55 ± 11.24   -26.35 ± 5.28
    RigL      -12.43 ± 3.68   -18.88 ± 4.06   -22.16 ± 3.23  -29.15 ± 11.34

The dense networks have 96.46 ± 0.39 and 47.07 ± 3.38. They are not trained to the end
in 1 000 and 500 steps, and LRR is ahead of them for a reason that is not sparsity: its
weights are trained on in every round, 18 and 8 trainings in the end where the others
have one. What has one short training only, from a thin start, is far behind here, more
so on Conv-2: with tickets both the weights and the time for them are found by many
trainings. Edge-popup at these rates fails at 10 % and below, in this short time.
ResNet-20 was not run: it wants a GPU.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import pandas as pd
import study
import tyro
from matplotlib.figure import Figure

import lth
from lth import results
from lth.lab.config import Experiment, Learn, Optimizer, presets

DENSITIES = (0.2, 0.1, 0.05, 0.02)
WAYS = ("IMP", "rewinding", "LRR", "SNIP", "SynFlow", "GraSP", "RigL", "edge-popup")
NONE = ("optimizer.milestones", "checkpoint_at", "controls", "prune.rates")
SHARED = dict.fromkeys((*NONE, "prune.exclude"), "")
SHARED |= {"optimizer.cosine": True, "rewind.to": "0", "prune.scope": "global"}


class Network(NamedTuple):
    """Says what is trained, for how long, and in how many rounds IMP prunes it."""

    title: str
    preset: str
    steps: int
    rounds: tuple[int, ...]  # to each of the densities from the one before
    popup: float  # learning rate of the scores of edge-popup


LENET = "LeNet-300-100 on MNIST", "lenet-mnist-sgd", 1000
CONV = "Conv-2, a quarter of its width, on CIFAR-10", "conv2-fast", 500
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
    chain, listed = rounds(network), ",".join(map(str, DENSITIES))
    early = {"prune.at": "early", "prune.densities": listed, "levels": len(DENSITIES)}
    ways = {
        "IMP": chain,
        "rewinding": chain | {"rewind.to": f"{steps // 20}it"},
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
    steps = flags.steps or network.steps
    experiment = Experiment(
        data=base.data, model=replace(base.model, initialiser="signed_constant"),
        learn=Learn("edge_popup", rate, density, every=3, rescale=True), levels=0,
        batch_size=base.batch_size, replicates=flags.replicates,
        steps=f"{steps}it", eval_every=f"{steps // 2}it",
    )  # fmt: skip
    return lth.build(experiment, data_dir=flags.data_dir)


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row of each network, way and density: test accuracy in %, and gains.

    Gains are on IMP, of the same replicates.
    """
    last, rows = results.final(table), []
    names = last["run"].str.extract(r"(?P<network>\w+), (?P<way>[\w-]+)")
    all_of = last.join(names).assign(value=100 * last["value"])
    for network, of in all_of.groupby("network", sort=False):
        for density in (1.0, *DENSITIES):
            mine = of[(of["density"] / density - 1).abs() < 0.01]
            wide = mine.pivot(index="replicate", columns="way", values="value")
            for way in wide:  # some have no dense network
                pairs = {"accuracy": results.interval(wide[way])}
                if density < 1 and way != "IMP":
                    pairs["gain"] = results.interval(wide[way] - wide["IMP"])
                row = {"network": network, "way": way, "density": density}
                rows.append(row | study.columns(pairs) | {"n": len(wide)})
    return pd.DataFrame(rows)


def claims(table: pd.DataFrame) -> str:
    """Write accuracies, and gains on IMP: a row for each way, a column a density."""
    found, texts = ends(table), [f"n = {table['replicate'].nunique()}"]
    for name, title in ("accuracy", "test accuracy (%)"), ("gain", "gain on IMP"):
        told = [results.around(*p) for p in found[[name, f"{name}_ci"]].to_numpy()]
        cells = found.assign(cell=told)[found[name].notna()]
        wide = cells.pivot(index=["network", "way"], columns="density", values="cell")
        wide = wide.reindex(WAYS, level="way").sort_index(axis=1, ascending=False)
        texts.append(f"{title}, by density:\n{wide.to_string(na_rep='')}")
    return "\n\n".join(texts)


def figure(table: pd.DataFrame) -> Figure:
    """Draw accuracy by density, a panel for each network; dotted are dense networks."""
    lines, dense, heights = {}, [], []
    for name, of in ends(table).groupby("network", sort=False):
        pruned = {way: of[(of["way"] == way) & (of["density"] < 1)] for way in WAYS}
        lines[NETWORKS[str(name)].title] = {
            way: study.line(rows, "accuracy", 100 * rows["density"])
            for way, rows in pruned.items()
        }
        dense.append(of.loc[of["density"] == 1, "accuracy"].mean())
        heights.append(of.loc[of["way"] != "edge-popup", "accuracy"])  # may be chance
    labels, size = ["test accuracy (%)"] * len(lines), (5.2 * len(lines), 4.2)
    drawn = study.panels(lines, *labels, size=size, dotted=dense, apart=0.02)
    for axes, shown in zip(drawn.axes, heights, strict=True):
        axes.set_ylim(shown.min() - 2, shown.max() + 2)
    return drawn


if __name__ == "__main__":
    flags, every = tyro.cli(Flags), {}
    for name in flags.networks:
        made = cells(NETWORKS[name], flags.steps or NETWORKS[name].steps)
        every |= {f"{name}, {way}": cell for way, cell in made.items()}
    study.main(every, claims, figure, "baselines", written=ends, flags=Flags)
