"""Criteria that look at the weights alone."""

import jax
import jax.numpy as jnp

from lth import masks
from lth.criteria.gradients import wide
from lth.masks import Params, Scores


def magnitude(params: Params) -> Scores:
    """Scores |w| for each weight (Han et al. 2015, arXiv:1506.02626)."""
    return jax.tree.map(jnp.abs, params)


def normalised_magnitude(params: Params) -> Scores:
    """Scores |w| / ‖w‖₂, the norm being that of the weight's leaf.

    What jaxpruner and NNCF call global magnitude pruning. Under a global scope layers
    of small weights are spared; in a layer it ranks as `magnitude` does.
    """

    def leaf(w):
        norm = jnp.sqrt(jnp.sum(jnp.square(w)))
        return jnp.abs(w) / jnp.where(norm > 0, norm, 1)

    return jax.tree.map(leaf, wide(params))


def standardised_magnitude(params: Params) -> Scores:
    """Scores |w| less its mean, over its deviation, in each filter of a convolution.

    In kernels of other ranks, within the whole leaf. The z-scored magnitude in the code
    of Renda et al. (2020, arXiv:2003.02389). Pruned weights count as zeros, as there.
    """

    def leaf(w):
        size = jnp.abs(w)
        axes = tuple(range(w.ndim - 1)) if w.ndim == 4 else None
        deviation = jnp.std(size, axes, keepdims=True)
        distance = size - jnp.mean(size, axes, keepdims=True)
        return distance / jnp.where(deviation > 0, deviation, 1)

    return jax.tree.map(leaf, wide(params))


def lamp(params: Params) -> Scores:
    """Scores w² over the sum of squares of the weights in its leaf that are no smaller.

    Layer-adaptive magnitude (Lee et al. 2021, arXiv:2010.07611), for a global scope:
    the share of the leaf's remaining energy that a weight would take with it. The
    largest weight of every leaf scores 1, so no layer is ever emptied. Of equal weights
    the lower index ranks higher.
    """

    def leaf(w):
        energy = jnp.square(w).ravel()[::-1]  # so that ties fall the right way round
        order = jnp.argsort(energy)
        rest = jnp.cumsum(energy[order][::-1])[::-1]
        share = energy[order] / jnp.where(rest > 0, rest, 1)
        return jnp.zeros_like(energy).at[order].set(share)[::-1].reshape(w.shape)

    return jax.tree.map(leaf, wide(params))


def random(params: Params, key: jax.Array) -> Scores:
    """Scores uniformly in [0, 1) for each weight: the control that knows nothing."""
    return masks.uniform(params, key)


def inverted(scores: Scores) -> Scores:
    """Turns the order round: the control that keeps what a criterion would prune."""
    return jax.tree.map(jnp.negative, scores)
