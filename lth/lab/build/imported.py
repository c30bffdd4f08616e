"""Recipes of runs that were begun elsewhere, from what their folder remembers.

Settings are an experiment of ours; initial weights are those that were stored, and the
levels to come keep as many weights as the rule of the run's own laboratory would.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lth import lottery, masks
from lth.lab import store
from lth.lab.build import assemble
from lth.lab.config import ConfigError, identity
from lth.lottery import Recipe
from lth.lottery import recipe as recipes


def known_recipe(
    known: Mapping[str, Any],
    replicates: Sequence[int],
    weights: Callable[[Recipe], tuple[Any, Any]],
    *,
    levels: int | None = None,
    controls: str = "",
    data_dir: str | Path | None = None,
) -> Recipe:
    """Make the recipe of an imported run.

    Args:
      known: What was remembered of it: its `experiment` as JSON holds it, how many
        weights each level `kept`, and how many that are never pruned are `counted`.
      replicates: Their numbers.
      weights: `(recipe) -> (params, stats)` of them at step 0, [r, ...], of a recipe
        that draws them, for their structure.
      levels: In all; by default those that were imported.
      controls: Branches to train beside each ticket, as of `--controls`.
      data_dir: Where the files of its data are.

    Returns:
      The recipe.

    Raises:
      ConfigError and DataError; StoreError for what is remembered otherwise.
    """
    try:
        before = identity.from_dict(known["experiment"])
        kept = [int(n) for n in known["kept"]]
        fraction, counted = before.prune.rate, int(known["counted"])
    except (KeyError, TypeError, ValueError) as error:
        raise store.StoreError(
            f"what is remembered of the imported run is damaged: {error}"
        ) from None
    asked = max(before.levels if levels is None else levels, len(kept) - 1)
    built = assemble.build(replace(before, levels=asked, controls=controls), data_dir)
    recipe = lottery.only(built.recipe, replicates)
    total = masks.size(recipe.mask) // len(replicates)
    shares = [n / total for n in sizes(kept, asked, fraction, counted)]
    recipe = recipe._replace(densities=tuple(shares[1:]), stamp=built.stamp())
    return lottery.begun_from_each(recipe, *weights(recipe))


def sizes(kept: Sequence[int], levels: int, fraction: float, counted: int) -> list[int]:
    """Return how many weights each level keeps, as OpenLTH's `sparse_global` counts.

    Of n weights left it prunes those up to the one in place ceil(fraction n), counted
    from 0: one more than that. Weights that are never pruned count among the n.

    Args:
      kept: Of levels 0, 1, …, as far as they are known: prunable weights.
      levels: How many are asked for.
      fraction: That a level prunes, in (0, 1).
      counted: Weights that are never pruned, and counted.

    Returns:
      The numbers, of levels 0 to `levels`.

    Raises:
      ConfigError: where a level would keep nothing.
    """
    found = list(kept)
    while len(found) <= levels:
        left = found[-1] + counted
        found.append(found[-1] - math.ceil(fraction * left) - 1)
        if found[-1] < 1:
            raise ConfigError(
                f"--levels {levels}: by OpenLTH's rule level {len(found) - 1} keeps "
                "no weight"
            )
    return found


def of_run(
    path: Path,
    content: Mapping[str, Any],
    *,
    levels: int | None = None,
    controls: str = "",
    data_dir: str | Path | None = None,
) -> Recipe:
    """Make the recipe of a stored run that was imported; see `known_recipe`.

    Args:
      path: Its directory.
      content: What its `config.json` holds.
      levels: In all; by default those that it was asked for.
      controls: Branches to train beside each ticket.
      data_dir: Where the files of its data are.

    Returns:
      The recipe.

    Raises:
      ConfigError, DataError and StoreError.
    """

    def weights(recipe: Recipe) -> tuple[Any, Any]:
        state = store.load_tree(path, "init", {"state": recipes.shapes(recipe)})
        return state["state"].params, state["state"].stats

    (replicates, *_) = content["replicates"]
    asked = len(content["fingerprint"]["densities"])
    return known_recipe(
        content["imported"],
        replicates,
        weights,
        levels=asked if levels is None else levels,
        controls=controls,
        data_dir=data_dir,
    )
