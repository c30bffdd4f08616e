"""Density over levels, and over the steps of one training."""

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lth.masks import tree
from lth.masks.tree import Density


def geometric(keep: Density, levels: int) -> list[Density]:
    """Return the densities of levels 1 to `levels`, each `keep` times the one before.

    `keep` is the fraction of the weights that a round leaves, 0.8 in Frankle & Carbin
    (2019, arXiv:1803.03635), or a tree of such fractions for rates that differ by
    layer. Each density is a power of `keep`, so rounding to whole weights never adds
    up.
    """
    return _levels(keep, levels, lambda rate, level: rate**level)


def exponential(final: Density, rounds: int) -> list[Density]:
    """Return final**(l / rounds) for l = 1 to `rounds`: equal factors down to `final`.

    The rounds of SynFlow (Tanaka et al. 2020, arXiv:2006.05467), which takes 100.
    """
    return _levels(final, rounds, lambda last, level: last ** (level / rounds))


def linear(final: Density, levels: int) -> list[Density]:
    """Return 1 - (1 - final) * l / levels for l = 1 to `levels`: equal steps.

    Each level removes equally many.
    """

    def at(last, level):  # in this form the last level is `final` to the bit
        return (1 - level / levels) + last * (level / levels)

    return _levels(final, levels, at)


def given(densities: Sequence[float]) -> list[float]:
    """Check a list of densities of one's own: each in (0, 1], less than the last.

    Returns the list; raises ValueError for the first level that breaks the rule.
    """
    before = math.inf
    for level, density in enumerate(densities, 1):
        if not (0 < density <= 1 and density < before):
            raise ValueError(
                f"densities are in (0, 1] and decrease; level {level} has {density} "
                f"in {list(densities)}"
            )
        before = density
    return list(densities)


class Schedule(NamedTuple):
    """Holds the density over the steps of one training.

    Masks change at the updates: `begin_step`, each `frequency` steps after it, and
    `end_step`, which always is one, so that the final density is always reached. Steps
    are those of `TrainState.step`: after t steps of the optimizer the density is that
    in force at t, so a run of n steps can still have an update at n.

    `density(step)` is the curve at any step from begin to end: a float for a Python
    step and float32 for a traced one, from a table of 4 bytes a step made in float64.
    """

    begin_step: int
    end_step: int
    frequency: int
    density: Callable[[Any], Any]


class ByPath(NamedTuple):
    """Holds schedules that differ by leaf; it stands where a `Schedule` does.

    `density(step)` is the tree of the densities in force; updates are those of any.
    """

    parts: Mapping[str, Schedule]  # by path
    density: Callable[[Any], Density]


def constant(
    sparsity: float, begin_step: int, end_step: int, frequency: int = 100
) -> Schedule:
    """Keep the same sparsity at each update (tfmot's ConstantSparsity).

    Args:
      sparsity: the share of the prunable weights that is gone, in [0, 1).
      begin_step: the first update, at least 0.
      end_step: the last one, `begin_step` or later.
      frequency: steps from one update to the next, at least 1.

    Returns:
      A schedule of density 1 - sparsity.

    Raises:
      ValueError: for values out of these ranges.
    """
    _check_sparsity(sparsity, sparsity)
    return _make(lambda part: sparsity + 0 * part, begin_step, end_step, frequency)


def one_shot(sparsity: float, step: int) -> Schedule:
    """Prune at one update."""
    return constant(sparsity, step, step, 1)


def polynomial(
    initial_sparsity: float,
    final_sparsity: float,
    begin_step: int,
    end_step: int,
    power: float = 3,
    frequency: int = 100,
) -> Schedule:
    """Follow final + (initial - final) * (1 - p)**power at the part p of the way.

    tfmot's PolynomialDecay. SparseML's cubic, linear and inverse cubic are the powers
    3, 1 and 1/3.

    Args:
      initial_sparsity: at the first update, in [0, 1).
      final_sparsity: at the last one, in [initial_sparsity, 1).
      begin_step, end_step, frequency: as in `constant`. With begin == end there is one
        update, to the final sparsity.
      power: above 0.

    Returns:
      A schedule of the density, 1 - sparsity.

    Raises:
      ValueError: for values out of these ranges.
    """
    _check_sparsity(initial_sparsity, final_sparsity)
    if not power > 0:
        raise ValueError(f"power is above 0; got {power}")
    drop = final_sparsity - initial_sparsity

    def curve(part):
        return final_sparsity - drop * (1 - part) ** power

    return _make(curve, begin_step, end_step, frequency)


def cubic(
    final_sparsity: float, begin_step: int, end_step: int, frequency: int = 100
) -> Schedule:
    """Prune from 0 by the third power (Zhu & Gupta 2017, arXiv:1710.01878, equation 1).

    Args:
      final_sparsity, begin_step, end_step, frequency: as in `polynomial`.

    Returns:
      A schedule of the density, 1 - sparsity.

    Raises:
      ValueError: as `polynomial` does.
    """
    return polynomial(0.0, final_sparsity, begin_step, end_step, 3, frequency)


def exponential_decay(
    initial_sparsity: float,
    final_sparsity: float,
    begin_step: int,
    end_step: int,
    frequency: int = 100,
) -> Schedule:
    """Let density fall by equal factors: s = 1 - (1 - s0) * ((1 - s1) / (1 - s0))**p.

    NNCF's exponential schedule, with p the part of the way from begin to end.

    Args:
      initial_sparsity: s0, at the first update, in [0, 1).
      final_sparsity: s1, at the last one, in [s0, 1).
      begin_step, end_step, frequency: as in `constant`.

    Returns:
      A schedule of the density, 1 - s.

    Raises:
      ValueError: for values out of these ranges.
    """
    _check_sparsity(initial_sparsity, final_sparsity)
    first, last = 1 - initial_sparsity, 1 - final_sparsity
    return _make(
        lambda part: 1 - first * (last / first) ** part, begin_step, end_step, frequency
    )


def by_path(
    mask: tree.Mask, default: Schedule, rules: Mapping[str, Schedule]
) -> ByPath:
    """Give each prunable leaf the schedule of the rule its path matches, or `default`.

    The patterns are those of `allocation.by_path`.
    """
    parts = dict.fromkeys(tree.paths(mask), default)
    matched = [path for pattern in rules for path in tree.matching(pattern, mask)]
    for path in matched:
        if matched.count(path) > 1:
            raise ValueError(f"{path} is matched by more than one of {list(rules)}")
    for pattern, schedule in rules.items():
        parts |= dict.fromkeys(tree.matching(pattern, mask), schedule)
    structure = jax.tree.structure(mask)

    def density(step):
        return jax.tree.unflatten(
            structure, [in_force(s, step) for s in parts.values()]
        )

    return ByPath(parts, density)


def is_update(schedule: Schedule | ByPath, step: Any) -> Any:
    """Say whether the mask changes at this step: a bool, traced if the step is."""
    if isinstance(schedule, ByPath):
        # One schedule may serve many leaves.
        different = dict.fromkeys(schedule.parts.values())
        return functools.reduce(operator.or_, [is_update(s, step) for s in different])
    begin, end, frequency, _ = schedule
    within = (begin <= step) & (step <= end)
    return within & (((step - begin) % frequency == 0) | (step == end))


def updates(schedule: Schedule | ByPath) -> list[int]:
    """Return the steps of all updates, in order."""
    if isinstance(schedule, ByPath):
        return sorted({t for s in schedule.parts.values() for t in updates(s)})
    begin, end, frequency, _ = schedule
    return sorted({*range(begin, end + 1, frequency), end})


def in_force(schedule: Schedule | ByPath, step: Any) -> Density:
    """Return the density at a step: that of the latest update, 1 before the first.

    A float for a Python step. A traced step gives the same in float32, for which
    `topk.round_count` finds the same count, unless float32 cannot say on which side of
    a half it is.
    """
    if isinstance(schedule, ByPath):
        return schedule.density(step)
    begin, end, frequency, density = schedule
    if isinstance(step, int | np.integer):
        if step < begin:
            return 1.0
        return density(end if step >= end else step - (step - begin) % frequency)
    latest = jnp.where(step >= end, end, step - (step - begin) % frequency)
    return jnp.where(step < begin, 1.0, density(latest))


def check(schedule: Schedule | ByPath, steps: int) -> None:
    """Raise ValueError unless `steps` steps reach the schedule's final density."""
    parts = schedule.parts if isinstance(schedule, ByPath) else {"": schedule}
    for path, part in parts.items():
        if part.end_step <= steps:
            continue
        reached, last = in_force(part, steps), part.density(part.end_step)
        done = [t for t in updates(part) if t <= steps]
        update = (
            f"its last update is at step {done[-1]}" if done else "it has no update"
        )
        raise ValueError(
            f"{path}{': ' if path else ''}a run of {steps} steps cannot finish a "
            f"schedule from step {part.begin_step} to {part.end_step}: {update} and it "
            f"reaches density {reached:.1%} (sparsity {1 - reached:.1%}), not density "
            f"{last:.1%} (sparsity {1 - last:.1%}); end_step is at most {steps}"
        )


def _levels(value: Density, levels: int, at: Callable) -> list[Density]:
    """at(value, level) of levels 1 to `levels`, by leaf where `value` is a tree."""
    for rate in jax.tree.leaves(value):
        if not 0 < rate <= 1:
            raise ValueError(f"a density is a fraction in (0, 1]; got {rate}")
    if levels < 0:
        raise ValueError(f"the number of levels is at least 0; got {levels}")
    return [
        jax.tree.map(
            functools.partial(lambda level, rate: at(rate, level), level), value
        )
        for level in range(1, levels + 1)
    ]


def _make(curve: Callable, begin_step: int, end_step: int, frequency: int) -> Schedule:
    """The schedule whose sparsity is `curve(part)` at the part in [0, 1] of the way."""
    steps = (begin_step, end_step, frequency)
    if not all(isinstance(n, int | np.integer) for n in steps):
        raise ValueError(f"begin_step, end_step, frequency are whole; got {steps}")
    if not 0 <= begin_step <= end_step:
        raise ValueError(
            f"0 <= begin_step <= end_step; got {begin_step} and {end_step}"
        )
    if frequency < 1:
        raise ValueError(f"frequency is at least 1 step; got {frequency}")

    def at(step):  # float64; 12 decimals, so that 1 - 0.8 is 0.2 and ties stay ties
        part = (step - begin_step) / max(1, end_step - begin_step)
        part = np.where(step >= end_step, 1.0, np.clip(part, 0, 1))
        return np.round(1 - curve(part), 12)

    def density(step):
        if isinstance(step, int | np.integer):
            return float(at(step))
        table = at(np.arange(begin_step, end_step + 1)).astype(np.float32)
        return jnp.asarray(table)[jnp.clip(step, begin_step, end_step) - begin_step]

    return Schedule(begin_step, end_step, frequency, density)


def _check_sparsity(first: float, last: float) -> None:
    if not 0 <= first <= last < 1:
        raise ValueError(
            f"sparsity is in [0, 1) and does not fall, as no weight returns; "
            f"got {first} to {last}"
        )
