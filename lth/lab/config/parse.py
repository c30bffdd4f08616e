"""How the texts in a configuration are read: steps, lists, rates, structures.

As `config`, nothing here imports JAX.
"""

import difflib
import itertools
import re
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from lth.lab.config.fields import ConfigError

STEPS = re.compile(r"(?:(\d+)ep)?(?:(\d+)(?:it)?)?")


def perhaps(name: str, known: Iterable[str]) -> str:
    """Guess which known name a wrong one stands for; empty where none is near."""
    near = difflib.get_close_matches(name, list(known), n=2)
    return f"; perhaps {' or '.join(near)}" if near else ""


@cache
def parse_steps(text: str, epoch: int, flag: str) -> int:
    """The steps in text such as 500it, 10ep, 2ep50it or 500; an epoch has `epoch`."""
    match = STEPS.fullmatch(text)
    if not text or not match:
        raise ConfigError(
            f"{flag} is a number of steps such as 500it, 10ep, 2ep50it or 500; "
            f"got {text!r}"
        )
    return int(match[1] or 0) * epoch + int(match[2] or 0)


SPANS = {"s": 1, "min": 60, "h": 3600}


def parse_saving(text: str, flag: str = "--save-every") -> tuple[float | None, int]:
    """How often trainings under way are saved: seconds, or None, and steps, or 0.

    Texts are 10min, 30s, 2h; 5000it; or never.
    """
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)(s|min|h)", text):
        seconds = float(match[1]) * SPANS[match[2]]
        if seconds > 0:
            return seconds, 0
    elif (match := re.fullmatch(r"(\d+)it", text)) and int(match[1]):
        return None, int(match[1])
    elif text == "never":
        return None, 0
    raise ConfigError(
        f"{flag} is a time such as 30s, 10min or 2h, steps such as 5000it, or never; "
        f"got {text!r}"
    )


class Structure(NamedTuple):
    """What is pruned as a unit."""

    name: str  # weight, block, filter, channel or n_of_m
    sizes: tuple[int, ...] = ()  # of a block; n and m


@cache
def parse_structure(text: str) -> Structure:
    """Return the structure in weight, block:4x4, filter, channel or 2:4."""
    if text in ("weight", "filter", "channel"):
        return Structure(text)
    if match := re.fullmatch(r"block:(\d+(?:x\d+)*)", text):
        sizes = tuple(int(n) for n in match[1].split("x"))
        if min(sizes) >= 1:
            return Structure("block", sizes)
    elif match := re.fullmatch(r"(\d+):(\d+)", text):
        n, m = int(match[1]), int(match[2])
        if 1 <= n < m:
            return Structure("n_of_m", (n, m))
    raise ConfigError(
        "--prune.structure is weight, block:HxW, filter, channel or N:M with N < M, "
        f"keep N of every M; got {text!r}"
    )


def parse_densities(text: str) -> list[float]:
    """Return the densities of levels 1, 2, …; none of an empty text."""
    try:
        values = [float(item) for item in split_list(text)]
    except ValueError:
        values = [0.0]
    falls = all(b < a for a, b in itertools.pairwise([1.0, *values]))
    if not falls or not all(value > 0 for value in values):
        raise ConfigError(
            "--prune.densities is a falling list of fractions in (0, 1) such as "
            f"0.5,0.2,0.1; got {text!r}"
        )
    return values


class Cut(NamedTuple):
    """What a score is above to stay."""

    value: float
    deviations: bool  # whether in standard deviations of the layer


@cache
def parse_cuts(text: str) -> list[Cut]:
    """Return the cuts of levels in 0.01,0.02 or 0.5sd,1sd; none of an empty text."""
    found = [re.fullmatch(r"(\d*\.?\d+(?:e-?\d+)?)(sd)?", i) for i in split_list(text)]
    cuts = [Cut(float(m[1]), bool(m[2])) for m in found if m]
    rising = all(a.value < b.value for a, b in itertools.pairwise(cuts))
    alike = len({cut.deviations for cut in cuts}) <= 1
    if len(cuts) < len(found) or not rising or not alike:
        raise ConfigError(
            "--prune.cuts is a rising list of numbers such as 0.01,0.02, or of "
            f"standard deviations such as 0.5sd,1sd; got {text!r}"
        )
    return cuts


def split_list(text: str) -> list[str]:
    """Return the items of a comma-separated list; none of an empty text."""
    return [item.strip() for item in text.split(",")] if text else []


def parse_rates(text: str) -> dict[str, float]:
    """Pruning rates by path pattern from PATTERN=RATE,…"""
    rates = {}
    for item in split_list(text):
        pattern, _, rate = item.rpartition("=")
        try:
            rates[pattern] = float(rate)
        except ValueError:
            pattern = ""
        if not pattern or not 0 <= rates[pattern] < 1:
            raise ConfigError(
                f"--prune.rates is PATTERN=RATE,… with rates in [0, 1); got {item!r}"
            )
    return rates
