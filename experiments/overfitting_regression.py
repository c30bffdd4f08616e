"""Sparse networks overfit less: gradual pruning of a regression, and how not to do it.

Claims of an article by Desforges on pruning with tfmot, which fits `make_regression`:

1. pruned while it learns, a network that memorises its examples has a training loss
   that rises with sparsity, and a validation loss that falls by far, to one minimum
   near 95 %, and rises again;
2. pruned too quickly, it loses weights that are small by initialisation only;
3. sparse networks, pruned from a sparsity above 0 for variety, do well as an ensemble.

    python experiments/overfitting_regression.py [--full]

2 000 examples of 200 features, 100 of them informative, in place of 10 000, 1 000 and
500; two hidden layers of 256 units in place of 1 024; 1 600 steps as there, in 200
epochs. Each kernel is pruned by itself, as tfmot does, by a cubic ramp from step 0 to
960, every 10 steps. 5 replicates, alike in data and not in initial weights and order,
of 11 schedules: 3 minutes on two busy cores. `--full` has the article's sizes and has
been run for 40 steps only: going by those, hours on two cores. Writes a table and a
figure to experiments/results/.

What it gave (two CPU cores, jax 0.10.2, n = 5; mean squared errors in 1e-3, means with
95 % intervals; the variance of the targets is 71, and least squares reaches 0.0025):

    schedule     sparsity  left      training         validation  median  ensemble
    0 to 960       0       117505    1.6e-12±0.7e-12  18.0 ±2.0    17.3    7.43
                   0.5      59009    2.5e-11±0.5e-11  12.2 ±0.9    12.2    4.67
                   0.8      23911    0.0027±0.0015     3.47±0.45    3.42   1.40
                   0.9      12213    0.064 ±0.017      2.40±0.25    2.29   0.84
                   0.95      6363    0.26  ±0.02       1.94±0.13    1.96   0.71
                   0.98      2853    0.95  ±0.09       2.19±0.26    2.09   0.77
                   0.99      1683    2.3   ±0.6        3.72±0.81    3.48   1.66
    slow, 0-800    0.95      6363    0.25  ±0.03       1.82±0.06    1.83   0.62
    fast, 0-20     0.95      6363    1.0   ±0.7        3.32±1.65    3.67   0.82
    fast, 780-800  0.95      6363    0.61  ±0.11       2.30±0.46    2.38   0.64
    from 50 %      0.95      6363    0.25  ±0.04       1.87±0.04    1.87   0.67

1 holds: the minimum is at 95 %, in one of the replicates at 98 %, and a ninth of the
dense network's loss; the training losses are in the order of their sparsities. 2 holds
in 4 of 5 replicates: the fast ramp has 1.83 ± 0.94 times the loss of the slow one, an
interval that includes 1. Initialisation is not all of it: as fast a ramp after 780
steps of training has 1.26 ± 0.25 times the loss, more in all 5. Of 3, the mean of five
predictions has 0.36 of the median network's loss, but a start at 50 % adds nothing to
that, and dense networks gain as well (0.43). None of this makes a network the right
model: the target is linear.

The article's schedule as printed cannot have given its figure. `schedules.check` says:
"a run of 1600 steps cannot finish a schedule from step 1000 to 5000: its last update is
at step 1600 and it reaches density 71.1% (sparsity 28.9%), not density 25.0% (sparsity
75.0%); end_step is at most 1600".
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lth import data, dynamic, masks, models, plot, results
from lth import train as training
from lth.data import generated
from lth.dynamic import rules
from lth.lab import devices
from lth.masks import schedules
from lth.masks.schedules import Schedule

RESULTS = Path(__file__).parent / "results"
SPARSITIES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
RAMP, FINAL = "ramp", 0.95  # the trials of the curve; the sparsity of the others


class Problem(NamedTuple):
    """The sizes of the data, the network and its training."""

    n: int  # examples; a fifth of them is for validation
    features: int
    informative: int
    width: int
    batch: int
    steps: int = 1600  # the article's: 200 epochs of 8


SMALL = Problem(2_000, 200, 100, 256, 200)
FULL = Problem(10_000, 1_000, 500, 1_024, 1_024)
# The article's schedule as printed, whose numbers are steps: 1600 do not reach its end.
PRINTED = schedules.polynomial(0.0, 0.75, 1000, 5000)


@dataclass(frozen=True)
class Flags:
    """How much to run, and where results go."""

    out: Path = RESULTS
    replicates: int = 5
    full: bool = False  # the article's sizes: hours, without a GPU


class Network(nn.Module):
    """Two hidden layers of one width and an output, drawn as in the article's Keras."""

    width: int

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        he, glorot = nn.initializers.he_normal(), nn.initializers.glorot_uniform()
        x = nn.relu(nn.Dense(self.width, kernel_init=he, name="hidden_0")(inputs))
        x = nn.relu(nn.Dense(self.width, kernel_init=glorot, name="hidden_1")(x))
        return nn.Dense(1, kernel_init=glorot, name="output")(x)


def main() -> None:
    flags = tyro.cli(Flags)
    problem = FULL if flags.full else SMALL
    print(refusal(problem.steps))
    devices.use_cores(flags.replicates)
    plan = devices.plan(flags.replicates)
    parts = devices.share(plan, make_data(problem))
    found = []
    for (name, sparsity), schedule in trials(problem.steps).items():
        program = devices.spread(plan, make_trial(problem, schedule), (0, None))
        ends = program(keys(flags.replicates), parts)
        found += rows(name, sparsity, ends, parts[1].targets)
        print(f"{name} to {sparsity}: {ends['validation']}", flush=True)
    table = pd.DataFrame(found)
    name = "overfitting_regression" + ("_full" if flags.full else "")
    flags.out.mkdir(parents=True, exist_ok=True)
    summarised(table).to_csv(
        flags.out / f"{name}.csv", index=False, float_format="%.4g"
    )
    figure(table, problem).savefig(flags.out / f"{name}.png", dpi=80)
    print(verdict(table))


def refusal(steps: int) -> str:
    """What `lth` says of the printed schedule before a run of so many steps."""
    try:
        schedules.check(PRINTED, steps)
    except ValueError as error:
        return f"the article's schedule as printed: {error}"
    raise AssertionError(f"{steps} steps reach the end of the printed schedule")


def make_data(problem: Problem) -> tuple[data.Dataset, data.Dataset]:
    """Training and validation examples: inputs and targets within [-1, 1]."""
    return generated.regression(
        None,
        n=problem.n,
        features=problem.features,
        informative=problem.informative,
        noise=3.0,
        seed=0,
    )


def trials(steps: int) -> dict[tuple[str, float], Schedule]:
    """The schedules to train under, by name and final sparsity; each is checked."""
    end, half = steps * 6 // 10, steps // 2

    def ramp(final, begin, end, initial=0.0):
        return schedules.polynomial(initial, final, begin, end, frequency=10)

    found = {(RAMP, s): ramp(s, 0, end) for s in SPARSITIES} | {
        ("slow", FINAL): ramp(FINAL, 0, half),
        ("fast", FINAL): ramp(FINAL, 0, 20),
        ("fast, late", FINAL): ramp(FINAL, half - 20, half),
        ("from 50 %", FINAL): ramp(FINAL, 0, end, 0.5),
    }
    for schedule in found.values():
        schedules.check(schedule, steps)
    return found


def make_model(problem: Problem) -> models.Model:
    return models.from_linen(Network(problem.width), (problem.features,))


def make_trial(problem: Problem, schedule: Schedule) -> Callable:
    """`trial(key, (learned, held out))`: one training and what it ended with."""
    keep = partial(masks.keep_top, scope="layer")  # as in tfmot
    tx = dynamic.sparsify(
        optax.adam(1e-3), rules.gradual(schedule, problem.steps, keep=keep)
    )
    model = make_model(problem)
    loss, measure = training.regression(model.apply, 0.0, 1.0)  # targets as they are
    test = training.make_evaluate(measure)

    def trial(key, parts):
        learned, held = parts
        draw, order = jax.random.split(key)
        sample = data.make_sample(problem.batch, len(learned.targets))
        step = training.make_train(loss, sample, tx)
        state = training.init_state(model.init, tx, draw)
        start = dynamic.masked(state.params, state.opt_state)
        state = state._replace(params=start)
        state, _ = step(state, masks.unmasked(start), learned, order, problem.steps)
        outputs, _ = model.apply(state.params, {}, held.inputs, False, None)
        return {
            "params": left(state.params, dynamic.state_of(state.opt_state).mask),
            "train": test(state.params, {}, learned)["loss"],
            "validation": test(state.params, {}, held)["loss"],
            "predictions": outputs[:, 0],
        }

    return trial


def left(params: masks.Params, mask: masks.Mask) -> Any:
    """How many numbers of a network are left: kept weights, and all biases."""
    free = sum(leaf.size for leaf in jax.tree.leaves(params)) - masks.size(mask)
    return masks.count(mask) + free


def keys(replicates: int) -> jax.Array:
    return jax.vmap(jax.random.key)(jnp.arange(replicates))


def rows(name: str, sparsity: float, ends: dict, target: Any) -> list[dict]:
    """A row per replicate; `ensemble` is the loss of the mean of all predictions."""
    ends = jax.tree.map(np.asarray, ends)
    error = ends.pop("predictions").mean(0) - np.asarray(target)
    row = {"trial": name, "sparsity": sparsity, "ensemble": np.mean(error**2).item()}
    return [
        {**row, "replicate": i, **{k: v[i].item() for k, v in ends.items()}}
        for i in range(len(ends["train"]))
    ]


def summarised(table: pd.DataFrame) -> pd.DataFrame:
    """One row per trial: means over replicates and 95 % half-widths (`_ci`).

    `median` is that of the validation losses.
    """
    found = []
    for (name, sparsity), group in table.groupby(["trial", "sparsity"], sort=False):
        row: dict[str, Any] = {"trial": name, "sparsity": sparsity}
        row |= {"params": group["params"].iloc[0], "n": len(group)}
        for column in ("train", "validation"):
            row[column], row[f"{column}_ci"] = results.interval(group[column])
        row["median"] = group["validation"].median()
        row["ensemble"] = group["ensemble"].iloc[0]
        found.append(row)
    return pd.DataFrame(found)


def verdict(table: pd.DataFrame) -> str:
    """The claims beside the numbers: mean squared errors in 1e-3, 95 % intervals."""
    summary: Any = summarised(table)
    lines = [
        f"{'':11}{'sparsity':>8} {'params':>9} {'train':>18} {'validation':>15} "
        f"{'median':>7} {'ensemble':>9}"
    ]
    for row in summary.itertuples():
        fit = f"{1e3 * row.train:.2g} ± {1e3 * row.train_ci:.2g}"
        loss = f"{1e3 * row.validation:.2f} ± {1e3 * row.validation_ci:.2f}"
        lines.append(
            f"{row.trial:11}{row.sparsity:8.2f} {row.params:9d} {fit:>18} {loss:>15} "
            f"{1e3 * row.median:7.2f} {1e3 * row.ensemble:9.2f}"
        )
    return "\n".join([*lines, *_of_the_curve(summary), *_of_schedules(table)])


def _of_the_curve(summary: Any) -> list[str]:
    ramp = summary[summary["trial"] == RAMP].set_index("sparsity")
    losses, fits = ramp["validation"], ramp["train"]
    rank = fits.reset_index().corr(method="spearman").iloc[0, 1]
    return [
        f"lowest validation loss: at {losses.idxmin()}, "
        f"{losses.min() / losses[0.0]:.2f} of the dense network's",
        f"training loss: {fits[0.0]:.1e} dense, {fits.iloc[-1]:.1e} at the sparsest; "
        f"rank correlation with sparsity {rank:.2f}",
        f"validation over training loss, dense: {losses[0.0] / fits[0.0]:.1e}",
    ]


def _of_schedules(table: pd.DataFrame) -> list[str]:
    of: Any = dict(iter(table.groupby(["trial", "sparsity"])))
    slow = of["slow", FINAL]["validation"].to_numpy()
    lines = []
    for name in ("fast", "fast, late"):
        ratio = of[name, FINAL]["validation"] / slow
        mean, half = results.interval(ratio)
        lines.append(
            f"{name} over slow: {mean:.2f} ± {half:.2f}, worse in {(ratio > 1).sum()} "
            f"of {len(ratio)}"
        )
    for name, sparsity in ((RAMP, 0.0), (RAMP, FINAL), ("from 50 %", FINAL)):
        group = of[name, sparsity]
        share = group["ensemble"].iloc[0] / group["validation"].median()
        lines.append(f"{name} to {sparsity}: ensemble over median {share:.2f}")
    return lines


def figure(table: pd.DataFrame, problem: Problem) -> Figure:
    """Losses against sparsity; and the validation losses under other schedules."""
    drawn = Figure(figsize=(11, 3.4), layout="constrained")
    one, two, three = drawn.subplots(1, 3, width_ratios=(1, 1, 1.2))
    summary = summarised(table)
    ramp = summary[summary["trial"] == RAMP]
    _draw_curve(ramp, "train", one)
    one.set_yscale("log")
    _draw_curve(ramp, "validation", two)
    two.set_ylim(0, None)
    _draw_schedules(table[table["sparsity"] == FINAL], three)
    drawn.suptitle(
        f"{problem.n} x {problem.features}, {problem.width}-{problem.width}-1, "
        f"n = {table['replicate'].nunique()}",
        size=10,
    )
    return drawn


def _draw_curve(ramp: pd.DataFrame, column: str, axes: Axes) -> None:
    places = range(len(ramp))
    mean, half = ramp[column].to_numpy(), ramp[f"{column}_ci"].to_numpy()
    low = np.maximum(mean - half, mean / 3)  # the axis may be logarithmic
    axes.plot(places, mean, "o-", ms=3, color=plot.COLORS[0])
    axes.fill_between(places, low, mean + half, color=plot.COLORS[0], alpha=0.18, lw=0)
    axes.set_xticks(places, [f"{s:g}" for s in ramp["sparsity"]])
    axes.set(xlabel="final sparsity", ylabel=f"{column} loss")


def _draw_schedules(trials: pd.DataFrame, axes: Axes) -> None:
    network: dict[str, Any] = {"color": plot.COLORS[0]}
    mean: dict[str, Any] = {"color": plot.COLORS[1], "ms": 10}
    for i, (_, group) in enumerate(trials.groupby("trial", sort=False)):
        axes.plot([i] * len(group), group["validation"], "o", **network)
        axes.plot(i, group["ensemble"].iloc[0], "*", **mean)
    axes.plot([], "o", label="a network", **network)
    axes.plot([], "*", label="their mean prediction", **mean)
    axes.set(ylabel="validation loss", ylim=(0, None), xlabel=f"schedule to {FINAL}")
    names = trials["trial"].unique()
    axes.set_xticks(range(len(names)), names, size=8)
    axes.legend(frameon=False, fontsize="small", loc="upper left")


if __name__ == "__main__":
    main()
