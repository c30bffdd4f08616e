"""A ticket on other data: its mask, and if asked for its weights, under a new head.

Morcos et al. (2019, arXiv:1906.02773) and Mehta (2019, arXiv:1905.07785) train tickets
of one data set on another. The last layer is not carried where classes differ: its
weights are drawn and none of them is pruned.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lth import masks
from lth.lottery import recipe as recipes
from lth.lottery import rewind as rewinding
from lth.lottery.branches import Branch
from lth.lottery.recipe import Recipe


def transferred(
    other: Callable[[], Recipe],
    title: str,
    *,
    head: str = "same",
    weights: str = "early",
) -> Branch:
    """Train the ticket by another recipe, such as one of other data.

    Args:
      other: Makes that recipe, once it is asked for.
      title: What tables and legends call it.
      head: `same`: every leaf has one shape in both. `new`: leaves may differ in their
        last axis, as of another number of classes; those are drawn anew, and nothing
        of them is pruned.
      weights: What is carried beside the mask: the `early` weights, the `late` ones, or
        `none`: all are drawn by the other recipe.

    Returns:
      The branch. It begins at the step of the early state, with fresh moments.

    Raises:
      ValueError: for another `head` or `weights`; when it begins, for leaves that do
        not fit, with both shapes.
    """
    for value, allowed in ((head, ("same", "new")), (weights, WEIGHTS)):
        if value not in allowed:
            raise ValueError(f"it is one of {', '.join(allowed)}; got {value!r}")
    made: list[Recipe] = []

    def there() -> Recipe:
        if not made:
            made.append(other())
        return made[0]

    def changed(recipe):
        new = recipes.only(there(), recipe.replicates)
        return new._replace(keep=recipe.keep, trained=recipe.trained)

    def start(early, ticket, key):
        def init(key):
            return jax.tree.map(lambda x: x[0], there().init(key[None]))

        fresh = rewinding.make_reinit(init, key)(early, early)
        new = fits(early.params, fresh.params, head)
        source = {"early": early, "late": ticket.state, "none": fresh}[weights]
        own, structure = jax.tree.flatten(fresh.params)
        paths = masks.paths(fresh.params)
        kept, carried = _by_path(ticket.mask), _by_path(source.params)
        params = [
            w if p in new else carried[p] for p, w in zip(paths, own, strict=True)
        ]
        keeps = [
            jnp.ones(w.shape, bool) if p in new and kept[p] is not None else kept[p]
            for p, w in zip(paths, own, strict=True)
        ]
        mask = jax.tree.unflatten(structure, keeps)
        params = masks.apply(jax.tree.unflatten(structure, params), mask)
        return fresh._replace(params=params), mask

    return Branch(start, title, changed=changed)


WEIGHTS = ("early", "late", "none")


def fits(params: masks.Params, others: masks.Params, head: str) -> set[str]:
    """Return the paths of leaves that are drawn anew.

    Raises:
      ValueError: for leaves that are not alike and may not differ, with both shapes.
    """
    ours, theirs = _by_path(params), _by_path(others)
    new = set()
    for path in dict.fromkeys([*ours, *theirs]):
        a, b = (t[path].shape if path in t else None for t in (ours, theirs))
        if a == b:
            continue
        told = f"{path} is {_told(a)} here and {_told(b)} on the other data"
        if a is None or b is None or a[:-1] != b[:-1]:
            raise ValueError(f"the networks differ beside their heads: {told}")
        if head != "new":
            raise ValueError(f"other classes need a new head (head new): {told}")
        new.add(path)
    return new


def _by_path(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: x is None)
    return {masks.name(path): leaf for path, leaf in leaves}


def _told(shape: tuple[int, ...] | None) -> str:
    return "not there" if shape is None else str(list(shape))
