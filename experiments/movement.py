"""Movement pruning: weights chosen by how they move in fine-tuning, not by their size.

Sanh et al. (2020, arXiv:2005.07683): where a pre-trained network is pruned while it is
fine-tuned, movement beats magnitude at 3 to 15 % of the weights kept, hard and soft; at
70 % magnitude is no worse.

    python experiments/movement.py --data-dir DATA [--few 500] [--steps 1000]

LeNet-300-100, pre-trained on 10 000 of MNIST's digits 0 to 4; then, with a new head
that is not pruned, 1 000 iterations of 32 on 500 of the digits 5 to 9. 5 replicates,
which share pre-trained weights, head, examples and batches across methods: each
fine-tuning is a branch of one run, stored in runs/movement, and a call that was stopped
goes on there. 12 minutes of one core's time. A table and a figure go to
experiments/results/.

Density falls by a cubic from a tenth to seven tenths of the way, alike in each layer.
Soft movement has a threshold instead, one for both layers, which rises from 0 to 0.1 by
the same cubic, and is charged so as to end near the density asked for. `random` prunes
any weights along the schedule. Adam along a cosine to 0, of the weights at two rates,
of the scores at 0.03.

What an earlier form of this study gave, with other draws (two CPU cores, jax 0.10.2, n
= 5, 95 % intervals): test accuracy in % by magnitude, what the others gain on it in the
same replicate, in points, and the density that soft movement reached; 100 % is
fine-tuned unpruned.

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

This form gave, n = 5, at 10 and 3 %, with intervals that overlap these: at 1e-4
magnitude 91.28 ± 0.90 and 86.30 ± 1.86, hard +1.70 ± 1.20 and +5.18 ± 1.68, soft +1.25
± 0.91 and +5.04 ± 1.96, random -10.80 ± 2.36 and -40.42 ± 6.48; at 1e-3 magnitude 94.28
± 0.62 and 93.54 ± 0.83, hard -0.53 ± 0.68 and -0.37 ± 0.64, soft -0.87 ± 0.38 and -0.24
± 0.48, random -2.07 ± 0.41 and -4.01 ± 0.68.

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

from collections import namedtuple
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import optax
import pandas as pd
import study
import tasks
from matplotlib.figure import Figure

import lth
from lth import dynamic, lottery, masks, models, results, supermask, train
from lth.masks import schedules

# By the rate of the weights and the density: what makes soft movement end near it.
CHARGES = {
    1e-4: {0.7: 0.01, 0.5: 3, 0.3: 27, 0.15: 85, 0.1: 140, 0.05: 250, 0.03: 380},
    1e-3: {0.7: 0.01, 0.5: 3, 0.3: 12, 0.15: 32, 0.1: 48, 0.05: 82, 0.03: 115},
}
METHODS, CLASSES = ("magnitude", "hard", "soft", "random"), 5
Case = namedtuple("Case", "method rate density")  # of a fine-tuning
CASES = [Case("unpruned", rate, 1.0) for rate in CHARGES]
CASES += [Case(m, r, d) for m in METHODS for r in CHARGES for d in CHARGES[r]]
NAMES = {c: f"{c.method} {c.density:.0%} at {c.rate:g}" for c in CASES}
LENET = models.from_linen(models.MLP(classes=CLASSES), (28, 28, 1))
MODEL = models.standardized(LENET, 0.0, 255.0)


@dataclass(frozen=True)
class Flags(study.Flags):
    """Where things are, and how much to run."""

    replicates: int = 5
    steps: int = 1000
    few: int = 500  # examples of the digits 5 to 9 to fine-tune on


def body(path: str, leaf: jax.Array) -> bool:
    """Tell the kernels that were pre-trained from the head, which is new."""
    return masks.is_kernel(path, leaf) and not path.startswith("output")


def made(case: Case, steps: int, model: models.Model, key=None) -> tuple:
    """Return model, optimizer and loss of a case, and what mask a state of it holds."""
    falling = partial(optax.cosine_decay_schedule, decay_steps=steps)
    tx, (loss, _) = optax.adam(falling(case.rate)), train.classification(model.apply)
    cubic = partial(schedules.cubic, begin_step=steps // 10, end_step=steps * 7 // 10)
    if case.method not in ("hard", "soft"):
        ramp = cubic(1 - case.density, frequency=10)
        keep = partial(masks.keep_top, scope="layer")
        rule = dynamic.gradual(ramp, steps, keep=keep)

        def at_random(step, params, mask, grads, key):
            return keep(masks.uniform(mask, key), mask, schedules.in_force(ramp, step))

        if case.method == "random":
            rule = rule._replace(update=at_random)
        tx = dynamic.sparsify(tx, rule, body, key)
        return model, tx, loss, lambda state: dynamic.state_of(state.opt_state).mask
    learn = partial(supermask.movement_soft, by_matrix=True), cubic(0.1, frequency=1)
    if case.method == "hard":
        learn = supermask.movement, cubic(1 - case.density, frequency=1)
    learned = learn[0](model, learn[1], prunable=body)
    loss, _ = train.classification(learned.model.apply)
    if case.method == "soft":
        loss = supermask.penalised(loss, learned, CHARGES[case.rate][case.density])
    rates: Any = {"weights": tx, "gates": optax.adam(falling(0.03))}
    tx, unused = optax.partition(rates, supermask.Gated(*rates)), jax.random.key(0)
    return learned.model, tx, loss, lambda s: learned.choose(s.params, s.stats, unused)


@lru_cache(maxsize=1)
def fine_tuning(flags: Flags, case: Case) -> lottery.Recipe:
    """Make the recipe that a case trains and is measured by."""
    model, tx, loss, mask = made(case, flags.steps, MODEL)
    splits = tasks.five(flags.data_dir, CLASSES)
    few = tasks.few_of_each(splits.train, flags.few // CLASSES, 32)
    own = lth.make_recipe(
        model, tx, loss, train.classification(model.apply)[1], splits, batch_size=32,
        steps=flags.steps, eval_every=flags.steps, densities=(), sample=few,
        replicates=flags.replicates,
    )  # fmt: skip
    reached = jax.jit(jax.vmap(lambda state: {"density": masks.density(mask(state))}))
    return own._replace(measures={**own.measures, "reached": reached})


def start(steps: int, case: Case, early, ticket, key) -> tuple:
    """Put a pre-trained network under a new head, the same in all cases."""
    # As it was drawn, its units in another order: what has been trained fits the first.
    mix = partial(jax.random.permutation, jax.random.key(1))
    params = ticket.state.params | {"output": jax.tree.map(mix, early.params["output"])}
    grown = MODEL._replace(init=lambda key: (params, {}))
    model, tx, *_ = made(case, steps, grown, key)
    state = train.init_state(model.init, tx, key)
    return state, masks.ones(state.params)


def pretrained(flags: Flags) -> lottery.Recipe:
    """Make the recipe of nine epochs on the digits 0 to 4, and what hangs off it."""
    branches = {
        name: lottery.Branch(
            partial(start, flags.steps, case), name,
            changed=lambda recipe, case=case: fine_tuning(flags, case),
            settings={**case._asdict(), "steps": flags.steps, "few": flags.few},
        )
        for case, name in NAMES.items()
    }  # fmt: skip
    return lth.make_recipe(
        MODEL, optax.adam(1.2e-3), *train.classification(MODEL.apply),
        tasks.five(flags.data_dir, 0), batch_size=60, steps=1500, densities=(),
        replicates=flags.replicates, eval_every=1500, prunable=body, branches=branches,
    )._replace(first=lottery.trained_dense)  # said so, it has branches  # fmt: skip


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row per case: density and accuracy in %, gains on magnitude."""
    rows, where = [], {case: {"variant": name} for case, name in NAMES.items()}
    for case in sorted(CASES, key=lambda case: (case.rate, -case.density)):
        of = table[table["variant"] == NAMES[case]]
        reached = 100 * results.final(of, "reached", "density")["value"]
        pairs = {"reached": results.interval(reached)}
        pairs["accuracy"] = results.mean(table, where[case])
        if case.method in METHODS[1:]:
            other = where[case._replace(method="magnitude")]
            pairs["gain"] = results.gap(table, where[case], other)
        row = {**case._asdict(), "rate": f"{case.rate:g}"}
        rows.append(row | {"n": of["replicate"].nunique()} | study.columns(pairs))
    return pd.DataFrame(rows)


def figure(table: pd.DataFrame) -> Figure:
    """Draw accuracy against the density reached, a panel for each rate."""
    lines, dense = {}, []
    for rate, of in ends(table).groupby("rate"):
        kinds = {m: of[of["method"] == m].sort_values("reached") for m in METHODS}
        one = {m: study.line(k, "accuracy", k["reached"]) for m, k in kinds.items()}
        lines[f"weights at rate {rate}, n = {of['n'].max()}"] = one
        dense.append(of["accuracy"].iloc[0])
    drawn = study.panels(lines, "test accuracy on the digits 5 to 9 (%)", dotted=dense)
    drawn.axes[0].set_ylim(80, 95)  # random pruning falls far below
    return drawn


if __name__ == "__main__":
    more = {"written": ends, "flags": Flags}
    study.main({"pretrained": pretrained}, None, figure, "movement", **more)
