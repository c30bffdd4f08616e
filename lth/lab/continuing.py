"""A stored run, trained on from its directory alone."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from lth.lab import devices, front, store
from lth.lab.build import assemble, imported
from lth.lab.config import ConfigError, identity
from lth.lab.runner import Outcome
from lth.lab.stored import open_run
from lth.lottery import Recipe


class Continued(NamedTuple):
    """Holds what a stored run is to become, and what trains it on."""

    recipe: Recipe
    train: Callable[..., Outcome]  # (watch, saving), by name
    first: str  # what its level 0 is called


def continued(
    path: str | Path,
    *,
    levels: int | None = None,
    controls: str = "",
    data_dir: str | Path | None = None,
) -> Continued:
    """Make what trains a stored run on: all that differs is what is asked for here.

    Args:
      path: The run directory.
      levels: In all; by default as many as it was asked for before. Never fewer.
      controls: Branches to train beside each ticket, as of `--controls`, and those that
        it has.
      data_dir: Where the files of its data are.

    Returns:
      Its recipe, and what trains it.

    Raises:
      ConfigError: for a run of functions of one's own, and as `lth run` does.
      DataError and StoreError.
    """
    path = Path(path)
    run = open_run(path)
    devices.use_cores(len(run.replicates))
    if "imported" in run.content:
        asked = len(run.content["fingerprint"]["densities"])
        recipe = imported.of_run(
            path,
            run.content,
            levels=max(asked, levels or 0),
            controls=controls,
            data_dir=data_dir,
        )
        known = {"imported": run.content["imported"]}
        train = partial(front.train_own, recipe, path, name=run.name, about=known)
        return Continued(recipe, train, "dense")
    if run.config is None:
        source = run.content.get("source") or "FILE.py:FUNCTION"
        raise ConfigError(
            f"{path} is a run of functions of your own: 'lth run {source}' continues it"
        )
    more = replace(
        run.config,
        levels=run.config.levels if levels is None else levels,
        controls=controls,
        replicates=len(run.replicates),
    )
    before = identity.as_dict(run.config)
    whole = identity.extended(identity.as_dict(more), before)
    built = assemble.build(identity.from_dict(whole), data_dir)
    there, _ = front.place(built, path.parent, run.name)
    if there.resolve() != path.resolve():
        raise store.StoreError(
            f"{path} was renamed: a run goes on under the name it was given, "
            f"{there.name}"
        )
    train = partial(front.train, built, run.preset, path.parent, name=run.name)
    first = "dense" if built.recipe.first is None else "mask"
    return Continued(built.recipe, train, first)
