"""How density is divided among the leaves of a mask."""

from collections.abc import Mapping

import jax

from lth import masks


def by_path(
    mask: masks.Mask, default: float, rules: Mapping[str, float]
) -> masks.Density:
    """A density for each prunable leaf: that of the rule its path matches, or
    `default`.

    `rules` maps regular expressions to densities. Raises ValueError for a pattern that
    matches no leaf and for two that match the same one.
    """
    given: dict[str, str] = {}
    for pattern in rules:
        for path in masks.matching(pattern, mask):
            if path in given:
                raise ValueError(
                    f"{path} is matched by both {given[path]!r} and {pattern!r}"
                )
            given[path] = pattern

    def leaf(path, _):
        pattern = given.get(masks.name(path))
        return default if pattern is None else rules[pattern]

    return jax.tree_util.tree_map_with_path(leaf, mask)
