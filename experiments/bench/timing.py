"""What the benchmarks share: times taken in turn, and ratios of them."""

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any


def in_turn(
    calls: dict[str, Callable[[], Any]], repeats: int
) -> dict[str, list[float]]:
    """Seconds of each call, by repeat, after one that does not count.

    In turn, so that a drift of the machine falls on all alike.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):  # the first compiles
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if repeat:
                times[name].append(time.perf_counter() - began)
    return times


def ratio(times: Iterable[float], base: Iterable[float]) -> str:
    """Of times taken in the same repeat: the median of the ratios and quartiles."""
    ratios = [a / b for a, b in zip(times, base, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"
