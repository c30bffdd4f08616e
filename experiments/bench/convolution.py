"""Formulations of convolution against each other, inside a compiled loop.

    python experiments/bench/convolution.py [--repeats 7] [--clock cpu]

For layers of ResNet-20 and of Conv-2 and Conv-6 (3 x 3, stride 1), the forward
convolution and the gradients for its inputs and for its kernel:

- `lth.models.convolution.convolve`, which networks are built from;
- the library's `jax.lax.conv_general_dilated`. Its gradients can take a hundred times
  as long once they are in a loop, so they are timed in one repeat of few steps;
- im2col as it is usually written: shifted slices concatenated, then one matrix product,
  with its gradients by automatic differentiation.

Each step depends on the one before, so that none is hoisted out of the loop. Prints
times over those of ours, the rate of ours, and the largest difference from the library,
relative to the largest number. With other work on the machine
the time of the processor (`--clock cpu`) is the steadier. Needs no data. Takes about
four minutes on two cores, most of it in the library's gradients.
"""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import lax

from lth.models import convolution

LAYERS = {  # images, side, channels in, channels out
    "ResNet-20, stage 1": (128, 32, 16, 16),
    "ResNet-20, stage 3": (128, 8, 64, 64),
    "Conv-2": (60, 32, 64, 64),
    "Conv-6": (60, 8, 256, 256),
}
PADS = ((1, 1), (1, 1))
Clock = Literal["wall", "cpu"]


@dataclass(frozen=True)
class Flags:
    """What is timed."""

    repeats: int = 7
    work: float = 2e10
    """Floating-point operations of a repeat; at least two steps."""
    library_gradients: bool = True
    """Time those of the library too, which takes most of the time."""
    clock: Clock = "wall"
    """Time on the wall or of all cores together."""


def ours(x, kernel):
    return convolution.convolve(
        x, kernel, (1, 1), PADS, dimension_numbers=convolution.LAYOUT
    )


def library(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), PADS, dimension_numbers=convolution.LAYOUT
    )


def im2col(x, kernel):
    height, width, channels, features = kernel.shape
    rows, columns = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), *PADS, (0, 0)))
    shifted = [
        x[:, i : i + rows, j : j + columns] for i in range(height) for j in range(width)
    ]
    patches = jnp.concatenate(shifted, -1).reshape(-1, height * width * channels)
    return (patches @ kernel.reshape(-1, features)).reshape(
        *x.shape[:1], rows, columns, -1
    )


FORMS = {"ours": ours, "library": library, "im2col": im2col}


def inputs_gradient(form, x, kernel, grad):
    return jax.vjp(lambda x: form(x, kernel), x)[1](grad)[0]


def kernel_gradient(form, x, kernel, grad):
    return jax.vjp(lambda kernel: form(x, kernel), kernel)[1](grad)[0]


class Part(NamedTuple):
    """A part of a training step: what is computed, and what of it feeds the next."""

    compute: Callable[..., jax.Array]  # (form, x, kernel, grad)
    changes: int  # which of x, kernel, grad the next step takes from the result


PARTS = {
    "forward": Part(lambda form, x, kernel, grad: form(x, kernel), 0),
    "inputs": Part(inputs_gradient, 2),
    "kernel": Part(kernel_gradient, 1),
}


def make_loop(form: Callable, part: Part) -> Callable[..., Any]:
    """`loop(arrays, n)`: n steps of one part, each on the result of the one before."""

    @jax.jit
    def loop(arrays, n):
        def step(_, arrays):
            # Else what does not change in the loop would be prepared outside it.
            arrays = list(lax.optimization_barrier(arrays))
            found = part.compute(form, *arrays)
            arrays[part.changes] = found / (1 + jnp.max(jnp.abs(found[:1])))
            return tuple(arrays)

        return lax.fori_loop(0, n, step, arrays)

    return loop


def problem(layer: tuple[int, ...]) -> tuple[tuple[jax.Array, ...], float]:
    """Random (x, kernel, gradient), and the floating-point operations of a part."""
    images, side, before, after = layer
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (images, side, side, before))
    kernel = jax.random.normal(keys[1], (3, 3, before, after))
    grad = jax.random.normal(keys[2], (images, side, side, after))
    return (x, kernel, grad), 2.0 * 9 * before * grad.size


def difference(part: Part, name: str, arrays: tuple[jax.Array, ...]) -> float:
    """The largest from the library, relative to its largest number."""
    exact, found = (
        np.asarray(jax.jit(lambda *a, f=FORMS[n]: part.compute(f, *a))(*arrays))
        for n in ("library", name)
    )
    return float(np.abs(found - exact).max() / np.abs(exact).max())


def seconds(call: Callable[[], Any], clock: Clock) -> float:
    now = {"wall": time.perf_counter, "cpu": time.process_time}[clock]
    began = now()
    jax.block_until_ready(call())
    return now() - began


def measure(flags: Flags, part: Part, arrays, steps: int) -> dict[str, list[float]]:
    """Seconds of a step of each formulation, by repeat, in turn."""
    slow = ("library",) if part.changes else ()  # its gradients
    loops = {
        name: make_loop(form, part) for name, form in FORMS.items() if name not in slow
    }
    times: dict[str, list[float]] = {name: [] for name in FORMS}
    for repeat in range(flags.repeats + 1):  # the first compiles
        for name, loop in loops.items():
            jax.block_until_ready(loop(arrays, 1))  # its arrays into the cache
            spent = seconds(lambda loop=loop: loop(arrays, steps), flags.clock)
            if repeat:
                times[name].append(spent / steps)
    if slow and flags.library_gradients:
        loop = make_loop(library, part)
        loop(arrays, 0)
        times["library"].append(seconds(lambda: loop(arrays, 2), flags.clock) / 2)
    return times


def row(flags: Flags, layer: str, name: str) -> str:
    """A line of the table."""
    part = PARTS[name]
    arrays, work = problem(LAYERS[layer])
    times = measure(flags, part, arrays, max(2, round(flags.work / work)))
    own = times["ours"]
    cells = []
    for form in ("library", "im2col"):
        ratios = [t / o for t, o in zip(times[form], own, strict=False)]
        cells.append("-" if not ratios else f"{statistics.median(ratios):.2f}")
        if len(ratios) > 1:
            low, _, high = statistics.quantiles(ratios, n=4)
            cells[-1] += f" ({low:.2f} to {high:.2f})"
    off = max(difference(part, form, arrays) for form in ("ours", "im2col"))
    middle = statistics.median(own)
    return (
        f"{layer:20}{name:9}{1e3 * middle:9.2f}{work / middle / 1e9:9.0f}"
        f"{cells[0]:>24}{cells[1]:>24}{off:>12.0e}"
    )


def main() -> None:
    flags = tyro.cli(Flags)
    print(
        f"3 x 3 convolutions, float32, {jax.devices()[0].device_kind}, "
        f"{os.cpu_count()} cores, jax {jax.__version__}; {flags.repeats} repeats, "
        f"{flags.clock} time\n"
        f"{'':29}{'ours,':>9}{'ours,':>9}{'library / ours':>24}{'im2col / ours':>24}"
        f"{'largest':>12}\n"
        f"{'':29}{'ms':>9}{'GFLOP/s':>9}{'median (quartiles)':>24}"
        f"{'median (quartiles)':>24}{'difference':>12}"
    )
    for layer in LAYERS:
        for name in PARTS:
            print(row(flags, layer, name), flush=True)


if __name__ == "__main__":
    main()
