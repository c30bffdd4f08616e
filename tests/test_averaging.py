"""Averaging as a method, against plain trainings and means written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lth
from lth import lottery, models, train
from lth.lab import store
from lth.lab.front import train_own
from lth.lab.keeping import Saving, Stopped
from lth.lottery import recipe as recipes
from lth.lottery import rewind
from lth.lottery.averaging import soups, swamp
from lth.lottery.recipe import TRAIN, Training
from lth.train import averaging
from tests import own
from tests.conftest import assert_same


@pytest.fixture(scope="module")
def plain():
    return own.recipe(criterion=None, rewind=rewind.weights, rewind_to=2)


@pytest.fixture(scope="module")
def begun(plain):
    """A pruned network before it is retrained: state at the rewind point, mask."""
    order = recipes.keys(plain.replicates, TRAIN)
    early = lottery.advanced(plain, recipes.drawn(plain), 2, order)
    rng = np.random.default_rng(3)
    mask = jax.tree.map(lambda m: jnp.asarray(rng.random(m.shape) < 0.5), plain.mask)
    return early, mask


def retrained(recipe, begun, level=1, orders=(0,), watch=lambda *_: None):
    state, mask = begun
    return recipe.trained(recipe, Training(level, state, mask, orders), watch)


def steps_of(plain, begun, order: int, steps) -> list:
    """The weights of a plain training after some steps, one call of it for each."""
    keys = recipes.keys(plain.replicates, TRAIN, order)
    state, mask = train.copied(begun[0]), begun[1]
    found = []
    for step in steps:
        n = step - train.step_of(state)
        state, _ = plain.train(train.copied(state), mask, n, keys)
        found.append(jax.tree.map(np.float64, state.params))
    return found


def mean_of(trees):
    return jax.tree.map(lambda *x: np.mean(np.stack(x), 0), *trees)


def assert_near(a, b, tolerance=1e-6):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=tolerance)


def test_one_particle_is_the_plain_run_to_the_bit(plain, tmp_path):
    a = lth.run(plain, tmp_path / "a")
    b = lth.run(soups(plain, 1), tmp_path / "b")
    for level in range(3):
        one, other = (
            store.load(p, level, (plain.mask, recipes.shapes(plain)))
            for p in (a.path, b.path)
        )
        assert_same((one.state, one.mask), (other.state, other.mask))
        for name, curve in one.metrics.items():
            assert_same(curve, other.metrics[name])
        extra = set(other.metrics) - set(one.metrics)
        assert extra == (
            {
                f"particles_{metric}_{what}"
                for metric in ("loss", "accuracy")
                for what in ("0", "mean", "best")
            }
            if level
            else set()
        )


def test_the_soup_is_the_mean_of_plain_trainings(plain, begun):
    state, curves = retrained(soups(plain, 3), begun)
    early, mask = begun
    ends = [lottery.fit(plain, early, mask, order=j) for j in range(3)]
    assert_near(state.params, mean_of([s.params for s, _ in ends]))
    assert_same(state.opt_state, ends[0][0].opt_state)
    assert_same(state.step, ends[0][0].step)
    dead = jax.tree.map(lambda w, m: np.asarray(w)[~np.asarray(m)], state.params, mask)
    assert all((w == 0).all() and w.size for w in jax.tree.leaves(dead))
    alive = jax.tree.map(lambda w, m: np.asarray(w)[np.asarray(m)], state.params, mask)
    assert all((w != 0).all() for w in jax.tree.leaves(alive))
    # The orders differ, and so do the particles.
    assert len({np.asarray(s.params["last"]["kernel"]).tobytes() for s, _ in ends}) == 3
    each = np.stack([c["test_accuracy"] for _, c in ends])
    for j in range(3):
        assert_same(curves[f"particles_accuracy_{j}"], each[j])
        assert_near(curves[f"particles_loss_{j}"], ends[j][1]["test_loss"])
    assert_same(curves["particles_accuracy_best"], each.max(0))
    losses = np.stack([c["test_loss"] for _, c in ends])
    assert_near(curves["particles_loss_best"], losses.min(0))
    assert_near(curves["particles_accuracy_mean"], each.mean(0))
    assert_near(curves["train_loss"], np.mean([c["train_loss"] for _, c in ends], 0))
    assert_same(curves["step"], ends[0][1]["step"])
    for split in ("validation", "test"):
        for metric, values in plain.measures[split](state).items():
            assert_same(curves[f"{split}_{metric}"][:, -1], np.asarray(values))


def test_weights_are_collected_as_sums_written_out(plain, begun):
    made = swamp(plain, 2, swa_from=0.5, every=2)
    seen = []
    state, curves = retrained(made, begun, watch=lambda s, r: seen.append((s, r)))
    # From step 2 on, of 12: the half lies at 7, and 12, 10, 8 are beyond it.
    collected = [steps_of(plain, begun, j, (8, 10, 12)) for j in (0, 1)]
    wanted = mean_of([mean_of(steps) for steps in collected])
    assert_near(state.params, wanted)
    ends = mean_of([steps[-1] for steps in collected])
    assert np.abs(wanted["last"]["kernel"] - ends["last"]["kernel"]).max() > 1e-4
    # At the first stop nothing is collected yet: that is the mean as it trains.
    first, record = seen[0]
    sixth = [steps_of(plain, begun, j, (6,))[0] for j in (0, 1)]
    assert_near(first.params, mean_of(sixth))
    assert record["test_loss"].shape == record["train_loss"].shape == (2,)
    assert_same(state.stats, begun[0].stats)
    assert curves["diverged"].tolist() == [train.NEVER] * 2


def test_weights_are_collected_at_stops_where_no_step_is_said(plain, begun):
    by = plain._replace(stops=(4, 6, 9, 12))
    state, _ = retrained(swamp(by, 1, swa_from=0.5), begun)
    assert_near(state.params, mean_of(steps_of(plain, begun, 0, (9, 12))))
    state, _ = retrained(swamp(by, 1, swa_from=0.9), begun)
    assert_same(state.params, lottery.fit(by, *begun)[0].params)


def test_level_0_of_swamp_branches_at_the_rewind_point(plain, begun):
    made = swamp(plain, 2, swa_from=0.5, every=2)
    ticket, _ = lottery.first_ticket(made)
    whole = (begun[0], plain.mask)
    assert_same(ticket.state.params, retrained(made, whole)[0].params)
    once, _ = lottery.first_ticket(soups(plain, 2))
    assert_same(once.state, lottery.first_ticket(plain)[0].state)


def test_branches_have_orders_of_their_own(plain, begun):
    made = soups(plain, 2)
    state, _ = retrained(made, begun, orders=(1,))
    ends = [lottery.fit(plain, *begun, order=j)[0].params for j in (2, 3)]
    assert_near(state.params, mean_of(ends))
    both = jax.tree.map(lambda x: jnp.concatenate([x, x]), begun)
    joined, curves = retrained(made, both, orders=(0, 1))
    assert_near(jax.tree.map(lambda x: x[2:], joined.params), state.params)
    assert curves["test_loss"].shape[0] == curves["step"].shape[0] == 4


@pytest.mark.parametrize(
    "make", [lambda r: soups(r, 2), lambda r: swamp(r, 2, swa_from=0.3, every=3)]
)
def test_stopped_anywhere_it_goes_on_to_the_same_bits(plain, make, tmp_path):
    made = make(plain)
    train_own(made, tmp_path / "whole")
    asked = [0]

    def stop():
        asked[0] += 1
        return True

    for _ in range(40):
        try:
            train_own(
                made, tmp_path / "cut", saving=Saving(seconds=None, steps=1, stop=stop)
            )
            break
        except Stopped:
            continue
    assert asked[0] > 10
    for level in range(3):
        whole, cut = (store.load(tmp_path / n, level) for n in ("whole", "cut"))
        assert_same(whole, cut)
    whole, cut = (lth.open_run(tmp_path / n).table for n in ("whole", "cut"))
    assert whole.drop(columns="run").equals(cut.drop(columns="run"))
    ends = lth.results.final(cut, "particles", "accuracy_1")
    assert set(ends["step"]) == {12}


def test_a_folder_is_one_method_s(plain, tmp_path):
    stamps = [
        lottery.fingerprint(r)
        for r in (plain, soups(plain, 1), soups(plain, 2), swamp(plain, 2))
    ]
    assert len({str(s) for s in stamps}) == 4
    short = plain._replace(densities=())
    lth.run(short, tmp_path / "run")
    with pytest.raises(store.StoreError, match="averaged was None, is soups of 2"):
        lth.run(soups(short, 2), tmp_path / "run")


def normed() -> models.Model:
    """The network of `own`, whose inputs are less a running mean of theirs."""
    inner = own.model()

    def init(key):
        return inner.init(key)[0], {"mean": jnp.full(own.INPUTS, 5.0)}

    def apply(params, stats, inputs, train, key):
        now = inputs.mean(0)
        mean = 0.5 * stats["mean"] + 0.5 * now
        outputs, _ = inner.apply(params, {}, inputs - now[None], train, key)
        return outputs, {"mean": mean}

    return models.Model(init, apply)


def test_averages_are_taken_anew(begun):
    network = normed()

    def loss(params, stats, batch, key):
        outputs, stats = network.apply(params, stats, batch["points"], True, key)
        wanted = jax.nn.one_hot(batch["largest"], own.OUTPUTS)
        value = jnp.mean(jnp.square(outputs - wanted))
        return value, (stats, {"loss": value})

    plain = own.recipe(model=network, loss=loss, criterion=None, rewind=rewind.weights)
    start = recipes.drawn(plain), begun[1]
    ends = [lottery.fit(plain, *start, order=j)[0] for j in range(2)]
    mixed, _ = retrained(soups(plain, 2, reestimate=0), start)
    assert_near(mixed.stats, mean_of([s.stats for s in ends]))
    anew, _ = retrained(soups(plain, 2, reestimate=4), start)
    assert_same(anew.params, mixed.params)
    # By hand: the first batches of the first particle's order, run from the mean.
    assert plain.objective is not None
    keys = recipes.keys(plain.replicates, TRAIN)
    points = np.asarray(plain.objective.batches(keys, 4)["points"])
    mean = np.asarray(mixed.stats["mean"])
    for batch in range(4):
        mean = 0.5 * mean + 0.5 * points[:, batch].mean(1)
    np.testing.assert_allclose(anew.stats["mean"], mean, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="does not say how"):
        soups(plain._replace(objective=None), 2)


def test_a_replicate_fails_where_a_particle_does():
    never = train.NEVER
    record = {
        "step": np.array([4, 4, 4, 4]),
        "diverged": np.array([never, 3, never, never]),
        "train_loss": np.array([1.0, np.nan, 2.0, 4.0]),
        "test_loss": np.array([5.0, 6.0]),
    }
    found = lottery.averaging._joined(record, 2)
    assert found["step"].tolist() == [4, 4]
    assert found["diverged"].tolist() == [3, never]
    assert np.isnan(found["train_loss"][0])
    assert found["train_loss"][1] == 3
    assert found["test_loss"].tolist() == [5, 6]


def test_what_cannot_be_averaged_is_refused(plain):
    with pytest.raises(ValueError, match="at least 1"):
        soups(plain, 0)
    with pytest.raises(ValueError, match="at least 0"):
        swamp(plain, 2, reestimate=-1)
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        swamp(plain, 2, swa_from=1)
    with pytest.raises(ValueError, match="pieces of 0"):
        swamp(plain._replace(piece=0), 2, every=3)
    with pytest.raises(ValueError, match="already"):
        soups(swamp(plain, 2), 2)


def test_running_means_at_a_million_weights():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(5, 2, 500, 1000)).astype(np.float32)
    draws[:, :, ::7] = 0
    mean, count = jnp.zeros(draws.shape[1:]), jnp.zeros(2, jnp.int32)
    for x in draws:
        mean = averaging.collected({"w": mean}, count, {"w": jnp.asarray(x)})["w"]
        if count[0] == 0:
            assert_same(mean, x)
        count = count + 1
    np.testing.assert_allclose(mean, draws.astype(np.float64).mean(0), atol=1e-6)
    assert (np.asarray(mean)[:, ::7] == 0).all()


def test_what_has_no_fraction_is_the_nearest_state_s():
    def state(x):
        stats = {"mask": jnp.asarray([[x > 1]]), "count": jnp.asarray([x])}
        params = {"w": jnp.full((1, 1), x, jnp.float32)}
        return train.TrainState(jnp.zeros(1, jnp.int32), params, stats, ())

    found = averaging.mixed([state(1), state(3)], [[0.25, 0.75]])
    assert found.params["w"].tolist() == [[2.5]]
    assert found.stats["mask"].tolist() == [[True]]
    assert found.stats["count"].tolist() == [3]
