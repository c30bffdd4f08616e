"""Training steps of Conv-2, Conv-6 and ResNet-20 on CIFAR-10's shapes, against PyTorch.

    python experiments/bench/steps.py [--models conv2 resnet20] [--repeats 7]

Ours is the loop that `lth run` compiles: one replicate alone, and two side by side as
replicates are on a machine with two cores, each counted by itself. PyTorch's is eager
with the data as one tensor and a fused optimizer, in the memory format that is faster
of the two. Both train on the same shapes with the same optimizer; neither augments.
Needs PyTorch (`pip install torch`) and about five minutes. Ratios are of times taken
one after the other in one process and are medians over the repeats.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import timing
import tyro

from lth import data, train
from lth.lab import devices
from lth.lab.build import networks, ranking
from lth.lab.config.presets import PRESETS
from lth.lottery import recipe as recipes

EXAMPLES = 2000


@dataclass(frozen=True)
class Flags:
    """What is measured."""

    models: tuple[str, ...] = ("conv2", "conv6", "resnet20")
    """Presets whose network, optimizer and batch size are used."""
    repeats: int = 7
    steps: int = 6
    """Steps of each repeat."""


def ours(name: str, replicates: int, steps: int) -> Callable[[], Any]:
    """Steps of our loop, as an experiment compiles it."""
    e = PRESETS[name].experiment
    network = networks.network(e.model, networks.Examples((32, 32, 3), 10))
    tx = networks.optimizer(replace(e.optimizer, milestones=""), 1, 1000)
    loss, _ = train.classification(network.apply)
    loop = train.make_train(loss, data.make_sample(e.batch_size, EXAMPLES), tx)
    plan = devices.plan(replicates)
    step = devices.spread(plan, loop, (0, 0, None, 0, None), donate=True)
    keys = recipes.keys(list(range(replicates)), recipes.TRAIN)
    state = jax.jit(jax.vmap(lambda key: train.init_state(network.init, tx, key)))(keys)
    mask = jax.vmap(lambda params: ranking.prunable(e.prune, params))(state.params)
    rng = np.random.default_rng(0)
    image = rng.random((EXAMPLES, 32, 32, 3), np.float32)
    dataset = data.Dataset(image, rng.integers(0, 10, EXAMPLES).astype(np.int32))
    dataset = devices.share(plan, dataset)
    held = [state]

    def run():
        held[0], _ = step(held[0], mask, dataset, keys, np.int32(steps))
        jax.block_until_ready(held[0])

    return run


def pytorch(name: str, steps: int, last: bool) -> Callable[[], Any]:
    """Steps of the same network in eager PyTorch, channels `last` or first."""
    import torch  # type: ignore[import-not-found]
    from torch import nn  # type: ignore[import-not-found]

    e = PRESETS[name].experiment
    torch.manual_seed(0)
    net = torch_resnet20(nn) if name == "resnet20" else torch_conv(nn, int(name[4:]))
    pixels = torch.rand(EXAMPLES, 3, 32, 32)
    if last:
        net = net.to(memory_format=torch.channels_last)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    labels, loss = torch.randint(0, 10, (EXAMPLES,)), nn.CrossEntropyLoss()
    rate, batch = e.optimizer.learning_rate, e.batch_size
    if e.optimizer.name == "adam":
        o = torch.optim.Adam(net.parameters(), lr=rate, fused=True)
    else:
        decay, momentum = e.optimizer.weight_decay, e.optimizer.momentum
        o = torch.optim.SGD(
            net.parameters(), lr=rate, momentum=momentum, weight_decay=decay, fused=True
        )
    kernels = [p for p in net.parameters() if p.ndim > 1]
    keep = [torch.ones_like(p) for p in kernels]

    def run():
        order = torch.randperm(EXAMPLES)
        for i in range(steps):
            rows = order[i * batch % (EXAMPLES - batch) :][:batch]
            o.zero_grad(set_to_none=True)
            loss(net(pixels[rows]), labels[rows]).backward()
            o.step()
            with torch.no_grad():
                for weight, mask in zip(kernels, keep, strict=True):
                    weight.mul_(mask)

    return run


def torch_conv(nn: Any, depth: int) -> Any:
    """Conv-2, 4 or 6."""
    layers, channels = [], 3
    for i in range(depth // 2):
        for _ in range(2):
            layers += [nn.Conv2d(channels, 64 << i, 3, padding=1), nn.ReLU()]
            channels = 64 << i
        layers.append(nn.MaxPool2d(2))
    flat = channels * (32 >> depth // 2) ** 2
    layers += [nn.Flatten(), nn.Linear(flat, 256), nn.ReLU(), nn.Linear(256, 256)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(256, 10))


def torch_resnet20(nn: Any) -> Any:
    """OpenLTH's ResNet-20, with projections where shapes change."""

    class Block(nn.Module):
        def __init__(self, before, after, stride):
            super().__init__()
            self.one = nn.Conv2d(before, after, 3, stride, 1, bias=False)
            self.two = nn.Conv2d(after, after, 3, 1, 1, bias=False)
            self.norms = nn.ModuleList(nn.BatchNorm2d(after) for _ in range(3))
            self.short = nn.Conv2d(before, after, 1, stride, bias=False)
            self.project = before != after or stride != 1
            if not self.project:
                del self.short, self.norms[2]

        def forward(self, x):
            y = nn.functional.relu(self.norms[0](self.one(x)))
            y = self.norms[1](self.two(y))
            return nn.functional.relu(
                y + (self.norms[2](self.short(x)) if self.project else x)
            )

    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    before = 16
    for after in (16, 32, 64):
        for i in range(3):
            layers.append(Block(before, after, 2 if i == 0 and after > 16 else 1))
            before = after
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
    )


def main() -> None:
    flags = tyro.cli(Flags)
    devices.use_cores(2)
    print(
        f"{jax.devices()[0].device_kind}, {len(jax.devices())} devices, jax "
        f"{jax.__version__}; {flags.repeats} repeats of {flags.steps} steps; "
        "time of a PyTorch step / time of ours (quartiles)\n"
        f"{'':12}{'one replicate':>24}{'each of two':>24}{'ms of ours, alone':>20}"
    )
    for name in flags.models:
        calls = {f"ours {n}": ours(name, n, flags.steps) for n in (1, 2)}
        for last in (False, True):
            calls[f"torch {last}"] = pytorch(name, flags.steps, last)
        times = timing.in_turn(calls, flags.repeats)
        fastest = min(
            (times["torch False"], times["torch True"]), key=statistics.median
        )
        cells = []
        for n in (1, 2):
            each = [seconds / n for seconds in times[f"ours {n}"]]
            cells.append(timing.ratio(fastest, each))
        alone = 1e3 * statistics.median(times["ours 1"]) / flags.steps
        print(f"{name:12}{cells[0]:>24}{cells[1]:>24}{alone:20.0f}", flush=True)


if __name__ == "__main__":
    main()
