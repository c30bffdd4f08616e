"""What an exact global mask costs, as ratios in one run.

Times, each beside the yardstick so that a drift of the machine falls on both alike:

- `numpy.partition` alone, the yardstick: it finds the threshold and makes no mask;
- `masks.keep_top` as a user calls it, outside `jit`;
- a mask from the threshold that a full `jnp.sort` gives, compiled, where that takes
  seconds and not minutes. It keeps all that tie.

    python experiments/bench/selection.py [--sizes 266200 25000000] [--density 0.2]
    python experiments/bench/selection.py --devices 8    # weights spread over devices

Needs no data: scores are magnitudes of normal numbers. In the run it is checked that
the mask has exactly the count asked for, and none but the highest. Takes about three
minutes on two cores with a thousand million weights, for which it wants 14 GiB; sizes
for which memory is too short are left out. With several devices scores and masks are
spread over them along the first axis, and what is ever gathered is said: a sample of
four times the root of the number of weights. Devices of a CPU share its cores.

With 8 devices on two busy cores (jax 0.10.2, 3 repeats): 10^6, 10^7, 10^8 and 10^9
weights in 15, 94, 758 and 17 511 ms, of which 4 000, 12 664, 40 000 and 126 504 numbers
were gathered; 5.3, 2.6, 1.9 and 3.6 times `numpy.partition` (medians).
"""

import math
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import timing
import tyro

from lth import masks
from lth.masks import topk

LENET = ((784, 300), (300, 100), (100, 10))  # 266,200 weights in three leaves
BYTES = 14  # a weight's share of scores, masks and what numpy.partition returns
SPREAD = 4  # and of a copy in one piece of what lies on several devices


@dataclass(frozen=True)
class Flags:
    """What to time."""

    sizes: tuple[int, ...] = (266_200, 25_000_000, 100_000_000, 1_000_000_000)
    density: float = 0.2
    repeats: int = 9
    sort_up_to: int = 25_000_000
    """The largest size at which the full sort is timed too."""
    devices: int = 1
    """That share the weights; on a CPU so many are made."""


def problem(size: int, devices: int) -> tuple[list[jax.Array], list[jax.Array]]:
    """Scores and a mask that keeps all."""
    shapes = LENET if size == 266_200 and devices == 1 else ((size,),)
    mesh = jax.sharding.Mesh(jax.devices()[:devices], ("weights",))
    place = jax.NamedSharding(mesh, jax.P("weights"))
    rng, scores, masks = np.random.default_rng(0), [], []
    for shape in shapes:
        values = rng.standard_normal(shape, dtype=np.float32)
        np.abs(values, out=values)
        whole = np.ones(shape, bool)
        if devices > 1:
            scores.append(jax.device_put(values, place))
            masks.append(jax.device_put(whole, place))
        else:
            scores.append(jnp.asarray(values))
            masks.append(jnp.asarray(whole))
    return scores, masks


def gathered(program: str) -> int:
    """The most numbers that a compiled program brings together from all devices."""
    found = re.findall(r"= \w+\[([\d,]+)\]\S* all-gather\(", program)
    return max((math.prod(map(int, shape.split(","))) for shape in found), default=0)


@jax.jit
def by_sort(scores: list[jax.Array], k: jax.Array) -> list[jax.Array]:
    """The mask of all that reach the k-th highest."""
    ordered = jnp.sort(jnp.concatenate([s.ravel() for s in scores]))
    return [s >= ordered[ordered.size - k] for s in scores]


def check(kept: list[jax.Array], flat: np.ndarray, k: int) -> None:
    """Stops unless the mask keeps exactly `k`, and none below one it drops."""
    mask = np.concatenate([np.asarray(leaf).ravel() for leaf in kept])
    lowest = np.min(flat, where=mask, initial=np.inf)
    highest = np.max(flat, where=~mask, initial=-np.inf)
    if np.count_nonzero(mask) != k or lowest < highest:
        raise SystemExit(
            f"the mask of {flat.size} weights is wrong: {np.count_nonzero(mask)} kept "
            f"of {k}, down to {lowest}; dropped up to {highest}"
        )


def compare(
    call: Callable[[], Any], floor: Callable[[], Any], repeats: int
) -> np.ndarray:
    """Seconds of each, by repeat, one right after the other. [repeats, 2]"""
    times = []
    for _ in range(repeats + 1):  # the first compiles
        began = time.perf_counter()
        floor()
        between = time.perf_counter()
        jax.block_until_ready(call())
        times.append((time.perf_counter() - between, between - began))
    return np.array(times[1:])


def row(flags: Flags, size: int) -> str:
    """A line of the table."""
    scores, full = problem(size, flags.devices)
    flat = [np.asarray(s).ravel() for s in scores]  # on a CPU the same memory
    flat = flat[0] if len(flat) == 1 else np.concatenate(flat)
    k = topk.round_count(flags.density, size)
    began = time.perf_counter()
    program = topk.top.lower(scores, full, k).compile()
    compiling = time.perf_counter() - began
    check(masks.keep_top(scores, full, flags.density), flat, k)

    def partition():
        return np.partition(flat, size - k)

    def keep_top():
        return masks.keep_top(scores, full, flags.density)

    times = compare(keep_top, partition, flags.repeats)
    ours, floor = 1e3 * np.median(times, axis=0)
    best = times[:, 0].min() / times[:, 1].min()
    text = f"{size:>13,}{compiling:11.2f}{floor:14.2f}{ours:11.2f}"
    text += f"{timing.ratio(*times.T):>26}{best:11.2f}"
    if size <= flags.sort_up_to:
        times = compare(lambda: by_sort(scores, k), partition, flags.repeats)
        text += f"{timing.ratio(*times.T):>26}"
    if flags.devices > 1:
        text += f"  gathered: {gathered(str(program.as_text())):,}"
    return text


def main() -> None:
    flags = tyro.cli(Flags)
    if flags.devices > 1:
        jax.config.update("jax_num_cpu_devices", flags.devices)
        flags = replace(flags, sort_up_to=0)  # a sort would gather them
    jnp.zeros(())  # the backend starts before anything is timed
    device = jax.devices()[0].device_kind
    print(
        f"exact global mask, density {flags.density:g}, float32, {device}, "
        f"{os.cpu_count()} cores, jax {jax.__version__}, numpy {np.__version__}; "
        f"{flags.repeats} repeats\n"
        f"{'':13}{'keep_top':>11}{'partition':>14}{'keep_top':>11}"
        f"{'keep_top / partition':>26}{'of the':>11}{'sort / partition':>26}\n"
        f"{'weights':>13}{'compile, s':>11}{'ms':>14}{'ms':>11}"
        f"{'median (quartiles)':>26}{'minima':>11}{'median (quartiles)':>26}"
    )
    for size in flags.sizes:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        share = BYTES + SPREAD * (flags.devices > 1)
        if free < share * size:
            need = share * size / 2**30
            print(f"{size:>13,}  left out: {need:.0f} GiB of memory are not free")
        else:
            print(row(flags, size), flush=True)


if __name__ == "__main__":
    main()
