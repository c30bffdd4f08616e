"""Published counts and distributions of the models."""

import jax
import numpy as np
import pytest

from lth import masks, models


def test_lenet_300_100_has_its_published_count():
    model = models.from_linen(models.MLP(), (28, 28, 1))
    params, stats = jax.eval_shape(model.init, jax.random.key(0))
    mask = jax.eval_shape(masks.ones, params)
    assert masks.size(mask) == 266_200
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 266_610
    assert stats == {}
    assert masks.paths(mask) == ["hidden_0/kernel", "hidden_1/kernel", "output/kernel"]


VARIANCE = {"glorot_normal": 2 / (784 + 300), "kaiming_normal": 2 / 784}


@pytest.mark.parametrize("name", models.INITIALISERS)
def test_initialisers_have_the_variance_of_their_papers(name):
    module = models.MLP(widths=(300,), initialiser=name)
    params, _ = models.from_linen(module, (784,)).init(jax.random.key(0))
    kernel = np.asarray(params["hidden_0"]["kernel"])
    assert kernel.var() == pytest.approx(VARIANCE[name], rel=0.02)
    cut = np.abs(kernel).max() < 2.4 * VARIANCE[name] ** 0.5
    assert cut == (name == "glorot_normal")  # truncated at two sigma, then rescaled
    assert not any(layer["bias"].any() for layer in params.values())


def test_the_mlp_is_what_it_says():
    model = models.from_linen(models.MLP(widths=(4,), outputs=2), (2, 3, 1))
    params, stats = model.init(jax.random.key(0))
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3, 1)
    raw = models.standardized(model, 1.0, 4.0)
    logits, _ = raw.apply(params, stats, image, False, None)
    x = (image.reshape(2, -1) - 1.0) / 4.0
    hidden = np.maximum(x @ params["hidden_0"]["kernel"], 0)
    np.testing.assert_allclose(logits, hidden @ params["output"]["kernel"], atol=1e-5)
