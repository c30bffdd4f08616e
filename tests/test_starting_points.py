"""Branches that change one thing: by hand numbers, and restated in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lth import lottery, models
from lth.lottery import Ticket, ablations, branches, rewind
from lth.train import TrainState
from tests.conftest import assert_same

KEY = jax.random.key(5)


def state(params, step=0, stats=None, opt_state=()):
    return TrainState(jnp.int32(step), params, stats or {}, opt_state)


def ticket(mask, late):
    return Ticket(1, mask, late, {})


def drawn(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def layers(seed, share=0.4):
    """Early and late states of two layers and a bias, and a ticket of them."""
    shapes = {"a": (7, 5), "b": (5, 3), "bias": (3,)}
    early, late = (
        {n: drawn([seed, i, j], *s) for j, (n, s) in enumerate(shapes.items())}
        for i in (0, 1)
    )
    mask: dict = {
        n: np.random.default_rng([seed, 2, j]).random(shapes[n]) < share
        for j, n in enumerate(("a", "b"))
    }
    mask["a"][0, 0] = mask["b"][0, 0] = True
    return state(early), ticket(mask | {"bias": None}, state(late, 9))


def norm(x):
    return np.sqrt(np.sum(np.square(np.float64(x))))


@settings(max_examples=15)
@given(st.integers(0, 99), st.sampled_from([0.0, 0.5, 2.0]))
def test_noise_is_as_long_as_a_share_of_the_way(seed, scale):
    early, found = layers(seed)
    start, mask = ablations.noisy(scale).start(early, found, KEY)
    assert mask is found.mask
    for name in ("a", "b"):
        keep, w = mask[name], early.params[name]
        noise = np.asarray(start.params[name]) - np.where(keep, w, 0)
        way = norm(found.state.params[name][keep] - w[keep])
        np.testing.assert_allclose(norm(noise), scale * way, rtol=1e-5)
        assert not np.asarray(start.params[name])[~keep].any()
    assert_same(start.params["bias"], early.params["bias"])
    assert_same(start._replace(params=0), early._replace(params=0))


@settings(max_examples=15)
@given(st.integers(0, 99), st.sampled_from([0.0, 0.5, 2.0]))
def test_noise_in_deviations_of_the_kept_weights(seed, scale):
    early, found = layers(seed, 0.7)
    one = ablations.noisy(1, "weights").start(early, found, KEY)[0]
    many = ablations.noisy(scale, "weights").start(early, found, KEY)[0]
    keys = jax.random.split(KEY, 3)  # a key for each leaf, in their order
    for name, key in zip(("a", "b"), keys, strict=False):
        keep, w = found.mask[name], early.params[name]
        start = np.where(keep, w, 0)
        unit = np.asarray(jax.random.normal(key, (w.size,))).reshape(w.shape)
        wanted = np.where(keep, unit, 0) * np.float64(w[keep]).std()
        np.testing.assert_allclose(one.params[name] - start, wanted, atol=1e-5)
        np.testing.assert_allclose(many.params[name] - start, scale * wanted, atol=2e-5)


def test_noise_at_a_million_weights():
    early = state({"w": drawn(0, 1000, 1000)})
    mask = {"w": drawn(1, 1000, 1000) > 0.8}
    found = ticket(mask, state({"w": drawn(2, 1000, 1000)}, 9))
    kept = early.params["w"][mask["w"]]
    (way, _), (own, _) = (
        jax.jit(ablations.noisy(0.5, of).start)(early, found, KEY)
        for of in ("travelled", "weights")
    )
    noise = np.asarray(way.params["w"])[mask["w"]] - kept
    far = norm(found.state.params["w"][mask["w"]] - kept)
    np.testing.assert_allclose(norm(noise), 0.5 * far, rtol=1e-5)
    noise = np.asarray(own.params["w"])[mask["w"]] - kept
    np.testing.assert_allclose(noise.std(), 0.5 * kept.std(), rtol=0.01)
    assert abs(noise.mean()) < 0.01


@pytest.mark.parametrize("scale", [-0.1, float("nan"), float("inf")])
def test_noise_of_no_scale_is_refused(scale):
    with pytest.raises(ValueError, match="scale of the noise is at least 0; got"):
        ablations.noisy(scale)
    with pytest.raises(ValueError, match="'travelled' or 'weights'; got 'way'"):
        ablations.noisy(0.1, "way")


def normed(value, step):
    params = {
        "conv": {"kernel": jnp.full((2, 3), value), "bias": jnp.full(3, value)},
        "norm": {"scale": jnp.full(3, value), "bias": jnp.full(3, value)},
        # Flat: a kernel beside a scale is no norm, nor is what ends with the word.
        "flat": {"kernel": jnp.full((3, 2), value), "scale": jnp.full(2, value)},
        "head": {"kernel": jnp.full((2, 2), value), "logit_scale": jnp.full(1, value)},
    }
    stats = {"batch_stats": {"norm": {"mean": jnp.full(3, value)}}}
    return state(params, step, stats, {"mu": jnp.full(1, value)})


MASK = {
    "conv": {"kernel": np.array([[1, 0, 1], [0, 1, 1]], bool), "bias": None},
    "norm": {"scale": None, "bias": None},
    "flat": {"kernel": np.array([[1, 0], [1, 1], [0, 0]], bool), "scale": None},
    "head": {"kernel": np.ones((2, 2), bool), "logit_scale": None},
}


@pytest.mark.parametrize("late", [True, False])
def test_norms_of_one_end_on_weights_of_the_other(late):
    early, end = normed(1.0, 3), normed(2.0, 12)
    start, mask = ablations.norms_swapped(late).start(early, ticket(MASK, end), KEY)
    weight, norms = (1, 2) if late else (2, 1)
    assert mask is MASK
    wanted = {
        "conv": {"kernel": MASK["conv"]["kernel"] * weight, "bias": [weight] * 3},
        "norm": {"scale": [norms] * 3, "bias": [norms] * 3},
        "flat": {"kernel": MASK["flat"]["kernel"] * weight, "scale": [norms] * 2},
        "head": {"kernel": np.full((2, 2), weight), "logit_scale": [weight]},
    }
    jax.tree.map(np.testing.assert_array_equal, start.params, jax.tree.map(
        np.asarray, wanted, is_leaf=lambda x: isinstance(x, list)
    ))  # fmt: skip
    assert_same(start.stats, (end if late else early).stats)
    assert_same((start.step, start.opt_state), (early.step, early.opt_state))


def test_norms_are_told_by_path_or_refused():
    early, end = normed(1.0, 3), normed(2.0, 12)
    branch = ablations.norms_swapped(True, lambda path, leaf: path == "conv/bias")
    start, _ = branch.start(early, ticket(MASK, end), KEY)
    assert start.params["conv"]["bias"][0] == 2
    assert start.params["norm"]["scale"][0] == 1
    plain = state({"w": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match="no normalisation, no leaf called scale"):
        ablations.norms_swapped(True).start(plain, ticket({"w": None}, plain), KEY)


@pytest.mark.parametrize(
    "module",
    [models.ResNet(classes=3, depth=20, width=0.25), models.VGG(classes=3, depth=11)],
)
def test_the_norms_of_the_networks_there_are(module):
    model = models.from_linen(module, (32, 32, 3))
    params, stats = jax.eval_shape(model.init, KEY)
    ends = (
        state(jax.tree.map(lambda x, v=v: np.full(x.shape, v, np.float32), params))
        for v in (1, 2)
    )
    early, late = ends
    nothing = jax.tree.map(lambda x: None, params)
    start, _ = ablations.norms_swapped(True).start(early, ticket(nothing, late), KEY)
    count = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(start.params):
        is_norm = "norm" in jax.tree_util.keystr(path, simple=True, separator="/")
        assert leaf.min() == leaf.max() == 1 + is_norm
        count += is_norm
    averages = len(jax.tree.leaves(stats))
    assert count == averages > 0  # scale and bias beside mean and variance


def adam():
    rate = optax.piecewise_constant_schedule(0.1, {5: 0.1})
    return optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(rate))


def trained(tx, steps):
    params = {"w": jnp.array([1.0, -2.0])}
    opt_state = tx.init(params)
    for _ in range(steps):
        updates, opt_state = tx.update({"w": jnp.array([0.5, 1.0])}, opt_state, params)
        params = optax.apply_updates(params, updates)
    return state(params, steps, opt_state=opt_state)


def test_a_training_that_is_continued():
    tx, mask = adam(), {"w": np.array([True, False])}
    early, late = trained(tx, 3), trained(tx, 12)
    last, _ = ablations.continued().start(early, ticket(mask, late), KEY)
    again, _ = ablations.continued(rewind.learning_rate).start(
        early, ticket(mask, late), KEY
    )
    fresh = rewind.make_fresh_moments(rewind.finetune, tx)
    dropped, kept = ablations.continued(fresh).start(early, ticket(mask, late), KEY)
    assert kept is mask
    for one in (last, again, dropped):
        assert_same(one.params, late.params)
        assert one.step == 3
    moments = [s.opt_state[0].mu["w"] for s in (last, again, dropped)]
    np.testing.assert_array_equal(moments[0], late.opt_state[0].mu["w"])
    np.testing.assert_array_equal(moments[1], late.opt_state[0].mu["w"])
    np.testing.assert_array_equal(moments[2], [0, 0])
    places = [int(s.opt_state[1].count) for s in (last, again, dropped)]
    assert places == [11, 3, 11]  # of the step that trained last, or of the early state


def test_weights_of_another_step_at_the_place_of_the_early_ones():
    tx, mask = adam(), {"w": np.array([True, False])}
    early, other = trained(tx, 3), trained(tx, 8)
    branch = ablations.rewound_to("step_8")
    assert (branch.needs, branch.title) == (("step_8",), "weights of step 8")
    start, _ = branch.start(early, ticket(mask, early), KEY, {"step_8": other})
    assert_same(start.params, other.params)
    assert_same(start.opt_state[0].mu, other.opt_state[0].mu)
    assert (int(start.step), int(start.opt_state[1].count)) == (3, 3)


def test_another_order_from_a_checkpoint():
    early, found = layers(0)
    branch = branches.reordered(2, at="step_8")
    assert branch.settings == {"order": 2, "at": "step_8"}
    start, mask = branch.start(early, found, KEY, {"step_8": found.state})
    assert start is found.state
    assert (branch.order, branch.needs, mask is found.mask) == (2, ("step_8",), True)


def test_as_many_of_each_layer_at_random():
    early, found = layers(1)
    draws = [branches.random_mask().start(early, found, k)[1]
             for k in jax.random.split(KEY, 4)]  # fmt: skip
    for name in ("a", "b"):
        counts = {int(np.sum(mask[name])) for mask in draws}
        assert counts == {int(found.mask[name].sum())}
    assert len({np.asarray(mask["a"]).tobytes() for mask in draws}) == 4


class Lengths:
    """Of a recipe what says how long it trains."""

    def __init__(self, stops, rewind_to):
        self.stops, self.rewind_to = stops, rewind_to

    def _replace(self, stops):
        return Lengths(stops, self.rewind_to)


@pytest.mark.parametrize(
    ("share", "stops", "wanted"),
    [
        (1, (6, 12), (6, 12)),
        (2, (6, 12), (6, 12, 18, 21)),  # 3 + 2 * 9
        (1 / 3, (6, 12), (6,)),
        (0.01, (6, 12), (4,)),  # one step at least
        (1.5, (5, 10, 12), (5, 10, 12, 17)),  # the last gap was what was left over
        (3, (12,), (12, 24, 30)),
    ],
)
def test_fewer_and_more_steps(share, stops, wanted):
    changed = ablations.lasting(share).changed
    assert changed is not None
    assert changed(Lengths(stops, 3)).stops == wanted


@pytest.mark.parametrize("share", [0, -1, float("nan"), float("inf")])
def test_a_share_that_leaves_no_step_is_refused(share):
    with pytest.raises(ValueError, match="share of the steps is above 0; got"):
        ablations.lasting(share)


def test_a_ticket_retrained_in_another_mode_starts_from_the_level_before():
    early, found = layers(2)
    before = layers(3)[1]

    class Known:
        prune = staticmethod(lambda *args: found.mask)

    branch = ablations.retrained(rewind.finetune, "finetune")
    assert branch.prune is not None
    pruned = branch.prune(Known, early, before, 0.4, KEY)
    assert pruned.state is before.state
    chosen = found._replace(mask=pruned.mask, state=pruned.state)
    start, mask = branch.start(early, chosen, KEY)
    assert mask is found.mask
    assert_same(start.params, before.state.params)
    fresh = ablations.retrained(rewind.weights, "reinit", lambda key: before.state)
    assert_same(fresh.start(early, chosen, KEY)[0].params, before.state.params)


def test_branches_are_found_in_their_rooms():
    assert lottery.ablations is ablations
