"""Scores of channels, against the same written again in NumPy and by hand."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lth import compress, masks, models
from lth.criteria import channels
from tests.test_spaces import RUN, close, drawn, examples, run


class Small(nn.Module):
    """A convolution, a flattened map and two dense layers."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Conv(3, (3, 3), name="conv")(x))
        x = nn.relu(nn.Dense(4, name="hidden")(x.reshape(len(x), -1)))
        return nn.Dense(3, name="output")(x)


SHAPE = (4, 4, 2)
MODEL = models.from_linen(Small(), SHAPE)
RNG = np.random.default_rng(3)
X = RNG.normal(size=(6, *SHAPE)).astype(np.float32)
Y = np.arange(6, dtype=np.int32) % 3
BATCHES = (X.reshape(2, 3, *SHAPE), Y.reshape(2, 3))


def loss(params, batch):
    x, y = batch
    logits = MODEL.apply(params, {}, x, False, None)[0]
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1)
    return -jnp.mean(chosen)


@pytest.fixture(scope="module")
def small():
    """The params, with a dead hidden unit, and the spaces."""
    params, stats = jax.eval_shape(MODEL.init, jax.random.key(0))
    params = drawn(params)
    params["hidden"]["bias"] = params["hidden"]["bias"].at[1].set(-100.0)
    return params, compress.find(MODEL.apply, params, stats, X)


def restated(params, gates=(1.0, 1.0), x=X, y=Y):
    """Losses, activations and their gradients by hand, in float64."""
    p = jax.tree.map(lambda w: np.asarray(w, float), params)
    padded = np.pad(x.astype(float), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    z = np.einsum("nhwcij,ijck->nhwk", windows, p["conv"]["kernel"])
    z = np.maximum(z + p["conv"]["bias"], 0) * gates[0]
    flat = z.reshape(len(x), -1)
    u = np.maximum(flat @ p["hidden"]["kernel"] + p["hidden"]["bias"], 0) * gates[1]
    logits = u @ p["output"]["kernel"] + p["output"]["bias"]
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    losses = -np.log(chances[np.arange(len(y)), y])
    down = (chances - np.eye(3)[y]) @ p["output"]["kernel"].T
    below = (down * (u > 0)) @ p["hidden"]["kernel"].T
    return losses, z, u, z * below.reshape(z.shape), u * down


def test_gates_against_numpy(small):
    params, spaces = small
    assert [space.name for space in spaces] == ["conv", "hidden"]
    *_, conv, hidden = restated(params)
    terms = {"conv": conv, "hidden": hidden[:, None, None]}
    by_hand = {
        channels.taylor: lambda t: np.abs(t.sum((1, 2))).mean(0),
        channels.fisher: lambda t: np.square(t.sum((1, 2))).mean(0) / 2,
        channels.taylor_abs: lambda t: np.abs(t).sum((1, 2)).mean(0),
        channels.taylor_batch: lambda t: np.abs(t.sum((1, 2)).mean(0)),
        channels.taylor_squared: lambda t: np.square(t.sum((1, 2)).mean(0)),
    }
    score = functools.partial(_all, [*by_hand], spaces)
    for found, rule in zip(jax.jit(score)(params), by_hand.values(), strict=True):
        for name, t in terms.items():
            np.testing.assert_allclose(found[name], rule(t), rtol=2e-4, atol=1e-7)
        assert found["hidden"][1] == 0  # the dead unit
    values = [rule(terms["conv"]).tolist() for rule in by_hand.values()]
    assert len({tuple(np.argsort(v)) for v in values} | {(*v,) for v in values}) > 4


def _all(criteria_, spaces, params):
    return [criterion(loss, params, spaces, BATCHES) for criterion in criteria_]


def test_the_oracle_and_the_curvature_against_numpy(small):
    params, spaces = small

    @jax.jit
    def both(params):
        whole = functools.partial(loss, batch=(X, Y))
        return (
            channels.oracle(whole, params, spaces, at_once=3),
            channels.obd(loss, params, spaces, BATCHES),
        )

    removed, curved = both(params)
    base, h = restated(params)[0].mean(), 1e-4
    for i, (name, size) in enumerate({"conv": 3, "hidden": 4}.items()):
        for channel in range(size):
            at = np.eye(size)[channel]

            def gated(by, i=i, at=at):
                gates = [1.0, 1.0]
                gates[i] = 1 + by * at
                return restated(params, gates)[0].mean()

            second = (gated(h) - 2 * base + gated(-h)) / h**2
            without = gated(-1) - base
            np.testing.assert_allclose(removed[name][channel], without, atol=1e-6)
            np.testing.assert_allclose(curved[name][channel], second / 2, atol=1e-5)


def test_what_is_read_against_numpy(small):
    params, spaces = small
    assert MODEL.intermediates is not None
    inputs, _ = MODEL.intermediates(params, {}, X)
    _, z, u, *_ = restated(params)
    means = channels.mean_activation(params, inputs, spaces)
    np.testing.assert_allclose(means["conv"], z.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(means["hidden"], u.mean(0), rtol=1e-5)
    shares = channels.nonzero_share(params, inputs, spaces)
    np.testing.assert_allclose(shares["conv"], (z > 0).mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(shares["hidden"], (u > 0).mean(0), rtol=1e-6)
    assert shares["hidden"][1] == 0


def test_filters_by_hand(small):
    params, spaces = small
    kernel = np.asarray(params["conv"]["kernel"])
    found = channels.filter_l1(params, spaces)
    np.testing.assert_allclose(found["conv"], np.abs(kernel).sum((0, 1, 2)), rtol=1e-6)
    found = channels.filter_l2(params, spaces)
    norms = np.sqrt(np.square(kernel).sum((0, 1, 2)))
    np.testing.assert_allclose(found["conv"], norms, rtol=1e-6)
    read = np.asarray(params["hidden"]["kernel"]).reshape(16, 3, 4)
    found = channels.pooled(params, spaces, ("reads",), within=jnp.max)
    np.testing.assert_allclose(found["conv"], read.max((0, 2)))
    with pytest.raises(ValueError, match="conv has no leaf 'scale' beside"):
        channels.norm_scale(params, spaces)
    with pytest.raises(ValueError, match="conv has no leaf that passes its channels"):
        channels.pooled(params, spaces, ("passes",))


def test_a_million_weights():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 300, 400)).astype(np.float32)
    places = np.arange(400)[:, None]
    at = ("params/conv/kernel", 3)
    space = compress.Space("conv", 400, {at: places}, {at: frozenset({"makes"})})
    found = channels.filter_l1({"conv": {"kernel": kernel}}, [space])["conv"]
    np.testing.assert_allclose(found, np.abs(kernel).sum((0, 1, 2)), rtol=1e-5)


FAMILIES = {  # shallow ones, for compiling takes longest
    "conv2": (models.Conv(width=0.05), (32, 32, 3)),
    "resnet8": (models.ResNet(depth=8, width=0.25), (8, 8, 3)),
    "vit": (models.ViT(depth=1, width=0.1), (8, 8, 3)),
    "transformer": (models.Transformer(depth=1, width=0.1), (8,)),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """A network of the zoo, its weights, spaces, and inputs."""
    module, shape = FAMILIES[request.param]
    dtype = jnp.int32 if request.param == "transformer" else jnp.float32
    model = models.from_linen(module, shape, dtype)
    params, stats = jax.eval_shape(model.init, jax.random.key(0))
    like = jax.ShapeDtypeStruct((2, *shape), dtype)
    spaces = compress.find(model.apply, params, stats, like)
    return model, drawn(params), drawn(stats), spaces, examples(like)


def test_a_closed_gate_is_a_network_without_the_channel(family):
    model, params, stats, spaces, x = family
    rng, tree = np.random.default_rng(1), {"params": params, "stats": stats}
    kept = {space.name: rng.permutation(space.size)[1:] for space in spaces}
    gates = {n: jnp.zeros(s.size).at[kept[n]].set(1) for n, s in _named(spaces)}
    cleared = compress.clear(tree, spaces, kept)
    gated = {"params": channels.gated(params, spaces, gates), "stats": stats}
    program = jax.jit(run(model.apply)).lower(tree, x).compile(RUN)
    assert close(program(gated, x), program(cleared, x))
    assert not close(program(gated, x), program(tree, x))


def test_both_places_of_a_gate_agree(family):
    """On what is read, example by example, and on the weights that read."""
    model, params, stats, spaces, x = family

    def value(params, batch):
        outputs = model.apply(params, stats, batch, False, None)[0]
        return jnp.sum(jnp.square(outputs)) / len(batch)

    def scored(params):
        squared = channels.fisher(value, params, spaces, x[None, :1])
        return channels.taylor_squared(value, params, spaces, x[None, :1]), squared

    found, twice = jax.jit(scored).lower(params).compile(RUN)(params)
    for name, scores in found.items():
        assert scores.any(), name
        limit = 1e-4 * float(scores.max())
        np.testing.assert_allclose(2 * twice[name], scores, rtol=1e-3, atol=limit)


def _named(spaces):
    return [(space.name, space) for space in spaces]


def test_scales_of_a_residual_stage():
    module, shape = FAMILIES["resnet8"]
    model = models.from_linen(module, shape)
    like, stats = jax.eval_shape(model.init, jax.random.key(0))
    spaces = compress.find(model.apply, like, stats, jnp.zeros((1, *shape)))
    params = drawn(like)
    stage = spaces[0]
    own = [path for path, _ in stage.having("beside") if path.endswith("scale")]
    assert len(own) > 1
    leaves = dict(zip(masks.paths(params), jax.tree.leaves(params), strict=True))
    each = np.stack([np.abs(leaves[p.removeprefix("params/")]) for p in own])
    mean = channels.norm_scale(params, spaces)[stage.name]
    np.testing.assert_allclose(mean, each.mean(0), rtol=1e-6)
    most = channels.norm_scale(params, spaces, across=jnp.max)[stage.name]
    np.testing.assert_allclose(most, each.max(0), rtol=1e-6)


@given(hnp.arrays(np.float32, (2, 7), elements=st.integers(0, 4)))
def test_rank_correlation_is_scipys_with_ties(pair):
    a, b = pair
    found = channels.rank_correlation({"x": a, "y": -a}, {"x": b, "y": b})
    if np.ptp(a) and np.ptp(b):
        expected = scipy.stats.spearmanr(a, b).statistic
        assert found.each["x"] == pytest.approx(expected)
        assert found.mean == pytest.approx(0)
    else:
        assert np.isnan(found.each["x"])


def test_rank_correlation_by_the_formula():
    rng = np.random.default_rng(0)
    a, b = rng.permutation(9), rng.permutation(9)
    expected = 1 - 6 * np.square(a - b).sum() / (9 * (81 - 1))
    found = channels.rank_correlation({"x": a}, {"x": b})
    assert found.whole == found.mean == pytest.approx(expected)


def test_layers_are_compared_by_their_norms():
    scores = {"a": jnp.array([3.0, 4.0]), "b": jnp.zeros(2)}
    np.testing.assert_allclose(channels.normalised(scores)["a"], [0.6, 0.8])
    assert not channels.normalised(scores)["b"].any()
    np.testing.assert_allclose(channels.normalised(scores, jnp.max)["a"], [0.75, 1])


def test_scores_choose_as_those_of_weights_do(small):
    _, spaces = small
    scores = channels.random(spaces, jax.random.key(0))
    alive = jax.tree.map(lambda s: jnp.ones(s.shape, bool), scores)
    kept = masks.keep_top(scores, alive, 4 / 7)
    assert int(masks.count(kept)) == 4
