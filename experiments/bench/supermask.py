"""What a step of learning a mask costs, beside an ordinary step of the same network.

    python experiments/bench/supermask.py [--repeats 9] [--measured 200]

LeNet-300-100 on random pixels, batch 60 and 250; no data needed. The ordinary step
trains the weights under a mask with the same optimizer, SGD with momentum. Edge-popup
finds an exact threshold at each step, or every so many: then its mask is out of date in
between, by the share of its kept weights that the exact one would not keep, measured
just before the next choice. About three minutes on two cores.

What it gave there (jax 0.10.2, medians of 9 repeats of 200 steps), at batch 60 and 250:

    bernoulli              1.88  1.31        hard concrete          2.67  1.56
    bernoulli, rescaled    2.22  1.50        continuous             1.59  1.19
    edge-popup             2.17  1.46        movement               2.84  1.60
    edge-popup every 3     1.56  1.20        movement every 3       1.90  1.33
    edge-popup every 10    1.38  1.12        movement, soft         1.74  1.31
    multi-prize every 3    1.77  1.32

Every 3 steps 0.12 % of the kept are out of date, every 10 steps 0.98 %; on MNIST the
latter costs three points (see edge_popup.py). Random numbers, a sigmoid for each weight
and the choice take about as long at any batch; that is most of an ordinary step at 60.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import timing
import tyro

from lth import data, masks, models, supermask, train
from lth.masks import schedules
from lth.supermask import Supermask

EXAMPLES = 20_000
EVERY = (3, 10)


@dataclass(frozen=True)
class Flags:
    """What to time."""

    measured: int = 200
    """Steps that are timed at once."""
    repeats: int = 9


def methods(model: models.Model, steps: int) -> dict[str, Supermask]:
    schedule = schedules.cubic(0.9, 0, steps, 1)
    movement = partial(supermask.movement, model, schedule)
    return {
        "bernoulli": supermask.bernoulli(model),
        "bernoulli, rescaled": supermask.bernoulli(model, rescale=True),
        "edge-popup": supermask.edge_popup(model, 0.5),
        **{
            f"edge-popup every {n}": supermask.edge_popup(model, 0.5, every=n)
            for n in EVERY
        },
        "multi-prize every 3": supermask.multi_prize(model, 0.5, every=3),
        "hard concrete": supermask.hard_concrete(model),
        "continuous": supermask.continuous(model, steps=steps),
        "movement": movement(),
        "movement every 3": movement(every=3),
        "movement, soft": supermask.movement_soft(model, 0.1),
    }


def stepped(model: models.Model, mask_of: Callable, batch: int, learned, flags: Flags):
    """A call that trains; and the state and the program it trains with."""
    loss, _ = train.classification(model.apply)
    tx: Any = optax.sgd(0.01, momentum=0.9)
    program = jax.jit(train.make_train(loss, data.make_sample(batch, EXAMPLES), tx))
    state = train.init_state(model.init, tx, jax.random.key(0))
    mask, key = mask_of(state.params), jax.random.key(1)

    def call():
        return jax.block_until_ready(program(state, mask, learned, key, flags.measured))

    return call


def out_of_date(model: models.Model, every: int, learned) -> float:
    """Share of kept weights that an exact choice would not keep, just before one."""
    popup = supermask.edge_popup(model, 0.5, every=every, scale=True)
    loss, _ = train.classification(popup.model.apply)
    tx = optax.sgd(0.5, momentum=0.9)
    program = jax.jit(train.make_train(loss, data.make_sample(250, EXAMPLES), tx))
    state = train.init_state(popup.model.init, tx, jax.random.key(0))
    nothing, key, found = masks.unmasked(state.params), jax.random.key(1), []
    for steps in (every - 1, *[every] * 20):
        state, _ = program(state, nothing, learned, key, steps)
        exact = popup.choose(state.params, state.stats, key)
        kept = jax.tree.map(jnp.logical_and, exact, state.stats.mask)
        found.append(1 - float(masks.count(kept) / masks.count(exact)))
    return float(np.mean(found))


def main() -> None:
    flags = tyro.cli(Flags)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (EXAMPLES, 28, 28, 1), dtype=np.uint8)
    labels = rng.integers(0, 10, EXAMPLES).astype(np.int32)
    learned = jax.device_put(data.Dataset(images, labels))
    model = models.standardized(
        models.from_linen(models.MLP(), (28, 28, 1)), 0.0, 255.0
    )
    print(f"LeNet-300-100, {jax.default_backend()}, jax {jax.__version__}")
    for batch in (60, 250):
        calls = {"ordinary": stepped(model, masks.ones, batch, learned, flags)}
        for name, method in methods(model, 10**6).items():
            calls[name] = stepped(method.model, masks.unmasked, batch, learned, flags)
        times = timing.in_turn(calls, flags.repeats)
        print(f"a step at batch {batch}, as a ratio to the ordinary step (quartiles)")
        for name, taken in times.items():
            print(f"  {name:22} {timing.ratio(taken, times['ordinary'])}")
    for every in EVERY:
        share = out_of_date(model, every, learned)
        print(
            f"chosen every {every} steps, {100 * share:.2f} % of the kept out of date"
        )


if __name__ == "__main__":
    main()
