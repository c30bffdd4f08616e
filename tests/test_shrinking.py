"""Shrinking: sliced networks are the cleared ones, or they are refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lth import compress, masks, models, train
from lth.analysis import cost
from lth.models import resnet
from tests.test_spaces import (
    KEY,
    OWN,
    X,
    close,
    drawn,
    examples,
    own,
    spaces_of,
)


def at_random(spaces, seed=0, share=0.6):
    """Some channels of each space, at least one."""
    rng = np.random.default_rng(seed)
    chosen = {space.name: rng.random(space.size) < share for space in spaces}
    return {
        name: np.flatnonzero(alive) if alive.any() else np.zeros(1, int)
        for name, alive in chosen.items()
    }


IMAGE = (16, 16, 3)
SHALLOW = {  # every family, of as few layers as it may have
    "mlp": (models.MLP((6, 5)), (4, 4, 1)),
    "lenet5": (models.LeNet5(width=0.1), (28, 28, 1)),
    "conv2": (models.Conv(width=0.1), IMAGE),
    "vgg": (models.VGG(depth=11, width=0.05), IMAGE),
    "resnet": (models.ResNet(depth=8, width=0.5), IMAGE),
    "wrn": (models.WideResNet(depth=10, width=0.2), IMAGE),
    "bottleneck": (models.ImageNetResNet(width=0.1), (32, 32, 3)),
    "vit": (models.ViT(depth=1, width=0.1), IMAGE),
    "transformer": (models.Transformer(depth=1, heads=3, width=0.1), (8,)),
}


@functools.cache
def network(name):
    """A family's `apply`, its spaces, a tree of random numbers and random inputs."""
    module, shape = SHALLOW[name]
    dtype = jnp.int32 if name == "transformer" else jnp.float32
    model = models.from_linen(module, shape, dtype)
    params, stats = jax.eval_shape(model.init, KEY)
    like = jax.ShapeDtypeStruct((2, *shape), dtype)
    found = compress.find(model.apply, params, stats, like)
    tree = jax.device_get(drawn({"params": params, "stats": stats}))
    return model.apply, found, tree, examples(like)


@pytest.mark.parametrize("name", SHALLOW)
def test_every_family_shrinks_exactly(name, monkeypatch):
    monkeypatch.setitem(resnet.SEGMENTS, 50, (resnet.Bottleneck, (1, 1, 1, 1)))
    apply, found, tree, x = network(name)
    small = compress.shrink(apply, *tree.values(), x, at_random(found), found)
    assert small.difference <= 1e-5
    assert small.after.params == sum(x.size for x in jax.tree.leaves(small.params))
    assert small.after.params < small.before.params
    model = models.Model(lambda key: tree, small.apply)
    mask = masks.ones(small.params, lambda path, leaf: True)
    given = small.params, small.stats, x.shape[1:], mask, x.dtype
    assert small.after.macs == sum(cost.work(model, *given).dense.values())


REFUSED = ("fused", "grouped", "attention", "padded", "group_norm")


SOME = ("residual", "joined", "depthwise", "recurrent", "experts", *REFUSED)


@settings(max_examples=2)
@given(st.data())
@pytest.mark.parametrize("name", SOME)
def test_functions_shrink_exactly_or_not_at_all(name, data):
    """Those with widths written into them are refused, whatever is kept."""
    function, params, _ = OWN[name]
    kept = {
        space.name: sorted(
            data.draw(st.sets(st.sampled_from(range(space.size)), min_size=1))
        )
        for space in spaces_of(name)
    }
    try:
        small = compress.shrink(own(function), params, {}, X, kept, spaces_of(name))
    except compress.ShrinkError:
        assert name in REFUSED
        return
    assert small.difference <= 1e-5
    large = compress.clear({"params": params}, spaces_of(name), kept)["params"]
    assert close(function(large, X), function(small.params, X))


def scaled(p, x):
    """A constant that knows the width, which is another one in the smaller network."""
    h = jnp.tanh(x @ p["a"])
    return (h / h.shape[-1]) @ p["b"]


def test_another_function_is_refused_with_the_difference_and_the_space():
    params = {"a": OWN["looped"][1]["a"], "b": OWN["looped"][1]["c"]}
    with pytest.raises(compress.ShrinkError, match=r"differ by 0\.\d+ .* slicing a$"):
        compress.shrink(own(scaled), params, {}, X, {"a": [0, 2]})
    function, params, _ = OWN["fused"]
    (name,) = [space.name for space in spaces_of("fused")]
    with pytest.raises(compress.ShrinkError, match="does not run with channels"):
        compress.shrink(own(function), params, {}, X, {name: [0]})
    nan = jax.tree.map(lambda w: w * jnp.nan, OWN["looped"][1])
    with pytest.raises(compress.ShrinkError, match="differ by inf"):
        compress.shrink(own(OWN["looped"][0]), nan, {}, X, {"a": [0, 2]})


def test_widths_are_rounded_up():
    apply, found, tree, x = network("mlp")
    kept = {"hidden_0": [1, 4, 5], "hidden_1": [2]}
    small = compress.shrink(apply, *tree.values(), x, kept, found, multiple=4)
    assert {n: i.tolist() for n, i in small.kept.items()} == {
        "hidden_0": [0, 1, 4, 5],
        "hidden_1": [0, 1, 2, 3],
    }
    assert not small.params["hidden_0"]["kernel"][:, 0].any()
    assert compress.widened(found, kept, 8)["hidden_1"].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="multiples of 1 or more; got 0"):
        compress.widened(found, kept, 0)


def test_a_state_goes_along_and_comes_back():
    """Slots of the optimizer end as params do; what is removed comes back as 0."""
    _, found, tree, _ = network("mlp")
    tx = optax.adam(1e-3)
    moments = tx.init(tree["params"])
    state = train.TrainState(
        step=jnp.int32(7), opt_state=moments, params=tree["params"], stats=tree["stats"]
    )
    kept = {"hidden_0": [1, 4, 5], "hidden_1": [0, 2]}
    small = compress.sliced(state, tree, found, kept)
    want = compress.keep(tree, found, kept)["params"]
    shapes = jax.tree.map(lambda x: x.shape, want)
    assert jax.tree.map(lambda x: x.shape, small.opt_state[0].mu) == shapes
    assert small.step == 7
    back = compress.spread(small, tree, found, kept)
    cleared = compress.clear(tree, found, kept)["params"]
    jax.tree.map(np.testing.assert_array_equal, back.params, cleared)
    assert jax.tree.map(jnp.shape, back) == jax.tree.map(jnp.shape, state)
    with pytest.raises(
        ValueError, match=r"hidden_0/bias has the shape \(3,\); got \(6,"
    ):
        compress.spread(state, tree, found, kept)
    with pytest.raises(
        ValueError, match=r"hidden_0/bias has the shape \(6,\); got \(3,"
    ):
        compress.sliced(small, tree, found, kept)
    odd = {"v_row": {"hidden_0": {"kernel": np.ones(16)}}}
    with pytest.raises(ValueError, match=r"hidden_0/kernel has the shape"):
        compress.sliced(odd, tree, found, kept)


def test_what_a_mask_leaves_is_alive():
    _, found, tree, _ = network("mlp")
    kept = {"hidden_0": [1, 4, 5], "hidden_1": [0, 2]}
    whole = {"params": jax.tree.map(lambda w: np.ones(w.shape, bool), tree["params"])}
    mask = compress.clear(whole, found, kept)["params"]
    assert {n: i.tolist() for n, i in compress.living(mask, found).items()} == kept
    nothing = jax.tree.map(np.zeros_like, mask)
    assert compress.living(nothing, found)["hidden_0"].tolist() == [0]
    # A filter whose bias alone lives is not gone.
    mask["hidden_0"]["bias"][0] = True
    assert compress.living(mask, found)["hidden_0"].tolist() == [0, 1, 4, 5]


def test_a_convolution_masked_without_its_norm_is_another_network():
    apply, found, tree, x = network("resnet")
    kept = at_random(found)
    small = compress.shrink(apply, *tree.values(), x, kept, found)
    kernels = [
        s._replace(
            members={a: i for a, i in s.members.items() if a in s.having("makes")}
        )
        for s in found
    ]
    alone = compress.clear(tree, kernels, kept)
    outputs = [
        apply(t["params"], t["stats"], x, False, None)[0]
        for t in (alone, compress.clear(tree, found, kept))
    ]
    assert close(outputs[1], small.apply(small.params, small.stats, x, False, None)[0])
    assert not close(outputs[0], outputs[1], 1e-2)
