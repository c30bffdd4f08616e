"""Figures of masks: every weight in its place."""

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from lth import plot

MASK = {"conv": {"kernel": jnp.zeros((2, 1, 3, 4), bool).at[1, 0, 2, 3].set(True)}}


def test_a_frame_shows_each_weight_in_its_place():
    ax = plot.kept(MASK, "conv/kernel", Figure().subplots())
    (image,) = ax.images
    shown = np.asarray(image.get_array())
    assert shown.shape == (6, 4)
    assert shown[5, 3] == 1
    assert shown.sum() == 1
    assert ax.get_title() == "4.2% kept"
    with pytest.raises(ValueError, match="no leaf 'dense'; it has conv/kernel"):
        plot.kept(MASK, "dense", Figure().subplots())
