"""Batch normalisation with its ReLU, ours against Flax's, inside a compiled loop.

    python experiments/bench/normalisation.py [--repeats 9]

For the shapes of ResNet-20 at batch 128 and of a wider layer, forward and then forward
and backward. Each step takes what the one before gave, so that none is hoisted out of
the loop. Needs no data; takes a minute. On one core (`taskset -c 0`) of two, jax
0.10.2, time of Flax's / time of ours (quartiles over 9 repeats):

                                     forward            and backward
    (128, 32, 32, 16)    4.09 (3.62 to 4.62)     3.96 (3.57 to 4.32)
    (128, 16, 16, 32)    8.85 (7.91 to 11.0)     5.80 (5.31 to 6.14)
    (128, 8, 8, 64)      8.00 (7.21 to 8.05)     3.78 (3.74 to 3.85)
    (128, 8, 8, 128)     11.7 (9.46 to 14.0)     7.30 (6.54 to 7.52)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import timing
import tyro

from lth.models import normalisation

SHAPES = [(128, 32, 32, 16), (128, 16, 16, 32), (128, 8, 8, 64), (128, 8, 8, 128)]


@dataclass(frozen=True)
class Flags:
    """How often is measured."""

    repeats: int = 9
    steps: int = 10
    """Steps of each repeat."""


def made(kind: Any, shape: tuple[int, ...], steps: int, back: bool) -> Callable:
    """Return so many steps of one kind of module, compiled."""
    module = kind(use_running_average=False)
    x = jax.random.normal(jax.random.key(0), shape)
    variables = module.init(jax.random.key(1), x)

    def forward(x):
        return nn.relu(module.apply(variables, x, mutable="batch_stats")[0])

    def both(x):
        y, backward = jax.vjp(forward, x)
        return backward(y)[0]

    step = both if back else forward
    loop = jax.jit(lambda x: jax.lax.fori_loop(0, steps, lambda _, x: step(x), x))
    return lambda: jax.block_until_ready(loop(x))


def main(flags: Flags) -> None:
    """Measure each shape, and print ratios."""
    print(f"{'shape':20}{'forward':>24}{'and backward':>24}{'ms of ours':>14}")
    for shape in SHAPES:
        cells = []
        for back in (False, True):
            calls = {
                kind.__module__: made(kind, shape, flags.steps, back)
                for kind in (nn.BatchNorm, normalisation.BatchNorm)
            }
            theirs, ours = timing.in_turn(calls, flags.repeats).values()
            cells.append(timing.ratio(theirs, ours))
        spent = 1e3 * min(ours) / flags.steps
        print(f"{shape!s:20}{cells[0]:>24}{cells[1]:>24}{spent:14.2f}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Flags))
