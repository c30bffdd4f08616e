"""Structured tickets trained in the shapes that they have without what was removed.

What a ticket starts from, its mask and its optimizer's slots are sliced to the channels
that live, trained so, and put back in their places: a ticket is stored in the indices
of the whole network, with exact zeros around it, and is pruned further, measured and
resumed as any other. It is the training under the mask, but for the order of sums.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lth import compress, masks
from lth.compress import Space, shrinking
from lth.lottery import trainings
from lth.lottery.branches import Frozen
from lth.lottery.recipe import Recipe, Trained, Training, Watch
from lth.train import Metrics, TrainState


def make_trained(
    apply: Any, found: Sequence[Space], inputs: Any, limit: float = shrinking.LIMIT
) -> Trained:
    """Make the `trained` of a recipe whose masks are of whole channels.

    Loss and measures of the recipe have to take params of other widths, as
    `models.resizable` makes them. All networks of a training have one shape: of each
    space the most that one of them keeps. Where a network's mask removes nothing whole,
    or its pruned weights are not 0, training is as usual.

    Args:
      apply: as in `models.Model`.
      found: the spaces that masks remove channels of.
      inputs: a batch, on which each network is proved to be what it was.
      limit: as in `compress.shrink`.

    Returns:
      `trained(recipe, training, watch)`, which raises `compress.ShrinkError` for a
      network that is another one once it is sliced.
    """

    def trained(
        recipe: Recipe, training: Training, watch: Watch = trainings.ignore
    ) -> tuple[TrainState, Metrics]:
        order = trainings.ordered(recipe, training.orders)
        state, mask = training.state, training.mask
        kept = [] if isinstance(state.stats, Frozen) else alike(mask, found)
        if not any(len(kept[0][s.name]) < s.size for s in found if kept):
            return trainings.fit_in(recipe, state, mask, order, watch)
        starts = _each(jax.device_get((state, mask)))
        likes = [{"params": one.params, "stats": one.stats} for one, _ in starts]
        for (one, own), like, lists in zip(starts, likes, kept, strict=True):
            whole = like | {"params": _zeroed(one.params, own)}
            if _finite(one.params):  # one that failed is no function to compare
                given = whole, whole, inputs, lists, found
                shrinking.proved(apply, *given, limit=limit)
        small = [
            compress.sliced(pair, like, found, lists)
            for pair, like, lists in zip(starts, likes, kept, strict=True)
        ]
        begun, under = jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *small)
        ended, metrics = trainings.fit_in(recipe, begun, under, order, watch)
        wide = [
            compress.spread(one, like, found, lists)
            for one, like, lists in zip(
                _each(jax.device_get(ended)), likes, kept, strict=True
            )
        ]
        return jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *wide), metrics

    return trained


def alike(mask: masks.Mask, found: Sequence[Space]) -> list[dict[str, np.ndarray]]:
    """List what each network of a stacked mask keeps, in lists of one length a space.

    Shorter lists are filled up with channels that are not kept, the first ones.
    """
    kept = [compress.living(one, found) for one in _each(jax.device_get(mask))]
    filled = []
    for lists in kept:
        wide = {}
        for space in found:
            most = max(len(other[space.name]) for other in kept)
            own = lists[space.name]
            rest = np.setdiff1d(np.arange(space.size), own)
            wide[space.name] = np.union1d(own, rest[: most - len(own)])
        filled.append(wide)
    return filled


def _each(tree: Any) -> list:
    """The trees of each network, of one whose leaves lead with them."""
    count = len(jax.tree.leaves(tree)[0])
    return [jax.tree.map(lambda x, i=i: x[i], tree) for i in range(count)]


def _zeroed(params: Any, mask: masks.Mask) -> Any:
    return jax.tree.map(
        lambda w, m: w if m is None else np.where(m, w, 0), params, mask
    )


def _finite(params: Any) -> bool:
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
