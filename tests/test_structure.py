"""Units live or die whole, in exact counts; N of every M stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lth import masks
from lth.masks import structure

UNITS = {
    "block_2x2": structure.block((2, 2), "max"),
    "outputs": structure.outputs("l1"),
    "inputs": structure.inputs("mean"),
}
SHAPES = {"dense": (5, 4), "conv": (2, 1, 3, 5)}  # few, as each compiles anew
# Sums of these are exact in any order, so that the tests may restate them.
VALUES = [0.0, -0.5, 0.25, 1.0, 2.0, 3.0]


def ones(*shape):
    return {"w": jnp.ones(shape, bool)}


def full():
    return {"bias": None} | {n: jnp.ones(s, bool) for n, s in SHAPES.items()}


def scores_of(seed):
    rng = np.random.default_rng(seed)
    drawn = {n: rng.choice(VALUES, s).astype(np.float32) for n, s in SHAPES.items()}
    return {"bias": jnp.ones(2)} | {n: jnp.asarray(x) for n, x in drawn.items()}


def units_of(shape, name):
    """The flat indices of each unit, by looping over it: the definition, restated."""
    index = np.arange(np.prod(shape)).reshape(shape)
    if name == "outputs":
        return [index[..., j].ravel() for j in range(shape[-1])]
    if name == "inputs":
        return [index[..., i, :].ravel() for i in range(shape[-2])]
    return [
        index[(*lead, slice(i, i + 2), slice(j, j + 2))].ravel()
        for lead in np.ndindex(shape[:-2])
        for i in range(0, shape[-2], 2)
        for j in range(0, shape[-1], 2)
    ]


def unit_scores(leaf, name):
    reduce = {
        "block_2x2": np.max,
        "outputs": lambda x: np.abs(x).sum(),
        "inputs": np.mean,
    }[name]
    flat = np.asarray(leaf).ravel()
    return [reduce(flat[unit]) for unit in units_of(leaf.shape, name)]


@given(
    st.integers(0, 1000),
    st.sampled_from(sorted(UNITS)),
    st.integers(1, 100),
    st.sampled_from(["global", "layer"]),
)
def test_the_highest_units_stay_in_exact_counts(seed, name, percent, scope):
    scores, density = scores_of(seed), percent / 100
    kept = structure.keep_top(scores, full(), density, scope, unit=UNITS[name])
    assert kept["bias"] is None
    leaves = sorted(SHAPES)
    groups = [leaves] if scope == "global" else [[leaf] for leaf in leaves]
    for group in groups:
        ranked = [s for leaf in group for s in unit_scores(scores[leaf], name)]
        units = [(leaf, u) for leaf in group for u in units_of(SHAPES[leaf], name)]
        k = max(1, round(density * len(units)))
        chosen = set(sorted(range(len(units)), key=lambda i: (-ranked[i], i))[:k])
        for i, (leaf, unit) in enumerate(units):
            alive = np.asarray(kept[leaf]).ravel()[unit]
            assert (alive == (i in chosen)).all()
    structure.check(kept, UNITS[name])


@given(st.integers(0, 1000), st.sampled_from(sorted(UNITS)))
def test_a_flipped_bit_is_found(seed, name):
    kept = structure.keep_top(scores_of(seed), full(), 0.5, unit=UNITS[name])
    leaf = sorted(SHAPES)[seed % 2]
    flipped = np.asarray(kept[leaf]).copy()
    where = seed % flipped.size
    flipped.flat[where] ^= True
    if any(len(u) == 1 and u[0] == where for u in units_of(SHAPES[leaf], name)):
        structure.check(kept | {leaf: flipped}, UNITS[name])
        return
    with pytest.raises(ValueError, match=f"{leaf}: unit .* is pruned in part"):
        structure.check(kept | {leaf: flipped}, UNITS[name])


def test_the_checker_names_the_place():
    broken = {"a": {"kernel": jnp.ones((4, 6), bool).at[3, 3].set(False)}}
    with pytest.raises(ValueError, match=r"a/kernel: unit \[1, 1\], .* at \[2, 2\]"):
        structure.check(broken, structure.block((2, 2)))


@given(
    st.integers(0, 1000),
    st.sampled_from([(2, 4, -2), (1, 2, -1), (2, None, -2)]),
)
def test_n_of_every_m_stay_and_a_flipped_bit_is_found(seed, pattern):
    (n, m, axis), scores = pattern, scores_of(seed)
    kept = structure.keep_n_of_m(scores, full(), n, m, axis)
    for name, shape in SHAPES.items():
        lines = np.moveaxis(np.asarray(scores[name]), axis, -1)
        alive = np.moveaxis(np.asarray(kept[name]), axis, -1)
        for at in np.ndindex(lines.shape[:-1]):
            for start in range(0, shape[axis], m or shape[axis]):
                group = lines[at][start : start + (m or shape[axis])]
                order = sorted(range(len(group)), key=lambda i: (-group[i], i))[:n]
                expected = [i in order for i in range(len(group))]
                assert alive[at][start : start + len(group)].tolist() == expected
    structure.check_n_of_m(kept, n, m, axis)
    flipped = np.asarray(kept["dense"]).copy()
    flipped.flat[seed % flipped.size] ^= True
    with pytest.raises(ValueError, match=rf"dense: .* keep exactly {n} of its"):
        structure.check_n_of_m(kept | {"dense": flipped}, n, m, axis)
    added = bool(flipped.flat[seed % flipped.size])
    if not added:
        structure.check_n_of_m(kept | {"dense": flipped}, n, m, axis, exact=False)
        return
    with pytest.raises(ValueError, match=rf"dense: .* keep at most {n} of its"):
        structure.check_n_of_m(kept | {"dense": flipped}, n, m, axis, exact=False)


within = jax.jit(structure.keep_within, static_argnums=(3, 4))


@given(st.integers(0, 1000), st.integers(1, 100), st.booleans())
def test_density_within_groups_is_rounded_by_group_also_under_jit(seed, percent, whole):
    (m, axis), density = (None, -1) if whole else (4, -2), percent / 100
    eager = structure.keep_within(scores_of(seed), full(), density, m, axis)
    traced = within(scores_of(seed), full(), density, m, axis)
    for name, shape in SHAPES.items():
        np.testing.assert_array_equal(eager[name], traced[name])
        alive = np.moveaxis(np.asarray(eager[name]), axis, -1)
        for start in range(0, shape[axis], m or shape[axis]):
            group = alive[..., start : start + (m or shape[axis])]
            k = max(1, round(density * group.shape[-1]))
            assert (group.sum(-1) == k).all()


@pytest.mark.parametrize(
    ("shape", "fan_in", "stay"),
    [
        ((5, 5, 1, 6), 25, 2),  # of 25 a tenth is 2.5, and an even 2
        ((3, 3, 3, 16), 27, 3),
        ((2, 3, 3, 3, 5), 54, 5),
        ((20, 4), 20, 2),
    ],
)
def test_all_that_an_output_reads_is_one_group(shape, fan_in, stay):
    scores = {"kernel": np.random.default_rng(0).random(shape, np.float32)}
    mask = jax.tree.map(lambda s: jnp.ones(s.shape, bool), scores)
    columns = np.asarray(scores["kernel"]).reshape(fan_in, -1)
    wanted = columns >= np.sort(columns, 0)[-stay]
    assert (wanted.sum(0) == stay).all()
    for kept in (
        structure.keep_within(scores, mask, 0.1),
        structure.keep_n_of_m(scores, mask, stay, None),
    ):
        found = np.asarray(kept["kernel"]).reshape(fan_in, -1)
        np.testing.assert_array_equal(found, wanted)
        structure.check_n_of_m(kept, stay, None)
    assert structure.shapes(mask, structure.outputs()) == [(*shape[:-1], 1)]


def test_a_tie_in_what_an_output_reads_goes_to_the_lower_index():
    scores = {"w": jnp.ones((2, 2, 3, 2))}
    kept = structure.keep_within(scores, ones(2, 2, 3, 2), 1 / 3)
    rows = np.asarray(kept["w"]).reshape(12, 2)
    assert rows[:4].all()
    assert not rows[4:].any()


HEADS = {"query": (8, 2, 4), "out": (2, 4, 8)}
SIDES = {"query": ((0,), (1, 2)), "out": ((0, 1), (2,))}


def test_kernels_of_attention_are_told_apart():
    rng = np.random.default_rng(0)
    scores = {n: rng.uniform(size=s).astype(np.float32) for n, s in HEADS.items()}
    full = {n: jnp.ones(s, bool) for n, s in HEADS.items()}
    matrices = {n: s.reshape(8, 8) for n, s in scores.items()}
    flat = {n: jnp.ones((8, 8), bool) for n in HEADS}
    for keep in (
        lambda s, m, **told: structure.keep_within(s, m, 0.5, **told),
        lambda s, m, **told: structure.keep_n_of_m(s, m, 2, 4, **told),
        lambda s, m, **told: structure.keep_n_of_m(s, m, 3, None, **told),
        lambda s, m, **told: structure.keep_top(
            s, m, 0.5, unit=structure.outputs(), **told
        ),
        lambda s, m, **told: structure.keep_top(
            s, m, 0.5, unit=structure.inputs(), **told
        ),
    ):
        kept, wanted = keep(scores, full, axes=SIDES), keep(matrices, flat)
        for name in HEADS:
            found = np.asarray(kept[name]).reshape(8, 8)
            np.testing.assert_array_equal(found, wanted[name])
        with pytest.raises(
            ValueError, match=r"out: the shape \(2, 4, 8\) does not tell"
        ):
            keep(scores, full)


def test_layers_of_a_scan_are_kernels_side_by_side():
    scores = {"w": np.random.default_rng(1).random((3, 8, 5), np.float32)}
    mask, axes = ones(3, 8, 5), {"w": ((1,), (2,))}
    kept = structure.keep_within(scores, mask, 0.25, axes=axes)["w"]
    assert (kept.sum(1) == 2).all()
    units = structure.outputs("max")
    kept = structure.keep_top(scores, mask, 1 / 15, unit=units, axes=axes)["w"]
    best = np.unravel_index(np.argmax(scores["w"]), (3, 8, 5))
    assert kept.sum() == 8
    assert kept[best[0], :, best[2]].all()


def test_n_of_m_is_grown_into():
    scores, mask = scores_of(0), full()
    for density in [1.0, 0.75, 0.6, 0.5]:
        smaller = structure.keep_within(scores, mask, density, 4)
        assert not (smaller["dense"] & ~mask["dense"]).any()
        mask = smaller
    at_once = structure.keep_n_of_m(scores, full(), 2, 4)
    # Five inputs make a group of four and one of one, of which both keep the highest.
    np.testing.assert_array_equal(mask["dense"], at_once["dense"])


def test_golden_block_masks():
    corners = jnp.array([[0.1, 0.2], [0.3, 0.4]])
    weights = jnp.kron(corners, jnp.ones((2, 2)))  # tfmot's example, mean
    peaks = jnp.kron(corners, jnp.array([[1.0, 0.0], [0.0, 1.0]]))  # and maximum
    below = np.repeat([[False], [True]], [2, 2], axis=0) & np.ones(4, bool)[None]
    for scores, reduce in [(weights, "mean"), (peaks, "max")]:
        unit = structure.block((2, 2), reduce)
        kept = structure.keep_top({"w": scores}, ones(4, 4), 0.5, unit=unit)
        np.testing.assert_array_equal(kept["w"], below)
    pairs = jnp.array([[1.0, 9.0, 6.0, 5.0], [8.0, 0.0, 2.0, 7.0]])  # 5, 5.5 | 4, 4.5
    unit = structure.block((1, 2))
    kept = structure.keep_top({"w": pairs}, ones(2, 4), 0.25, unit=unit)
    np.testing.assert_array_equal(kept["w"], [[0, 0, 1, 1], [0, 0, 0, 0]])


def test_a_block_at_the_edge_is_pooled_where_it_is_pruned():
    # tfmot pools windows that begin at -1, 3, 7, and prunes blocks that begin at 0, 4,
    # 8; a mean over zeros past the edge would have the last block lose as well.
    scores = {"w": jnp.array([3.0, 3, 3, 3, 0, 0, 0, 9, 4, 4])}
    kept = structure.keep_top(scores, ones(10), 0.4, unit=structure.block((4,)))
    np.testing.assert_array_equal(kept["w"], np.arange(10) >= 8)


def test_golden_two_of_four_along_the_inputs():
    column = jnp.array([0.1, 0.4, 0.4, 0.4, 5.0, 1.0, 2.0, 3.0])
    kept = structure.keep_n_of_m({"w": column[:, None]}, ones(8, 1), 2, 4)
    np.testing.assert_array_equal(kept["w"][:, 0], [0, 1, 1, 0, 1, 0, 0, 1])


@pytest.mark.parametrize("axis", [-2, 2])
def test_groups_of_a_convolution_run_along_its_inputs(axis):
    scores = {"w": jnp.arange(2 * 4 * 3.0).reshape(1, 2, 4, 3)}
    kept = structure.keep_n_of_m(scores, ones(1, 2, 4, 3), 1, 4, axis)
    np.testing.assert_array_equal(np.asarray(kept["w"]).sum(2), np.ones((1, 2, 3)))
    assert kept["w"][:, :, 3].all()


def test_dead_weights_never_return():
    mask = {"w": jnp.array([[True, False, False, False], [True] * 4])}
    scores = {"w": jnp.array([[-jnp.inf, 9.0, 9.0, 9.0], [1.0, 2.0, 3.0, 4.0]])}
    kept = structure.keep_n_of_m(scores, mask, 2, 4, axis=-1)
    np.testing.assert_array_equal(kept["w"], [[1, 0, 0, 0], [0, 0, 1, 1]])
    with pytest.raises(ValueError, match=r"w: unit \[0, 0\].* fewer .* density 0.5"):
        structure.keep_within(scores, mask, 0.5, 4, axis=-1)
    unit = structure.block((1, 2), "max")  # scores are -inf, nothing, 2 and 4
    top = structure.keep_top(scores, mask, 0.75, unit=unit)
    np.testing.assert_array_equal(top["w"], mask["w"])
    with pytest.raises(ValueError, match="keeps only 3") as caught:
        structure.keep_top(scores, mask, 1.0, unit=unit)
    assert "counts units" in caught.value.__notes__[0]


def test_jit_and_vmap_agree_with_the_eager_call():
    scores = scores_of(3)
    two = jax.tree.map(lambda x: jnp.stack([x, -x]), scores)

    def keep(s, density):
        return structure.keep_top(s, full(), density, unit=UNITS["block_2x2"])

    lanes = jax.jit(jax.vmap(keep, (0, None)))(two, 0.35)
    for leaf, kept in keep(scores, 0.35).items():
        if leaf != "bias":
            np.testing.assert_array_equal(lanes[leaf][0], kept)
    lanes = jax.vmap(lambda s: structure.keep_n_of_m(s, full(), 2, 4))(two)
    eager = structure.keep_n_of_m(scores, full(), 2, 4)
    np.testing.assert_array_equal(lanes["conv"][0], eager["conv"])


def test_densities_by_leaf():
    density = {"bias": None, "dense": 0.25, "conv": 1.0}
    unit = structure.outputs()
    kept = structure.keep_top(scores_of(0), full(), density, unit=unit)
    assert [int(jnp.sum(kept[n])) for n in ("dense", "conv")] == [5, 30]
    kept = structure.keep_within(scores_of(0), full(), density)
    assert [int(jnp.sum(kept[n])) for n in ("dense", "conv")] == [4, 30]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sixteen_bit_scores_are_added_in_thirty_two(dtype):
    scores = {"w": jnp.stack([jnp.full(4000, 1.0), jnp.full(4000, 1.0078125)], 1)}
    unit, mask = structure.outputs("mean"), ones(4000, 2)
    scores = {"w": scores["w"].astype(dtype)}
    kept = structure.keep_top(scores, mask, 0.5, unit=unit)
    assert kept["w"].sum(0).tolist() == [0, 4000]


def test_the_smallest_and_the_signed_zero():
    scores = {"w": jnp.array([-0.0, 0.0, 2.0**-140, -jnp.inf])}
    kept = structure.keep_n_of_m(scores, ones(4), 2, 4, axis=0)
    np.testing.assert_array_equal(kept["w"], [1, 0, 1, 0])


def test_nan_is_an_error_or_under_jit_keeps_nothing():
    scores = {"w": jnp.array([[jnp.nan, 1.0], [2.0, 3.0]])}
    mask = ones(2, 2)
    with pytest.raises(ValueError, match="NaN among the scores of w"):
        structure.keep_top(scores, mask, 0.5, unit=structure.outputs())
    with pytest.raises(ValueError, match=r"w: unit \[0, 0\], .* has NaN among"):
        structure.keep_n_of_m(scores, mask, 1, 2)
    kept = jax.jit(lambda s: structure.keep_n_of_m(s, mask, 1, 2))(scores)
    np.testing.assert_array_equal(kept["w"], [[0, 0], [0, 1]])
    alive = {
        "w": jnp.array([[False, True], [True, True]])
    }  # where dead, NaN is ignored
    structure.keep_top(scores, alive, 0.5, unit=structure.outputs())
    structure.keep_n_of_m(scores, alive, 1, 2)


def test_bad_arguments_are_refused():
    flat = {"a": {"bias": jnp.ones(3)}}
    alive = {"a": {"bias": jnp.ones(3, bool)}}
    with pytest.raises(ValueError, match=r"a/bias: a block \(2, 2\) needs 2 axes"):
        structure.keep_top(flat, alive, 0.5, unit=structure.block((2, 2)))
    with pytest.raises(ValueError, match=r"a/bias: inputs lie along axis -2; got"):
        structure.keep_top(flat, alive, 0.5, unit=structure.inputs())
    with pytest.raises(ValueError, match=r"a/bias: groups lie along axis -2; got"):
        structure.keep_n_of_m(flat, alive, 2, 4)
    with pytest.raises(ValueError, match="1 <= n <= m; got 5 of 4"):
        structure.keep_n_of_m(flat, alive, 5, 4)
    with pytest.raises(ValueError, match="1 <= n <= m; got 1 of 0"):
        structure.keep_within(flat, alive, 0.5, 0)
    with pytest.raises(ValueError, match="1 <= n <= m; got 0 of None"):
        structure.check_n_of_m(alive, 0, None)
    with pytest.raises(ValueError, match="by sum, l1, l2, mean, max; got 'median'"):
        structure.outputs("median")
    with pytest.raises(ValueError, match=r"at least 1; got \(2, 0\)"):
        structure.block((2, 0))
    with pytest.raises(ValueError, match=r"in \(0, 1\]; got 1.5"):
        structure.keep_within(flat, alive, 1.5, axis=0)
    with pytest.raises(TypeError, match="floating point; w is int32"):
        structure.keep_top({"w": jnp.arange(3)}, ones(3), 0.5, unit=structure.weight())


def test_the_unit_of_one_weight_is_masks_keep_top():
    scores, unit = scores_of(5), structure.weight()
    for scope in ("global", "layer"):
        ours = structure.keep_top(scores, full(), 0.3, scope, unit=unit)
        theirs = masks.keep_top(scores, full(), 0.3, scope)
        for name in SHAPES:
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_a_unit_of_ones_own():
    heads = structure.Unit(  # kernel [input, heads, of a head]: a head is a unit
        lambda leaf: (leaf[0], 1, leaf[2]), structure.REDUCE["l2"]
    )
    scores = {"w": jnp.arange(2 * 3 * 2.0).reshape(2, 3, 2)}
    kept = structure.keep_top(scores, ones(2, 3, 2), 1 / 3, unit=heads)
    np.testing.assert_array_equal(kept["w"].all((0, 2)), [0, 0, 1])
    structure.check(kept, heads)
