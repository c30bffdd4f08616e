"""Density over levels and steps: published figures, exact counts, the run's end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lth.masks import schedules, topk

STEPS = st.integers(0, 60)


def sparsity(schedule, step):
    return 1 - schedule.density(step)


def test_levels_end_at_the_final_density():
    assert schedules.linear(0.1, 3) == pytest.approx([0.7, 0.4, 0.1])
    assert schedules.exponential(0.01, 4) == pytest.approx(
        [0.1**0.5, 0.1, 0.1**1.5, 0.01]
    )
    for final in [0.1, 0.3, 1 / 3, 1.0]:
        assert schedules.linear(final, 7)[-1] == final
        assert schedules.exponential(final, 100)[-1] == final
    trees = schedules.linear({"a": 0.5, "b": None, "c": 1.0}, 2)
    assert trees == [{"a": 0.75, "b": None, "c": 1.0}, {"a": 0.5, "b": None, "c": 1.0}]


@pytest.mark.parametrize("levels", [[0.5, 0.5], [0.5, 0.6], [1.1], [0.5, 0.0], [-1]])
def test_given_levels_decrease_within_the_range(levels):
    assert schedules.given([1.0, 0.5, 0.1]) == [1.0, 0.5, 0.1]
    with pytest.raises(ValueError, match=rf"decrease; level {len(levels)} has"):
        schedules.given(levels)


def test_levels_refuse_what_is_no_density():
    with pytest.raises(ValueError, match=r"in \(0, 1\]; got 0"):
        schedules.linear(0, 3)
    with pytest.raises(ValueError, match="at least 0; got -1"):
        schedules.exponential(0.5, -1)


def test_the_polynomial_of_tfmot():
    ramp = schedules.polynomial(0.2, 0.8, 100, 110)
    for step, value in {100: 0.2, 102: 0.4928, 105: 0.725, 110: 0.8}.items():
        assert sparsity(ramp, step) == pytest.approx(value, abs=1e-12)
    ramp = schedules.polynomial(0.0, 0.9, 0, 100)
    figure = {0: 0, 10: 0.2439, 25: 0.5203, 50: 0.7875, 75: 0.8859, 100: 0.9}
    for step, value in figure.items():
        assert sparsity(ramp, step) == pytest.approx(value, abs=5e-5)
    straight = schedules.polynomial(0.0, 0.5, 0, 10, power=1)
    assert [sparsity(straight, t) for t in (2, 5)] == pytest.approx([0.1, 0.25])


def test_cubic_is_the_polynomial_from_nothing():
    cubic, same = schedules.cubic(0.9, 5, 50), schedules.polynomial(0.0, 0.9, 5, 50)
    assert [cubic.density(t) for t in range(60)] == [same.density(t) for t in range(60)]


def test_exponential_decay_falls_by_equal_factors():
    decay = schedules.exponential_decay(0.2, 0.95, 10, 14, frequency=1)
    densities = np.array([decay.density(t) for t in range(10, 15)])
    assert densities[0] == 0.8
    assert densities[-1] == 0.05
    np.testing.assert_allclose(densities[1:] / densities[:-1], (0.05 / 0.8) ** 0.25)


def test_a_decimal_sparsity_has_a_decimal_density():
    for percent in range(100):
        schedule = schedules.one_shot(percent / 100, 3)
        assert schedule.density(3) == round(1 - percent / 100, 2)


@pytest.mark.parametrize(("end", "n"), [(10_000, 81), (4000, 21), (4050, 22)])
def test_the_number_of_updates(end, n):
    schedule = schedules.cubic(0.5, 2000, end)
    assert len(schedules.updates(schedule)) == n
    assert schedules.updates(schedule)[-1] == end


@given(STEPS, STEPS, st.integers(1, 12), st.floats(0.1, 0.99))
def test_updates_are_where_density_changes(begin, length, frequency, final):
    end = begin + length
    schedule = schedules.cubic(final, begin, end, frequency)
    listed = schedules.updates(schedule)
    said = [t for t in range(end + 20) if schedules.is_update(schedule, t)]
    assert said == listed
    assert {begin, end} <= set(listed)
    for step in range(end + 20):
        earlier = [t for t in listed if t <= step]
        value = schedule.density(earlier[-1]) if earlier else 1.0
        assert schedules.in_force(schedule, step) == value
    assert schedules.in_force(schedule, end) == pytest.approx(1 - final, abs=1e-12)


@given(st.integers(0, 30), STEPS, st.integers(1, 12), st.integers(1, 100_000))
def test_a_traced_step_says_the_same(begin, length, frequency, total):
    schedule = schedules.polynomial(
        0.15, 0.95, begin, begin + length, frequency=frequency
    )
    steps = jnp.arange(100)
    traced = jax.vmap(lambda t: schedules.in_force(schedule, t))(steps)
    eager = [schedules.in_force(schedule, t) for t in range(100)]
    np.testing.assert_array_equal(traced, np.float32(eager))
    np.testing.assert_array_equal(
        jax.vmap(lambda t: schedules.is_update(schedule, t))(steps),
        [schedules.is_update(schedule, t) for t in range(100)],
    )
    kept = jax.vmap(lambda d: topk.round_count(d, total))(traced)
    wanted = np.array([topk.round_count(d, total) for d in eager])
    unsure = np.abs(np.array(eager) * total % 1 - 0.5) <= (wanted + 1) * 2.0**-23
    np.testing.assert_array_equal(np.where(unsure, wanted, kept), wanted)


def test_ties_of_decimals_are_counted_alike_under_jit():
    for hundredths in [5, 15, 25, 35, 45, 55, 65, 75, 85, 95]:
        schedule = schedules.one_shot(hundredths / 100, 7)
        density = jax.jit(lambda t, s=schedule: schedules.in_force(s, t))(7)
        exact = max(1, round((100 - hundredths) / 100 * 10))
        assert int(topk.round_count(density, 10)) == exact
        assert topk.round_count(schedules.in_force(schedule, 7), 10) == exact


def test_one_shot_and_a_schedule_of_no_length():
    for schedule in (
        schedules.one_shot(0.8, 5),
        schedules.polynomial(0.1, 0.8, 5, 5),
        schedules.exponential_decay(0.1, 0.8, 5, 5),
    ):
        assert schedules.updates(schedule) == [5]
        assert [schedules.in_force(schedule, t) for t in (4, 5, 6)] == [1.0, 0.2, 0.2]


def test_constant_stays():
    schedule = schedules.constant(0.5, 10, 20, frequency=4)
    assert schedules.updates(schedule) == [10, 14, 18, 20]
    assert {schedules.in_force(schedule, t) for t in range(10, 30)} == {0.5}


def test_each_layer_follows_its_own_schedule():
    mask = {
        "hidden": {"kernel": jnp.ones((2, 2), bool), "bias": None},
        "output": {"kernel": jnp.ones((2, 2), bool)},
    }
    fast = schedules.polynomial(0.0, 0.8, 2, 6, power=1, frequency=2)
    slow = schedules.one_shot(0.5, 9)
    both = schedules.by_path(mask, fast, {"output": slow})
    assert schedules.updates(both) == [2, 4, 6, 9]
    assert [t for t in range(12) if schedules.is_update(both, t)] == [2, 4, 6, 9]
    hidden = {0: 1.0, 3: 1.0, 5: 0.6, 6: 0.2, 10: 0.2}
    traced = jax.jit(
        lambda t: (schedules.in_force(both, t), schedules.is_update(both, t))
    )
    for step, density in hidden.items():
        tree = schedules.in_force(both, step)
        assert tree == {
            "hidden": {"kernel": pytest.approx(density), "bias": None},
            "output": {"kernel": 0.5 if step >= 9 else 1.0},
        }
        same, update = traced(step)
        np.testing.assert_array_equal(
            jax.tree.leaves(same), np.float32(jax.tree.leaves(tree))
        )
        assert bool(update) == (step in [2, 4, 6, 9])
    assert traced._cache_size() == 1
    schedules.check(both, 9)
    with pytest.raises(ValueError, match=r"output/kernel: a run of 8 .* has no update"):
        schedules.check(both, 8)
    with pytest.raises(ValueError, match="'head' matches no leaf"):
        schedules.by_path(mask, fast, {"head": slow})
    with pytest.raises(ValueError, match="hidden/kernel is matched by more than one"):
        schedules.by_path(mask, fast, {"hidden": slow, "kernel": fast})


def test_a_schedule_beyond_the_run_is_refused_with_what_it_would_reach():
    schedule = schedules.polynomial(0.0, 0.75, 1000, 5000)
    with pytest.raises(
        ValueError,
        match=r"run of 1600 steps .* step 1000 to 5000: .* last update is at step 1600 "
        r".* density 71.1% \(sparsity 28.9%\), not density 25.0% \(sparsity 75.0%\)",
    ):
        schedules.check(schedule, 1600)
    schedules.check(schedule, 5000)
    with pytest.raises(ValueError, match="it has no update and .* density 100.0%"):
        schedules.check(schedule, 999)
    with pytest.raises(ValueError, match="last update is at step 4900"):
        schedules.check(schedule, 4999)


def test_bad_schedules_are_refused():
    with pytest.raises(ValueError, match=r"sparsity is in \[0, 1\).*got 0.5 to 1.0"):
        schedules.polynomial(0.5, 1.0, 0, 10)
    with pytest.raises(ValueError, match=r"does not fall.*got 0.5 to 0.4"):
        schedules.exponential_decay(0.5, 0.4, 0, 10)
    with pytest.raises(ValueError, match="end_step; got 10 and 9"):
        schedules.constant(0.5, 10, 9)
    with pytest.raises(ValueError, match="end_step; got -1 and -1"):
        schedules.one_shot(0.5, -1)
    with pytest.raises(ValueError, match="at least 1 step; got 0"):
        schedules.cubic(0.5, 0, 10, 0)
    with pytest.raises(ValueError, match=r"are whole; got \(0, 1.5, 1\)"):
        schedules.cubic(0.5, 0, 1.5, 1)
    with pytest.raises(ValueError, match="power is above 0; got 0"):
        schedules.polynomial(0.0, 0.5, 0, 10, power=0)


@pytest.mark.parametrize(
    ("power", "middle"), [(3, 0.7875), (1, 0.45), (1 / 3, 0.9 * (1 - 0.5 ** (1 / 3)))]
)
def test_powers_of_other_libraries(power, middle):
    schedule = schedules.polynomial(0.0, 0.9, 0, 100, power, 50)
    assert 1 - schedules.in_force(schedule, 50) == pytest.approx(middle, abs=1e-9)
    assert 1 - schedules.in_force(schedule, 100) == pytest.approx(0.9)
