"""What a network takes of a machine, in time and memory, and what its zeros save.

A mask by itself saves no time: dense arithmetic multiplies by zeros. Counts are in
`cost`; here is what the compiler says of a program, how long it takes, and below which
density a sparse product is faster than a dense one on this machine.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import threadpoolctl  # a part of scikit-learn
from scipy import sparse

from lth.models import axes

DENSITIES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)


class Told(NamedTuple):
    """Holds what the compiler says of a program, of all its examples together."""

    flops: (
        float  # two a multiply-accumulate; what is done place by place is counted too
    )
    moved: float  # bytes read and written by its operations
    memory: int  # bytes of arguments, results and what lies between


class Latency(NamedTuple):
    """Holds seconds of one call: the median, and quartiles."""

    median: float
    low: float
    high: float


class Even(NamedTuple):
    """Says at which density a sparse product of a kernel takes as long as a dense one.

    `density` is 0 where it is slower at every density tried, and 1 where at none.
    """

    density: float
    ratios: dict[float, float]  # by density: time of the sparse one over the dense one


def compiled(apply: Callable, params: Any, stats: Any, inputs: Any) -> Any:
    """Compile a network in evaluation: `program(params, stats, inputs)`.

    Args:
      apply: as in `models.Model`.
      params, stats, inputs: arrays, or shapes with dtypes; inputs lead with the batch.

    Returns:
      The program, as `jax.stages.Compiled`.
    """

    def network(params, stats, inputs):
        return axes.evaluation(apply)(params, (stats, inputs))

    return jax.jit(network).lower(params, stats, inputs).compile()


def told(program: Any) -> Told:
    """Ask the compiler what a program takes; NaN and 0 where it does not say."""
    found, memory = program.cost_analysis() or {}, program.memory_analysis()
    names = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
    return Told(
        flops=found.get("flops", float("nan")),
        moved=found.get("bytes accessed", float("nan")),
        memory=sum(getattr(memory, name, 0) for name in names),
    )


def latency(
    call: Callable[[], Any], repeats: int = 30, seconds: float = 1.0
) -> Latency:
    """Measure how long a call takes until its results are there.

    Three calls go before, which do not count. There are at least five that do, and no
    more than `repeats` once `seconds` are over.
    """
    for _ in range(3):
        jax.block_until_ready(call())
    times: list[float] = []
    while len(times) < 5 or (len(times) < repeats and sum(times) < seconds):
        began = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - began)
    low, median, high = statistics.quantiles(times, n=4)
    return Latency(median, low, high)


def break_even(
    shape: tuple[int, int], batch: int, densities: Sequence[float] = DENSITIES
) -> Even:
    """Measure below which density a sparse product is faster, of a kernel `[in, out]`.

    The sparse one is SciPy's, of compressed rows, and the dense one NumPy's, on one
    core each, with random places, `batch` inputs at once. Densities fall; between two
    of them the ratio of times is taken to be a power of the density.
    """
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal(shape).astype(np.float32)
    x = rng.standard_normal((shape[0], batch)).astype(np.float32)
    turned, ratios = np.ascontiguousarray(kernel.T), {}
    # SciPy's product has one thread; NumPy's, given several on a busy machine, waits.
    with threadpoolctl.threadpool_limits(1):
        for density in densities:
            kept = np.where(rng.random(shape) < density, kernel, 0)
            rows = sparse.csr_array(kept.T)
            dense = latency(lambda: turned @ x, seconds=0.1)
            thin = latency(lambda rows=rows: rows @ x, seconds=0.1)
            ratios[density] = thin.median / dense.median
    return Even(crossing(ratios), ratios)


def crossing(ratios: dict[float, float]) -> float:
    """Return the density at which falling ratios pass 1, by density from the highest.

    It is 0 where the last one is above 1 still, and 1 where the first is below it.
    """
    pairs = list(ratios.items())
    if pairs[0][1] < 1:
        return 1.0
    if pairs[-1][1] > 1:
        return 0.0
    for (above, a), (below, b) in itertools.pairwise(pairs):
        if b <= 1 <= a:
            share = np.log(a) / (np.log(a) - np.log(b)) if a > b else 0.0
            return float(above * (below / above) ** share)
    return pairs[-1][0]
