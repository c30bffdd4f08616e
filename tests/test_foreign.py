"""PyTorch's weights in our leaves: its function, restated in NumPy, is ours."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lth
from lth import lottery, masks, models
from lth.compress import files, foreign
from lth.lottery import recipe as recipes

IMAGE = (14, 14, 3)


def draw(rng, *shape):
    return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


# PyTorch's functions in NumPy: maps are [batch, channels, height, width].
def conv2d(x, weight, bias=None, groups=1, padding=0):
    sides = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    parts = np.split(np.pad(x, sides), groups, 1)
    found = [
        np.einsum(
            "nchwij,ocij->nohw",
            np.lib.stride_tricks.sliding_window_view(part, weight.shape[2:], (2, 3)),
            own,
        )
        for part, own in zip(parts, np.split(weight, groups), strict=True)
    ]
    y = np.concatenate(found, 1)
    return y if bias is None else y + bias[:, None, None]


def max_pool(x):
    n, c, h, w = x.shape
    whole = x[:, :, : h // 2 * 2, : w // 2 * 2]
    return whole.reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))


def batch_norm(x, t, name):
    scale = t[f"{name}.weight"] / np.sqrt(t[f"{name}.running_var"] + 1e-5)
    shift = t[f"{name}.bias"] - t[f"{name}.running_mean"] * scale
    return x * scale[:, None, None] + shift[:, None, None]


def relu(x):
    return np.maximum(x, 0)


def linear(x, t, name):
    return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]


def lenet(t, x):
    for i in (0, 3):
        own = t[f"features.{i}.weight"], t[f"features.{i}.bias"]
        x = max_pool(relu(conv2d(x, *own)))
    x = x.reshape(len(x), -1)  # channels, height, width
    return linear(relu(linear(x, t, "fc1")), t, "fc2")


LENET = {"conv_0": "features.0", "conv_1": "features.3"}
LENET |= {"hidden_0": "fc1", "output": "fc2"}


def torch_lenet(seed=0):
    """Tensors of a LeNet-5 of 4, 10 and 100 channels for 28 x 28 x 1."""
    rng = np.random.default_rng(seed)
    shapes = {"features.0": (4, 1, 5, 5), "features.3": (10, 4, 5, 5)}
    shapes |= {"fc1": (100, 160), "fc2": (10, 100)}
    tensors = {f"{n}.weight": draw(rng, *shape) for n, shape in shapes.items()}
    return tensors | {f"{n}.bias": draw(rng, s[0]) for n, s in shapes.items()}


def ours(module, shape, dtype=jnp.float32):
    """A model, and what puts tensors into its leaves."""
    model = models.from_linen(module, shape, dtype)
    params, stats = jax.eval_shape(model.init, jax.random.key(0))
    inputs = jax.ShapeDtypeStruct((2, *shape), dtype)
    return model, partial(foreign.from_torch, model.apply, params, stats, inputs)


def compared(model, params, stats, images):
    """Our outputs of PyTorch's images [n, channels, height, width]."""
    x = jnp.asarray(images.transpose(0, 2, 3, 1))
    return model.apply(params, stats, x, False, None)[0]


def test_a_lenet_computes_what_it_did():
    tensors = torch_lenet()
    model, imported = ours(models.LeNet5(width=0.2), (28, 28, 1))
    read, _ = files.read(files.to_safetensors(tensors, {}))
    params, stats = imported(read, LENET)
    images = np.random.default_rng(1).normal(size=(3, 1, 28, 28)).astype(np.float32)
    expected = lenet(tensors, images)
    found = compared(model, params, stats, images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    # The first dense layer by hand: row (h, w, c) of ours is column (c, h, w) there.
    there = tensors["fc1.weight"].reshape(100, 10, 4, 4)
    here = params["hidden_0"]["kernel"].reshape(4, 4, 10, 100)
    np.testing.assert_array_equal(here, there.transpose(2, 3, 1, 0))
    # With the order forgotten it would be another function.
    forgotten = {**params, "hidden_0": {**params["hidden_0"]}}
    forgotten["hidden_0"]["kernel"] = jnp.asarray(tensors["fc1.weight"].T)
    wrong = compared(model, forgotten, stats, images)
    assert np.abs(wrong - expected).max() > 0.05


class Mixed(nn.Module):
    """Has grouped and depthwise convolutions, norms, joined maps and a flatten."""

    by_channel: bool = False  # it flattens in PyTorch's order

    @nn.compact
    def __call__(self, x, train=False):
        norm = {"use_running_average": not train, "epsilon": 1e-5}
        x = nn.Conv(6, (3, 3), padding=1, use_bias=False, name="stem")(x)
        x = nn.relu(nn.BatchNorm(**norm, name="norm")(x))
        a = nn.Conv(6, (3, 3), padding=1, feature_group_count=6, name="depth")(x)
        b = nn.Conv(4, (3, 3), padding=1, feature_group_count=2, name="group")(x)
        x = nn.relu(jnp.concatenate([a, b], -1))
        x = nn.max_pool(nn.Conv(5, (1, 1), name="point")(x), (2, 2), (2, 2))
        x = x.transpose(0, 3, 1, 2) if self.by_channel else x
        return nn.Dense(7, name="head")(x.reshape(len(x), -1))


MIXED = {
    "stem": "s",
    "norm": "n",
    "depth": "d",
    "group": "g",
    "point": "p",
    "head": "h",
}


def mixed(t, x):
    x = relu(batch_norm(conv2d(x, t["s.weight"], padding=1), t, "n"))
    a = conv2d(x, t["d.weight"], t["d.bias"], groups=6, padding=1)
    b = conv2d(x, t["g.weight"], t["g.bias"], groups=2, padding=1)
    x = relu(np.concatenate([a, b], 1))
    x = max_pool(conv2d(x, t["p.weight"], t["p.bias"]))
    return linear(x.reshape(len(x), -1), t, "h")


@pytest.mark.parametrize("by_channel", [False, True])
def test_norms_groups_and_joined_maps(by_channel):
    rng = np.random.default_rng(2)
    shapes = {"s": (6, 3, 3, 3), "d": (6, 1, 3, 3), "g": (4, 3, 3, 3)}
    shapes |= {"p": (5, 10, 1, 1), "h": (7, 5 * 49)}
    t = {f"{n}.weight": draw(rng, *shape) for n, shape in shapes.items()}
    t |= {f"{n}.bias": draw(rng, len(t[f"{n}.weight"])) for n in "dgph"}
    t |= {f"n.{n}": draw(rng, 6) for n in ("weight", "bias", "running_mean")}
    t["n.running_var"] = np.abs(draw(rng, 6)) + np.float32(0.5)
    t["n.num_batches_tracked"] = np.array(7)
    model, imported = ours(Mixed(by_channel), IMAGE)
    params, stats = imported(t, MIXED)
    images = rng.normal(size=(2, 3, 14, 14)).astype(np.float32)
    found = compared(model, params, stats, images)
    np.testing.assert_allclose(found, mixed(t, images), rtol=1e-4, atol=1e-4)


def test_an_order_that_is_not_known_is_asked_for():
    model, imported = ours(models.MLP((5,)), IMAGE)
    rng, names = np.random.default_rng(3), {"hidden_0": "a", "output": "b"}
    t = {"a.weight": draw(rng, 5, 588), "b.weight": draw(rng, 10, 5)}
    t |= {"a.bias": draw(rng, 5), "b.bias": draw(rng, 10)}
    with pytest.raises(ValueError, match="order hidden_0/kernel reads its 588 inputs"):
        imported(t, names)
    places = np.arange(588).reshape(3, 14, 14).transpose(1, 2, 0).ravel()
    given = {"hidden_0/kernel": places}
    params, stats = imported(t, names, given)
    images = rng.normal(size=(2, 3, 14, 14)).astype(np.float32)
    expected = linear(relu(linear(images.reshape(2, -1), t, "a")), t, "b")
    found = compared(model, params, stats, images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    bad = {"hidden_0/kernel": places[:-1]}
    with pytest.raises(ValueError, match="is no permutation of 588 places"):
        imported(t, names, bad)
    with pytest.raises(ValueError, match="orders are given of no kernel: hidden"):
        imported(t, names, given | {"hidden": places})


def test_tensors_that_do_not_fit_are_refused():
    tensors = torch_lenet()
    _, imported = ours(models.LeNet5(width=0.2), (28, 28, 1))

    def tried(t, names=LENET):
        return imported(t, names)

    with pytest.raises(ValueError, match=r"params/output/kernel \(fc3.weight\); there"):
        tried(tensors, LENET | {"output": "fc3"})
    with pytest.raises(ValueError, match="no leaf for fc9.weight"):
        tried(tensors | {"fc9.weight": np.ones(3, np.float32)})
    with pytest.raises(
        ValueError,
        match=r"hidden_0/kernel is \[160, 100\] here, and fc1.weight is \[100, 90\]",
    ):
        tried(tensors | {"fc1.weight": np.ones((100, 90), np.float32)})
    with pytest.raises(ValueError, match="fc1.bias holds int64, no weights"):
        tried(tensors | {"fc1.bias": np.ones(100, int)})
    with pytest.raises(ValueError, match="is neither dense nor a convolution"):
        tried(tensors | {"fc1.weight": np.ones((100, 160, 1), np.float32)})
    model, imported = ours(models.Transformer(width=0.1), (8,), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0))[0]
    names = {path: f"t{i}" for i, path in enumerate(masks.paths(params))}
    t = {}
    for path, like in zip(names, jax.tree.leaves(params), strict=True):
        turned = like.ndim == 2 and not path.endswith("embedding")
        shape = like.shape[::-1] if turned else like.shape
        t[names[path]] = np.ones(shape, np.float32)
    # What a layer norm gives is read in an order that nobody promises.
    with pytest.raises(ValueError, match=r"hidden_0/kernel reads its 12 inputs is not"):
        imported(t, names)


def test_a_run_begins_from_given_weights(tmp_path):
    settings = {"steps": "6it", "eval_every": "6it", "levels": 1, "replicates": 2}
    few = {"model": {"widths": (8,)}, "controls": ("reinit",)}
    recipe = lth.build("digits", **settings, **few)
    rng, names = np.random.default_rng(4), {"hidden_0": "0", "output": "2"}
    t = {"0.weight": draw(rng, 8, 64), "2.weight": draw(rng, 10, 8)}
    t |= {"0.bias": draw(rng, 8), "2.bias": draw(rng, 10)}
    _, imported = ours(models.MLP((8,)), (8, 8, 1))
    params, stats = imported(t, names)
    pretrained = lottery.begun_from(recipe, params, stats)
    run = lth.run(pretrained, tmp_path / "run")
    early = run.early.params["hidden_0"]["kernel"]
    np.testing.assert_array_equal(early, np.stack([t["0.weight"].T] * 2))
    ticket, control = run.ticket(1, replicate=0), run.ticket(1, "reinit", replicate=0)
    assert not ticket.params["hidden_0"]["kernel"][
        ~ticket.mask["hidden_0"]["kernel"]
    ].any()
    far = control.params["hidden_0"]["kernel"] - early[0]
    near = ticket.params["hidden_0"]["kernel"] - early[0]
    keep = ticket.mask["hidden_0"]["kernel"]
    assert np.abs(near[keep]).mean() < 0.3 * np.abs(far[keep]).mean()
    assert run.content["fingerprint"]["weights"]
    other = lottery.begun_from(recipe, jax.tree.map(lambda x: 2 * x, params))
    with pytest.raises(RuntimeError, match="another recipe: weights was"):
        lth.run(other, tmp_path / "run")
    with pytest.raises(ValueError, match="params lack output/bias"):
        lottery.begun_from(recipe, {**params, "output": {"kernel": early}})
    wrong = {**params, "output": {"kernel": early[0], "bias": t["2.bias"]}}
    with pytest.raises(ValueError, match=r"shape \[64, 8\]; the recipe's is \[8, 10\]"):
        lottery.begun_from(recipe, wrong)


def test_each_replicate_begins_from_weights_of_its_own():
    recipe = lth.build("digits", replicates=2, model={"widths": (8,)}, steps="6it")
    first = lottery.keys(recipe.replicates, recipes.INIT)
    like = jax.eval_shape(recipe.init, first)
    rng = np.random.default_rng(5)
    params = jax.tree.map(lambda x: draw(rng, *x.shape), like.params)
    begun = lottery.begun_from_each(recipe, params, like.stats)
    state = begun.init(first)
    jax.tree.map(np.testing.assert_array_equal, state.params, params)
    back = begun.init(first[::-1])  # whoever is asked for, in any order
    turned = jax.tree.map(lambda x: x[::-1], back.params)
    jax.tree.map(np.testing.assert_array_equal, turned, params)
    stranger = begun.init(lottery.keys([7], recipes.INIT))
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(stranger.params))
    one = jax.tree.map(lambda x: x[:1], params)
    with pytest.raises(ValueError, match=r"of \[1\] networks, the replicates are 2"):
        lottery.begun_from_each(recipe, one, like.stats)
