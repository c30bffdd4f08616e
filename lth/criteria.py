"""Criteria: what ranks weights. Each gives a tree of scores; higher is kept."""

import jax
import jax.numpy as jnp

from lth.masks import Params, Scores


def magnitude(params: Params) -> Scores:
    """|w| for each weight (Han et al. 2015, arXiv:1506.02626)."""
    return jax.tree.map(jnp.abs, params)


def random(params: Params, key: jax.Array) -> Scores:
    """Uniform in [0, 1) for each weight: the control that knows nothing."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    scores = [jax.random.uniform(k, w.shape) for k, w in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, scores)
