"""Densities by layer: each rule against its definition, and equal totals of all."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lth import masks
from lth.masks import allocation, topk

LENET = {
    "hidden_0": {"kernel": (784, 300), "bias": None},
    "hidden_1": {"kernel": (300, 100), "bias": None},
    "output": {"kernel": (100, 10), "bias": None},
}
CONV = {"conv": (3, 3, 16, 32), "first": (3, 3, 3, 16), "head": (32, 10), "bias": None}


class Shape:
    """A leaf of a mask of which only the shape is asked."""

    def __init__(self, shape):
        self.shape, self.size = shape, int(np.prod(shape))


def mask_of(shapes, leaf=Shape):
    def is_shape(x):
        return isinstance(x, tuple)

    return jax.tree.map(leaf, shapes, is_leaf=is_shape)


def filled(shape):
    return jnp.ones(shape, bool)


def counts(mask, densities):
    """What `masks.keep_top` would keep of each leaf."""
    assert jax.tree.structure(mask) == jax.tree.structure(densities)
    leaves = zip(jax.tree.leaves(mask), jax.tree.leaves(densities), strict=True)
    return [topk.round_count(density, leaf.size) for leaf, density in leaves]


def erdos_renyi(shapes, density, last_two, power, forced):
    """Bisection on the scale of min(1, scale * raw): no leaf is moved to the dense."""
    sizes = [np.prod(shape) for shape in shapes]
    dims = [shape[-2:] if last_two else shape for shape in shapes]
    raw = [(sum(d) / np.prod(d)) ** power for d in dims]

    def densities(scale):
        return [1 if f else min(1, scale * r) for r, f in zip(raw, forced, strict=True)]

    low, high = 0.0, 1.0 / min(raw)
    for _ in range(200):
        middle = (low + high) / 2
        kept = sum(d * n for d, n in zip(densities(middle), sizes, strict=True))
        low, high = (middle, high) if kept < density * sum(sizes) else (low, middle)
    return densities(high)


shapes_strategy = st.lists(
    # Three axes do not tell inputs from outputs.
    st.lists(st.integers(1, 40), min_size=1, max_size=4)
    .filter(lambda shape: len(shape) != 3)
    .map(tuple),
    min_size=1,
    max_size=6,
)


@given(
    shapes_strategy,
    st.floats(0.05, 1),
    st.booleans(),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.integers(-1, 5),
)
def test_erdos_renyi_is_its_definition_in_whole_weights(
    shapes, density, kernel, power, dense
):
    mask = mask_of({f"layer_{i}": shape for i, shape in enumerate(shapes)})
    forced = [i == dense for i in range(len(shapes))]
    patterns = [f"layer_{dense}"] if any(forced) else []
    total = sum(leaf.size for leaf in jax.tree.leaves(mask))
    least = sum(
        leaf.size if f else 1
        for leaf, f in zip(jax.tree.leaves(mask), forced, strict=True)
    )

    def allocate():
        return allocation.erdos_renyi(
            mask, density, kernel, power=power, dense=patterns
        )

    if max(1, round(density * total)) < least:
        with pytest.raises(ValueError, match="the least density is"):
            allocate()
        return
    densities = allocate()
    assert all(0 < d <= 1 for d in jax.tree.leaves(densities))
    kept = counts(mask, densities)
    assert sum(kept) == max(1, round(density * total))
    wanted = erdos_renyi(shapes, density, not kernel, power, forced)
    # A leaf of which less than one weight is wanted takes it from the others.
    wanted = [d * np.prod(shape) for d, shape in zip(wanted, shapes, strict=True)]
    slack = 1.5 + sum(k < 1 for k in wanted)
    for k, real in zip(kept, wanted, strict=True):
        assert abs(k - max(1, real)) < slack


@given(shapes_strategy, st.floats(0.05, 1))
def test_uniform_is_within_a_weight_of_uniform(shapes, density):
    mask = mask_of({f"layer_{i}": shape for i, shape in enumerate(shapes)})
    sizes = [leaf.size for leaf in jax.tree.leaves(mask)]
    total = max(1, round(density * sum(sizes)))
    if total < len(sizes):
        with pytest.raises(ValueError, match="the least density is"):
            allocation.uniform(mask, density)
        return
    kept = counts(mask, allocation.uniform(mask, density))
    assert sum(kept) == total
    slack = 1.5 + sum(density * n < 1 for n in sizes)
    assert all(abs(k - density * n) < slack for k, n in zip(kept, sizes, strict=True))


def test_lenet_by_erdos_renyi_in_numbers():
    mask = mask_of(LENET)
    densities = allocation.erdos_renyi(mask, 0.1)
    # 1084, 400 and 110 in the ratio of the sums; the output would have 1.84, so is
    # dense, and the others share 26620 - 1000 weights as 1084 : 400.
    kept = counts(mask, densities)
    assert kept == [round(25_620 * 1084 / 1484), round(25_620 * 400 / 1484), 1000]
    assert sum(kept) == 26_620
    assert densities["output"]["kernel"] == 1
    assert densities["output"]["bias"] is None


def test_erdos_renyi_kernel_counts_the_window():
    mask = mask_of(CONV)
    plain = allocation.erdos_renyi(mask, 0.2)
    kernel = allocation.erdos_renyi(mask, 0.2, kernel=True)
    assert sum(counts(mask, plain)) == sum(counts(mask, kernel)) == round(0.2 * 5360)
    # ER: 48 / 512 of the pairs of channels; ERK: 54 / 4608 of the weights.
    ratio = kernel["conv"] / kernel["first"]
    assert ratio == pytest.approx((54 / 4608) / (25 / 432), rel=0.02)
    ratio = plain["conv"] / plain["first"]
    assert ratio == pytest.approx((48 / 512) / (19 / 48), rel=0.02)


ATTENTION = {  # five maps of 32 features to 32, as Flax shapes them
    "dense": {"kernel": (32, 32)},
    **{name: {"kernel": (32, 4, 8)} for name in ("key", "query", "value")},
    "out": {"kernel": (4, 8, 32)},
}


class Pair(NamedTuple):
    inputs: tuple
    outputs: tuple


def attention_axes(path, leaf):
    if len(leaf.shape) == 3:
        return ((0, 1), (2,)) if path.startswith("out") else ((0,), (1, 2))
    return None


@pytest.mark.parametrize("kernel", [False, True])
def test_equal_maps_have_equal_densities_however_they_are_shaped(kernel):
    mask = mask_of(ATTENTION)
    with pytest.raises(
        ValueError, match=r"^key/kernel: the shape \(32, 4, 8\) does not"
    ):
        allocation.erdos_renyi(mask, 0.2, kernel)
    tree = {  # of all leaves, as read off a model, or of those that need it
        name: {"kernel": attention_axes(f"{name}/kernel", Shape(leaf["kernel"]))}
        for name, leaf in ATTENTION.items()
    }
    pairs = jax.tree.map(lambda x: Pair(*x), tree, is_leaf=lambda x: type(x) is tuple)
    by_path = {f"{name}/kernel": sides["kernel"] for name, sides in tree.items()}
    for axes in (attention_axes, tree, pairs, by_path):
        densities = allocation.erdos_renyi(mask, 0.2, kernel, axes=axes)
        assert counts(mask, densities) == [205] * 4 + [204]  # a fifth of 1 024 is 204.8


def test_a_window_is_told_or_known_from_four_axes():
    mask = mask_of({"a": (3, 16, 32), "b": (10, 10)})
    for axes, er, erk in (
        ({"a": ((1,), (2,), (0,))}, 48 / 512, 51 / 1536),  # a convolution over text
        ({"a": ((0, 1), (-1,))}, 80 / 1536, 80 / 1536),  # attention's way out
    ):
        for kernel, share in ((False, er), (True, erk)):
            got = allocation.erdos_renyi(mask, 0.05, kernel, axes=axes)
            assert got["a"] / got["b"] == pytest.approx(share / 0.2, rel=0.05)
    mask = mask_of(CONV)
    told = {"conv": ((0, 1, 2), (3,)), "first": ((2,), (3,), (0, 1))}
    for kernel in (False, True):
        plain = allocation.erdos_renyi(mask, 0.2, kernel)
        assert allocation.erdos_renyi(mask, 0.2, kernel, axes=told) == plain
        turned = mask_of(CONV | {"conv": (3, 3, 32, 16)})  # a transposed convolution
        axes = told | {"conv": ((0, 1, 3), (2,))}
        assert allocation.erdos_renyi(turned, 0.2, kernel, axes=axes) == plain


@pytest.mark.parametrize("wrong", [((0,), (0, 1)), ((0,), (3,)), ((0,),), (0, (1,))])
def test_axes_that_do_not_fit_are_refused(wrong):
    mask = mask_of({"a": (3, 16, 32)})
    with pytest.raises(ValueError, match=r"a: axes are \(inputs, outputs\) or .*; got"):
        allocation.erdos_renyi(mask, 0.1, axes=lambda path, leaf: wrong)


def test_all_rules_keep_equally_many():
    mask = mask_of(LENET)
    for density in [0.001, 0.0123456, 0.2, 0.512, 0.99, 1.0]:
        for rule in (
            allocation.uniform(mask, density),
            allocation.erdos_renyi(mask, density),
            allocation.erdos_renyi(mask, density, power=0.0),
        ):
            assert sum(counts(mask, rule)) == round(density * 266_200)


def test_a_density_that_dense_leaves_exceed_names_the_least():
    mask = mask_of(LENET)
    densities = allocation.erdos_renyi(mask, 0.12, dense=["hidden_1", "output"])
    assert counts(mask, densities) == [31_944 - 31_000, 30_000, 1000]
    with pytest.raises(ValueError, match=r"output/kernel\).*density is 0.116458"):
        allocation.erdos_renyi(mask, 0.1, dense=["hidden_1", "out"])
    with pytest.raises(ValueError, match="'head' matches no leaf"):
        allocation.erdos_renyi(mask, 0.5, dense=["head"])
    with pytest.raises(ValueError, match="a sequence of patterns; got the text"):
        allocation.erdos_renyi(mask, 0.5, dense="output")
    with pytest.raises(ValueError, match=r"in \(0, 1\]; got 1.1"):
        allocation.uniform(mask, 1.1)


def test_keep_top_takes_what_a_rule_gives():
    mask = mask_of(CONV, filled)
    scores = {n: jnp.ones(s) for n, s in CONV.items() if s} | {"bias": jnp.ones(10)}
    densities = allocation.erdos_renyi(mask, 0.1, kernel=True)
    kept = masks.keep_top(scores, mask, densities)
    assert int(masks.count(kept)) == 536


@given(st.integers(0, 10_000), st.floats(0.01, 1))
def test_a_table_returns_the_counts_of_its_mask(seed, density):
    rng = np.random.default_rng(seed)
    leaf = rng.random((17, 31)) < density
    leaf[0, 0] = True
    mask = {"a": {"kernel": leaf, "bias": None}, "b": ~leaf | leaf}
    table = allocation.from_table(mask, masks.densities(mask))
    assert counts(mask, table) == [int(leaf.sum()), leaf.size]


@pytest.mark.parametrize("kept", [1, 1_234_567, 2_999_999])
def test_a_table_returns_the_count_of_millions(kept):
    mask = {"w": np.arange(3_000_001) < kept}
    assert counts(mask, allocation.from_table(mask, masks.densities(mask))) == [kept]


def test_a_table_names_every_leaf_once():
    mask = mask_of(LENET)
    with pytest.raises(
        ValueError,
        match=r"missing: hidden_1/kernel, output/kernel; not prunable: hidden_0/bias",
    ):
        allocation.from_table(mask, {"hidden_0/kernel": 0.5, "hidden_0/bias": 0.5})
    with pytest.raises(ValueError, match=r"\(0, 1\]; got 0.0 for w"):
        allocation.from_table({"w": Shape((2,))}, {"w": 0.0})


def test_the_threshold_keeps_what_is_above_it():
    scores = {"a": jnp.array([0.5, 1.0, 2.0, 3.0]), "b": jnp.ones(2), "bias": None}
    scores["bias"] = jnp.ones(3)
    mask = {"a": jnp.array([True, True, True, False]), "b": jnp.ones(2, bool)}
    mask["bias"] = None
    kept = allocation.threshold(scores, mask, 1.0)
    np.testing.assert_array_equal(kept["a"], [0, 0, 1, 0])
    np.testing.assert_array_equal(kept["b"], [0, 0])
    assert kept["bias"] is None
    kept = allocation.threshold(scores, mask, {"a": 0.5, "b": 0.5, "bias": None})
    np.testing.assert_array_equal(kept["a"], [0, 1, 1, 0])
    np.testing.assert_array_equal(kept["b"], [1, 1])
    with pytest.raises(ValueError, match="no score is above its threshold.*2, 2"):
        allocation.threshold(scores, mask, 2.0)
    with pytest.raises(ValueError, match="NaN among the scores of b"):
        allocation.threshold(scores | {"b": jnp.array([jnp.nan, 1])}, mask, 0.0)
    traced = jax.jit(lambda cut: allocation.threshold(scores, mask, cut))(1.0)
    np.testing.assert_array_equal(traced["a"], [0, 0, 1, 0])


def test_the_threshold_is_not_rounded_to_the_scores():
    scores = {"w": jnp.array([0.1], jnp.bfloat16)}  # 0.10009765625
    assert allocation.threshold(scores, {"w": jnp.ones(1, bool)}, 0.1)["w"].all()


@given(st.integers(0, 1000), st.floats(0.0, 1.5))
def test_by_deviation_is_that_of_the_kept_weights(seed, quality):
    rng = np.random.default_rng(seed)
    weights = {"a": rng.normal(size=(4, 5)), "b": rng.normal(3, 1, 20)}
    weights = {name: x.astype(np.float32) for name, x in weights.items()}
    alive = {name: rng.random(x.shape) < 0.7 for name, x in weights.items()}
    expected = {}
    for name, x in weights.items():
        cut = quality * x[alive[name]].std()
        expected[name] = alive[name] & (np.abs(x) > cut)
    params = jax.tree.map(jnp.asarray, weights)
    kept = allocation.by_deviation(params, jax.tree.map(jnp.asarray, alive), quality)
    for name, x in weights.items():
        near = np.abs(np.abs(x) - quality * x[alive[name]].std()) < 1e-5
        np.testing.assert_array_equal(kept[name] | near, expected[name] | near)


def test_quality_may_differ_by_layer():
    params = {"a": jnp.array([-1.0, 1, -3, 3]), "b": jnp.array([-1.0, 1, -3, 3])}
    mask = jax.tree.map(lambda x: jnp.ones(x.shape, bool), params)
    quality = allocation.by_path(mask, 0.1, {"b": 1.0})
    kept = allocation.by_deviation(params, mask, quality)
    np.testing.assert_array_equal(kept["a"], [1, 1, 1, 1])
    np.testing.assert_array_equal(kept["b"], [0, 0, 1, 1])  # the deviation is 5**0.5
    with pytest.raises(ValueError, match="nothing would be left of a, b"):
        allocation.by_deviation(params, mask, 2.0)
