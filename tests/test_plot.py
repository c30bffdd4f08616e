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


def test_a_picture_of_inputs_is_of_one_network():
    mask = {"kernel": jnp.zeros((6, 4), bool).at[5, :3].set(True)}
    ax = plot.inputs(mask, "kernel", (2, 3), Figure().subplots())
    assert np.asarray(ax.images[0].get_array()).tolist() == [[0, 0, 0], [0, 0, 3]]
    for shape, wrong in (((2, 6, 4), (2, 3)), ((6, 4), (2, 2)), ((2, 3, 4), (2, 3))):
        stacked = {"kernel": jnp.zeros(shape, bool)}
        with pytest.raises(ValueError, match=r"kernel is \[.*replicate=0") as caught:
            plot.inputs(stacked, "kernel", wrong, Figure().subplots())
        assert f"got {shape}" in str(caught.value)
