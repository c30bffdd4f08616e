"""Training steps on one device: replicates against steps per second and its peak.

LeNet-300-100 (batch 60) and ResNet-20 (batch 128) as presets train them, in float32 and
bfloat16, for growing numbers of replicates. A step's floating-point operations are
twice its multiply-accumulates, three times over: forward, and the gradients for inputs
and for weights. The share of the peak is of `--peak`, which is the card's own figure
for the arithmetic in use, in TFLOP/s.

    python experiments/bench/device.py --peak 67            # H100 SXM, float32
    python experiments/bench/device.py --compute bfloat16 --peak 989

Needs no data: pixels are random. Written for a GPU, where it takes some minutes; on a
CPU give it few replicates, such as `--lenet 1 2 --resnet 1`. No GPU could be had when
this was written, so there are no figures of one here.
"""

import time
from dataclasses import dataclass, replace
from typing import Literal

import jax
import numpy as np
import tyro

from lth import data, masks, models, train
from lth.analysis import cost
from lth.lab import devices
from lth.lab.build import networks
from lth.lab.build.networks import Examples
from lth.lab.config.presets import PRESETS
from lth.lottery import recipe as recipes


@dataclass(frozen=True)
class Flags:
    """What to time."""

    lenet: tuple[int, ...] = (1, 16, 64, 256)
    """Replicates of LeNet-300-100."""
    resnet: tuple[int, ...] = (1, 4, 8)
    """Replicates of ResNet-20."""
    compute: Literal["float32", "bfloat16"] = "float32"
    peak: float = 0.0
    """TFLOP/s of the device; 0: no share is printed."""
    seconds: float = 3.0
    """How long each is timed, about, after it is compiled."""
    examples: int = 10_000


def timed(preset: str, shape: tuple[int, ...], replicates: int, flags: Flags):
    """Steps per second of all replicates together, and operations in a step of one."""
    e = PRESETS[preset].experiment
    network = networks.network(
        replace(e.model, compute=flags.compute), Examples(shape, 10)
    )
    model = models.standardized(network, 0.0, 255.0)
    loss, _ = train.classification(model.apply)
    tx = networks.optimizer(e.optimizer, 100, 100_000)
    sample = data.make_sample(e.batch_size, flags.examples)
    plan = devices.plan(replicates)
    step = devices.spread(
        plan, train.make_train(loss, sample, tx), (0, 0, None, 0, None), donate=True
    )
    numbers = list(range(replicates))
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (flags.examples, *shape), dtype=np.uint8)
    labels = rng.integers(0, 10, flags.examples).astype(np.int32)
    learned = devices.share(plan, data.Dataset(pixels, labels))

    def start(key):
        return train.init_state(model.init, tx, key)

    state = jax.jit(jax.vmap(start))(recipes.keys(numbers, recipes.INIT))
    one = masks.ones(jax.tree.map(lambda w: w[0], state.params))
    mask = jax.tree.map(lambda m: np.ones((replicates, *m.shape), bool), one)
    keys = recipes.keys(numbers, recipes.TRAIN)
    state, _ = step(state, mask, learned, keys, np.int32(1))  # compiles
    jax.block_until_ready(state)
    steps, taken = 5, 0.0
    while taken < flags.seconds:
        steps *= 2
        began = time.perf_counter()
        state, _ = step(state, mask, learned, keys, np.int32(steps))
        jax.block_until_ready(state)
        taken = time.perf_counter() - began
    params, stats = jax.tree.map(lambda x: x[0], (state.params, state.stats))
    work = cost.work(network, params, stats, shape, one)
    operations = 6 * sum(work.dense.values()) * e.batch_size
    return steps / taken, operations


def main() -> None:
    flags = tyro.cli(Flags)
    device = jax.devices()[0]
    print(f"{device.device_kind}, jax {jax.__version__}, {flags.compute}")
    head = f"{'':12} {'replicates':>10} {'steps/s':>10} {'replicate steps/s':>18}"
    print(head + f" {'TFLOP/s':>9}" + (f" {'of peak':>8}" if flags.peak else ""))
    for preset, shape, several in (
        ("lenet-mnist", (28, 28, 1), flags.lenet),
        ("resnet20", (32, 32, 3), flags.resnet),
    ):
        for replicates in several:
            rate, operations = timed(preset, shape, replicates, flags)
            reached = rate * replicates * operations / 1e12
            line = f"{preset:12} {replicates:10} {rate:10.1f} {rate * replicates:18.1f}"
            share = f" {reached / flags.peak:8.1%}" if flags.peak else ""
            print(line + f" {reached:9.3f}" + share, flush=True)


if __name__ == "__main__":
    main()
