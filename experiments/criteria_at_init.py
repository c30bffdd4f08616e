"""Pruning before training: which criteria lose a layer, and what their masks are worth.

A, before training. Tanaka et al. (2020, arXiv:2006.05467), "Pruning neural networks
without any data by iteratively conserving synaptic flow": one-shot criteria empty whole
layers long before the last weight must go (layer collapse), SynFlow in 100 rounds does
not; its scores add up to the same in every layer. VGG-16 with batch norm for CIFAR-10.

B, trained after it. Frankle et al. (2021, arXiv:2009.08576), "Pruning neural networks
at initialization: why are we missing the mark?": shuffled within layers, or with fresh
weights, the masks are as good, so that they say little more than how many weights a
layer needs; GraSP's may even be inverted. LeNet-300-100 on MNIST.

    python experiments/criteria_at_init.py --data-dir DATA

A: a quarter of VGG-16's channels (921 008 prunable weights), Kaiming's weights, global
scope, 100 training images, 3 seeds: 4 minutes. B: 1 200 iterations of Adam at 1.2e-3, 4
replicates, 85 trainings of each: 13 minutes; both on two cores that others used too.
Stopped, B continues where it was. Writes two tables and a figure to
experiments/results/.

The loss is that of evaluation, as in Tanaka et al.'s code: at initialisation batch norm
then is the identity (but for a factor of 1 + 5e-6). SNIP is also shown with batch
statistics, as in a step of training, because what it says changes.

A gave (jax 0.10.2, n = 3): layers without a weight, of 14, mean over seeds

     density  synflow   snip  snip, batch statistics  grasp  magnitude  random
       1.00%      0.0    0.0                     0.0    0.0        0.0     0.0
       0.50%      0.0    0.0                     2.3    0.0        0.0     0.0
       0.20%      0.0    0.0                     6.0    0.7        2.0     0.7
       0.10%      0.0    0.3                     7.3    4.0        5.0     1.0
       0.05%      0.0    1.7                     8.0    5.7        7.0     2.0
       0.01%      0.0    7.0                    10.3    7.7        9.3     4.0

SynFlow keeps every layer alive to the end, 92 weights; all others lose layers. What
does not come out is SNIP at 0.1 %: in evaluation it had lost one layer in one of three
networks there, and more only below. With batch statistics it is the first to collapse.
At full width (14 715 584 weights, one network, not in the table) SynFlow's least layer
density is 0.040 % at 0.1 % and 0.0039 % at 0.01 %; magnitude has lost 2 and 8 layers
there, random 0 and 1, and SNIP, of 256 images, none at 0.1 %.

SynFlow's layer sums are equal to 1.3e-6 (largest over smallest, less 1; biases and
averages are 0). Batch norm ends that once its averages have seen data, since |average|
is subtracted: 0.1 to 0.4 % after one batch, 0.8 to 2.8 % after twenty.

B gave (jax 0.10.2, n = 4, 95 % intervals): test accuracy at the end in %, dense 96.92 ±
0.14, and the controls less the mask itself in the same replicate, in points.

     density criterion         ticket        shuffle         reinit          invert
      20.00% synflow     95.74 ± 0.23   -0.32 ± 0.21   -0.23 ± 0.14   -84.39 ± 0.23
             snip        96.07 ± 0.28   -0.72 ± 0.22   -0.11 ± 0.35   -84.72 ± 0.28
             grasp       93.47 ± 0.81   +1.67 ± 0.56   +2.48 ± 0.71    +0.48 ± 0.61
             magnitude   95.58 ± 0.35   -0.27 ± 0.30   -0.36 ± 0.43    -2.84 ± 0.44
             random      94.32 ± 0.38   -0.11 ± 0.31   -0.09 ± 0.37    -0.19 ± 0.44
       5.00% synflow     93.46 ± 0.37   -0.91 ± 0.34   -0.31 ± 0.40   -82.11 ± 0.37
             snip        93.18 ± 0.62   -0.78 ± 0.36   +0.06 ± 0.41   -81.83 ± 0.62
             grasp       90.88 ± 0.43   +1.44 ± 0.48   +2.04 ± 0.33   -12.50 ± 14.26
             magnitude   92.78 ± 0.24   -0.46 ± 0.11   -0.47 ± 0.24   -45.45 ± 17.01
             random      91.14 ± 0.24   -0.24 ± 0.30   +0.28 ± 0.18    +0.29 ± 1.34
       2.00% synflow     91.00 ± 0.60   -0.45 ± 0.59   +0.08 ± 0.49   -79.65 ± 0.60
             snip        90.34 ± 0.70   +0.20 ± 0.94   +0.14 ± 0.28   -78.99 ± 0.70
             grasp       88.19 ± 0.82   +1.99 ± 1.35   +1.36 ± 0.92   -68.47 ± 11.29
             magnitude   11.35 ± 0.00    0.00           0.00           +3.93 ± 7.24
             random      66.04 ± 20.94  +9.21 ± 14.09  +2.45 ± 20.46   -1.41 ± 43.32
       0.50% synflow     82.14 ± 2.07  -20.43 ± 4.95   -1.59 ± 2.33   -70.79 ± 2.07
             snip        78.29 ± 2.67  -18.08 ± 7.99   -2.07 ± 1.40   -66.94 ± 2.67
             grasp       61.29 ± 11.80 -24.82 ± 19.17  -3.82 ± 3.28   -49.94 ± 11.80
             magnitude   11.35 ± 0.00    0.00           0.00            0.00
             random      15.57 ± 2.38   -2.96 ± 3.01   +0.22 ± 14.66   -3.81 ± 2.16

Down to 2 %, fresh weights cost at most half a point and shuffling less than one, and
GraSP gains by both: so far the claim. But shuffling is not free (at 20 and 5 %, of all
but random, the intervals leave out 0), and at 0.5 %, 1 331 weights, it costs 20 points:
so few no longer meet by chance. GraSP inverted is as good at 20 %, not below. SNIP and
SynFlow inverted keep weights of the first layer alone at any density, so that chance is
all they can reach. Below 5 % magnitude has lost the first layer and predicts one class.
"""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import lth
from lth import criteria, lottery, masks, models, plot, results, train
from lth.lab import runner
from lth.lab.build import networks, tasks
from lth.lab.build.ranking import GRASP_TEMPERATURE
from lth.lab.config import Data, Experiment, Model, Prune
from lth.lab.config.presets import PRESETS
from lth.masks import schedules
from lth.train import TrainState

RESULTS = Path(__file__).parent / "results"
DENSITIES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 1e-3, 5e-4, 2e-4, 1e-4)
ROUNDS = 100  # of SynFlow
TRAINED = ("synflow", "snip", "grasp", "magnitude", "random")  # in part B
CONTROLS = ("shuffle", "reinit", "invert")


@dataclass(frozen=True)
class Flags:
    """Where things are, and how much to run."""

    data_dir: Path | None = None
    runs: Path = Path("runs")
    out: Path = RESULTS
    width: float = 0.25
    """Of VGG-16, in part A."""
    seeds: int = 3
    """Networks of part A."""
    densities: tuple[float, ...] = DENSITIES
    """Of part A."""
    steps: int = 1200
    """Iterations of part B; 0: leave it out."""
    replicates: int = 4
    """Of part B."""


def main() -> None:
    flags = tyro.cli(Flags)
    flags.out.mkdir(parents=True, exist_ok=True)
    task, network = vgg(flags)
    found = pd.DataFrame(collapse(task, network, flags))
    found.round(8).to_csv(flags.out / "criteria_at_init.csv", index=False)
    print(emptied(found), flush=True)
    if not flags.steps:
        return
    table = trained(flags)
    results.summary(table).round(5).to_csv(
        flags.out / "criteria_at_init_trained.csv", index=False
    )
    print(verdict(table))
    figure = Figure(figsize=(10.5, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_least(found, left)
    draw_trained(table, right)
    figure.savefig(flags.out / "criteria_at_init.png", dpi=90)


def vgg(flags: Flags) -> tuple[tasks.Task, models.Model]:
    """CIFAR-10 with VGG-16, and VGG-16 that takes inputs as they come."""
    e = Experiment(
        data=Data(name="cifar10", pixels="standard"),
        model=Model(name="vgg16", width=flags.width, initialiser="kaiming_normal"),
        batch_size=100,  # 10 for each class, as in the code of Tanaka et al.
    )
    task = tasks.load(e, flags.data_dir)
    return task, networks.network(e.model, task.examples)


def collapse(task: tasks.Task, network: models.Model, flags: Flags):
    """A row for each seed, criterion and density: what is left of the layers."""
    scorers = make_scorers(task, network)
    conserved = make_conservation(task, network)
    (examples, _), *_ = task.blocks(jax.random.key(0), 0, 1)
    for seed in range(flags.seeds):
        init, order, noise = jax.random.split(jax.random.key(seed), 3)
        params, stats = jax.jit(task.model.init)(init)
        mask = masks.ones(params)
        state = TrainState(jnp.int32(0), params, stats, None)
        batch = task.sample(order, jnp.int32(0), examples)
        apart = ", ".join(f"{x:.1e}" for x in conserved(state, batch))
        print(
            f"seed {seed}: layer sums differ by {apart} after 0, 1, 20 batches",
            flush=True,
        )
        for name, scorer in scorers.items():
            score = functools.partial(scorer, batch=batch, key=noise)
            found = prune(score, state, mask, flags.densities, once=name != "synflow")
            for density, ticket in found:
                left = [float(d) for d in masks.densities(ticket).values()]
                yield {
                    "width": flags.width,
                    "criterion": name,
                    "density": density,
                    "seed": seed,
                    "least": min(left),
                    "empty": sum(d == 0 for d in left),
                }


def make_scorers(task: tasks.Task, network: models.Model) -> dict[str, Callable]:
    """`score(state, mask, batch, key)` of each criterion, compiled."""

    def evaluated(state):
        def loss(params, batch):
            return jnp.mean(task.measure(params, state.stats, batch)["loss"])

        return loss

    def normalised(state):  # by the statistics of the batch itself
        def loss(params, batch):
            return task.loss(params, state.stats, batch, jax.random.key(0))[0]

        return loss

    def cooled(state):
        def apply(*args):
            outputs, stats = task.model.apply(*args)
            return outputs / GRASP_TEMPERATURE, stats

        measure = train.classification(apply)[1]
        return lambda p, batch: jnp.mean(measure(p, state.stats, batch)["loss"])

    def flow(state, mask, batch, key):
        params = masks.apply(state.params, mask)
        ones = jnp.ones((1, *task.examples.shape))
        return criteria.synflow(network.apply, params, state.stats, ones)

    def asking(criterion, make_loss):
        def score(state, mask, batch, key):
            one = jax.tree.map(lambda x: x[None], batch)
            return criterion(make_loss(state), state.params, mask, one)

        return score

    scorers = {
        "synflow": flow,
        "snip": asking(criteria.snip, evaluated),
        "snip, batch statistics": asking(criteria.snip, normalised),
        "grasp": asking(criteria.grasp, cooled),
        "magnitude": lambda state, mask, batch, key: criteria.magnitude(state.params),
        "random": lambda state, mask, batch, key: criteria.random(state.params, key),
    }
    return {name: jax.jit(function) for name, function in scorers.items()}


def prune(score: Callable, state: TrainState, mask: masks.Mask, densities, once: bool):
    """Yields (density, mask): in one shot, or each in ROUNDS rounds."""
    if once:  # the scores are of the dense network, whatever the density
        known = score(state, mask)
        score = lambda state, mask: known  # noqa: E731
    keep = jax.jit(masks.keep_top)
    for density in densities:
        rounds = [density] if once else schedules.exponential(density, ROUNDS)
        yield (
            density,
            lottery.prune_untrained(state, mask, rounds, score=score, keep=keep),
        )


def make_layer_sums(network: models.Model, shape: tuple[int, ...]) -> Callable:
    """`sums(params, stats)`, the total of SynFlow's scores in each prunable layer."""

    @jax.jit
    def sums(params, stats):
        ones = jnp.ones((1, *shape))
        scores = criteria.synflow(network.apply, params, stats, ones)
        leaves = jax.tree_util.tree_leaves_with_path(scores)
        return [jnp.sum(s) for p, s in leaves if masks.is_kernel(masks.name(p), s)]

    return lambda params, stats: np.array(sums(params, stats))


def make_conservation(task: tasks.Task, network: models.Model) -> Callable:
    """`conserved(state, batch)`: how far the sums of SynFlow's scores are apart.

    That is the largest over the smallest, less 1, before batch norm has seen data, and
    after its averages have seen the batch once and twenty times.
    """
    sums = make_layer_sums(network, task.examples.shape)

    @jax.jit
    def seen(params, stats, image):
        return task.model.apply(params, stats, image, True, jax.random.key(0))[1]

    def conserved(state, batch):
        stats, apart = state.stats, []
        for batches in (0, 1, 19):
            for _ in range(batches):
                stats = seen(state.params, stats, batch.inputs)
            found = sums(state.params, stats)
            apart.append(float(found.max() / found.min() - 1))
        return apart

    return conserved


def emptied(found: pd.DataFrame) -> str:
    """Layers without a weight, and the least density of a layer, means over seeds."""
    lines = ["layers without a weight; least density of a layer, in % (mean of seeds)"]
    names = list(found["criterion"].unique())
    lines.append(f"{'density':>8} " + " ".join(f"{name[:14]:>15}" for name in names))
    for density, group in found.groupby("density", sort=False):
        by = group.groupby("criterion")[["empty", "least"]].mean()
        cells = [f"{by['empty'][n]:.1f} {100 * by['least'][n]:8.2g}" for n in names]
        lines.append(f"{density:8.2%} " + " ".join(f"{cell:>15}" for cell in cells))
    return "\n".join(lines)


def trained(flags: Flags) -> pd.DataFrame:
    """Part B: the table of every criterion's run, under the name of the criterion."""
    base = PRESETS["lenet-mnist-fast"].experiment
    tables = []
    for criterion in TRAINED:
        chosen = replace(
            base,
            prune=Prune(
                criterion=criterion,  # type: ignore[arg-type]
                at="early",
                rounds=ROUNDS if criterion == "synflow" else 1,
                scope="global",
                densities="0.2,0.05,0.02,0.005",
            ),
            steps=f"{flags.steps}it",
            eval_every=f"{flags.steps // 4}it",
            levels=4,
            replicates=flags.replicates,
            controls=",".join(CONTROLS),
        )
        outcome = runner.run(chosen, f"at-init-{criterion}", flags.runs, flags.data_dir)
        print(f"{criterion}: {outcome.seconds:.0f} s", flush=True)
        tables.append(lth.open_run(outcome.path).table.assign(run=criterion))
    return pd.concat(tables, ignore_index=True)


def verdict(table: pd.DataFrame) -> str:
    """Test accuracy at the end, and controls less the masks they control, in points."""
    final = results.final(table).set_index(["run", "level", "variant", "replicate"])
    accuracy: Any = 100 * final["value"].sort_index()
    dense, half = results.interval(accuracy.loc["synflow", 0, results.TICKET])
    lines = [
        f"dense: {dense:.2f} ± {half:.2f} %; test accuracy at the end in %, and each "
        "control less the ticket in the same replicate",
        f"{'density':>8} {'criterion':10} {'ticket':>14} "
        + " ".join(f"{name:>15}" for name in CONTROLS),
    ]
    density: Any = final["density"].groupby(["level"]).mean()
    for level in sorted(set(density.index) - {0}):
        for run in TRAINED:
            ticket = accuracy.loc[run, level, results.TICKET]
            gaps = [accuracy.loc[run, level, name] - ticket for name in CONTROLS]
            cells = [f"{m:+.2f} ± {h:.2f}" for m, h in map(results.interval, gaps)]
            mean, half = results.interval(ticket)
            lines.append(
                f"{density[level]:8.2%} {run:10} {f'{mean:.2f} ± {half:.2f}':>14} "
                + " ".join(f"{cell:>15}" for cell in cells)
            )
    return "\n".join(lines)


def draw_least(found: pd.DataFrame, axes: Axes) -> None:
    """The least density of a layer against that of all; a line ends at a layer lost."""
    for name, color in zip(found["criterion"].unique(), plot.COLORS, strict=True):
        rows = found[found["criterion"] == name].groupby("density")["least"].min()
        alive = rows[rows > 0]
        axes.plot(100 * alive.index, 100 * alive, "o-", ms=3, color=color, label=name)
    axes.set(ylabel="least density of a layer (%)", yscale="log")
    axes.set_title("before training, VGG-16: lines end where a layer is lost", size=9)
    axes.legend(frameon=False, fontsize="x-small")
    plot.density_axis(axes)


def draw_trained(table: pd.DataFrame, axes: Axes) -> None:
    """Test accuracy after training: the masks, and their shuffles dashed."""
    summary = results.summary(table)
    # The colours of the left side, where SNIP comes twice.
    chosen = [*plot.COLORS[:2], *plot.COLORS[3:]]
    colors = dict(zip(TRAINED, chosen, strict=True))
    for run, variant in itertools.product(TRAINED, (results.TICKET, "shuffle")):
        rows = summary[(summary["run"] == run) & (summary["variant"] == variant)]
        rows = rows[rows["level"] > 0]
        axes.errorbar(
            100 * rows["density"],
            100 * rows["accuracy"],
            100 * rows["accuracy_ci"],
            fmt="o-" if variant == results.TICKET else "o--",
            ms=3,
            lw=1,
            color=colors[run],
            label=run if variant == results.TICKET else None,
        )
    dense = summary.loc[summary["level"] == 0, "accuracy"].mean()
    axes.axhline(100 * dense, color="0.5", lw=0.8, ls=":")
    axes.set(ylabel="test accuracy (%)")
    axes.set_title("trained, LeNet-300-100; dashed: shuffled within layers", size=9)
    axes.legend(frameon=False, fontsize="x-small")
    plot.density_axis(axes)


if __name__ == "__main__":
    main()
