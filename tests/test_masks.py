"""Exact counts, ties by index, subsets: the invariants of every mask."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lth import criteria, masks
from lth.masks import allocation, schedules, topk

SHAPES = {"a": (3, 4), "b": (7,), "c": (2, 2, 3)}
SIZE = 12 + 7 + 12
VALUES = [0.0, -0.0, 1.0, -1.0, 0.5, 2.0**-140, np.inf, -np.inf, 3.4e38]


def reference(scores: np.ndarray, alive: np.ndarray, k: int) -> np.ndarray:
    """The k highest of the living by a stable sort: the definition, restated."""
    order = sorted(np.flatnonzero(alive), key=lambda i: (-float(scores[i]), i))
    kept = np.zeros(len(scores), bool)
    kept[order[:k]] = True
    return kept


def tree(flat, dtype=jnp.float32):
    """Leaves of SHAPES from a flat list, beside one that is not prunable."""
    result, start = {"bias": jnp.zeros(2)}, 0
    for name, shape in SHAPES.items():
        stop = start + int(np.prod(shape))
        result[name] = jnp.asarray(flat[start:stop]).reshape(shape).astype(dtype)
        start = stop
    return result


def mask_of(flat):
    return {**tree(flat, bool), "bias": None}


def flat(mask):
    return np.concatenate([np.asarray(mask[name]).ravel() for name in SHAPES])


scores_strategy = st.one_of(
    st.lists(st.sampled_from(VALUES), min_size=SIZE, max_size=SIZE),
    st.lists(st.floats(-4, 4, width=32), min_size=SIZE, max_size=SIZE),
)
alive_strategy = st.lists(st.booleans(), min_size=SIZE, max_size=SIZE).filter(any)
jitted = jax.jit(masks.keep_top, static_argnames="scope")


@given(scores_strategy, alive_strategy, st.floats(0.001, 1))
def test_global_count_ties_and_subset_are_exact(values, alive, fraction):
    alive, values = np.array(alive), np.array(values, np.float32)
    density = fraction * alive.sum() / SIZE
    k = max(1, round(density * SIZE))
    kept = masks.keep_top(tree(values), mask_of(alive), density)
    assert kept["bias"] is None
    np.testing.assert_array_equal(flat(kept), reference(values, alive, k))


@given(scores_strategy, st.integers(1, 100))
def test_layer_scope_is_exact_in_each_leaf(values, percent):
    values, density = np.array(values, np.float32), percent / 100
    kept = masks.keep_top(tree(values), mask_of(np.ones(SIZE, bool)), density, "layer")
    for name, leaf in tree(values).items():
        if name == "bias":
            continue
        expected = reference(
            np.asarray(leaf).ravel(),
            np.ones(leaf.size, bool),
            max(1, round(density * leaf.size)),
        )
        np.testing.assert_array_equal(np.asarray(kept[name]).ravel(), expected)


@given(scores_strategy, st.integers(1, 100), st.sampled_from(["global", "layer"]))
def test_jit_and_vmap_agree_with_the_eager_call(values, percent, scope):
    scores, full = tree(np.array(values, np.float32)), mask_of(np.ones(SIZE, bool))
    density = percent / 100
    eager = flat(masks.keep_top(scores, full, density, scope))
    np.testing.assert_array_equal(
        flat(jitted(scores, full, density, scope=scope)), eager
    )
    two = jax.tree.map(lambda x: jnp.stack([x, -x]), scores)
    lanes = jax.vmap(lambda s: masks.keep_top(s, full, density, scope))(two)
    first = jax.tree.map(lambda x: x[0], lanes)
    np.testing.assert_array_equal(flat(first), eager)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_sixteen_bit_scores_count_exactly(dtype):
    scores = {"w": jnp.arange(100, dtype=jnp.float32).astype(dtype)}
    kept = masks.keep_top(scores, {"w": jnp.ones(100, bool)}, 0.37)["w"]
    np.testing.assert_array_equal(kept, np.arange(100) >= 63)


@pytest.mark.parametrize("density", [0.8, 0.2, 0.001])
def test_one_round_on_a_thousand_keeps_what_no_peer_does(density):
    full = {"w": jnp.ones(1000, bool)}
    distinct = {"w": jax.random.normal(jax.random.key(0), (1000,))}
    tied = {"w": jnp.ones(1000)}
    k = round(1000 * density)
    assert int(masks.count(masks.keep_top(distinct, full, density))) == k
    np.testing.assert_array_equal(
        masks.keep_top(tied, full, density)["w"], np.arange(1000) < k
    )


def test_at_least_one_weight_stays():
    kept = masks.keep_top({"w": jnp.arange(40.0)}, {"w": jnp.ones(40, bool)}, 1e-3)
    assert int(masks.count(kept)) == 1


@pytest.mark.parametrize("total", [1, 3, 10, 1000, 266_200, 25_000_000, 2**31 - 1])
def test_a_traced_density_is_rounded_from_its_exact_product(total):
    rounded = jax.jit(lambda d: topk.round_count(d, total))
    rng = np.random.default_rng(total)
    for density in [*rng.uniform(0, 1, 30), 1.0, 0.5, 0.8**9]:
        single = np.float32(density)
        exact = max(1, round(float(single) * total))
        decimal = topk.round_count(density, total)
        assert int(rounded(single)) in (exact, decimal)


def test_a_traced_decimal_ties_as_its_decimal_does():
    rounded = jax.jit(lambda d: topk.round_count(d, 10))
    # 0.35 is 0.34999999 in float32; its product with 10 is the tie 3.5 all the same.
    for tenths, kept in [(0.05, 1), (0.15, 2), (0.25, 2), (0.35, 4), (0.45, 4)]:
        assert topk.round_count(tenths, 10) == kept
        assert int(rounded(tenths)) == kept


@pytest.mark.parametrize("density", [0.0, -0.1, 1.01, float("nan")])
def test_density_out_of_range_is_refused(density):
    with pytest.raises(
        ValueError, match=r"density is the fraction .* in \(0, 1\]; got"
    ):
        masks.keep_top({"w": jnp.ones(3)}, {"w": jnp.ones(3, bool)}, density)


def test_nan_is_an_error_or_under_jit_keeps_nothing():
    scores = {"w": jnp.array([1.0, jnp.nan, 2.0])}
    full = {"w": jnp.ones(3, bool)}
    with pytest.raises(ValueError, match="NaN among the scores of w"):
        masks.keep_top(scores, full, 0.5)
    assert int(masks.count(jitted(scores, full, 0.5))) == 0
    dead = {
        "w": jnp.array([True, False, True])
    }  # NaN where nothing competes is ignored
    assert int(masks.count(masks.keep_top(scores, dead, 0.3))) == 1


def test_a_mask_cannot_grow_back():
    half = {"w": jnp.arange(10) < 5}
    with pytest.raises(ValueError, match=r"keeps 8 of 10 .* only 5"):
        masks.keep_top({"w": jnp.ones(10)}, half, 0.8)


def test_integer_scores_and_unknown_scopes_are_refused():
    with pytest.raises(TypeError, match="w is int32"):
        masks.keep_top({"w": jnp.arange(3)}, {"w": jnp.ones(3, bool)}, 0.5)
    with pytest.raises(ValueError, match="'global' or 'layer'; got 'net'"):
        masks.keep_top({"w": jnp.ones(3)}, {"w": jnp.ones(3, bool)}, 0.5, "net")


def test_pruned_weights_are_exactly_zero_even_where_they_were_not_finite():
    params = {"w": jnp.array([jnp.nan, -1.0, jnp.inf, -jnp.inf])}
    mask = {"w": jnp.array([False, True, False, False])}
    applied = np.asarray(masks.apply(params, mask)["w"])
    assert applied.tobytes() == np.array([0, -1, 0, 0], np.float32).tobytes()


def test_apply_leaves_what_is_not_prunable():
    params = {"w": jnp.ones(2), "empty": {}, "scalar": jnp.float32(3)}
    mask = {"w": jnp.array([True, False]), "empty": {}, "scalar": None}
    applied = masks.apply(params, mask)
    assert float(applied["scalar"]) == 3
    assert applied["empty"] == {}


def test_what_is_prunable_by_default():
    params = {
        "dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
        "norm": {"scale": jnp.ones(3)},
        "table": {"embedding": jnp.ones((4, 2))},
    }
    assert masks.paths(masks.ones(params)) == ["dense/kernel", "table/embedding"]
    assert masks.size(masks.ones(params)) == 14
    with pytest.raises(ValueError, match=r"nothing is prunable.*norm/scale"):
        masks.ones(params, lambda path, leaf: False)


def test_shuffle_keeps_the_count_of_each_layer():
    full = mask_of(np.ones(SIZE, bool))
    mask = masks.keep_top(tree(np.random.default_rng(0).normal(size=SIZE)), full, 0.4)
    moved = masks.shuffle(mask, jax.random.key(0))
    assert {n: float(d) for n, d in masks.densities(moved).items()} == {
        n: float(d) for n, d in masks.densities(mask).items()
    }
    assert (flat(moved) != flat(mask)).any()


def test_a_global_shuffle_keeps_the_total_and_moves_it_between_layers():
    mask = {"a": jnp.ones((40, 10), bool), "b": None, "c": jnp.zeros((20, 20), bool)}
    mask["a"] = mask["a"].at[0, 0].set(False)
    moved = masks.shuffle(mask, jax.random.key(0), scope="global")
    assert moved["b"] is None
    assert int(masks.count(moved)) == 399
    # Of 400 places of 800: mean 199.5, deviation 10.
    assert 150 < int(moved["a"].sum()) < 250
    again = masks.shuffle(mask, jax.random.key(0), scope="global")
    other = masks.shuffle(mask, jax.random.key(1), scope="global")
    assert (again["a"] == moved["a"]).all()
    assert (other["a"] != moved["a"]).any()
    with pytest.raises(ValueError, match="scope is 'global' or 'layer'; got 'all'"):
        masks.shuffle(mask, jax.random.key(0), scope="all")


def test_every_place_is_as_likely_after_a_global_shuffle():
    mask = {"a": jnp.array([[True, False]]), "b": jnp.array([True, False, False])}
    keys = jax.random.split(jax.random.key(0), 4000)
    moved = jax.vmap(lambda key: masks.shuffle(mask, key, "global"))(keys)
    flat = np.concatenate([m.reshape(4000, -1) for m in jax.tree.leaves(moved)], 1)
    assert (flat.sum(1) == 2).all()
    shares = flat.mean(0)  # each 0.4, with a deviation of 0.008
    assert np.abs(shares - 0.4).max() < 0.04


@given(st.integers(0, 500), st.sampled_from(["layer", "global"]))
def test_shuffles_keep_counts(seed, scope):
    rng = np.random.default_rng(seed)
    mask = mask_of(rng.random(SIZE) < rng.random())
    moved = masks.shuffle(mask, jax.random.key(seed), scope)
    assert jax.tree.structure(moved) == jax.tree.structure(mask)
    for m, n in zip(jax.tree.leaves(mask), jax.tree.leaves(moved), strict=True):
        assert m.shape == n.shape
        assert scope == "global" or int(m.sum()) == int(n.sum())
    assert int(masks.count(mask)) == int(masks.count(moved))


STACKED = {"a": jnp.ones((2, 4, 3), bool), "b": None, "c": jnp.ones((2, 3, 5), bool)}


@pytest.mark.parametrize(
    "function",
    [
        masks.count,
        masks.density,
        masks.densities,
        lambda m: masks.overlap(m, m),
        lambda m: masks.shuffle(m, jax.random.key(0)),
        lambda m: masks.keep_top(jax.tree.map(lambda x: x * jnp.float32(1), m), m, 0.5),
    ],
)
def test_stacked_replicates_are_not_pooled_without_a_word(function):
    with pytest.warns(
        UserWarning, match="all 2 leaves of the mask lead with an axis of 2"
    ):
        function(STACKED)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        function(jax.tree.map(lambda m: m[0], STACKED))
        if function is not masks.densities:
            each = jax.vmap(function)(STACKED)
            assert {leaf.shape[0] for leaf in jax.tree.leaves(each)} == {2}
        function(
            {"conv": jnp.ones((3, 3, 2, 4), bool), "up": jnp.ones((3, 3, 4, 2), bool)}
        )
        function({"conv": jnp.ones((3, 4, 2), bool)})
        function(jax.tree.map(lambda m: m[:1], STACKED))
        function(STACKED | {"a": jnp.ones((1, 4, 3), bool)})


def test_overlaps_of_stacked_replicates_are_each_their_own():
    a = {"w": jnp.array([[[True, True]], [[True, False]]])}
    b = {"w": jnp.array([[[True, False]], [[True, False]]])}
    assert jax.vmap(masks.overlap)(a, b).tolist() == [0.5, 1.0]


def test_overlap_is_the_jaccard_index():
    a = {"w": jnp.array([True, True, False, False]), "b": None}
    b = {"w": jnp.array([True, False, True, False]), "b": None}
    assert float(masks.overlap(a, b)) == pytest.approx(1 / 3)
    assert float(masks.overlap(a, a)) == 1


def test_densities_by_path_follow_the_paper():
    params = {
        "hidden_0": {"kernel": jnp.ones((784, 300))},
        "hidden_1": {"kernel": jnp.ones((300, 100))},
        "output": {"kernel": jnp.ones((100, 10))},
    }
    mask = masks.ones(params)
    keep = allocation.by_path(mask, 0.8, {"output": 0.9})
    levels = schedules.geometric(keep, 3)
    assert levels[2]["output"]["kernel"] == pytest.approx(0.9**3)
    rng = np.random.default_rng(0)
    scores = jax.tree.map(lambda w: rng.random(w.shape, np.float32), params)
    kept = masks.keep_top(scores, mask, levels[2])
    counts = [int(jnp.sum(leaf)) for leaf in jax.tree.leaves(kept)]
    assert counts == [round(0.512 * 235_200), round(0.512 * 30_000), 729]


def test_density_is_absolute_and_masks_are_nested():
    full = {"w": jnp.ones(1000, bool)}
    mask, key = full, jax.random.key(3)
    for level, density in enumerate(schedules.geometric(0.8, 20), 1):
        scores = {"w": jax.random.normal(jax.random.fold_in(key, level), (1000,))}
        smaller = masks.keep_top(scores, mask, density)
        assert int(masks.count(smaller)) == max(1, round(0.8**level * 1000))
        assert not (smaller["w"] & ~mask["w"]).any()
        mask = smaller


def test_patterns_must_match_and_must_not_collide():
    mask = masks.ones({"a": {"kernel": jnp.ones((2, 2))}})
    with pytest.raises(
        ValueError, match=r"'output' matches no leaf; there are a/kernel"
    ):
        allocation.by_path(mask, 0.8, {"output": 0.9})
    with pytest.raises(ValueError, match="matched by both 'a' and 'kernel'"):
        allocation.by_path(mask, 0.8, {"a": 0.9, "kernel": 0.5})
    with pytest.raises(ValueError, match="not a regular expression"):
        allocation.by_path(mask, 0.8, {"(": 0.9})
    with pytest.raises(ValueError, match=r"structure of the mask, a/kernel; got b"):
        masks.keep_top({"a": {"kernel": jnp.ones((2, 2))}}, mask, {"b": 0.5})


def test_magnitude_does_not_see_signs():
    params = {"w": jnp.array([-3.0, 2.0])}
    flipped = {"w": -params["w"]}
    np.testing.assert_array_equal(
        criteria.magnitude(params)["w"], criteria.magnitude(flipped)["w"]
    )
    with pytest.raises(ValueError, match=r"in \(0, 1\]; got 1.2"):
        schedules.geometric(1.2, 3)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 108, 20_280])
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.8, 0.9, 0.99])
@pytest.mark.parametrize("equal", [False, True])
def test_the_count_that_tfmot_rounds_to(n, sparsity, equal):
    w = np.ones(n, np.float32) if equal else np.random.default_rng(n).normal(size=n)
    w = {"w": np.round(w.astype(np.float32), 1)}  # with ties
    ones = masks.ones(w, lambda path, leaf: True)
    kept = masks.keep_top(jax.tree.map(np.abs, w), ones, 1 - sparsity, "layer")["w"]
    assert int(kept.sum()) == max(round(n * (1 - sparsity)), 1)
