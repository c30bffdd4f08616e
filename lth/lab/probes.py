"""What probes tell of the stored networks of a run, kept beside them."""

from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from lth import lottery, masks
from lth.lab import runner, store
from lth.lottery import Recipe, Ticket

# Numbers about a stored ticket: (recipe, early, ticket) -> {metric: [r]}. One of four
# parameters is also given `stored(variant, level)`, which loads others of the run.
Probe = Callable[..., dict[str, Any]]


def measure(
    recipe: Recipe,
    path: Path,
    name: str,
    probe: Probe,
    levels: Sequence[int] | None = None,
    of: str = store.TRUNK,
) -> pd.DataFrame:
    """Measure stored networks by a probe; what is measured once is kept.

    Args:
      recipe: That of the run; of a branch with it in `branches`.
      path: The run directory.
      name: What the numbers are called.
      probe: See `Probe`.
      levels: Of the networks; by default all that are stored.
      of: The trunk, or a branch by its name.

    Returns:
      The rows of all replicates.

    Raises:
      ValueError: for a level that is not stored, and numbers that are not one a
        replicate.
    """
    units = [(lottery.only(recipe, group), unit) for group, unit in store.units(path)]
    there = set.intersection(*(store.stored(_folder(unit, of)) for _, unit in units))
    wanted = sorted(there if levels is None else set(levels))
    if lost := [level for level in wanted if level not in there]:
        raise ValueError(
            f"levels stored of {_folder(path, of)} are {_listed(there)}; got "
            f"{_listed(lost)}"
        )
    tables = []
    for level in wanted:
        for part, unit in units:
            folder = _folder(unit, of)
            if not store.is_measured(folder, name, level):
                by, early, ticket = _subject(part, unit, of, level)
                likes = {of: (ticket.mask, early)}
                more = [_loader(part, unit, level, likes)] * (_count(probe) > 3)
                numbers = probe(by, early, ticket, *more)
                rows = _rows((path.name, of, name), part.replicates, ticket, numbers)
                store.save_measured(folder, name, level, rows)
            tables.append(store.load_measured(folder, name, level))
    order = ["level", "metric", "replicate"]
    tables = [t for t in tables if len(t)] or tables[:1]
    return pd.concat(tables).sort_values(order, kind="stable", ignore_index=True)


def _count(probe: Probe) -> int:
    return len(signature(probe).parameters)


def _listed(levels: Any) -> str:
    return ", ".join(map(str, sorted(levels))) or "none"


def _folder(unit: Path, of: str) -> Path:
    """Where the networks of the trunk or of a branch lie."""
    return unit if of == store.TRUNK else store.branches(unit)[of]


def _subject(recipe: Recipe, unit: Path, of: str, level: int) -> tuple:
    """The recipe that networks trained by, where they began, and what came of it."""
    if of == store.TRUNK:
        early = runner.early(recipe, unit)
        return recipe, early, store.load(unit, level, (recipe.mask, early))
    by, state, mask = runner.begun(recipe, unit, of, level)
    return by, state, store.load(_folder(unit, of), level, (mask, state))


def _loader(
    recipe: Recipe, unit: Path, level: int, likes: dict[str, Any]
) -> Callable[..., Ticket]:
    """What loads other networks of a unit, of the structures given or the trunk's."""
    here = level

    def stored(variant: str = store.TRUNK, level: int = here) -> Ticket:
        known = store.branches(unit)
        if variant not in {store.TRUNK, *known}:
            raise ValueError(
                f"{unit} holds no branch {variant}; it holds "
                f"{', '.join(known) or 'none'}"
            )
        folder = _folder(unit, variant)
        if level not in store.stored(folder):
            raise ValueError(
                f"{variant} has no ticket of level {level} in {unit}; it has "
                f"{_listed(store.stored(folder))}: say which levels to measure"
            )
        like = likes.get(variant) or (recipe.mask, runner.early(recipe, unit))
        return store.load(folder, level, like)

    return stored


def _rows(
    names: tuple[str, str, str], replicates: Sequence[int], ticket: Ticket, numbers: Any
) -> Iterator[tuple]:
    """The rows of what a probe told of a ticket: run, variant and probe by `names`."""
    run, variant, name = names
    kept = np.asarray(jax.vmap(masks.density)(ticket.mask))
    steps = np.ravel(ticket.state.step)
    for metric, values in numbers.items():
        values = np.asarray(values)
        if values.shape != (len(replicates),):
            raise ValueError(
                f"the probe {name} gives numbers [{len(replicates)}], one a replicate; "
                f"got {metric} {list(values.shape)}"
            )
        for i, replicate in enumerate(replicates):
            where = (run, replicate, variant, ticket.level, float(kept[i]))
            yield (*where, int(steps[i]), name, metric, str(values[i]))
