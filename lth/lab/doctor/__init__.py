"""Whether this machine computes right numbers with `lth`, told in under a minute.

A check is a function that gives a `Check`. It takes the functions it judges as
arguments with defaults, so that a test can give it wrong ones. To add one is to write
it and to give it a line in `CHECKS`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lth.lab import store
from lth.lab.doctor import (
    arithmetic,
    canaries,
    learning,
    machine,
    place,
    ranking,
)
from lth.lab.doctor.check import Check, Status


class Where(NamedTuple):
    """The folders that are looked into."""

    runs: Path = Path("runs")
    data_dir: Path | None = None  # else LTH_DATA, then the cache


CHECKS: dict[str, Callable[[Where], Check]] = {
    "devices": lambda where: machine.devices(),
    "memory": lambda where: machine.room(),
    "random numbers": lambda where: machine.settings(),
    "canary of sums": lambda where: canaries.deadly(),
    "canary of slices": lambda where: canaries.slices(),
    "reductions": lambda where: arithmetic.reductions(),
    "products": lambda where: arithmetic.products(),
    "selection": lambda where: arithmetic.selection(),
    "allocation": lambda where: arithmetic.allocations(),
    "criteria": lambda where: ranking.scores(),
    "taylor": lambda where: ranking.taylor(),
    "surgery": lambda where: ranking.surgery(),
    "reshuffling": lambda where: ranking.reshuffling(),
    "convolution": lambda where: learning.convolutions(),
    "gradients": lambda where: learning.gradients(),
    "optimizers": lambda where: learning.optimizers(),
    "repeats": lambda where: learning.repeats(),
    "folder of runs": lambda where: place.folder(where.runs),
    "disk": lambda where: place.disk(where.runs),
    "compiled programs": lambda where: place.compiled(place.cache(where.runs)),
    "data": lambda where: machine.files(where.data_dir),
}


def examine(
    where: Where, checks: Mapping[str, Callable[[Where], Check]] = CHECKS
) -> Iterator[Check]:
    """Make the checks one after another; one that breaks down has failed."""
    for name, check in checks.items():
        try:
            yield check(where)
        except Exception as error:  # what cannot be checked is not known to be right
            lines = str(error).strip().splitlines() or [""]
            told = f"it broke down: {type(error).__name__}: {lines[0]}"
            yield Check(name, "FAILED", told)


def verdict(checks: Sequence[Check]) -> dict[str, Any]:
    """Sum checks up, as a record that JSON can hold.

    Returns the `status`, the worst of theirs; the `time`; `versions` of packages, the
    devices and XLA's flags that they hold for; and by name what `failures` and
    `warnings` say.
    """
    told = {
        status: {check.name: check.told for check in checks if check.status == status}
        for status in ("FAILED", "warning")
    }
    status: Status = "ok"
    if told["warning"]:
        status = "warning"
    if told["FAILED"] or not checks:
        status = "FAILED"
    here = store.environment()
    return {
        "status": status,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "checks": len(checks),
        "versions": {"python": here["python"], **here["packages"]},
        "devices": here["devices"],
        "xla_flags": here["xla_flags"],
        "failures": told["FAILED"],
        "warnings": told["warning"],
    }


def summary(verdict: Mapping[str, Any]) -> str:
    """Say a verdict in a sentence."""
    count, warnings = verdict["checks"], verdict["warnings"]
    if verdict["status"] == "FAILED":
        names = ", ".join(verdict["failures"]) or "nothing was checked"
        return f"wrong: {len(verdict['failures'])} of {count} checks failed: {names}"
    more = f", with a warning of {', '.join(warnings)}" if warnings else ""
    return f"right: all {count} checks passed{more}"


__all__ = ["CHECKS", "Check", "Status", "Where", "examine", "summary", "verdict"]
