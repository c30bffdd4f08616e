"""What a training step of LeNet-300-100 costs, as ratios in one run.

Times, interleaved and repeated so that a drift of the machine falls on all alike:

- the floor: nothing but the matrix products of a step, for the same shapes, in a
  compiled loop (forward, gradients of all weights, gradients of the hidden layers);
- our loop as experiments run it, with a mask that keeps 20 %, for one replicate alone;
- the same loop with a mask that covers nothing, which is a loop without masks;
- our loop for 2, 4, 8 and 16 replicates spread over the cores as experiments spread
  them, per replicate: a run of eight takes eight times what one among eight costs;
- a plain PyTorch loop over the same data as one tensor, eager, if torch is installed.

    python experiments/bench/lenet.py [--batch-size 60] [--optimizer adam]

Needs no data: pixels are random. Takes about three minutes on two cores.
"""

import itertools
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
import optax
import timing
import tyro

from lth import criteria, data, masks, models, train
from lth.lab import devices
from lth.lottery import recipe as recipes

EXAMPLES = 55_000
WIDTHS = (784, 300, 100, 10)


@dataclass(frozen=True)
class Flags:
    """What to time."""

    batch_size: int = 60
    optimizer: Literal["adam", "sgd"] = "adam"
    steps: int = 300
    """Steps in one timing."""
    repeats: int = 15
    replicates: tuple[int, ...] = (2, 4, 8, 16)
    """So many together, beside one alone."""


def floor(flags: Flags) -> Callable[[], Any]:
    """The matrix products of a step and nothing else, each step on the one before."""
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[3], (flags.batch_size, WIDTHS[0]))
    shapes = zip(keys, WIDTHS, WIDTHS[1:], strict=False)
    weights = tuple(jax.random.normal(k, (a, b)) / a for k, a, b in shapes)

    @jax.jit
    def loop(x, weights, n):
        def step(_, weights):
            inputs = [x]
            for w in weights:
                inputs.append(inputs[-1] @ w)
            back, grads = inputs.pop(), []
            for w, h in zip(weights[:0:-1], inputs[:0:-1], strict=True):
                grads.append(h.T @ back)
                back = back @ w.T
            grads.append(inputs[0].T @ back)
            return tuple(g * 1e-6 for g in reversed(grads))

        return jax.lax.fori_loop(0, n, step, weights)

    return lambda: jax.block_until_ready(loop(x, weights, flags.steps))


def ours(flags: Flags, masked: bool = True, replicates: int = 1) -> Callable[[], Any]:
    """Our training loop for so many replicates, as an experiment compiles it."""
    model = models.from_linen(models.MLP(), (28, 28, 1))
    model = models.standardized(model, 0, 255)
    tx = {"adam": optax.adam(1.2e-3), "sgd": optax.sgd(0.1)}[flags.optimizer]
    loss, _ = train.classification(model.apply)
    loop = train.make_train(loss, data.make_sample(flags.batch_size, EXAMPLES), tx)
    plan = devices.plan(replicates)
    run = devices.spread(plan, loop, (0, 0, None, 0, None), donate=True)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (EXAMPLES, 28, 28, 1), dtype=np.uint8)
    label = rng.integers(0, 10, EXAMPLES).astype(np.int32)
    dataset = devices.share(plan, data.Dataset(image, label))

    def start(key):
        state = train.init_state(model.init, tx, key)
        mask = masks.ones(state.params)
        if masked:
            mask = masks.keep_top(criteria.magnitude(state.params), mask, 0.2)
        return state, mask if masked else jax.tree.map(lambda _: None, mask)

    keys = recipes.keys(list(range(replicates)), recipes.TRAIN)
    state, mask = jax.jit(jax.vmap(start))(keys)
    held = [state]

    def steps():
        held[0], _ = run(held[0], mask, dataset, keys, np.int32(flags.steps))
        jax.block_until_ready(held[0])

    return steps


def pytorch(flags: Flags) -> Callable[[], Any]:
    """The same training in eager PyTorch; ImportError if it is not installed."""
    import torch  # type: ignore[import-not-found]
    from torch import nn  # type: ignore[import-not-found]

    torch.manual_seed(0)
    layers = itertools.pairwise(WIDTHS)
    modules = [m for a, b in layers for m in (nn.Linear(a, b), nn.ReLU())][:-1]
    net, loss = nn.Sequential(*modules), nn.CrossEntropyLoss()
    kernels = [p for p in net.parameters() if p.ndim == 2]
    keep = [(torch.rand_like(p) < 0.2).float() for p in kernels]
    if flags.optimizer == "adam":
        optimizer = torch.optim.Adam(net.parameters(), lr=1.2e-3, fused=True)
    else:
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, fused=True)
    pixels = torch.rand(EXAMPLES, WIDTHS[0])
    labels = torch.randint(0, 10, (EXAMPLES,))

    def steps():
        order = torch.randperm(EXAMPLES)
        for i in range(flags.steps):
            at = i * flags.batch_size % (EXAMPLES - flags.batch_size)
            rows = order[at : at + flags.batch_size]
            optimizer.zero_grad(set_to_none=True)
            loss(net(pixels[rows]), labels[rows]).backward()
            optimizer.step()
            with torch.no_grad():
                for weight, mask in zip(kernels, keep, strict=True):
                    weight.mul_(mask)

    return steps


def main() -> None:
    flags = tyro.cli(Flags)
    devices.use_cores(max(flags.replicates))  # before JAX starts
    rows = {
        "matrix products alone": (floor(flags), 1),
        "our loop": (ours(flags), 1),
        "our loop without masks": (ours(flags, masked=False), 1),
    }
    for n in flags.replicates:
        rows[f"one of {n} replicates"] = (ours(flags, replicates=n), n)
    try:
        rows["PyTorch, eager"] = (pytorch(flags), 1)
    except ImportError:
        print("torch is not installed: its loop is left out")
    report(flags, measure(flags, rows))


def measure(flags: Flags, rows: dict[str, tuple[Callable, int]]) -> dict[str, list]:
    """Seconds of a step of each, by repeat."""
    times = timing.in_turn({n: call for n, (call, _) in rows.items()}, flags.repeats)
    return {n: [t / flags.steps / rows[n][1] for t in ts] for n, ts in times.items()}


def report(flags: Flags, times: dict[str, list[float]]) -> None:
    """Medians of the ratios taken repeat by repeat, and their quartiles."""
    device = jax.devices()[0].device_kind
    print(
        f"LeNet-300-100, {flags.optimizer}, batch {flags.batch_size}, float32, "
        f"{device}, {os.cpu_count()} cores, {len(jax.devices())} devices, "
        f"jax {jax.__version__}; {flags.repeats} repeats of {flags.steps} steps\n"
        f"{'':26}{'steps/s':>9}{'time / one alone (quartiles)':>32}"
    )
    base = times["our loop"]
    for name, values in times.items():
        rate = 1 / statistics.median(values)
        print(f"{name:26}{rate:9.0f}{timing.ratio(values, base):>32}")
    masks_cost = np.median(np.divide(base, times["our loop without masks"])) - 1
    share = np.median(np.divide(times["matrix products alone"], base))
    print(
        f"masks cost {100 * masks_cost:.1f} %; {100 * share:.0f} % of the floor's speed"
    )


if __name__ == "__main__":
    main()
