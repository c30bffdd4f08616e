"""Runs by a preset's name, by a configuration, or by a recipe of one's own."""

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax

from lth import lottery, masks
from lth.lab import devices, runner, store
from lth.lab.build import assemble
from lth.lab.config import ConfigError, Experiment, identity, parse, settings
from lth.lab.keeping import Saving
from lth.lab.progress import Progress
from lth.lab.runner import Outcome
from lth.lab.stored import Run, open_run
from lth.lottery import Recipe
from lth.lottery import recipe as recipes

RUNS = Path("runs")


def run(
    what: str | Experiment | Recipe,
    path: str | Path | None = None,
    *,
    name: str = "",
    runs: str | Path = RUNS,
    data_dir: str | Path | None = None,
    over: str = "replicates",
    watch: Callable[[Progress], Any] = runner.ignore,
    save_every: str = "10min",
    **changes: Any,
) -> Run:
    """Train and store what is missing of a run, and open it.

    The same call continues a run that was stopped, and with more levels, branches or
    replicates adds to it.

    Args:
      what: A preset's name, such as `digits`; an `Experiment`; or a recipe.
      path: The run directory of a recipe.
      name: What to call the run, in place of its preset's name.
      runs: The folder of a run that comes from names.
      data_dir: Where its data files are; else LTH_DATA, else a cache.
      over: What several devices share of it: `replicates`, or each `batch`.
      watch: Is told where the run is, at each measurement.
      save_every: How often a training under way is saved, to go on from there if it is
        killed: a time such as 30s, 10min or 2h, steps such as 5000it, or never.
      **changes: Settings in place of a preset's: `levels=3`, `prune={"rate": 0.5}`,
        `**{"rewind.to": "500it"}`.

    Returns:
      The run, opened.

    Raises:
      ConfigError (a ValueError) for what cannot be run as asked, DataError,
      StoreError, MemoryTooSmallError.
    """
    saving = Saving(*parse.parse_saving(save_every, "save_every"))
    if isinstance(what, Recipe):
        if path is None:
            raise ValueError("the run of a recipe needs the path of its folder")
        if changes:
            raise ValueError(
                f"a recipe has no settings, change its fields; got {', '.join(changes)}"
            )
        outcome = train_own(what, path, name=name, watch=watch, saving=saving)
        return open_run(outcome.path, what)
    if path is not None:
        raise ValueError("a run that comes from names finds its folder in `runs`")
    preset, e = settings.configured(what, changes)
    devices.use_cores(e.replicates)
    built = assemble.build(e, data_dir, over)
    outcome = train(built, preset, runs, name=name, watch=watch, saving=saving)
    return open_run(outcome.path, data_dir=data_dir)


def build(
    what: str | Experiment,
    *,
    data_dir: str | Path | None = None,
    over: str = "replicates",
    **changes: Any,
) -> Recipe:
    """Make the recipe of a preset or an experiment: names become functions.

    Change any of its fields with `_replace`, and give it to `run`. The arguments are
    those of `run`. Raises ConfigError and DataError.
    """
    _, e = settings.configured(what, changes)
    devices.use_cores(e.replicates)
    built = assemble.build(e, data_dir, over)
    return built.recipe._replace(stamp=built.stamp())


def train(
    built: assemble.Built,
    preset: str,
    runs: str | Path = RUNS,
    *,
    name: str = "",
    watch: Callable[[Progress], Any] = runner.ignore,
    saving: Saving = runner.USUAL,
) -> Outcome:
    """Run what comes from names, or what of it is not stored yet, in `runs`/`name`-id.

    Args:
      built: The recipe, and what its run is known by.
      preset: Whose it is.
      runs: The folder of runs.
      name: What to call it; by default as its preset.
      watch: Is told where the run is.
      saving: When trainings under way are saved.

    Returns:
      What came of it.

    Raises:
      StoreError and MemoryTooSmallError; what is stored stays whole.
    """
    path, count = place(built, runs, name or preset)
    about = partial(built.about, name or preset, preset, count)
    return runner.run(built.recipe, path, about, watch, saving)


def train_own(
    recipe: Recipe,
    path: str | Path,
    *,
    name: str = "",
    about: Mapping[str, Any] | None = None,
    watch: Callable[[Progress], Any] = runner.ignore,
    saving: Saving = runner.USUAL,
) -> Outcome:
    """Run a recipe of one's own, or what of it is not stored yet, in `path`.

    Args:
      recipe: What the run is made of.
      path: The run directory.
      name: What to call it; by default as its folder.
      about: What else to remember: the `flags` of the function that made the recipe,
        and its `source`.
      watch: Is told where the run is.
      saving: When trainings under way are saved.

    Returns:
      What came of it.

    Raises:
      ValueError, StoreError and MemoryTooSmallError.
    """
    known = own_about(recipe, name or Path(path).name, dict(about or {}))
    return runner.run(recipe, path, known, watch, saving)


def described(recipe: Recipe, path: Path) -> list[tuple[str, str]]:
    """Say what a run of a recipe would do: names and values."""
    like = recipes.shapes(recipe)
    count = len(recipe.replicates)
    weights = sum(x.size for x in jax.tree.leaves(like.params)) // count
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(like))
    steps, levels = recipe.stops[-1], len(recipe.densities)
    return [
        ("run", str(path)),
        ("replicates", ", ".join(map(str, recipe.replicates))),
        ("levels", f"0 to {levels}, and {len(recipe.branches)} branches of each"),
        ("steps", f"{steps}, and {steps - recipe.rewind_to} of each ticket"),
        ("weights", f"{weights}, of which {masks.size(recipe.mask) // count} prunable"),
        ("memory", f"{3 * held / 2**20:.1f} MiB of states, beside data and gradients"),
        ("stored", _stored(path)),
    ]


def _stored(path: Path) -> str:
    """What of a run is stored, in words."""
    if not (path / "config.json").exists():
        return "nothing"
    told = []
    for group, unit in store.units(path):
        there = {"tickets": unit, **store.branches(unit)}
        parts = [
            f"{name} {', '.join(map(str, sorted(store.stored(folder)))) or 'none'}"
            for name, folder in there.items()
        ]
        numbers = ", ".join(map(str, group))
        told.append(f"replicates {numbers}: levels of {'; of '.join(parts)}")
    return ". ".join(told)


def place(built: assemble.Built, runs: str | Path, name: str) -> tuple[Path, int]:
    """The folder of a run, and with how many replicates it was begun.

    A run of fewer replicates that is otherwise the same is the one to add to.
    """
    return placed(built.id, len(built.recipe.replicates), runs, name)


def placed(
    run_id: Callable[[int], str], most: int, runs: str | Path, name: str
) -> tuple[Path, int]:
    """Say what `place` says, before anything is built.

    Args:
      run_id: The id of the run if it was begun with so many replicates.
      most: How many it is to have.
      runs: The folder of runs.
      name: What it is called.

    Returns:
      The folder, and with how many replicates it was begun.

    Raises:
      ConfigError for a name that is of no one folder.
    """
    if {*"/\\"} & set(name):
        raise ConfigError(f"the name of a run has no / and no \\; got {name!r}")
    for count in range(most, 0, -1):
        path = Path(runs) / f"{name}-{run_id(count)}"
        if (path / "config.json").exists():
            return path, count
    return Path(runs) / f"{name}-{run_id(most)}", most


def own_about(recipe: Recipe, name: str, facts: dict[str, Any]) -> runner.About:
    """Make what says what `config.json` holds of a run of functions of one's own.

    It refuses, with a StoreError, a folder that holds a run of another recipe. `facts`
    are remembered beside.
    """

    def about(before: dict[str, Any] | None) -> dict[str, Any]:
        now = json.loads(json.dumps(lottery.fingerprint(recipe)))
        known, told = now, facts
        if before is not None:
            if "fingerprint" not in before:
                raise store.StoreError(
                    f"the folder holds a run of the preset {before['preset']}; choose "
                    "another one for a recipe of your own"
                )
            if different := _differences(before["fingerprint"], now):
                raise store.StoreError(
                    "the folder holds a run of another recipe: "
                    f"{'; '.join(different)}. Choose another folder, or another name"
                )
            if len(before["fingerprint"]["densities"]) > len(now["densities"]):
                # Asked for less, it is still made as it was asked for before.
                known = {**now, "densities": before["fingerprint"]["densities"]}
                told = {field: before[field] for field in facts if field in before}
        run_id = identity.of_fingerprint(known)
        return {"id": run_id, "name": name, **told, "fingerprint": known}

    return about


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two fingerprints, each in words; more levels do not."""
    told = []
    for field in dict.fromkeys([*old, *new]):
        a: Any = old.get(field)
        b: Any = new.get(field)
        if field == "densities":
            both = min(len(a), len(b))
            a, b = a[:both], b[:both]
        if a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            for path in dict.fromkeys([*a, *b]):
                if a.get(path) != b.get(path):
                    told.append(
                        f"{field} {path} was {a.get(path, 'not there')}, is "
                        f"{b.get(path, 'not there')}"
                    )
        else:
            told.append(f"{field} was {_brief(a)}, is {_brief(b)}")
    return told


def _brief(value: Any) -> str:
    """A value in a few words; of a digest, its beginning."""
    text = str(value)
    return f"{text[:12]}…" if re.fullmatch("[0-9a-f]{40,}", text) else text
