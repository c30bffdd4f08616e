"""The selection against a stable sort, on numbers chosen to mislead it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lth import masks
from lth.masks import topk

SHAPES = [(40, 50), (7,), (3, 331)]
SIZES = [math.prod(shape) for shape in SHAPES]
SIZE = sum(SIZES)
STRIDE = math.isqrt(SIZE) // 4  # between the numbers of the sample
assert STRIDE > 1


def hidden(rng):
    """What the sample sees is below all the rest."""
    return np.concatenate(
        [np.where(np.arange(n) % STRIDE, 1 + rng.random(n), 0) for n in SIZES]
    )


def patterns(rng):
    """Any bits: every exponent as often, infinities, denormals, two zeros."""
    values = rng.integers(0, 2**32, SIZE, dtype=np.uint32).view(np.float32)
    return np.where(np.isnan(values), np.float32(-0.0), values)


def outlier(rng):
    """One number far above many equal ones."""
    return np.where(np.arange(SIZE) == rng.integers(SIZE), np.inf, 1.0)


CONTENTS = {
    "magnitudes": lambda rng: np.abs(rng.normal(size=SIZE)),
    "signed": lambda rng: rng.normal(size=SIZE),
    "all equal": lambda rng: np.full(SIZE, rng.normal()),
    "two values": lambda rng: rng.choice([1.0, 1.0 + 2.0**-23], SIZE),
    "signed zeros": lambda rng: rng.choice([0.0, -0.0], SIZE),
    "denormals": lambda rng: rng.integers(-9, 10, SIZE) * 2.0**-149,
    "about zero": lambda rng: rng.choice([-(2.0**-149), -0.0, 0.0, 2.0**-149], SIZE),
    "patterns": patterns,
    "heavy tails": lambda rng: rng.standard_cauchy(SIZE) ** 5,
    "mostly zero": lambda rng: np.maximum(rng.normal(size=SIZE) - 1, 0),
    "few levels": lambda rng: np.round(rng.normal(size=SIZE), 1),
    "outlier": outlier,
    "hidden": hidden,
    "hidden above": lambda rng: -hidden(rng),
    "rising": lambda rng: np.sort(rng.normal(size=SIZE)),
    "falling": lambda rng: -np.sort(rng.normal(size=SIZE)),
    "infinite": lambda rng: rng.choice([-np.inf, 3.4e38, np.inf], SIZE),
}
contents = st.sampled_from(sorted(CONTENTS))
seeds = st.integers(0, 2**32 - 1)
counts = st.one_of(st.integers(1, SIZE), st.sampled_from([1, 2, SIZE - 1, SIZE]))
lives = st.sampled_from([1.0, 0.5, 0.02])


def draw(name, seed, life=1.0):
    """Scores and which are alive, flat."""
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        return CONTENTS[name](rng).astype(np.float32), rng.random(SIZE) < life


def split(flat):
    """Arrays of SHAPES; a leading axis is kept."""
    parts = np.split(flat, np.cumsum(SIZES)[:-1], axis=-1)
    lead = flat.shape[:-1]
    return [p.reshape(lead + s) for p, s in zip(parts, SHAPES, strict=True)]


def join(parts):
    """What `split` took apart."""
    lead = parts[0].shape[: parts[0].ndim - len(SHAPES[0])]
    return np.concatenate([np.asarray(p).reshape(*lead, -1) for p in parts], axis=-1)


def reference(scores, alive, k):
    """The definition: a stable sort by falling value, the dead left out."""
    order = np.argsort(-scores.astype(np.float64), kind="stable")
    kept = np.zeros(len(scores), bool)
    kept[order[alive[order]][:k]] = True
    return kept


@given(contents, seeds, counts, lives)
@example("hidden", 0, SIZE // 2, 1.0)
@example("all equal", 0, 1000, 1.0)
@example("patterns", 0, 1, 0.0)
def test_it_agrees_with_a_stable_sort(name, seed, k, life):
    scores, alive = draw(name, seed, life)
    kept, available, nan = topk.top(split(scores), split(alive), k)
    np.testing.assert_array_equal(join(kept), reference(scores, alive, k))
    assert int(available) == alive.sum()
    assert not nan


@pytest.mark.parametrize("name", sorted(CONTENTS))
def test_every_content_at_a_fifth(name):
    scores, alive = draw(name, 0, 0.9)
    kept, _, _ = topk.top(split(scores), split(alive), SIZE // 5)
    np.testing.assert_array_equal(join(kept), reference(scores, alive, SIZE // 5))


@jax.jit
def lanes(scores, alive, k):
    return jax.vmap(topk.top, (0, None, 0))(scores, alive, k)


@given(
    st.tuples(contents, contents, contents), seeds, st.tuples(counts, counts, counts)
)
def test_lanes_of_vmap_do_not_meddle(names, seed, ks):
    scores = np.stack([draw(name, seed + i)[0] for i, name in enumerate(names)])
    alive = draw("signed", seed, 0.7)[1]
    kept, _, _ = lanes(split(scores), split(alive), np.array(ks))
    expected = [reference(s, alive, k) for s, k in zip(scores, ks, strict=True)]
    np.testing.assert_array_equal(join(kept), expected)


@given(contents, seeds, st.integers(1, 1000))
def test_keep_top_agrees_inside_jit(name, seed, thousandths):
    scores, alive = (dict(enumerate(split(x))) for x in draw(name, seed))
    density = thousandths / 1000
    expected = join(list(masks.keep_top(scores, alive, density).values()))
    assert expected.sum() == max(1, round(density * SIZE))
    traced = jitted(scores, alive, density)
    np.testing.assert_array_equal(join(list(traced.values())), expected)


jitted = jax.jit(masks.keep_top)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("k", [1, 60, 1500, SIZE])
def test_other_floats_with_all_their_bits(dtype, k):
    with jax.enable_x64(dtype == "float64"):
        size = jnp.dtype(dtype).itemsize
        rng = np.random.default_rng(k)
        raw = rng.integers(0, 2**63, SIZE).astype(f"u{size}")
        raw[::2] &= np.array(0x83, raw.dtype)  # denormals
        raw[::4] |= np.array(1 << (8 * size - 1), raw.dtype)  # negative
        scores = raw.view(jnp.dtype(dtype))
        with np.errstate(invalid="ignore"):
            scores = np.where(scores == scores, scores, np.ones_like(scores))  # no NaN
        alive = rng.random(SIZE) < 0.8
        kept, _, nan = topk.top(split(scores), split(alive), k)
        np.testing.assert_array_equal(join(kept), reference(scores, alive, k))
        assert not nan


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF])
def test_any_nan_that_competes_keeps_nothing(bits):
    scores, alive = draw("signed", 0)
    scores.view(np.uint32)[1234] = bits
    kept, available, nan = topk.top(split(scores), split(alive), 100)
    assert nan
    assert int(available) == SIZE
    assert not join(kept).any()
    alive[1234] = False
    kept, _, nan = topk.top(split(scores), split(alive), 100)
    assert not nan
    assert join(kept).sum() == 100


def test_an_array_without_entries_takes_no_part():
    scores = [jnp.zeros((0, 3)), jnp.array([2.0, 1.0, 3.0]), jnp.float32(5)]
    kept, available, _ = topk.top(scores, [jnp.ones(s.shape, bool) for s in scores], 2)
    assert [k.tolist() for k in kept] == [[], [False, False, True], True]
    assert int(available) == 4
    with pytest.raises(ValueError, match="1 to 2\\*\\*31 - 1 weights; got 0"):
        topk.top(scores[:1], [jnp.ones((0, 3), bool)], 1)


def test_a_loss_through_the_mask_has_a_gradient():
    def loss(scores):
        mask = masks.keep_top({"w": scores}, {"w": jnp.ones(100, bool)}, 0.3)
        return jnp.sum(masks.apply({"w": scores}, mask)["w"])

    np.testing.assert_array_equal(
        jax.grad(loss)(jnp.arange(100.0)), np.arange(100) >= 70
    )


@pytest.mark.parametrize(
    ("name", "most"),
    [("magnitudes", 8), ("patterns", 8), ("hidden", 16), ("mostly zero", 8)],
)
def test_the_passes_are_few_whatever_the_numbers(name, most, monkeypatch):
    passes, count = [], topk._counts
    monkeypatch.setattr(topk, "_counts", lambda x: passes.append(1) or count(x))
    scores, alive = draw(name, 1)
    with jax.disable_jit():
        topk.top(split(scores), split(alive), SIZE // 5)
    assert len(passes) <= most


def test_nothing_of_the_size_of_the_data_is_stored():
    scores, alive = [jnp.zeros((1000, 1000))], [jnp.ones((1000, 1000), bool)]
    memory = topk.top.lower(scores, alive, 5).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 100_000
