"""Density over levels."""

import jax

from lth.masks import Density


def geometric(keep: Density, levels: int) -> list[Density]:
    """The densities of levels 1 to `levels`, each `keep` times the one before.

    `keep` is the fraction of the weights that a round leaves, 0.8 in Frankle & Carbin
    (2019, arXiv:1803.03635), or a tree of such fractions for rates that differ by
    layer. Each density is a power of `keep`, so rounding to whole weights never adds
    up.
    """
    for rate in jax.tree.leaves(keep):
        if not 0 < rate <= 1:
            raise ValueError(f"a round keeps a fraction in (0, 1]; got {rate}")
    if levels < 0:
        raise ValueError(f"the number of levels is at least 0; got {levels}")
    return [
        jax.tree.map(lambda rate, level=level: rate**level, keep)
        for level in range(1, levels + 1)
    ]
