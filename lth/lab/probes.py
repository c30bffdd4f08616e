"""What probes tell of the stored networks of a run, kept beside them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from lth import lottery, masks
from lth.lab import runner, store
from lth.lottery import Recipe, Ticket
from lth.train import TrainState

# Numbers about a stored ticket: (recipe, early, ticket) -> {metric: [r]}. One of four
# parameters is also given `Stored`, which loads others of the run.
Probe = Callable[..., dict[str, Any]]


class NotStoredError(ValueError):
    """A network that a probe asks for has no such level."""


@dataclass(frozen=True)
class Stored:
    """What else is stored of the replicates that a probe is given.

    Called, it loads a network by its variant and level: by default of the variant that
    is measured, and of the level that is. ValueError where it is not there.
    """

    recipe: Recipe
    unit: Path
    of: str
    level: int

    def __call__(self, variant: str = "", level: int | None = None) -> Ticket:
        """Load the network of a variant at a level."""
        variant, level = variant or self.of, self.level if level is None else level
        if level not in (there := self.levels(variant)):
            raise NotStoredError(
                f"{variant} has no ticket of level {level} in {self.unit}; it has "
                f"{_listed(there)}: say which levels to measure"
            )
        folder, like = _folder(self.unit, variant), self._like(variant)
        if _task(self.unit, variant) != _task(self.unit, self.of):
            theirs, ours = store.load(folder, level)[1], like[0]
            if (shapes := _shapes(theirs)) != (own := _shapes(ours)):
                odd = next(p for p in {**shapes, **own} if shapes.get(p) != own.get(p))
                raise ValueError(
                    f"{variant} is a network of other shapes than {self.of}: {odd} is "
                    f"{shapes.get(odd)}, and {own.get(odd)}"
                )
        return store.load(folder, level, like)

    @property
    def variants(self) -> list[str]:
        """Return the trunk and the branches, by name."""
        return [store.TRUNK, *store.branches(self.unit)]

    def levels(self, variant: str = "") -> set[int]:
        """Return the levels stored of a variant."""
        variant, known = variant or self.of, self.variants
        if variant not in known:
            raise ValueError(
                f"{self.unit} holds no branch {variant}; it holds "
                f"{', '.join(known[1:]) or 'none'}"
            )
        return store.stored(_folder(self.unit, variant))

    def before(self) -> tuple[TrainState, Ticket] | None:
        """Return where the same variant's network of the level before began, and it.

        None where there is none, as of the dense network, or of a branch that began at
        this level.
        """
        if self.level - 1 not in self.levels():
            return None
        return _subject(self.recipe, self.unit, self.of, self.level - 1)[1:]

    def check_task(self, variant: str) -> None:
        """Refuse a variant that was trained on another task than what is measured."""
        self.levels(variant)
        ours, theirs = (_task(self.unit, name) for name in (self.of, variant))
        if ours != theirs:
            raise ValueError(
                f"{variant} and {self.of} were not trained on the same data: no one "
                "loss is of both, and no barrier lies between them"
            )

    def _like(self, variant: str) -> tuple[Any, TrainState]:
        """The structures of a variant's mask and state."""
        task = _task(self.unit, variant)
        alike = task is not None and task == _task(self.unit, self.of)
        if self.of != store.TRUNK and (variant == self.of or alike):
            _, state, mask = runner.begun(self.recipe, self.unit, self.of, self.level)
            return mask, state
        return self.recipe.mask, runner.early(self.recipe, self.unit)


def _shapes(mask: Any) -> dict[str, list[int]]:
    """Of each leaf by its path, without the axis of replicates."""
    leaves = zip(masks.paths(mask), jax.tree.leaves(mask), strict=True)
    return {path: list(leaf.shape[1:]) for path, leaf in leaves}


def _task(unit: Path, variant: str) -> Any:
    """What tells tasks of branches apart: None of the run's own."""
    if variant == store.TRUNK:
        return None
    content = store.read_branch(_folder(unit, variant))
    if not content.get("apart"):
        return None
    settings = content.get("settings", {})
    chosen = [settings.get(name) for name in ("data", "classes")]
    return chosen if any(chosen) else variant


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
      levels: Of the networks; by default all that are stored, and of two that are
        compared those that both have.
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
    tables, missing = [], ""
    for level in wanted:
        try:
            for part, unit in units:
                _measure(part, unit, path.name, name, probe, of, level)
        except NotStoredError as error:
            if levels is not None:  # else the levels are those that both have
                raise
            missing = missing or str(error)
            continue
        for _, unit in units:
            tables.append(store.load_measured(_folder(unit, of), name, level))
    if missing and not tables:
        raise ValueError(missing)
    order = ["level", "metric", "replicate"]
    tables = [t for t in tables if len(t)] or tables[:1]
    return pd.concat(tables).sort_values(order, kind="stable", ignore_index=True)


def _measure(
    part: Recipe, unit: Path, run: str, name: str, probe: Probe, of: str, level: int
) -> None:
    """Store what a probe tells of one network, unless it has been."""
    folder = _folder(unit, of)
    if store.is_measured(folder, name, level):
        return
    by, early, ticket = _subject(part, unit, of, level)
    more = [Stored(part, unit, of, level)] * (_count(probe) > 3)
    numbers = probe(by, early, ticket, *more)
    rows = _rows((run, of, name), part.replicates, ticket, numbers)
    store.save_measured(folder, name, level, rows)


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
