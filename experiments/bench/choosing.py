"""What choosing weights costs, as shares and ratios in one run, on LeNet-300-100.

- Choosing a mask by each criterion (scores of one batch, and the exact selection), as a
  share of the time of a level of `lenet-mnist` whose trainings have `--steps` steps.
- SynFlow's hundred rounds, in seconds once compiled.
- A training step under each rule between two updates of its mask, as a ratio to the
  ordinary step with a mask; and an update itself, in steps.

    python experiments/bench/choosing.py [--steps 50000] [--repeats 5]

Needs no data: pixels are random. Takes about three minutes on two cores. What it gave
there (jax 0.10.2, medians of 7 repeats): a mask costs at most 0.53 % of a level (the
Fisher's diagonal; the criteria that sort 0.3 to 0.5 %; all others below 0.1 %);
SynFlow's hundred rounds 0.07 s. Rules, with 25 repeats of 300 steps on one busy core:
0.96 to 0.99 of an ordinary step between updates, with quartiles at most 0.26 apart but
for AC/DC's 0.39, so no more than noise; an update costs 3 to 6 steps more.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import timing
import tyro

from lth import criteria, data, dynamic, lottery, masks, models, train
from lth.dynamic import rules
from lth.lab.build import ranking, tasks
from lth.lab.config.presets import PRESETS
from lth.masks import schedules

EXAMPLES = 20_000
NEVER = 10**6  # a step beyond all that are taken


@dataclass(frozen=True)
class Flags:
    """What to time."""

    steps: int = 50_000
    """Steps of a level, of which choosing the mask is a share; the preset's."""
    measured: int = 200
    """Steps that are timed at once."""
    repeats: int = 5


def problem():
    """The network of `lenet-mnist` on random pixels, as a task and its parts."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (EXAMPLES, 28, 28, 1), dtype=np.uint8)
    labels = rng.integers(0, 10, EXAMPLES).astype(np.int32)
    learned = jax.device_put(data.Dataset(images, labels))
    model = models.standardized(
        models.from_linen(models.MLP(), (28, 28, 1)), 0.0, 255.0
    )
    loss, measure = train.classification(model.apply)
    task = tasks.Task(
        examples=tasks.Examples((28, 28, 1), 10),
        size=EXAMPLES,
        digest="",
        model=model,
        loss=loss,
        measure=measure,
        sample=data.make_sample(60, EXAMPLES),
        blocks=lambda key, start, stop: iter([(learned, stop - start)]),
        parts={},
    )
    return task, learned


def stepped(task: tasks.Task, tx: Any, state, mask, learned, n: int) -> Callable:
    """Training `n` steps, compiled; the state is not given up, so calls are alike."""
    program = jax.jit(train.make_train(task.loss, task.sample, tx))
    key = jax.random.key(1)
    return lambda: jax.block_until_ready(program(state, mask, learned, key, n))


def choosing(task, state, mask, learned, flags: Flags, step: float) -> None:
    base = PRESETS["lenet-mnist"].experiment
    initial, keys = state.params, jax.random.key(2)
    calls = {}
    for name in ranking.CRITERIA:
        prune = replace(base.prune, criterion=name, scope="global", rates="")
        e = replace(base, prune=prune)
        scores = jax.jit(ranking.make_scores(e.prune, e.model, task))
        keep = ranking.make_keep(e.prune)

        def call(scores=scores, keep=keep):
            found = scores(initial, state, mask, keys, learned)
            return jax.block_until_ready(keep(found, mask, 0.2))

        calls[name] = call
    times = timing.in_turn(calls, flags.repeats)
    print(f"choosing a mask, as a share of a level of {flags.steps} steps")
    for name, taken in times.items():
        once = statistics.median(taken)
        share = once / (once + flags.steps * step)
        print(f"  {name:28} {100 * share:6.2f} %  {once / step:8.1f} steps")


def synflow(task, state, mask) -> None:
    network = models.from_linen(models.MLP(), (28, 28, 1))

    @jax.jit
    def scores(state, mask):
        params = masks.apply(state.params, mask)
        return criteria.synflow(network.apply, params, {}, jnp.ones((1, 28, 28, 1)))

    rounds, count, taken = schedules.exponential(0.01, 100), 0, 0.0
    for _ in range(2):  # the first compiles
        began = time.perf_counter()
        kept = lottery.prune_untrained(state, mask, rounds, score=scores)
        count = int(masks.count(kept))
        taken = time.perf_counter() - began
    print(
        f"SynFlow, 100 rounds to {count} of {masks.size(mask)} weights: {taken:.2f} s"
    )


def ruled(task, params, mask, learned, flags: Flags) -> None:
    tx, n = optax.adam(1.2e-3), flags.measured
    late: Any = {"begin_step": NEVER, "end_step": NEVER + 1000, "frequency": 100}
    now: Any = {"begin_step": 1, "end_step": 20_000, "frequency": 1}
    ramp: Any = {"initial_sparsity": 0.0, "final_sparsity": 0.9}
    several = {
        "static": (rules.static(0.1), None),
        "gradual": (
            rules.gradual(schedules.polynomial(**ramp, **late), 2 * NEVER),
            rules.gradual(schedules.polynomial(**ramp, **now), NEVER),
        ),
        "rigl": (
            rules.rigl(0.1, **late),
            rules.rigl(0.1, **now),
        ),
        "set": (
            rules.sparse_evolution(0.1, **late),
            rules.sparse_evolution(0.1, **now),
        ),
        "ac_dc": (rules.ac_dc(0.1, phase=1000, warmup=NEVER, steps=2 * NEVER), None),
    }
    state = train.TrainState(jnp.int32(0), params, {}, tx.init(params))
    calls = {"ordinary": stepped(task, tx, state, mask, learned, n)}
    for name, pair in several.items():
        for kind, rule in zip(("between", "updating"), pair, strict=True):
            if rule is None:
                continue
            sparse = dynamic.sparsify(tx, rule)
            opt_state = sparse.init(params)
            start = dynamic.masked(params, opt_state)
            ready = train.TrainState(jnp.int32(0), start, {}, opt_state)
            none = masks.unmasked(params)
            calls[f"{name} {kind}"] = stepped(task, sparse, ready, none, learned, n)
    times = timing.in_turn(calls, flags.repeats)
    print("a training step, as a ratio to the ordinary step with a mask (quartiles)")
    for name, taken in times.items():
        print(f"  {name:18} {timing.ratio(taken, times['ordinary'])}")


def main() -> None:
    flags = tyro.cli(Flags)
    task, learned = problem()
    tx = optax.adam(1.2e-3)
    state = train.init_state(task.model.init, tx, jax.random.key(0))
    mask = masks.ones(state.params)
    train_some = stepped(task, tx, state, mask, learned, flags.measured)
    taken = timing.in_turn({"train": train_some}, flags.repeats)["train"]
    step = statistics.median(taken) / flags.measured
    print(f"LeNet-300-100, {jax.default_backend()}, jax {jax.__version__}, batch 60")
    choosing(task, state, mask, learned, flags, step)
    synflow(task, state, mask)
    ruled(task, state.params, mask, learned, flags)


if __name__ == "__main__":
    main()
