"""How much two masks have in common, and what chance alone would give them.

Functions are of one network. Of masks that keep as many weights of each layer, but are
otherwise independent, the number that both keep is hypergeometric in each layer.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lth.masks import Mask, Params, paths


class Overlap(NamedTuple):
    """Holds the Jaccard index of two masks, and where chance would have it."""

    jaccard: float  # kept by both / kept by either, in [0, 1]
    chance: float  # at the expected number of weights that both keep
    chance_low: float  # of the 95 % interval of chance
    chance_high: float

    @property
    def beyond(self) -> float:
        """Return (jaccard - chance) / (1 - chance): 0 by chance, 1 of equal masks."""
        if self.chance == 1:
            return 0.0
        return (self.jaccard - self.chance) / (1 - self.chance)


def overlap(mask: Mask, other: Mask) -> Overlap:
    """Compare two masks with each other and with independent ones.

    Chance is that of masks with the same number of kept weights in each layer. Their
    common weights are counted by the normal approximation to the sum of the layers'
    hypergeometric distributions; for counts as exact as ours that is the interval which
    a binomial one, of draws with replacement, is wider than.

    Args:
      mask: Of one network.
      other: Of one network, of the same shapes.

    Returns:
      The overlap.

    Raises:
      ValueError: for masks of other shapes or with nothing in common to cover.
    """
    both, kept, expected, variance = 0, 0, 0.0, 0.0
    for a, b in _pairs(mask, other):
        n, x, y = a.size, int(a.sum()), int(b.sum())
        both += int((a & b).sum())
        kept += x + y
        expected += x * y / n
        if n > 1:
            variance += x * y * (n - x) * (n - y) / (n**2 * (n - 1))
    if not kept:
        raise ValueError("both masks keep nothing: they have no overlap")
    half = 1.959964 * variance**0.5

    def index(common):
        common = min(max(common, 0), kept / 2)
        return float(common / (kept - common))

    return Overlap(
        index(both), index(expected), index(expected - half), index(expected + half)
    )


def by_layer(mask: Mask, other: Mask) -> dict[str, Overlap]:
    """Return the overlap of each layer, by path; layers both left empty are out."""
    found = {}
    for name, (a, b) in zip(paths(mask), _pairs(mask, other), strict=True):
        if a.any() or b.any():
            found[name] = overlap({name: a}, {name: b})
    return found


def _pairs(mask: Mask, other: Mask) -> list[tuple[np.ndarray, np.ndarray]]:
    ours, theirs = ([np.asarray(x) for x in jax.tree.leaves(m)] for m in (mask, other))
    if len(ours) != len(theirs):
        raise ValueError(f"masks of {len(ours)} and of {len(theirs)} leaves")
    for path, a, b in zip(paths(mask), ours, theirs, strict=True):
        if a.shape != b.shape:
            raise ValueError(
                f"masks of other shapes: {path} is {list(a.shape)} in one and "
                f"{list(b.shape)} in the other"
            )
    return list(zip(ours, theirs, strict=True))


def flips(before: Params, after: Params, mask: Mask) -> jax.Array:
    """Return the share of kept weights whose sign is another one, in [0, 1].

    A weight that is 0 at either end has no sign, and is not among them.
    """

    def leaf(keep, a, b):
        signed = keep & (a != 0) & (b != 0)
        return jnp.sum(signed & (jnp.sign(a) != jnp.sign(b))), jnp.sum(signed)

    counts = [leaf(*each) for each in _kept(mask, before, after)]
    flipped, signed = (sum(c[i] for c in counts) for i in (0, 1))
    return flipped / jnp.maximum(signed, 1)


def agreement(mask: Mask, params: Params, other_mask: Mask, other: Params) -> jax.Array:
    """Return the share of weights kept by both whose signs agree, in [0, 1].

    Args:
      mask: Of one network.
      params: Its weights.
      other_mask: Of the other network.
      other: Its weights.

    Returns:
      The share; 1/2 by chance, NaN where no weight is kept by both.
    """
    both = jax.tree.map(jnp.logical_and, mask, other_mask)
    counts = [
        (jnp.sum(keep & (jnp.sign(a) == jnp.sign(b))), jnp.sum(keep))
        for keep, a, b in _kept(both, params, other)
    ]
    agreed, shared = (sum(c[i] for c in counts) for i in (0, 1))
    return jnp.asarray(agreed / shared)


def travelled(before: Params, after: Params, mask: Mask) -> jax.Array:
    """Return how far the weights that `mask` keeps went: root mean square of change.

    NaN where it keeps none.
    """
    counts = [
        (jnp.sum(jnp.where(keep, jnp.square(b - a), 0)), jnp.sum(keep))
        for keep, a, b in _kept(mask, before, after)
    ]
    squares, kept = (sum(c[i] for c in counts) for i in (0, 1))
    return jnp.sqrt(squares / kept)


def _kept(mask: Mask, *params: Params) -> list[tuple[Any, ...]]:
    """Each prunable leaf's mask, and its weights in each of `params`."""
    leaves, structure = jax.tree.flatten(mask, is_leaf=lambda keep: keep is None)
    parts = [structure.flatten_up_to(p) for p in params]
    return [row for row in zip(leaves, *parts, strict=True) if row[0] is not None]
