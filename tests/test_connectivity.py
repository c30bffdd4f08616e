"""Networks between networks, against sums written out and against plain evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lth
from lth import analysis, lottery, masks
from lth.analysis import connectivity, overlap
from lth.lottery import recipe as recipes
from lth.lottery.recipe import TRAIN
from lth.train import TrainState, averaging
from tests import own


def state(seed: int, r: int = 2, shape=(3, 4)) -> TrainState:
    rng = np.random.default_rng(seed)
    draw = lambda *s: jnp.asarray(rng.normal(size=(r, *s)), jnp.float32)  # noqa: E731
    params = {"w": {"kernel": draw(*shape), "bias": draw(shape[-1])}}
    stats = {"mean": draw(shape[-1])}
    return TrainState(jnp.full(r, 7, jnp.int32), params, stats, {"momentum": draw(2)})


def same(a, b) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in pairs)


def test_mixtures_are_weighted_sums():
    states, weights = (
        [state(i) for i in range(3)],
        [[0.2, 0.3, 0.5], [1.5, -0.25, -0.25]],
    )
    found = connectivity.mixed(states, weights)
    for row, w in enumerate(weights):
        for kind in ("params", "stats"):
            every = [jax.tree.leaves(getattr(s, kind)) for s in states]
            part = [
                x[2 * row : 2 * row + 2] for x in jax.tree.leaves(getattr(found, kind))
            ]
            for i, leaf in enumerate(part):
                wanted = sum(
                    c * np.float64(e[i]) for c, e in zip(w, every, strict=True)
                )
                np.testing.assert_allclose(leaf, wanted, rtol=1e-5, atol=1e-6)
    assert found.step.tolist() == [7] * 4
    assert found.opt_state == ()


@given(st.integers(2, 9), st.integers(0, 2**31 - 1))
@settings(max_examples=20, deadline=None)
def test_the_mean_of_equal_states_is_that_state_to_the_bit(m, seed):
    one = state(seed)
    found = connectivity.average([one] * m)
    assert same((found.params, found.stats), (one.params, one.stats))


def test_the_ends_of_a_line_are_its_states_to_the_bit():
    a, b = state(1), state(2)
    found = connectivity.mixed([a, b], connectivity.line(5))
    ends = [
        jax.tree.map(lambda x, p=p: x[p], found.params)
        for p in (slice(2), slice(-2, None))
    ]
    assert same(ends, [a.params, b.params])


def test_what_all_prune_stays_pruned():
    a, b = state(1), state(2)
    mask = {"w": {"kernel": jnp.arange(24).reshape(2, 3, 4) % 3 > 0, "bias": None}}
    a, b = (s._replace(params=masks.apply(s.params, mask)) for s in (a, b))
    found = connectivity.mixed([a, b], connectivity.line(7)).params["w"]["kernel"]
    dead = ~np.tile(mask["w"]["kernel"], (7, 1, 1))
    assert (np.asarray(found)[dead] == 0).all()


def test_at_a_million_weights():
    a, b = state(1, 1, (1000, 1000)), state(2, 1, (1000, 1000))
    found = connectivity.mixed([a, b], [[0.25, 0.75]]).params["w"]["kernel"]
    wanted = 0.25 * np.float64(a.params["w"]["kernel"]) + 0.75 * np.float64(
        b.params["w"]["kernel"]
    )
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)


def test_barriers_by_hand():
    errors = np.array([0.1, 0.2, 0.6, 0.4, 0.3])
    assert connectivity.barrier(errors) == pytest.approx(0.6 - 0.2)
    assert connectivity.barrier(errors, "line") == pytest.approx(0.6 - 0.2)
    falling = np.array([[0.5], [0.3], [0.1]])
    assert connectivity.barrier(falling) == pytest.approx([0.2])
    assert connectivity.barrier(falling, "line") == pytest.approx([0.0])
    curves = {
        "accuracy": np.array([[[0.9], [0.5], [0.7]]]),
        "loss": np.array([[[1.0], [4.0], [2.0]]]),
    }
    found = connectivity.barriers(curves)
    np.testing.assert_allclose(found["accuracy"], [[0.3]])
    np.testing.assert_allclose(found["loss"], [[2.5]])
    with pytest.raises(ValueError, match="'mean' or 'line'"):
        connectivity.barrier(errors, "both")  # type: ignore[arg-type]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_a_barrier_is_never_below_zero(errors):
    assert connectivity.barrier(errors) >= -1e-12
    assert connectivity.barrier(errors, "line") >= -1e-12


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"params/w/bias is \[2, 4\] .* \[2, 5\]"):
        connectivity.mixed([state(1), state(2, shape=(3, 5))], [[0.5, 0.5]])
    with pytest.raises(ValueError, match="sum 1"):
        connectivity.mixed([state(1), state(2)], [[0.5, 0.6]])
    with pytest.raises(ValueError, match="at least 2"):
        connectivity.paths(lambda s: {}, [state(1), state(2)], points=1)


@pytest.fixture(scope="module")
def children():
    """The recipe, and three networks of two replicates trained in three orders."""
    recipe = own.recipe()
    start = recipe.init(recipes.keys(recipe.replicates, 0))
    made = [lottery.fit(recipe, start, recipe.mask, order=i)[0] for i in range(3)]
    return recipe, made


def test_paths_are_what_each_point_measures_alone(children):
    recipe, made = children
    measure = recipe.measures["test"]
    calls = []

    def counted(s):
        calls.append(len(np.ravel(s.step)))
        return measure(s)

    found = analysis.paths(counted, made, points=5)
    assert calls == [2 * (3 + 3 * 3)]  # ends once, and the points between
    for pair, (i, j) in enumerate([(0, 1), (0, 2), (1, 2)]):
        for point, share in enumerate(np.linspace(0, 1, 5)):
            alone = connectivity.mixed([made[i], made[j]], [[1 - share, share]])
            for name, value in measure(alone).items():
                np.testing.assert_allclose(found[name][pair, point], value, atol=1e-6)


def test_nothing_is_compiled_for_a_point_a_child_or_a_level(children):
    recipe, made = children
    counts = []

    def measure(s):
        counts.append(averaging._mixed._cache_size())
        return recipe.measures["test"](s)

    for level in range(3):
        states = [jax.tree.map(lambda x, n=level: x + n, s) for s in made[:2]]
        analysis.paths(measure, states, points=6)
    assert counts[0] == counts[-1]


def test_averages_are_taken_anew_at_each_point():
    network = own.model()

    def apply(params, stats, inputs, train, key):
        outputs, _ = network.apply(params, {}, inputs, train, key)
        moved = 0.9 * stats["mean"] + 0.1 * jnp.mean(outputs, 0)
        return outputs - (0 if train else 1) * stats["mean"][None], (
            {"mean": moved} if train else stats
        )

    def init(key):
        return network.init(key)[0], {"mean": jnp.zeros(own.OUTPUTS)}

    model = lth.models.Model(init, apply)

    def loss(params, stats, batch, key):
        outputs, stats = apply(params, stats, batch["points"], True, key)
        wanted = jax.nn.one_hot(batch["largest"], own.OUTPUTS)
        value = jnp.mean(jnp.square(outputs - wanted))
        return value, (stats, {"loss": value})

    def measure(params, stats, batch):
        outputs, _ = apply(params, stats, batch["points"], False, None)
        wanted = jax.nn.one_hot(batch["largest"], own.OUTPUTS)
        right = (jnp.argmax(outputs, -1) == batch["largest"]).astype(jnp.float32)
        return {"loss": jnp.mean(jnp.square(outputs - wanted), -1), "accuracy": right}

    recipe = own.recipe(model=model, loss=loss, measure=measure)
    objective = recipe.objective
    assert objective is not None
    keys = recipes.keys(recipe.replicates, TRAIN)
    start = recipe.init(keys)
    found = objective.reestimate(start, keys, 4)
    batches = objective.batches(keys, 4)
    assert batches["points"].shape == (2, 4, 8, own.INPUTS)
    for r in range(2):
        mean = np.zeros(own.OUTPUTS)
        params = jax.tree.map(lambda x, r=r: x[r], start.params)
        for step in range(4):
            points = batches["points"][r, step]
            outputs, _ = network.apply(params, {}, points, True, None)
            mean = 0.9 * mean + 0.1 * np.mean(outputs, 0)
        np.testing.assert_allclose(found.stats["mean"][r], mean, atol=1e-5)
    # The batches are those that training sees, in its order.
    first = next(e["points"] for e in objective.examples())
    assert {
        tuple(x) for x in np.reshape(np.asarray(batches["points"]), (-1, own.INPUTS))
    } <= {tuple(x) for x in np.asarray(first)}
    point = connectivity.mixed([start, found], [[0.5, 0.5]])
    assert point.stats["mean"].shape == (2, own.OUTPUTS)
    again = objective.reestimate(point, keys, 4)  # of equal params
    spread = np.abs(np.asarray(again.stats["mean"]) - np.asarray(found.stats["mean"]))
    assert spread.max() > 0  # it goes on from the averages it is given


def brute(a, b):
    """Jaccard and the expected one, layer by layer, in plain Python."""
    both = sum(
        int(x and y) for p in a for x, y in zip(a[p].ravel(), b[p].ravel(), strict=True)
    )
    either = sum(
        int(x or y) for p in a for x, y in zip(a[p].ravel(), b[p].ravel(), strict=True)
    )
    kept = sum(int(a[p].sum()) + int(b[p].sum()) for p in a)
    common = sum(int(a[p].sum()) * int(b[p].sum()) / a[p].size for p in a)
    return both / either, common / (kept - common)


@given(st.integers(0, 2**31 - 1), st.floats(0.1, 0.9), st.floats(0.1, 0.9))
@settings(max_examples=30, deadline=None)
def test_overlap_is_counted_and_chance_is_between_its_bounds(seed, d, e):
    rng = np.random.default_rng(seed)
    shapes = {"a": (5, 7), "b": (11,)}
    one = {p: rng.uniform(size=s) < d for p, s in shapes.items()}
    two = {p: rng.uniform(size=s) < e for p, s in shapes.items()}
    if not any(m.any() for m in (*one.values(), *two.values())):
        return
    found = overlap.overlap(one, two)
    np.testing.assert_allclose((found.jaccard, found.chance), brute(one, two))
    assert found.chance_low <= found.chance <= found.chance_high
    assert overlap.overlap(one, one).jaccard == 1 or not any(
        m.any() for m in one.values()
    )


def test_independent_masks_overlap_by_chance_in_19_of_20():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        pair = [
            {"a": rng.permutation(600) < 120, "b": rng.permutation(900) < 500}
            for _ in range(2)
        ]
        found = overlap.overlap(*pair)
        inside += found.chance_low <= found.jaccard <= found.chance_high
    assert 365 <= inside <= 394  # 380 expected, deviation 4.4


def test_overlap_at_a_million_weights():
    rng = np.random.default_rng(1)
    one, two = ({"a": rng.permutation(10**6) < 2 * 10**5} for _ in range(2))
    found = overlap.overlap(one, two)
    wanted = (one["a"] & two["a"]).sum() / (one["a"] | two["a"]).sum()
    assert found.jaccard == pytest.approx(wanted)
    assert found.chance_low <= found.jaccard <= found.chance_high
    assert abs(found.chance - 0.04 / 0.36) < 1e-6


def test_signs_and_ways_by_hand():
    mask = {"k": jnp.array([True, True, True, True, False]), "b": None}
    before = {"k": jnp.array([1.0, -1.0, 2.0, 0.0, 5.0]), "b": jnp.ones(2)}
    after = {"k": jnp.array([-1.0, -3.0, 1.0, 4.0, -5.0]), "b": -jnp.ones(2)}
    assert float(overlap.flips(before, after, mask)) == pytest.approx(1 / 3)
    assert float(overlap.agreement(mask, before, mask, after)) == pytest.approx(2 / 4)
    wanted = np.sqrt((4 + 4 + 1 + 16) / 4)
    assert float(overlap.travelled(before, after, mask)) == pytest.approx(wanted)
    none = {"k": jnp.zeros(5, bool), "b": None}
    assert np.isnan(overlap.travelled(before, after, none))
    assert np.isnan(overlap.agreement(none, before, mask, after))


def test_layers_and_other_shapes():
    one = {"a": np.array([True, False, True]), "b": np.zeros(2, bool)}
    two = {"a": np.array([True, True, False]), "b": np.zeros(2, bool)}
    assert set(overlap.by_layer(one, two)) == {"a"}
    assert overlap.by_layer(one, two)["a"].jaccard == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="other shapes"):
        overlap.overlap(one, {"a": np.zeros(4, bool), "b": np.zeros(2, bool)})
    with pytest.raises(ValueError, match="keep nothing"):
        overlap.overlap({"b": one["b"]}, {"b": two["b"]})
