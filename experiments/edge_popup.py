"""Edge-popup: how many of the untrained weights to keep, and how many to choose from.

Ramanujan et al. (2020, arXiv:1911.13299): a subnetwork of untrained weights is best
with about half of them kept (figure 4), for few leave nothing to combine and all leave
nothing to choose; and the wider the network it is chosen from, the nearer it comes to
trained weights (figure 5). Conv-2 to Conv-8 on CIFAR-10 there, LeNet-300-100 on MNIST
here.

    python experiments/edge_popup.py --data-dir DATA [--steps 2000] [--replicates 3]

Kept fractions from 2 to 95 % at width 1; widths of the hidden layers from an eighth to
twice, half of the weights kept, beside the same networks with trained weights (Adam,
1.2e-3). Scores by SGD, learning rate 0.5 along a cosine, momentum 0.9, batch 250, the
mask chosen every 3 steps; signed constants, over the root of the kept fraction.

Without gradients, as a control: as many evaluations as there are steps, each of a whole
mask on a fixed batch of 1 000, by random search and by hill climbing (`--swaps` weights
exchanged at a time), half of the weights kept. About eight minutes on two cores.
Writes a table and a figure to experiments/results/.

What it gave (two CPU cores, jax 0.10.2, n = 3): test accuracy in % with 95 % intervals.

    kept     10 %          20 %          30 %          40 %          50 %
         93.93 ± 2.01  96.32 ± 1.05  96.67 ± 0.15  96.32 ± 0.22  96.48 ± 0.09
             60 %          70 %          80 %          90 %          95 %
         96.21 ± 0.39  95.93 ± 0.43  95.41 ± 0.09  94.33 ± 0.27  91.97 ± 0.36

    width          0.125          0.25           0.5             1             2
    edge-popup  89.20 ± 1.62  93.63 ± 0.29  95.58 ± 0.94  96.48 ± 0.09  96.93 ± 0.17
    trained     96.02 ± 0.25  97.31 ± 0.26  97.77 ± 0.09  98.06 ± 0.45  98.01 ± 0.18

    random search 19.20 ± 3.21, hill climbing 30.0 ± 20.6

Both claims show: the best lies between 20 and 60 % and falls off to both sides, and
width brings untrained weights from 6.8 points behind trained ones to 1.1. With 2 and
5 % kept it is at chance: the learning rate is too high for what is left. Masks tried
without gradients stay far behind at equal evaluations. How often the mask is chosen
matters: with two replicates every step gave 96.7 at one half, every 3 steps 96.5 and
every 10 only 93.5 (94.3 at a fifth of the learning rate); at 10 % kept it was 96.6 at a
fifth of the rate and every step.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pandas as pd
import tyro
from matplotlib.figure import Figure

from lth import data, masks, models, results, supermask, train
from lth.supermask import search

RESULTS = Path(__file__).parent / "results"
KEPT = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)
BATCH = 250


@dataclass(frozen=True)
class Flags:
    """Where things are, and how much to run."""

    data_dir: Path | None = None
    out: Path = RESULTS
    steps: int = 2000
    replicates: int = 3
    rate: float = 0.5
    """Learning rate of scores."""
    swaps: int = 100
    """Weights that hill climbing exchanges at a time."""


def network(width: float) -> models.Model:
    widths = round(300 * width), round(100 * width)
    module = models.MLP(widths=widths, initialiser="signed_constant")
    return models.standardized(models.from_linen(module, (28, 28, 1)), 0.0, 255.0)


def accuracies(model: models.Model, tx: Any, splits: data.Splits, flags: Flags):
    """Test accuracy of each replicate, in %, after training."""
    loss, measure = train.classification(model.apply)
    step = train.make_train(
        loss, data.make_sample(BATCH, len(splits.train.targets)), tx
    )
    evaluate = train.make_evaluate(measure)

    @jax.jit
    def run(keys, learned, test):
        def one(key):
            state = train.init_state(model.init, tx, key)
            nothing = masks.unmasked(state.params)
            state, _ = step(state, nothing, learned, key, flags.steps)
            return evaluate(state.params, state.stats, test)["accuracy"]

        return 100 * jax.lax.map(one, keys)

    return run(keys(flags), splits.train, splits.test)


def keys(flags: Flags) -> jax.Array:
    return jax.random.split(jax.random.key(0), flags.replicates)


def popped(width: float, keep: float, splits: data.Splits, flags: Flags) -> jax.Array:
    learned = supermask.edge_popup(network(width), keep, every=3, scale=True)
    tx = optax.sgd(optax.cosine_decay_schedule(flags.rate, flags.steps), momentum=0.9)
    return accuracies(learned.model, tx, splits, flags)


def searched(method: str, splits: data.Splits, flags: Flags) -> jax.Array:
    """Test accuracy, in %, of the best mask that a search finds for each replicate."""
    model = network(1.0)
    _, measure = train.classification(model.apply)
    evaluate = train.make_evaluate(measure)

    @partial(jax.jit, static_argnums=0)
    def run(steps, keys, learned, test):
        seen = jax.tree.map(lambda x: x[:1000], learned)

        def one(key):
            params, stats = model.init(key)
            ones = masks.ones(params)

            def fitness(mask):
                return evaluate(masks.apply(params, mask), stats, seen)["accuracy"]

            if method == "random search":
                found = search.random_search(fitness, ones, 0.5, key, steps)
            else:
                start = masks.shuffle(masks.keep_top(params, ones, 0.5, "layer"), key)
                found = search.hill_climb(fitness, start, key, steps, flags.swaps)
            best = masks.apply(params, found.mask)
            return evaluate(best, stats, test)["accuracy"]

        return 100 * jax.lax.map(one, keys)

    return run(flags.steps, keys(flags), splits.train, splits.test)


def row(method: str, width: float, keep: float, values: jax.Array) -> dict[str, Any]:
    mean, half = results.interval(pd.Series(jnp.asarray(values).tolist()))
    print(
        f"{method:14} width {width:5.3f} kept {keep:5.0%}  {mean:6.2f} ± {half:.2f}",
        flush=True,
    )
    return {
        "method": method,
        "width": width,
        "keep": keep,
        "accuracy": round(mean, 3),
        "accuracy_ci": round(half, 3),
        "n": len(values),
    }


def drawn(table: pd.DataFrame) -> Figure:
    """Accuracy against the kept fraction, and against width."""
    figure = Figure(figsize=(9.5, 3.7), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    learned = table[table["method"] == "edge-popup"]
    by_keep = learned[learned["width"] == 1].sort_values("keep")
    left.errorbar(
        100 * by_keep["keep"], by_keep["accuracy"], by_keep["accuracy_ci"], fmt="o-"
    )
    left.set(xlabel="weights kept (%)", ylabel="test accuracy (%)", ylim=(85, 99))
    by_width = learned[learned["keep"] == 0.5]
    trained = table[table["method"] == "trained"]
    for name, rows in (("edge-popup, half kept", by_width), ("trained", trained)):
        rows = rows.sort_values("width")
        right.errorbar(
            rows["width"], rows["accuracy"], rows["accuracy_ci"], fmt="o-", label=name
        )
    right.set(xlabel="width, times 300 and 100 units", xscale="log")
    right.set_xticks(WIDTHS, [f"{w:g}" for w in WIDTHS])
    right.minorticks_off()
    right.legend(frameon=False)
    figure.suptitle(
        f"Untrained LeNet-300-100 on MNIST, n = {table['n'].max()}", size=11
    )
    return figure


def main() -> None:
    flags = tyro.cli(Flags)
    splits = jax.device_put(data.load("mnist", flags.data_dir, 5000, 0))
    rows = [row("edge-popup", 1.0, k, popped(1.0, k, splits, flags)) for k in KEPT]
    for width in WIDTHS:
        if width != 1:
            found = popped(width, 0.5, splits, flags)
            rows.append(row("edge-popup", width, 0.5, found))
        found = accuracies(network(width), optax.adam(1.2e-3), splits, flags)
        rows.append(row("trained", width, 1.0, found))
    for method in ("random search", "hill climbing"):
        rows.append(row(method, 1.0, 0.5, searched(method, splits, flags)))
    flags.out.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    table.to_csv(flags.out / "edge_popup.csv", index=False)
    drawn(table).savefig(flags.out / "edge_popup.png", dpi=110)


if __name__ == "__main__":
    main()
