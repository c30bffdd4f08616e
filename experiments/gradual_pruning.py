"""When to prune: before, during or after training, with as many steps for each.

Claims: gradual pruning while training beats pruning once, before or after (Zhu & Gupta
2017, arXiv:1710.01878, prune gradually and find large sparse networks better than small
dense ones); SNIP (Lee et al. 2019, arXiv:1810.02340) makes pruning at initialisation
work; and tfmot's "pruning does not hurt", of a constant sparsity of 50 or 80 %, whether
the network was trained before or not: within 1 point of a baseline of at least 97.5 %.

    python experiments/gradual_pruning.py --data-dir DATA

LeNet-300-100 on MNIST, Adam at 1.2e-3, batches of 60, T = 3 000 steps; one mask over
all kernels; batches in the same order throughout. The T steps of each method:

- before: T under a mask by SNIP (of 600 examples), or under that mask shuffled within
  layers, which keeps as many weights in each;
- during: a cubic schedule over the first three quarters, a mask every 50 steps; or in
  the second half alone, from a trained network and a fresh optimizer, as tfmot is used;
- after: T / 2 dense, the largest weights kept at once, T / 2 more under the mask;
- a small dense network with no more weights, in two hidden layers of one width.

For reference, iterative pruning by 20 % a round, rewound to step 0: 8, 14, 18 and 21 T.
4 replicates, 11.5 minutes on two cores busy with other work. One program trains under
all masks; a rule holds its density, so each has a program of its own. Writes a table
and a figure to experiments/results/.

What it gave (two CPU cores, jax 0.10.2, n = 4; test accuracy at the end in %, and
differences within replicates in points, with 95 % intervals):

    density                    20 %          5 %          2 %           1 %
    before: SNIP         97.46 ± 0.21 95.90 ± 0.31 93.33 ± 0.27  90.21 ±  0.59
    before: random       97.04 ± 0.24 94.72 ± 0.23 92.05 ± 0.46  87.98 ±  0.58
    during               97.91 ± 0.10 97.83 ± 0.09 97.22 ± 0.21  96.03 ±  0.24
    during, 2nd half     98.11 ± 0.08 97.63 ± 0.09 96.57 ± 0.15  95.04 ±  0.30
    after                98.04 ± 0.15 97.44 ± 0.11 95.58 ± 0.32  93.11 ±  0.56
    small and dense      96.84 ± 0.30 93.92 ± 0.24 88.80 ± 1.02  62.90 ± 28.88
    iteratively (8-21 T) 98.28 ± 0.15 98.21 ± 0.08 97.53 ± 0.14  96.14 ±  0.60

    during - after       -0.13 ± 0.05 +0.39 ± 0.16 +1.65 ± 0.31  +2.92 ±  0.50
    2nd half - after     +0.07 ± 0.14 +0.19 ± 0.05 +1.00 ± 0.35  +1.93 ±  0.27
    during - SNIP        +0.45 ± 0.25 +1.92 ± 0.25 +3.90 ± 0.29  +5.81 ±  0.63

    dense 97.66 ± 0.25   constant sparsity    fresh network, T     trained, T + T
    2 T:  97.81 ± 0.38   50 %                 97.60 ± 0.23         98.15 ± 0.21
                         80 %                 97.04 ± 0.07         98.28 ± 0.12

At 20 % it hardly matters whether one prunes during or after training. From 5 % down the
order is during, after, before; at 1 % one gradual training is as good as the 21 of
iterative pruning, which is ahead above that. SNIP beats its shuffled mask everywhere by
0.4 to 2.2 points, and stays below all that looks at trained weights. Small dense
networks are the worst; that of 1 % has layers of 3 units and sometimes fails. Constant
sparsity is within 1 point, in every replicate, as claimed; but 80 % from fresh weights
costs 0.61 ± 0.26, and the trained networks had 2 T, of which dense ones gain less (by
0.34 ± 0.23 and 0.47 ± 0.37). 3.3 epochs are short, and nothing was tuned.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import tyro
from matplotlib.figure import Figure

from lth import criteria, data, dynamic, lottery, masks, models, plot, results, train
from lth.dynamic import rules
from lth.lab import devices
from lth.lottery import Ticket, rewind
from lth.masks import schedules
from lth.train import TrainState

RESULTS = Path(__file__).parent / "results"
INIT, ORDER, PRUNE = range(3)  # what randomness is for
BATCH, SNIP_BATCHES = 60, 10
UPDATE_EVERY = 50  # steps between updates of a mask that changes
METHODS = (
    *("before: SNIP", "before: random", "during", "during, 2nd half", "after"),
    *("iteratively", "small and dense"),
)
PAIRS = (("during", "after"), ("during, 2nd half", "after"), ("during", "before: SNIP"))


@dataclass(frozen=True)
class Flags:
    """Where things are, and how much to run."""

    data_dir: Path | None = None
    out: Path = RESULTS
    replicates: int = 4
    steps: int = 3000  # of each training, but for what is said to cost more
    densities: tuple[float, ...] = (0.2, 0.05, 0.02, 0.01)
    constant: tuple[float, ...] = (0.5, 0.8)  # sparsities of ConstantSparsity


class Lab(NamedTuple):
    """What programs are made of and given; keys lead with the replicate."""

    plan: devices.Plan
    splits: data.Splits
    draw: jax.Array  # keys of initial weights
    order: jax.Array  # keys of the order of examples


class Study(NamedTuple):
    """What all trials share; every array leads with the replicate."""

    lab: Lab
    steps: int
    # (state, mask, n) -> (state, test accuracy): n more steps under one mask
    fit: Callable[[TrainState, masks.Mask, int], tuple[TrainState, Any]]
    snip: Callable[[Any, masks.Mask, Any], masks.Mask]  # (params, mask, density)
    early: TrainState
    half: TrainState  # the dense network after half of the steps
    dense: Ticket  # and after all of them


def main() -> None:
    flags = tyro.cli(Flags)
    devices.use_cores(flags.replicates)
    study = make_study(flags)
    found = []
    for name, cost, density, mask, accuracy in trials(study, flags):
        found += rows(name, cost, density, mask, accuracy)
        print(name, density, np.asarray(accuracy), flush=True)
    table = pd.DataFrame(found)
    flags.out.mkdir(parents=True, exist_ok=True)
    summarised(table).round(5).to_csv(flags.out / "gradual_pruning.csv", index=False)
    figure(summarised(table), flags).savefig(flags.out / "gradual_pruning.png", dpi=80)
    print(verdict(table))


def make_study(flags: Flags) -> Study:
    """The data, the network, its dense training and the programs of the others."""
    plan = devices.plan(flags.replicates)
    splits = devices.share(plan, data.load("mnist", flags.data_dir, 5000, 0))
    lab = Lab(plan, splits, *(keys(flags.replicates, p) for p in (INIT, ORDER)))
    early, ones = begun(lab, LENET)
    fit, first = make_fit(lab, LENET), flags.steps // 2
    half, _ = fit(early, ones, first)
    dense = Ticket(0, ones, *fit(half, ones, flags.steps - first))
    program = devices.spread(plan, make_snip(LENET, lab), (0, 0, 0, None, None))

    def snip(params, mask, density):
        return program(params, mask, lab.order, splits, density)

    return Study(lab, flags.steps, fit, snip, early, half, dense)


def network(*widths: int) -> models.Model:
    mlp = models.from_linen(models.MLP(widths=widths), (28, 28, 1))
    return models.standardized(mlp, 0, 255)


LENET, TX = network(300, 100), optax.adam(1.2e-3)


def begun(lab: Lab, model: models.Model) -> tuple[TrainState, masks.Mask]:
    """Untrained networks and their masks of all ones."""
    early = jax.jit(jax.vmap(partial(train.init_state, model.init, TX)))(lab.draw)
    return early, jax.vmap(masks.ones)(early.params)


def make_fit(lab: Lab, model: models.Model) -> Callable:
    """`fit(state, mask, n) -> (state, test accuracy)`, one program."""
    one = make_trial(lab, model, TX)
    program = devices.spread(lab.plan, one, (0, 0, 0, None, None))
    return lambda state, mask, n: program(
        state, mask, lab.order, lab.splits, np.int32(n)
    )


def fit_small(study: Study, weights: int) -> tuple[masks.Mask, Any]:
    """A dense network of no more weights: its mask and its test accuracy."""
    model = network(*narrow(weights))
    early, ones = begun(study.lab, model)
    return ones, make_fit(study.lab, model)(early, ones, study.steps)[1]


def fit_rule(lab: Lab, rule: dynamic.Rule, params, at: int, n: int) -> tuple:
    """Masks and test accuracies after batches `at` to `at + n` under a rule.

    Its steps count from 0, as it comes with an optimizer of its own.
    """
    tx = dynamic.sparsify(TX, rule)
    one = make_trial(lab, LENET, tx)

    def trial(params, key, splits):
        state = TrainState(jnp.int32(at), params, {}, tx.init(params))
        state = state._replace(params=dynamic.masked(params, state.opt_state))
        state, accuracy = one(state, masks.unmasked(params), key, splits, n)
        return dynamic.state_of(state.opt_state).mask, accuracy

    return devices.spread(lab.plan, trial, (0, 0, None))(params, lab.order, lab.splits)


def narrow(weights: int) -> tuple[int, int]:
    """The widest two equal hidden layers of a network of at most so many weights."""
    width = int((math.sqrt(794**2 + 4 * weights) - 794) / 2)
    return width, width


def make_trial(lab: Lab, model: models.Model, tx) -> Callable:
    """`trial(state, mask, key, splits, n) -> (state, test accuracy)`."""
    loss, measure = train.classification(model.apply)
    sample = data.make_sample(BATCH, len(lab.splits.train.targets))
    step = train.make_train(loss, sample, tx)
    test = train.make_evaluate(measure, 250)

    def trial(state, mask, key, splits, n):
        state, _ = step(state, mask, splits.train, key, n)
        return state, test(state.params, state.stats, splits.test)["accuracy"]

    return trial


def make_snip(model: models.Model, lab: Lab) -> Callable:
    """`snip(params, mask, key, splits, density) -> mask`, of a few batches."""
    _, measure = train.classification(model.apply)
    sample = data.make_sample(BATCH, len(lab.splits.train.targets))

    def loss(params, batch):
        return jnp.mean(measure(params, {}, batch)["loss"])

    def snip(params, mask, key, splits, density):
        steps = jnp.arange(SNIP_BATCHES)
        batches = jax.lax.map(lambda step: sample(key, step, splits.train), steps)
        scores = criteria.snip(loss, params, mask, batches)
        return masks.keep_top(scores, mask, density)

    return snip


def keys(replicates: int, purpose: int) -> jax.Array:
    def one(replicate):
        return jax.random.fold_in(jax.random.key(replicate), purpose)

    return jax.vmap(one)(jnp.arange(replicates))


@jax.jit
@partial(jax.vmap, in_axes=(0, 0, None))
def largest(state: TrainState, mask: masks.Mask, density) -> masks.Mask:
    return masks.keep_top(criteria.magnitude(state.params), mask, density)


def trials(study: Study, flags: Flags) -> Iterator[tuple]:
    """All trials: (name, cost in trainings, density, mask, test accuracy)."""
    steps, ones, late = study.steps, study.dense.mask, study.dense.state
    yield "dense", 1, 1.0, ones, study.dense.metrics
    yield "dense, twice as long", 2, 1.0, ones, study.fit(late, ones, steps)[1]
    for density in flags.densities:
        yield from at_density(study, density)
    for sparsity in flags.constant:
        density = round(1 - sparsity, 6)
        rule = rules.gradual(schedules.constant(sparsity, 0, steps), steps)
        ends = fit_rule(study.lab, rule, study.early.params, 0, steps)
        yield "constant, fresh", 1, density, *ends
        ends = fit_rule(study.lab, rule, late.params, steps, steps)
        yield "constant, trained", 2, density, *ends
    yield from iterative(study, flags.densities)


def at_density(study: Study, density: float) -> Iterator[tuple]:
    """The trials that cost one training."""
    steps, half, ones = study.steps, study.steps // 2, study.dense.mask
    early, rest = study.early, study.steps - study.steps // 2
    mask = study.snip(early.params, ones, jnp.float32(density))
    yield "before: SNIP", 1, density, mask, study.fit(early, mask, steps)[1]
    replicates = early.step.shape[0]
    mask = jax.vmap(masks.shuffle)(mask, keys(replicates, PRUNE))
    yield "before: random", 1, density, mask, study.fit(early, mask, steps)[1]
    ends = fit_rule(study.lab, gradual(density, steps), early.params, 0, steps)
    yield "during", 1, density, *ends
    ends = fit_rule(study.lab, gradual(density, rest), study.half.params, half, rest)
    yield "during, 2nd half", 1, density, *ends
    mask = largest(study.half, ones, density)
    yield "after", 1, density, mask, study.fit(study.half, mask, rest)[1]
    weights = round(density * masks.size(ones) / replicates)
    yield "small and dense", 1, density, *fit_small(study, weights)


def gradual(density: float, steps: int) -> dynamic.Rule:
    """Zhu & Gupta's cubic over the first three quarters of a training."""
    schedule = schedules.cubic(1 - density, 0, steps * 3 // 4, UPDATE_EVERY)
    return rules.gradual(schedule, steps)


def iterative(study: Study, densities: tuple[float, ...]) -> Iterator[tuple]:
    """Rounds of about 20 % that pass through all of `densities`, rewound to step 0."""
    rounds: list[float] = []
    for before, after in pairwise((1.0, *schedules.given(densities))):
        count = max(1, round(math.log(after / before) / math.log(0.8)))
        between: Any = schedules.exponential(after / before, count)[:-1]
        rounds += [*(before * d for d in between), after]
    tickets = lottery.imp(
        study.early,
        study.dense,
        rounds,
        train=lambda state, mask: study.fit(state, mask, study.steps),
        prune=largest,
        rewind=rewind.weights,
    )
    for density, ticket in zip(rounds, tickets, strict=True):
        if density in densities:
            cost = ticket.level + 1
            yield "iteratively", cost, density, ticket.mask, ticket.metrics


def rows(name: str, cost: int, density: float, mask, accuracy) -> Iterator[dict]:
    """A row per replicate."""
    weights = np.asarray(jax.vmap(masks.count)(mask)).tolist()
    for i, value in enumerate(np.asarray(accuracy).tolist()):
        row = {"trial": name, "cost": cost, "density": density, "replicate": i}
        yield {**row, "weights": weights[i], "accuracy": value}


def summarised(table: pd.DataFrame) -> pd.DataFrame:
    """One row per trial: means over replicates and 95 % half-widths (`_ci`).

    `gain` is the accuracy less that of the dense network in the same replicate.
    """
    dense = table[table["trial"] == "dense"].set_index("replicate")["accuracy"]
    table = table.assign(gain=table["accuracy"] - table["replicate"].map(dense))
    found = []
    for unit, group in table.groupby(["trial", "cost", "density"], sort=False):
        row: dict[str, Any] = dict(zip(("trial", "cost", "density"), unit, strict=True))
        row |= {"weights": group["weights"].mean(), "n": len(group)}
        for column in ("accuracy", "gain"):
            row[column], row[f"{column}_ci"] = results.interval(group[column])
        found.append(row)
    return pd.DataFrame(found)


def figure(summary: pd.DataFrame, flags: Flags) -> Figure:
    """Test accuracy against density, of all that has every density."""
    drawn = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = drawn.subplots()
    chosen = summary[summary["trial"].isin(METHODS)]
    for i, (name, group) in enumerate(chosen.groupby("trial", sort=False)):
        line, color = divmod(i, len(plot.COLORS))
        style: dict[str, Any] = {"ls": ("-", "--")[line], "color": plot.COLORS[color]}
        mean, half = 100 * group["accuracy"], 100 * group["accuracy_ci"]
        axes.errorbar(100 * group["density"], mean, half, label=name, **style)
    dense = summary.loc[summary["trial"] == "dense", "accuracy"].iloc[0]
    axes.axhline(100 * dense, color="0.5", lw=0.8, ls=":")
    plot.density_axis(axes)
    axes.set(ylabel="test accuracy (%)", ylim=(86, 98.6))
    axes.set_title(
        f"LeNet-300-100, MNIST, {flags.steps} steps, n = {flags.replicates}", size=10
    )
    axes.legend(frameon=False, fontsize="small", loc="lower left")
    return drawn


def verdict(table: pd.DataFrame) -> str:
    """Test accuracy in %, and differences within replicates in points."""
    summary = summarised(table)
    densities = summary.loc[summary["trial"] == METHODS[0], "density"].tolist()
    lines = [" " * 22 + "".join(f"{100 * d:>13g} %" for d in densities)]
    by_name: Any = summary.set_index(["trial", "density"]).sort_index()
    for name in METHODS:
        found = [by_name.loc[(name, d)] for d in densities]
        cells = [
            f"{100 * r['accuracy']:.2f} ± {100 * r['accuracy_ci']:.2f}" for r in found
        ]
        lines.append(f"{name:22}" + "".join(f"{cell:>15}" for cell in cells))
    values: Any = table.set_index(["trial", "density", "replicate"]).sort_index()
    for one, other in PAIRS:
        gaps = [
            100
            * (values.loc[(one, d), "accuracy"] - values.loc[(other, d), "accuracy"])
            for d in densities
        ]
        cells = [f"{m:+.2f} ± {h:.2f}" for m, h in map(results.interval, gaps)]
        lines.append(f"{one} - {other}: " + ", ".join(cells))
    for row in summary[~summary["trial"].isin(METHODS)].itertuples():
        r: Any = row
        lines.append(
            f"{r.trial}, {100 * r.density:g} %, {r.cost} T: {100 * r.accuracy:.2f} ± "
            f"{100 * r.accuracy_ci:.2f}, over dense {100 * r.gain:+.2f} ± "
            f"{100 * r.gain_ci:.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
