"""Compiling: kept from run to run, and its time told apart."""

import time
from collections.abc import Callable
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

_spans: list[tuple[float, float]] = []  # of this process, (from, to), none overlapping
_listening: list[bool] = []


def keep(place: Callable[[], Path | None]) -> None:
    """Keep compiled programs in the folder that `place` makes, unless one was chosen.

    That is JAX's persistent compilation cache: a program is compiled once for each
    machine, and the next process that needs it reads it. Small programs too: there are
    some eighty to a run, and they take most of the time once the large ones are kept.

    They are code, so the folder is one that only this user writes
    (`store.private_folder`); where there is none, nothing is kept.
    """
    chosen = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if chosen is None and (folder := place()) is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        compilation_cache.reset_cache()  # else unheeded once anything was compiled


def seconds() -> float:
    """The time this process has spent tracing and compiling since it first asked."""
    if not _listening:
        jax.monitoring.register_event_duration_secs_listener(_heard)
        _listening.append(True)
    return sum(end - start for start, end in _spans)


def _heard(event: str, duration_secs: float, **_: object) -> None:
    if not event.startswith("/jax/core/compile/"):
        return
    end = time.monotonic()
    start = end - duration_secs
    while _spans and _spans[-1][0] >= start:  # a part of this one
        _spans.pop()
    if _spans:
        start = max(start, _spans[-1][1])
    _spans.append((start, end))
