"""Where runs are, read from their logs while another process is at work on them."""

import itertools
import time
from pathlib import Path
from typing import Any, NamedTuple

from lth import results
from lth.lab import store


class Standing(NamedTuple):
    """Holds where a run is, as its logs tell."""

    name: str
    state: str  # `waiting`, `at work`, `silent` or `finished`
    variant: str  # of the training that was measured last
    level: int
    step: int
    metric: str  # what the numbers are of: accuracy, or another score
    scores: dict[str, dict[int, float]]  # on validation, last of each variant and level
    curve: list[float]  # on validation, of the training that was measured last
    done: float | None  # the share of this call's trainings; None of an older log
    left: float | None  # seconds, if it goes on as it went
    silent: float  # seconds since the last line


def standing(path: Path, now: float | None = None, patience: float = 60.0) -> Standing:
    """Read where the run in `path` is.

    Args:
      path: The run directory.
      now: The time; by default that of the clock.
      patience: Seconds without a line after which a run is `silent`; a training whose
        measurements are further apart is given three times what they were.

    Returns:
      Where it is.

    Raises:
      StoreError where `path` is no run.
    """
    store.read_config(path)
    now = time.time() if now is None else now
    folders = [
        folder
        for _, unit in store.units(path)
        for folder in (unit, *store.branches(unit).values())
    ]
    lines = [line for folder in folders for line in store.logged(folder, "measured")]
    lines.sort(key=lambda line: line["time"])
    ended = store.logged(path, "finished")
    if not lines:
        state = "finished" if ended else "waiting"
        return Standing(path.name, state, "", 0, 0, "", {}, [], None, None, 0.0)
    last = lines[-1]
    metric = _score(last)
    scores: dict[str, dict[int, float]] = {}
    for line in lines:
        value = line.get(f"validation_{metric}")
        if value is not None:
            scores.setdefault(line["variant"], {})[line["level"]] = value
    same = [_unit(line) == _unit(last) for line in lines]
    of_last = [line for line, own in zip(lines, same, strict=True) if own]
    curve = [line.get(f"validation_{metric}") for line in of_last]
    silent = now - last["time"]
    gaps = [b["time"] - a["time"] for a, b in itertools.pairwise(of_last)]
    # Branches that were hung off it later end without that line.
    whole = bool(ended) and (ended[-1]["time"] >= last["time"] or last.get("done") == 1)
    waits = max([patience, *(3 * gap for gap in gaps)])
    state = "finished" if whole else "silent" if silent > waits else "at work"
    left = 0.0 if whole else _left(lines)
    done = 1.0 if whole else last.get("done")
    return Standing(
        path.name,
        state,
        *_unit(last),
        last["step"],
        metric,
        scores,
        [value for value in curve if value is not None],
        done,
        left,
        silent,
    )


def standings(path: Path) -> list[Standing]:
    """Read where a run is, or each run in a folder of them, also of a sweep."""
    if (path / "config.json").exists():
        return [standing(path)]
    found = sorted(path.glob("*/config.json"))
    if not found:
        raise store.StoreError(f"{path} is not a run, nor a folder of runs")
    return [standing(config.parent) for config in found]


def _unit(line: dict[str, Any]) -> tuple[str, int]:
    return line["variant"], line["level"]


def _score(line: dict[str, Any]) -> str:
    """What is shown: what runs are compared by, else the first beside the loss."""
    split = "validation_"
    there = [name.removeprefix(split) for name in line if name.startswith(split)]
    others = [metric for metric in there if metric != "loss"]
    return next((m for m in results.SCORES if m in there), (others or ["loss"])[0])


def _left(lines: list[dict[str, Any]]) -> float | None:
    """Seconds to the end, by what this call took: its lines are those that go up."""
    if lines[-1].get("done") is None:
        return None
    done = [line.get("done", 2.0) for line in lines]  # of an older log, no less
    first = len(lines) - 1
    while first and done[first - 1] < done[first]:
        first -= 1
    share = done[-1] - done[first]
    spent = lines[-1]["time"] - lines[first]["time"]
    return spent * (1 - done[-1]) / share if share > 0 else None
