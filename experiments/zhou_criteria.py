"""What makes a lottery ticket win: masks, signs and zeros, LeNet-300-100 on MNIST.

Zhou et al. (2019, arXiv:1905.01067), "Deconstructing lottery tickets". Claims 2 to 4
stand in the abstract, without their particulars, which are recalled like claim 1:

1. masks by magnitude_increase are as good as by large_final; their opposites are no
   better than random ones;
2. all a ticket needs of its initial weights is the signs: drawn anew, reshuffled or
   replaced by a constant they train as well if each keeps its sign, and not otherwise;
3. zero is the right value for pruned weights that training drove towards zero: to
   leave all at their initial values hurts, to leave only those that grew there helps;
4. masking is training: on untrained initial weights, large_final_same_sign masks reach
   some 80 % (the abstract's 86 % are of learned masks).

    python experiments/zhou_criteria.py --data-dir DATA

A round keeps 80 % of each layer, 90 % of the last, and rewinds to step 0, as there. A
level is three rounds at once, a training 1 500 iterations instead of 50 000 (see the
flags). 4 replicates, 119 trainings of each, one compiled program: 10 minutes on two
busy cores. Writes a table and a figure to experiments/results/.

What it gave (two CPU cores, jax 0.10.2, n = 4, 95 % intervals): test accuracy at the
end, less that of large_final in the same replicate, in points; and untrained, at 26 %
of the weights: with initial weights, and with their signs times the layer's deviation.

    masks by                26.3 %         6.9 %         1.9 %  untrained    constant
    magnitude_increase  +0.15±0.13    +0.12±0.18    +0.09±0.33   87.6±6.2   76.5±10.7
      same sign         +0.03±0.07    +0.00±0.17    +0.03±0.30   91.4±3.7    89.1±6.7
    large_final          0.00          0.00          0.00        87.7±4.1    88.1±5.8
      same sign         -0.05±0.12    -0.07±0.06    -0.12±0.38   91.1±1.0    92.8±3.1
      diff sign         -1.70±0.25    -4.39±0.04    -9.79±3.20    3.2±1.7     5.7±3.6
    movement            -0.24±0.11    -0.22±0.14    -0.56±0.90   24.1±9.9    14.5±5.0
    large init & final  -0.65±0.25    -2.53±0.38    -4.36±0.53   85.2±1.8    83.8±9.8
    large_init          -1.57±0.51    -3.92±0.53    -6.93±0.37    9.2±4.5    10.0±4.2
    random              -1.85±0.60    -4.47±0.51    -7.36±0.58   10.7±2.6    10.0±5.7
    small_init          -2.90±0.50    -5.46±0.55   -15.10±7.56    9.7±4.8    10.9±4.4
    small init & final  -2.73±0.17    -7.18±0.22   -60.95±7.72    7.1±2.1     7.6±3.8
    small_final         -2.60±0.52   -10.88±1.10   -82.76±4.21   10.8±4.2     9.0±1.3

    large_final with                      kept weights start        pruned weights are
    signs kept: reshuffled  -0.00±0.12    initial      -0.90±0.44
    (at 1.9 %)  constant    -0.12±0.03    0 if shrunk  +0.78±0.29
                fresh       -0.36±0.18    0 at random  -0.84±0.35
    or not:     fresh       -2.96±0.59    0 if grown   -3.79±0.96
                reshuffled  -3.09±1.18
                constant    -3.17±0.86

Dense 97.19 ± 0.28 %; large_final 97.64, 97.45 and 96.14 %. The claims hold, with these
limits: magnitudes drawn anew under the old signs cost a few tenths of a point; leaving
the weights that grew gains nothing at 26 % (+0.07 ± 0.10) and little at 6.9 % (+0.23 ±
0.15); and so few weights change sign that diff-sign masks are all of them and random
others, the same by either criterion. The sign test alone keeps 80 % of the weights:
untrained 70.6 ± 9.8 %, with constants 85.0 ± 3.3 %. Weights `rescaled` by size / kept
trained worse, by 0.4 to 4 points. Dense training is cut short here, and four replicates
with many comparisons leave small differences open.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import tyro
from matplotlib.figure import Figure
from PIL import Image

from lth import criteria, data, masks, models, plot, results, train
from lth.criteria import history
from lth.lab import devices
from lth.lottery import starts
from lth.masks import allocation, schedules

RESULTS = Path(__file__).parent / "results"
CRITERIA = (  # of `history`
    *("large_final", "small_final", "large_init", "small_init"),
    *("large_init_large_final", "small_init_small_final"),
    *("magnitude_increase", "movement"),
    *("large_final_same_sign", "large_final_diff_sign"),
    *("magnitude_increase_same_sign", "magnitude_increase_diff_sign"),
)
INIT, ORDER, PRUNE, FRESH, SHUFFLE = range(5)  # what randomness is for


@dataclass(frozen=True)
class Flags:
    """Where things are, and how much to run."""

    data_dir: Path | None = None
    out: Path = RESULTS
    replicates: int = 4
    steps: int = 1500  # of each training
    levels: int = 6
    rounds: int = 3  # of the paper's, which a level prunes at once
    actions_at: tuple[int, ...] = (2, 4, 6)  # the levels at which actions are tried


class Study(NamedTuple):
    """What all trials share; every array leads with the replicate."""

    trial: Callable  # (start, mask, frozen) -> (end, accuracies): see `make_trial`
    draw: Callable[[jax.Array], masks.Params]  # keys [r] -> initial weights
    initial: masks.Params
    zeros: masks.Params
    mask: masks.Mask  # all ones


def main() -> None:
    flags = tyro.cli(Flags)
    devices.use_cores(flags.replicates)
    study = make_study(flags)
    dense, accuracies = study.trial(study.initial, study.mask, study.zeros)
    found = [*rows("dense", "dense", 0, study.mask, accuracies)]
    signs = jax.vmap(history.same_sign_mask)(study.initial, dense, study.mask)
    _, accuracies = study.trial(study.initial, signs, study.zeros)
    found += rows("sign", "same_sign_mask", 1, signs, accuracies)
    for name in (*CRITERIA, "random"):
        for level, mask, seen, accuracies in lottery(study, name, dense, flags):
            found += rows("mask", name, level, mask, accuracies)
            print(name, level, accuracies["accuracy"], flush=True)
            if name == "large_final" and level in flags.actions_at:
                found += acted(study, level, mask, seen)
    summary = summarised(pd.DataFrame(found))
    flags.out.mkdir(parents=True, exist_ok=True)
    summary.round(5).to_csv(flags.out / "zhou_criteria.csv", index=False)
    picture = flags.out / "zhou_criteria.png"
    figure(summary).savefig(picture, dpi=80)
    Image.open(picture).quantize(64).save(picture)  # a third of the bytes
    print(summary.drop(columns="n").round(4).to_string(index=False))


def make_study(flags: Flags) -> Study:
    """The data, the network, and the one program of every training."""
    plan = devices.plan(flags.replicates)
    splits = devices.share(plan, data.load("mnist", flags.data_dir, 5000, 0))
    network = models.from_linen(models.MLP(widths=(300, 100)), (28, 28, 1))
    model = models.standardized(network, 0, 255)
    one = make_trial(model, len(splits.train.targets), flags.steps)
    program = devices.spread(plan, one, (0, 0, 0, 0, None))
    order = keys(flags.replicates, ORDER)

    def trial(start, mask, frozen):
        return program(start, mask, frozen, order, splits)

    draw = jax.jit(jax.vmap(lambda key: network.init(key)[0]))
    initial = draw(keys(flags.replicates, INIT))
    ones = jax.vmap(masks.ones)(initial)
    return Study(trial, draw, initial, jax.tree.map(jnp.zeros_like, initial), ones)


def make_trial(model: models.Model, examples: int, steps: int) -> Callable:
    """`trial(start, mask, frozen, key, splits) -> (end, accuracies)`, one training.

    Test accuracy after it, before it, and before it with a constant for magnitudes.
    """
    loss, measure = train.classification(model.apply)
    sample, tx = data.make_sample(60, examples), optax.adam(1.2e-3)

    def trial(start, mask, frozen, key, splits):
        step = train.make_train(starts.with_frozen(loss, mask, frozen), sample, tx)
        test = train.make_evaluate(starts.with_frozen(measure, mask, frozen), 250)
        state = train.TrainState(jnp.int32(0), start, {}, tx.init(start))
        state, _ = step(state, mask, splits.train, key, steps)
        tested = {
            "accuracy": state.params,
            "untrained": start,
            "constant": starts.signed_constant(start, mask),
        }
        return state.params, {
            k: test(w, {}, splits.test)["accuracy"] for k, w in tested.items()
        }

    return trial


def keys(replicates: int, purpose: int, level: int = 0) -> jax.Array:
    def one(replicate):
        key = jax.random.fold_in(jax.random.key(replicate), purpose)
        return jax.random.fold_in(key, level)

    return jax.vmap(one)(jnp.arange(replicates))


def lottery(study: Study, name: str, dense: Any, flags: Flags) -> Iterator[tuple]:
    """The tickets of a criterion, each rewound to the initial weights.

    Yields (level, mask, seen, accuracies); `seen` is what each weight was at the end of
    the last round it took part in before `mask`.
    """
    one = jax.tree.map(lambda m: m[0], study.mask)
    each = allocation.by_path(one, 0.8, {"output": 0.9})
    keep = jax.tree.map(lambda rate: rate**flags.rounds, each)
    mask = old = study.mask
    end = seen = dense
    for level, density in enumerate(schedules.geometric(keep, flags.levels), 1):
        noise = keys(flags.replicates, PRUNE, level)
        density = jax.tree.map(jnp.float32, density)
        mask, old = pruned(name, study.initial, end, mask, density, noise), mask
        seen = jax.vmap(starts.filled)(end, old, seen)
        end, accuracies = study.trial(study.initial, mask, study.zeros)
        yield level, mask, seen, accuracies


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, 0, 0, 0, None, 0))
def pruned(name: str, initial, end, mask, density, key) -> masks.Mask:
    """The highest scores; of those a criterion excludes, by chance and not by index."""
    chance = criteria.random(initial, key)
    scores = chance if name == "random" else getattr(history, name)(initial, end)

    def leaf(score, u):
        return jnp.where(jnp.isneginf(score), -1e30 * (1 + u), score)

    return masks.keep_top(jax.tree.map(leaf, scores, chance), mask, density)


def acted(study: Study, level: int, mask: Any, seen: Any) -> Iterator[dict]:
    """A ticket again, with other starts of kept weights and other values of pruned."""
    replicates = len(jax.tree.leaves(mask)[0])
    noise = keys(replicates, SHUFFLE, level)
    fresh = study.draw(keys(replicates, FRESH, level))
    for name, start in kept_actions(study.initial, mask, noise, fresh).items():
        _, accuracies = study.trial(start, mask, study.zeros)
        yield from rows("kept", name, level, mask, accuracies)
    for name, (start, frozen) in pruned_actions(
        study.initial, seen, mask, noise
    ).items():
        _, accuracies = study.trial(start, mask, frozen)
        yield from rows("pruned", name, level, mask, accuracies)


@jax.jit
@jax.vmap
def kept_actions(initial, mask, key, fresh) -> dict[str, masks.Params]:
    """Where the kept weights start."""
    return {
        "fresh": fresh,
        "fresh, signs kept": starts.signs_kept(fresh, initial),
        "permuted": starts.permuted(initial, mask, key),
        "rescaled": starts.rescaled(initial, mask),
        "reshuffled": starts.reshuffled(initial, mask, key),
        "reshuffled, signs kept": starts.reshuffled_signs_kept(initial, mask, key),
        "signed constant": starts.signed_constant(initial, mask),
        "signed constant, permuted": starts.random_signed_constant(initial, mask, key),
    }


@jax.jit
@jax.vmap
def pruned_actions(initial, seen, mask, key) -> dict[str, tuple]:
    """Where the kept weights start and what the pruned ones are."""
    zeros = starts.freeze_init_zero_shrunk(initial, seen, mask)
    moved = starts.freeze_init_zero_reshuffled(initial, zeros, mask, key)
    return {
        "initial": (initial, starts.freeze_init(initial, mask)),
        "0 if shrunk": (initial, zeros),
        "0 if shrunk, kept too": (starts.zero_shrunk(initial, seen, mask), zeros),
        "0 if grown": (initial, starts.freeze_init_zero_grown(initial, seen, mask)),
        "0 at random": (initial, moved),
    }


def rows(part: str, name: str, level: int, mask, accuracies) -> Iterator[dict]:
    """A row per replicate."""
    density = jax.vmap(masks.density)(mask)
    for i, share in enumerate(np.asarray(density)):
        row = {"part": part, "name": name, "level": level, "replicate": i}
        values = {column: float(v[i]) for column, v in accuracies.items()}
        yield {**row, "density": float(share), **values}


def summarised(table: pd.DataFrame) -> pd.DataFrame:
    """One row per trial: means over replicates and 95 % half-widths (`_ci`).

    `gain` is the accuracy less that of the ticket of large_final at this level.
    """
    ticket = table[table["name"] == "large_final"].set_index(["level", "replicate"])
    table = table.join(ticket["accuracy"].rename("ticket"), on=["level", "replicate"])
    table["gain"] = table["accuracy"] - table["ticket"]
    found = []
    for unit, group in table.groupby(["part", "name", "level"], sort=False):
        row: dict[str, Any] = dict(zip(("part", "name", "level"), unit, strict=True))
        row |= {"density": group["density"].mean(), "n": len(group)}
        for column in ("accuracy", "gain", "untrained", "constant"):
            row[column], row[f"{column}_ci"] = results.interval(group[column])
        found.append(row)
    return pd.DataFrame(found)


def figure(summary: pd.DataFrame) -> Figure:
    """Masks after training and before it, and actions on tickets of large_final."""
    drawn = Figure(figsize=(14, 4.6), layout="constrained")
    panels = (
        ("accuracy", ("mask",), (80, 99), "masks: trained"),
        ("untrained", ("mask",), (0, 100), "masks: untrained"),
        ("accuracy", ("kept", "pruned"), (91, 98), "other starts, other zeros"),
    )
    for axes, (column, parts, limits, title) in zip(
        drawn.subplots(1, 3), panels, strict=True
    ):
        chosen = summary["part"].isin(parts) | (summary["name"] == "large_final")
        groups = summary[chosen].groupby("name", sort=False)
        for i, (name, trials) in enumerate(groups):
            line, color = divmod(i, len(plot.COLORS))
            style = {"ls": ("-", "--", ":")[line], "color": plot.COLORS[color]}
            mean, half = 100 * trials[column], 100 * trials[f"{column}_ci"]
            axes.errorbar(100 * trials["density"], mean, half, label=name, **style)
        axes.set(title=title, ylabel="test accuracy (%)", ylim=limits)
        if column == "accuracy":
            axes.legend(frameon=False, fontsize="x-small", ncols=2)
        plot.density_axis(axes)
    return drawn


if __name__ == "__main__":
    main()
