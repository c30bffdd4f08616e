"""Movement pruning: weights chosen by how they move in fine-tuning, not by their size.

Sanh et al. (2020, arXiv:2005.07683): where a pre-trained network is pruned while it is
fine-tuned, movement beats magnitude at 3 to 15 % of the weights kept, hard and soft; at
70 % magnitude is no worse.

    python experiments/movement.py --data-dir DATA [--few 500] [--steps 1000]

LeNet-300-100, pre-trained on 10 000 of MNIST's digits 0 to 4; then, with a new head
that is not pruned, 1 000 iterations of 32 on 500 of the digits 5 to 9. 5 replicates,
which share pre-trained weights, examples and batches across methods. 7 minutes of one
core's time. Writes a table and a figure to experiments/results/.

Density falls by a cubic from a tenth to seven tenths of the way, alike in each layer.
Soft movement has a threshold instead, one for both layers, which rises from 0 to 0.1 by
the same cubic, and is charged so as to end near the density asked for. `random` prunes
any weights along the schedule. Adam along a cosine to 0, of the weights at two rates,
of the scores at 0.03.

What it gave (two CPU cores, jax 0.10.2, n = 5, 95 % intervals): test accuracy in % by
magnitude, what the others gain on it in the same replicate, in points, and the density
that soft movement reached; 100 % is fine-tuned unpruned.

      rate  kept       magnitude           hard           soft         random  soft at
     1e-04  100%    92.12 ± 0.94
     1e-04   70%    92.07 ± 0.90   +0.99 ± 0.89   +0.92 ± 0.66   -0.23 ± 0.45    62.3%
     1e-04   50%    91.99 ± 1.02   +1.08 ± 1.14   +1.00 ± 0.72   -0.69 ± 0.67    50.7%
     1e-04   30%    91.74 ± 1.00   +1.26 ± 0.98   +1.09 ± 0.76   -2.04 ± 0.48    29.0%
     1e-04   15%    91.05 ± 0.59   +1.95 ± 0.73   +1.23 ± 0.33   -4.92 ± 2.25    14.8%
     1e-04   10%    90.41 ± 0.84   +2.34 ± 1.02   +1.47 ± 0.82  -11.19 ± 4.60     9.7%
     1e-04    5%    88.50 ± 0.96   +3.55 ± 0.98   +2.66 ± 1.01  -29.89 ± 5.82     5.2%
     1e-04    3%    83.90 ± 2.47   +7.05 ± 2.52   +6.65 ± 2.31 -40.52 ± 15.38     3.2%
     1e-03  100%    93.61 ± 0.52
     1e-03   70%    93.61 ± 0.59   -0.21 ± 0.45   +0.02 ± 0.09   -0.02 ± 0.22    67.4%
     1e-03   50%    93.80 ± 0.63   -0.43 ± 0.47   -0.29 ± 0.09   -0.39 ± 0.46    49.0%
     1e-03   30%    93.68 ± 0.52   -0.21 ± 0.31   -0.37 ± 0.24   -0.49 ± 0.30    30.3%
     1e-03   15%    93.78 ± 0.41   -0.18 ± 0.29   -0.79 ± 0.43   -1.08 ± 0.49    15.0%
     1e-03   10%    93.55 ± 0.33   +0.00 ± 0.22   -0.70 ± 0.55   -1.41 ± 0.78     9.7%
     1e-03    5%    93.35 ± 0.50   -0.02 ± 0.38   -0.67 ± 0.57   -2.52 ± 0.91     4.8%
     1e-03    3%    93.10 ± 0.60   -0.15 ± 0.52   -0.44 ± 0.31   -3.60 ± 0.84     2.9%

Half of the claim shows, at 1e-4: movement is far ahead at few weights, but at 70 % as
well, and there ahead of the unpruned network too. The scores learn at a rate of their
own; the weights, at theirs, are not done in 1 000 iterations. At 1e-3 nothing of it is
left: hard movement is as good as magnitude, and soft a little worse. So movement helps
here where the weights cannot move far; that it finds better ones to keep does not show.

Tried on 3 other replicates, by the validation examples: 1e-4, 3e-4, 1e-3 and 3e-3 for
magnitude and hard. At 10 and 3 % 1e-3 was best for both, about 3e-4 with 250 examples
and 3e-3 with 1 000, and the best of both were within 0.4 points each time. At 3e-4 hard
was 0.8 ahead at 3 %; at 3e-3 it was 0.7 behind at 70 %. At 1e-4 it was 5.8 ahead at 3 %
and, with 4 000 iterations, 0.1, and 0.3 behind at 10 %. Where all weights competed,
both changed by 0.3 or less at 1e-3. Under Adam the rate of scores that start at 0 does
not change their ranking, and 1e-3 to 1e-1 gave hard movement the same; soft was alike
at 1e-2, 3e-2 and 1e-1 where the densities met, and up to 0.6 better with its penalty
by matrix, as it has here, than by weight.
"""

from collections.abc import Callable
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

from lth import criteria, data, dynamic, masks, models, plot, results, supermask, train
from lth.dynamic import rules
from lth.masks import schedules

RESULTS = Path(__file__).parent / "results"
SCORE_RATE = 0.03
# The rates of the weights and, for each density, what soft movement is charged with
# to end near it.
CHARGES = {
    1e-4: {0.7: 0.01, 0.5: 3, 0.3: 27, 0.15: 85, 0.1: 140, 0.05: 250, 0.03: 380},
    1e-3: {0.7: 0.01, 0.5: 3, 0.3: 12, 0.15: 32, 0.1: 48, 0.05: 82, 0.03: 115},
}


@dataclass(frozen=True)
class Flags:
    """Where things are, and how much to run."""

    data_dir: Path | None = None
    out: Path = RESULTS
    steps: int = 1000
    few: int = 500
    """Examples of the digits 5 to 9 to fine-tune on."""
    replicates: int = 5


class Method(NamedTuple):
    """What is trained, and the pruned network that a state of it holds."""

    model: models.Model
    loss: train.Loss
    tx: optax.GradientTransformation
    found: Callable[[train.TrainState], tuple[masks.Params, masks.Mask]]


class Setting(NamedTuple):
    """What all methods share; they are given it, a density and a charge."""

    model: models.Model  # starts from pre-trained weights
    rate: Any
    steps: int
    key: jax.Array

    @property
    def tx(self) -> optax.GradientTransformation:
        decay = optax.cosine_decay_schedule(1.0, self.steps)
        return optax.adam(lambda step: self.rate * decay(step))

    def cubic(self, sparsity: float, frequency: int) -> schedules.Schedule:
        begin, end = self.steps // 10, self.steps * 7 // 10
        return schedules.cubic(sparsity, begin, end, frequency)


def body(path: str, leaf: jax.Array) -> bool:
    """The kernels that were pre-trained; the head is new."""
    return masks.is_kernel(path, leaf) and not path.startswith("output")


def dense(s: Setting, density: float, charge: Any) -> Method:
    def found(state):
        return state.params, masks.ones(state.params, body)

    return Method(s.model, train.classification(s.model.apply)[0], s.tx, found)


def gradual(s: Setting, density: float, scores: Callable) -> Method:
    keep = partial(masks.keep_top, scope="layer")
    rule = rules.gradual(s.cubic(1 - density, 10), s.steps, scores, keep)

    def found(state):
        return state.params, dynamic.state_of(state.opt_state).mask

    loss, _ = train.classification(s.model.apply)
    return Method(s.model, loss, dynamic.sparsify(s.tx, rule, body), found)


def magnitude(s: Setting, density: float, charge: Any) -> Method:
    return gradual(s, density, criteria.magnitude)


def at_random(s: Setting, density: float, charge: Any) -> Method:
    return gradual(s, density, lambda params: criteria.random(params, s.key))


def moved(s: Setting, learned: supermask.Supermask, loss: train.Loss) -> Method:
    """Weights at the rate of the setting, scores at their own."""

    def at_score_rate(updates, params):
        ratio = SCORE_RATE / s.rate
        gates = jax.tree.map(lambda u: ratio * u, updates.gates)
        return updates._replace(gates=gates)

    def found(state):
        mask = learned.choose(state.params, state.stats, s.key)
        return learned.weights(state.params, state.stats, mask), mask

    tx = optax.chain(s.tx, optax.stateless(at_score_rate))
    return Method(learned.model, loss, tx, found)


def hard(s: Setting, density: float, charge: Any) -> Method:
    learned = supermask.movement(s.model, s.cubic(1 - density, 1), prunable=body)
    return moved(s, learned, train.classification(learned.model.apply)[0])


def soft(s: Setting, density: float, charge: Any) -> Method:
    threshold = s.cubic(0.1, 1)
    learned = supermask.movement_soft(s.model, threshold, by_matrix=True, prunable=body)
    loss, _ = train.classification(learned.model.apply)
    return moved(s, learned, supermask.penalised(loss, learned, charge))


METHODS: dict[str, Callable[[Setting, float, Any], Method]] = {
    "magnitude": magnitude,
    "hard": hard,
    "soft": soft,
    "random": at_random,
}


def main() -> None:
    flags = tyro.cli(Flags)
    splits = data.load("mnist", flags.data_dir, 5000, 0)
    module = models.from_linen(models.MLP(widths=(300, 100), classes=5), (28, 28, 1))
    model = models.standardized(module, 0.0, 255.0)
    table = pd.DataFrame(measured(model, splits, flags))
    found = summary(table)
    flags.out.mkdir(parents=True, exist_ok=True)
    found.round(5).to_csv(flags.out / "movement.csv", index=False)
    print(verdict(found))
    drawn(found).savefig(flags.out / "movement.png", dpi=90)


def measured(model: models.Model, splits: data.Splits, flags: Flags):
    """A row for each rate, density, method and replicate."""
    keys = jax.random.split(jax.random.key(0), flags.replicates)
    known = pretrained(model, data.only_classes(splits.train, range(5)), keys)
    others = data.only_classes(splits.train, range(5, 10))
    drawn = [
        data.subsample(others, flags.few, i, balanced=True)
        for i in range(flags.replicates)
    ]
    few = jax.tree.map(lambda *each: jnp.asarray(np.stack(each)), *drawn)
    test = jax.device_put(data.only_classes(splits.test, range(5, 10)))
    densities = next(iter(CHARGES.values()))
    for density, method, name in [
        (1.0, dense, "dense"),
        *((d, m, name) for name, m in METHODS.items() for d in densities),
    ]:
        program = make_program(model, method, density, flags)
        for rate, charges in CHARGES.items():
            charge = charges.get(density, 0.0)
            accuracy, kept = program(known, few, keys, test, rate, charge)
            print(
                f"{name} {density:.0%} at {rate:g}: {np.mean(accuracy):.2f} %, "
                f"{np.mean(kept):.1%} kept",
                flush=True,
            )
            for i in range(flags.replicates):
                row = {"rate": rate, "target": density, "method": name, "replicate": i}
                yield row | {"density": float(kept[i]), "accuracy": float(accuracy[i])}


def pretrained(model: models.Model, source: data.Dataset, keys: jax.Array) -> Any:
    """The weights of each replicate after nine epochs of 10 000 of the digits 0-4."""
    source = jax.device_put(data.subsample(source, 10000, 0))
    tx, (loss, _) = optax.adam(1.2e-3), train.classification(model.apply)
    step = train.make_train(loss, data.make_sample(60, 10000), tx)

    @jax.jit
    def run(keys, source):
        def one(key):
            state = train.init_state(model.init, tx, key)
            mask = masks.unmasked(state.params)
            return step(state, mask, source, key, 1500)[0].params

        return jax.lax.map(one, keys)

    return run(keys, source)


def make_program(model: models.Model, method: Callable, density: float, flags: Flags):
    """All replicates: test accuracy in % and the density reached, each [replicates].

    `program(known, few, keys, test, rate, charge)`, compiled once for all rates.
    """
    sample = data.make_sample(32, flags.few)
    evaluate = train.make_evaluate(train.classification(model.apply)[1])

    @jax.jit
    def program(known, few, keys, test, rate, charge):
        def replicate(given):
            weights, learned, key = given
            new, order, noise = jax.random.split(jax.random.fold_in(key, 1), 3)

            def init(key):
                fresh, stats = model.init(key)
                return {**weights, "output": fresh["output"]}, stats

            setting = Setting(model._replace(init=init), rate, flags.steps, noise)
            m = method(setting, density, charge)
            state = train.init_state(m.model.init, m.tx, new)
            step = train.make_train(m.loss, sample, m.tx)
            nothing = masks.unmasked(state.params)
            state, _ = step(state, nothing, learned, order, flags.steps)
            params, mask = m.found(state)
            accuracy = evaluate(params, {}, test)["accuracy"]
            return 100 * accuracy, masks.density(mask)

        return jax.lax.map(replicate, (known, few, keys))

    return program


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Means and 95 % half-widths; `gain` is over magnitude in the same replicate."""
    found = []
    unit = ["rate", "target", "method"]
    accuracy: Any = table.set_index([*unit, "replicate"]).sort_index()["accuracy"]
    for (rate, target, method), rows in table.groupby(unit, sort=False):
        row = {"rate": rate, "target": target, "method": method, "n": len(rows)}
        row["density"], row["density_ci"] = results.interval(rows["density"])
        row["accuracy"], row["accuracy_ci"] = results.interval(rows["accuracy"])
        if method not in ("dense", "magnitude"):
            gain = accuracy[rate, target, method] - accuracy[rate, target, "magnitude"]
            row["gain"], row["gain_ci"] = results.interval(gain)
        found.append(row)
    return pd.DataFrame(found)


def verdict(found: pd.DataFrame) -> str:
    """The table for reading: accuracy by magnitude, and what the others gain on it."""
    lines = [f"{'rate':>6} {'kept':>5} " + "".join(f"{m:>15}" for m in METHODS)]
    lines[0] += "  soft at"
    for rate, density in [(r, d) for r in CHARGES for d in (1.0, *CHARGES[r])]:
        rows = found[(found["rate"] == rate) & (found["target"] == density)]
        line = f"{rate:6.0e} {density:5.0%} "
        for row in rows.to_dict("records"):
            if row["method"] in ("dense", "magnitude"):
                cell = f"{row['accuracy']:.2f} ± {row['accuracy_ci']:.2f}"
            else:
                cell = f"{row['gain']:+.2f} ± {row['gain_ci']:.2f}"
            line += f"{cell:>15}"
        reached = rows.loc[rows["method"] == "soft", "density"]
        lines.append(line + "".join(f"{share:9.1%}" for share in reached))
    return "\n".join(lines)


def drawn(found: pd.DataFrame) -> Figure:
    """Accuracy against the density reached, a panel for each rate of the weights."""
    figure = Figure(figsize=(9.5, 3.9), layout="constrained")
    panels = figure.subplots(1, len(CHARGES), sharey=True)
    for rate, axes in zip(CHARGES, panels, strict=True):
        for name, color in zip(METHODS, [*plot.COLORS[:3], "0.5"], strict=True):
            rows = found[(found["method"] == name) & (found["rate"] == rate)]
            rows = rows.sort_values("density")
            axes.errorbar(
                100 * rows["density"],
                rows["accuracy"],
                rows["accuracy_ci"],
                fmt="o-",
                ms=3,
                lw=1,
                color=color,
                label=name,
            )
        whole = found[(found["method"] == "dense") & (found["rate"] == rate)]
        axes.axhline(whole["accuracy"].iloc[0], color="0.5", lw=0.8, ls=":")
        axes.set_title(f"weights at rate {rate:g}", size=10)
        plot.density_axis(axes)
    panels[0].set(ylabel="test accuracy on the digits 5 to 9 (%)", ylim=(80, 95))
    panels[0].legend(frameon=False, fontsize="small", loc="lower left")
    n = found["n"].max()
    figure.suptitle(
        f"LeNet-300-100, pre-trained on the digits 0 to 4, n = {n}", size=11
    )
    return figure


if __name__ == "__main__":
    main()
