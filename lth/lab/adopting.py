"""Tickets that were trained elsewhere, stored as a run that can be continued."""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from lth.lab import measured, store
from lth.lab.runner import About
from lth.lottery import Recipe, Ticket
from lth.lottery import recipe as recipes
from lth.train import TrainState


def adopt(
    recipe: Recipe,
    path: Path,
    about: About,
    states: Mapping[str, TrainState],
    tickets: Iterable[Ticket],
) -> list[int]:
    """Store what was trained elsewhere as a run of `recipe` in the folder `path`.

    What is stored there already stays as it is.

    Args:
      recipe: What the run is made of, from here on.
      path: The run directory, there or not yet.
      about: Says what `config.json` is to hold, as of `runner.run`.
      states: Of the dense training, by name: all that `recipe.checkpoints` lists.
      tickets: Of levels 0, 1, …, of all replicates [r, ...].

    Returns:
      The levels that were added.

    Raises:
      ValueError for a recipe whose parts do not fit, and a state that is missing;
      StoreError.
    """
    recipes.check(recipe)
    if lacking := set(recipe.checkpoints) - set(states):
        raise ValueError(f"states are missing: {', '.join(sorted(lacking))}")
    store.check_writable(path.parent)
    added = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(store.claim(path))
        there = (path / "config.json").exists()
        before = store.read_config(path) if there else None
        content = about(before)
        group = [list(recipe.replicates)]
        content["replicates"] = before["replicates"] if before else group
        store.create(path, content | {"work": dict(recipe.work())})
        store.add_session(path)
        store.reconcile(path)
        for name, state in states.items():
            if not store.has(path, name):
                store.save_tree(path, name, {"state": state})
        for ticket in tickets:
            if ticket.level in store.stored(path):
                continue
            rows, facts = measured.rows(
                path.name, store.TRUNK, recipe.replicates, ticket
            )
            store.append_rows(path, rows)
            store.save(path, ticket, {**facts, "failed": {}})
            steps = recipe.stops[-1] - (recipe.rewind_to if ticket.level else 0)
            told = {"variant": store.TRUNK, "level": ticket.level, "steps": steps}
            store.log(path, "trained", **told, seconds=None, compiling=None)
            added.append(ticket.level)
        store.log(path, "imported", levels=added)
        store.log(path, "finished", levels=len(recipe.densities))
    return added
