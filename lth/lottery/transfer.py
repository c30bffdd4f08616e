"""A ticket on other data: its mask, and if asked for its weights, under a new head.

Morcos et al. (2019, arXiv:1906.02773) and Mehta (2019, arXiv:1905.07785) train tickets
of one data set on another. The last layer is not carried where classes differ: its
weights are drawn, and none of them is pruned unless that is asked for.
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
from lth.masks import topk


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
      head: `same`: every leaf has one shape in both. Else leaves may differ in their
        last axis, as of another number of classes, and those are drawn anew. `new`:
        nothing of them is pruned. `random`: as large a share is as of the ticket's
        head, in random places.
      weights: What is carried beside the mask, with the averages of norms: the `early`
        weights, the `late` ones, or `none`: all are drawn by the other recipe.

    Returns:
      The branch. It begins at the step of the early state, with fresh moments; so does
      a schedule, but where the other recipe has another optimizer, at its first rate.

    Raises:
      ValueError: for another `head` or `weights`; by `changed`, for leaves that do not
        fit, with both shapes, and for a training that ends before it begins.
    """
    for what, value, allowed in (
        ("head", head, ("same", "new", "random")),
        ("weights", weights, ("early", "late", "none")),
    ):
        if value not in allowed:
            raise ValueError(f"{what} is one of {', '.join(allowed)}; got {value!r}")
    made: list[Recipe] = []

    def there() -> Recipe:
        if not made:
            made.append(other())
        return made[0]

    def changed(recipe):
        if there().stops[-1] <= recipe.rewind_to:
            raise ValueError(
                f"tickets begin at step {recipe.rewind_to}, and training on the other "
                f"data ends at step {there().stops[-1]}"
            )
        ours, theirs = (_one(recipes.shapes(r).params) for r in (recipe, there()))
        fits(ours, theirs, head)
        new = recipes.only(there(), recipe.replicates)
        return new._replace(trained=recipe.trained)

    def init(key):
        return jax.tree.map(lambda x: x[0], there().init(key[None]))

    def start(early, ticket, key):
        fresh = init(key)._replace(step=early.step)
        if jax.tree.structure(fresh.opt_state) == jax.tree.structure(early.opt_state):
            fresh = rewinding.make_reinit(init, key)(early, early)
        new = fits(early.params, fresh.params, head)
        source = {"early": early, "late": ticket.state, "none": fresh}[weights]
        places = jax.random.fold_in(key, 2**31)  # beyond those that `init` splits off
        at_random = places if head == "random" else None
        mask = _mask(ticket.mask, fresh.params, new, at_random)
        params = masks.apply(_carried(source.params, fresh.params), mask)
        stats = _carried(source.stats, fresh.stats)
        return fresh._replace(params=params, stats=stats), mask

    return Branch(start, title, changed=changed, apart=True)


def _one(tree: Any) -> Any:
    """The shapes of one replicate."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), tree)


def _carried(ours: Any, theirs: Any) -> Any:
    """The leaves of another tree, but those of ours that have their shape."""
    leaves, structure = jax.tree.flatten(theirs)
    known = _by_path(ours)
    chosen = [
        known[path] if path in known and known[path].shape == leaf.shape else leaf
        for path, leaf in zip(masks.paths(theirs), leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, chosen)


def _mask(mask: masks.Mask, params: masks.Params, new: set[str], key) -> masks.Mask:
    """The mask on the other network; with a key, at random in leaves that are new."""
    leaves, structure = jax.tree.flatten(params)
    known, keeps = _by_path(mask), []
    for i, (path, w) in enumerate(zip(masks.paths(params), leaves, strict=True)):
        keep = known[path]
        if path in new and keep is not None:
            whole, share = jnp.ones(w.shape, bool), jnp.mean(keep, dtype=jnp.float32)
            keep = whole
            if key is not None:
                scores = jax.random.uniform(jax.random.fold_in(key, i), (w.size,))
                count = topk.round_count(share, w.size)
                (keep,), _, _ = topk.top([scores.reshape(w.shape)], [whole], count)
        keeps.append(keep)
    return jax.tree.unflatten(structure, keeps)


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
        if head == "same":
            raise ValueError(
                f"other classes need a new head, head new or head random: {told}"
            )
        new.add(path)
    return new


def _by_path(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: x is None)
    return {masks.name(path): leaf for path, leaf in leaves}


def _told(shape: tuple[int, ...] | None) -> str:
    return "not there" if shape is None else str(list(shape))
