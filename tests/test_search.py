"""Searches keep the count, spend what they say, and find what is planted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lth import criteria, masks
from lth.supermask import search
from tests.test_claims import Trained

ONES = {"a": jnp.ones((4, 5), bool), "b": jnp.ones(20, bool), "c": None}
PLANTED = masks.keep_top(
    {"a": jnp.arange(20.0).reshape(4, 5), "b": -jnp.arange(20.0), "c": None}, ONES, 0.25
)
FLAT = {"a": jnp.ones((4, 5)), "b": jnp.ones(20), "c": None}
START = masks.keep_top(FLAT, ONES, 0.25)


def fitness(mask):
    """The share of the planted weights that a mask keeps."""
    return masks.count(jax.tree.map(jnp.logical_and, mask, PLANTED)) / jnp.float32(10)


def test_swaps_exchange_exactly_so_many():
    for count in (1, 3):
        new = search.swapped(START, jax.random.key(count), count)
        assert int(masks.count(new)) == 10
        assert int(masks.count(jax.tree.map(jnp.logical_xor, new, START))) == 2 * count


@functools.cache
def blind():
    """As many random masks as the filter tries."""
    return search.random_search(fitness, ONES, 0.25, jax.random.key(3), 20 * 32)


def test_random_search_is_the_best_of_its_draws():
    found = blind()
    assert int(masks.count(found.mask)) == 10
    assert found.fitness == fitness(found.mask) == found.curve.max()
    assert found.curve.shape == (20 * 32,)
    assert (np.diff(found.curve) >= 0).all()


def test_hill_climbing_finds_the_planted_mask():
    found = search.hill_climb(fitness, START, jax.random.key(0), 1500)
    assert int(masks.count(found.mask)) == 10
    assert found.fitness == 1
    assert all((found.mask[k] == PLANTED[k]).all() for k in "ab")
    assert found.mask["c"] is None


def test_the_filter_beats_the_best_of_as_many_random_masks():
    keys = jax.random.split(jax.random.key(1), 32)
    particles = jax.vmap(lambda k: search.swapped(START, k, 5))(keys)
    found = search.particle_filter(fitness, particles, jax.random.key(2), rounds=20)
    assert found.fitness > blind().fitness
    assert found.fitness == fitness(found.mask)
    assert int(masks.count(found.mask)) == 10


def test_the_filter_on_digits_finds_better_masks_than_random_ones():
    trained = Trained((16,), seeds=1, steps=600)
    (params,) = trained.params
    ones = masks.ones(params)
    held = trained.splits.validation

    def accuracy(mask):
        values = trained.measure(masks.apply(params, mask), {}, held)
        return jnp.mean(values["accuracy"])

    keys = jax.random.split(jax.random.key(0), 33)
    scores = [criteria.random(ones, k) for k in keys[:32]]
    drawn = [masks.keep_top(s, ones, 0.5) for s in scores]
    first = np.array([accuracy(m) for m in drawn])
    particles = jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)
    run = jax.jit(lambda p, k: search.particle_filter(accuracy, p, k, swaps=20))
    found = run(particles, keys[32])
    assert found.fitness > first.mean() + 2 * first.std()


def test_a_mask_without_a_fitness_is_never_the_best():
    """Nor does one keep those after it from being found."""

    def rarely(mask):
        value = fitness(mask)
        return jnp.where(masks.count(mask["b"]) % 2 == 0, jnp.nan, value)

    key = jax.random.key(1)
    keys = jax.random.split(key, 8)
    particles = jax.vmap(lambda k: search.swapped(START, k, 5))(keys)
    for found in (
        search.random_search(rarely, ONES, 0.25, key, 20),
        search.hill_climb(rarely, START, key, 100),
        search.particle_filter(rarely, particles, key, rounds=4),
    ):
        assert np.isfinite(found.fitness)
        assert found.fitness == rarely(found.mask) == np.nanmax(found.curve)
        assert not np.isnan(found.curve).any()


def test_where_little_is_free_fewer_are_exchanged():
    dense = ONES
    found = search.hill_climb(fitness, dense, jax.random.key(0), 20)
    assert int(masks.count(found.mask)) == 40
    nearly = {**ONES, "b": ONES["b"].at[3].set(False)}
    new = search.swapped(nearly, jax.random.key(0), 3)
    assert int(masks.count(new)) == 39
    with pytest.raises(ValueError, match="1 or more weights are exchanged; got 0"):
        search.hill_climb(fitness, dense, jax.random.key(0), 20, swaps=0)
    with pytest.raises(ValueError, match="1 or more evaluations; got 0"):
        search.random_search(fitness, dense, 0.5, jax.random.key(0), 0)
