"""Dead units of unstructured masks: removed exactly, their constants in biases."""

import jax
import numpy as np

from lth import compress, masks
from tests.test_shrinking import network
from tests.test_spaces import close


def pruned(tree, *dead):
    """A mask of kernels and embeddings without some columns and rows of them."""
    mask = masks.ones(tree["params"])
    mask = jax.tree.map(np.array, mask)
    for layer, where in dead:
        mask[layer]["kernel"][where] = False
    return mask


def shrunk(name, *dead):
    apply, found, tree, x = network(name)
    mask = pruned(tree, *dead)
    x = np.concatenate([x, -x, 2 * x, 3 * x])
    small = compress.shrink_masked(
        apply, tree["params"], tree["stats"], mask, x, found, limit=1e-5
    )
    params = masks.apply(tree["params"], mask)
    large = apply(params, tree["stats"], x, False, None)[0]
    assert close(large, small.apply(small.params, small.stats, x, False, None)[0])
    return small, params


def test_constants_go_into_the_next_bias_by_hand():
    """Neuron 1 reads nothing and says relu(bias); neuron 4 is read by nobody."""
    dead = (("hidden_0", np.s_[:, 1]), ("hidden_1", np.s_[4, :]))
    small, params = shrunk("mlp", *dead)
    assert small.kept["hidden_0"].tolist() == [0, 2, 3, 5]
    says = max(params["hidden_0"]["bias"][1], 0)
    bias = params["hidden_1"]["bias"] + says * params["hidden_1"]["kernel"][1]
    np.testing.assert_allclose(small.params["hidden_1"]["bias"], bias, rtol=1e-6)


def test_what_dead_units_alone_feed_is_dead():
    """Neurons of the second layer that nobody reads leave one of the first unread."""
    dead = (("output", np.s_[2:, :]), ("hidden_1", np.s_[3, :2]))
    small, _ = shrunk("mlp", *dead)
    assert small.kept["hidden_1"].tolist() == [0, 1]
    assert small.kept["hidden_0"].tolist() == [0, 1, 2, 4, 5]


def test_a_constant_stays_before_a_padded_convolution():
    """The border of the next map sees less of it; before a dense layer it goes."""
    _, found, tree, _ = network("conv2")
    tree["params"]["conv_0"]["bias"] = np.full(6, [0.5, -0.5, 1, 1, 1, 1], "f4")
    small, _ = shrunk("conv2", ("conv_0", np.s_[..., :2]), ("conv_1", np.s_[..., 0]))
    kept = [small.kept[space.name].tolist() for space in found[:2]]
    assert kept[0] == [0, 2, 3, 4, 5]  # that of -0.5 says 0 behind the ReLU
    assert kept[1] == [1, 2, 3, 4, 5]


def test_nothing_dead_is_nothing_removed():
    small, _ = shrunk("mlp")
    assert small.before == small.after
