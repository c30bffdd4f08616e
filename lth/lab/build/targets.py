"""What an experiment prunes, and how much of it at each level."""

import math
from typing import Any

import jax

from lth import masks
from lth.lab.build import ranking
from lth.lab.config import ConfigError, Prune, parse
from lth.masks import allocation, schedules, structure, topk


def prunable(p: Prune, params: masks.Params) -> masks.Mask:
    """The all-ones mask over what the experiment prunes."""

    def matching(pattern):
        return masks.matching(pattern, params) if pattern else []

    included, excluded = matching(p.include), matching(p.exclude)

    def chosen(path, leaf):
        kernel = masks.is_kernel(path, leaf)
        return (kernel or path in included) and path not in excluded

    return masks.ones(params, chosen)


def densities(p: Prune, count: int, mask: masks.Mask) -> list[masks.Density]:
    """The density of each of `count` levels, or the tree of densities by layer.

    Raises ConfigError for a level that would keep as many weights as the one before it.
    """
    if p.cuts:  # what stays is a matter of scores: at most everything
        return [1.0] * min(count, len(parse.parse_cuts(p.cuts)))
    sizes = ranking.competitors(p, mask)
    if p.scope == "output":
        sizes = list(map(math.prod, structure.shapes(mask, structure.outputs())))
    if p.scope == "global":
        sizes = [sum(sizes)]
    before = sum(sizes)
    unit = "weight" if p.structure == "weight" else "unit"
    levels = _targets(p, count, mask)
    for level, density in enumerate(levels, 1):
        given = jax.tree.leaves(density)
        given = given if len(given) > 1 else given * len(sizes)
        kept = sum(map(topk.round_count, given, sizes))
        if kept == before:
            raise ConfigError(
                f"--levels is at most {level - 1}: level {level} would keep "
                f"{kept} of {sum(sizes)} {unit}s like the level before it"
            )
        before = kept
    return levels


def _targets(p: Prune, count: int, mask: masks.Mask) -> list[masks.Density]:
    """What the settings ask of each level."""
    kind = parse.parse_structure(p.structure)
    if kind.name == "n_of_m":
        n, m = kind.sizes
        return [n / m][:count]
    given = parse.parse_densities(p.densities)[:count]
    rates = parse.parse_rates(p.rates)
    keep: Any = 1 - p.rate
    if rates:
        kept = {pattern: 1 - rate for pattern, rate in rates.items()}
        keep = allocation.by_path(mask, keep, kept)
    levels = given or schedules.geometric(keep, count)
    if p.scope not in ("er", "erk"):
        return levels
    dense = [p.dense] if p.dense else []
    return [
        allocation.erdos_renyi(mask, density, kernel=p.scope == "erk", dense=dense)
        for density in levels
    ]
