"""Tickets on other data: what is carried, what is drawn, what is refused."""

import shutil
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lth
from lth import data, lottery, train
from lth.lab import store
from lth.lottery import recipe as recipes
from lth.lottery.transfer import fits, transferred
from tests import own
from tests.conftest import assert_same, plain_mlp
from tests.test_experiment import StopError, stop_after

HEAD = ("b1", "w1")


@cache
def recipe(outputs=3, inputs=4, seed=0, **changes):
    model = plain_mlp((inputs, 5, outputs))
    loss, measure = train.classification(model.apply)
    rng = np.random.default_rng(seed)

    def part(count):
        points = rng.normal(size=(count, inputs)).astype(np.float32)
        return data.Dataset(points, points[:, :outputs].argmax(1).astype(np.int32))

    parts = {
        "model": model,
        "tx": optax.adam(0.02),
        "loss": loss,
        "measure": measure,
        "splits": {n: part(c) for n, c in (("train", 48), ("validation", 16))},
        "batch_size": 8,
        "steps": 12,
        "densities": (0.6, 0.3),
        "replicates": 2,
        "eval_every": 6,
        "rewind_to": 2,
        "prunable": lambda path, leaf: leaf.ndim == 2,
    }
    return lth.make_recipe(**{**parts, **changes})


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    return lth.run(recipe(), tmp_path_factory.mktemp("runs") / "mine").path


@pytest.fixture
def run(trunk, tmp_path):
    return lth.open_run(shutil.copytree(trunk, tmp_path / "mine"), recipe())


@pytest.fixture(scope="module")
def stored(trunk):
    """The early state and the ticket of level 2, with the optimizer's state."""
    like = {"state": recipes.shapes(recipe())}
    early = store.load_tree(trunk, "early", like)["state"]
    return early, store.load(trunk, 2, (recipe().mask, early))


def other():
    return recipe(2, seed=1)


def begun(stored, branch):
    """Where a branch begins, of both replicates."""
    early, ticket = stored
    branch.changed(recipe())
    keys = recipes.keys((0, 1), 77)
    return recipe().each(branch.start)(early, ticket, keys)


def masked(params, mask):
    return np.where(mask, params, 0)


@pytest.mark.parametrize("weights", ["early", "late"])
def test_what_fits_is_carried_and_the_head_is_drawn(stored, weights):
    early, ticket = stored
    state, mask = begun(stored, transferred(other, "o", head="new", weights=weights))
    source = early if weights == "early" else ticket.state
    assert_same(mask["w0"], ticket.mask["w0"])
    assert mask["b0"] is None
    assert mask["b1"] is None
    assert mask["w1"].shape == (2, 5, 2)
    assert np.all(mask["w1"])
    np.testing.assert_array_equal(
        state.params["w0"], masked(source.params["w0"], ticket.mask["w0"])
    )
    assert_same(state.params["b0"], source.params["b0"])
    fresh = other().init(recipes.keys((0, 1), 77))
    for name in HEAD:
        assert_same(state.params[name], fresh.params[name])
    assert not np.array_equal(state.params["w1"][0], state.params["w1"][1])
    moments = jax.tree.leaves(state.opt_state[0].mu)
    assert not any(np.any(m) for m in moments)
    np.testing.assert_array_equal(state.step, [2, 2])


def test_a_head_that_is_thinned_at_random_has_the_share_of_the_old_one(stored):
    _, ticket = stored
    state, mask = begun(stored, transferred(other, "o", head="random"))
    kept = np.asarray(ticket.mask["w1"]).reshape(2, -1)
    wanted = np.maximum(1, np.round(kept.mean(1) * 10))
    np.testing.assert_array_equal(np.sum(mask["w1"], (1, 2)), wanted)
    assert not np.asarray(state.params["w1"])[~np.asarray(mask["w1"])].any()
    assert_same(mask["w0"], ticket.mask["w0"])


def test_the_head_is_carried_where_classes_agree(stored):
    early, ticket = stored
    same = transferred(lambda: recipe(seed=1), "o")
    state, mask = begun(stored, same)
    assert_same(mask, ticket.mask)
    for name, w in early.params.items():
        keep = True if ticket.mask[name] is None else ticket.mask[name]
        np.testing.assert_array_equal(state.params[name], masked(w, keep))
    drawn, under = begun(stored, same._replace(
        start=transferred(lambda: recipe(seed=1), "o", weights="none").start
    ))  # fmt: skip
    assert_same(under, ticket.mask)
    assert not np.array_equal(drawn.params["w0"], state.params["w0"])


def test_another_optimizer_begins_at_its_first_rate(stored):
    sgd = recipe(2, tx=optax.sgd(optax.linear_schedule(0.1, 0, 12), momentum=0.9))
    state, _ = begun(stored, transferred(lambda: sgd, "o", head="new"))
    like = jax.tree.structure(recipes.shapes(sgd))
    assert jax.tree.structure(state) == like
    np.testing.assert_array_equal(state.step, [2, 2])
    counts = [x for x in jax.tree.leaves(state.opt_state) if x.dtype == np.int32]
    np.testing.assert_array_equal(counts, [[0, 0]])


@pytest.mark.parametrize(
    ("there", "head", "said"),
    [
        (other, "same", r"need a new head, .*: b1 is \[3\] here and \[2\] on"),
        (lambda: recipe(3, 6), "new", r"beside their heads: w0 is \[4, 5\] .*\[6, 5\]"),
        (lambda: recipe(3, steps=2, rewind_to=0), "same", "begin at step 2, .* step 2"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(run, there, head, said):
    before = own.hashes(run.path)
    with pytest.raises(ValueError, match=said):
        run.branch(transferred(there, "o", head=head))
    assert own.hashes(run.path) == before
    assert run.variants == ["ticket"]


def test_words_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="head is one of same, new, random; got 'old'"):
        transferred(other, "o", head="old")
    with pytest.raises(ValueError, match="weights is one of early, .*; got 'all'"):
        transferred(other, "o", weights="all")
    tree = {"a": np.zeros((2, 3))}
    with pytest.raises(ValueError, match=r"a is \[2, 3\] here and not there"):
        fits(tree, {}, "new")
    assert fits(tree, {"a": np.zeros((2, 9))}, "new") == {"a"}
    assert fits(tree, tree, "same") == set()


def test_a_transfer_is_stored_read_and_continued_to_the_same_bits(run, tmp_path):
    whole = lth.open_run(shutil.copytree(run.path, tmp_path / "whole"), recipe())
    before = own.hashes(run.path)
    branch = transferred(other, "other classes", head="new")
    whole.branch(branch, name="other")
    for measurements in (1, 3):
        with pytest.raises(StopError):
            run.branch(
                branch,
                name="other",
                watch=stop_after(measurements),
                save_every="3it",
            )
    run.branch(branch, name="other")
    assert own.hashes(run.path, but=("branches",)) == before
    for level in (1, 2):
        ticket, there = run.ticket(level), run.ticket(level, "other")
        assert_same(there, whole.ticket(level, "other"))
        assert there.params["w1"].shape == (2, 5, 2)
        assert_same(there.mask["w0"], ticket.mask["w0"])
        assert not there.params["w0"][~there.mask["w0"]].any()
        assert not np.array_equal(there.params["w0"], ticket.params["w0"])
        np.testing.assert_array_equal(there.step, [12, 12])
    a, b = (r.table.drop(columns="run") for r in (run, whole))
    assert a.equals(b)
    assert run.titles == {"other": "other classes"}
    seen = []
    run.branch(branch, name="other", watch=seen.append)
    assert not seen


def test_a_transfer_trains_as_the_other_recipe_does(stored):
    """Restated: the other recipe's own training from where the branch begins."""
    early, ticket = stored
    branch = transferred(other, "o", head="new")
    by = recipe()._replace(branches={"o": branch})
    (found,) = lottery.branched(by, ["o"], early, ticket)
    keys = recipes.keys((0, 1), recipes.stream("o"), 2)
    assert branch.changed is not None
    branch.changed(recipe())
    state, mask = by.each(branch.start)(early, ticket, keys)
    wanted, _ = lottery.fit(other(), state, mask)
    assert_same(found.state, wanted)


def test_what_begins_elsewhere_than_its_recipe_is_refused(stored):
    """A branch whose recipe is another, and whose weights are the run's own."""
    branch = lottery.Branch(
        lambda early, ticket, key: (early, ticket.mask),
        "wrong",
        changed=lambda by: other(),
    )
    by = recipe()._replace(branches={"wrong": branch})
    with pytest.raises(ValueError, match="the mask of the branch wrong .* at w1"):
        lottery.branched(by, ["wrong"], *stored)

    def start(early, ticket, key):
        mask = jax.tree.map(lambda m: m, ticket.mask)
        return early, {**mask, "w1": jnp.ones((5, 2), bool)}

    by = recipe()._replace(branches={"wrong": branch._replace(start=start)})
    with pytest.raises(ValueError, match="what the branch wrong begins with .* at b1"):
        lottery.branched(by, ["wrong"], *stored)


def test_averages_go_with_the_weights(stored):
    early, ticket = stored
    stats = {"seen": jnp.array([[1.0], [2.0]]), "classes": jnp.ones((2, 3))}
    early = early._replace(stats=stats)
    base = other()

    def init(keys):
        fresh = base.init(keys)
        count = len(keys)
        news = {"seen": jnp.zeros((count, 1)), "classes": jnp.zeros((count, 2))}
        return fresh._replace(stats=news)

    there = base._replace(init=init)
    branch = transferred(lambda: there, "o", head="new")
    keys = recipes.keys((0, 1), 77)
    assert branch.changed is not None
    branch.changed(recipe())
    state, _ = recipe().each(branch.start)(early, ticket, keys)
    np.testing.assert_array_equal(state.stats["seen"], [[1], [2]])
    np.testing.assert_array_equal(state.stats["classes"], np.zeros((2, 2)))


def test_what_came_of_other_shapes_is_measured_and_told_by_path(run):
    wide = transferred(lambda: recipe(outputs=4), "wide", head="new")
    run.branch(wide, levels=(1, 2))
    run = lth.open_run(run.path, recipe()._replace(branches={"wide": wide}))
    with pytest.raises(ValueError, match=r"w1 is \[5, 4\], and \[5, 3\]"):
        run.measure("overlap", to="wide")
    for probe in ("distance", "signs", "forgetting", "overlap"):
        assert 2 in set(run.measure(probe, of="wide")["level"])
    before = run.measure("recovery", of="wide", split="validation")
    assert set(before["level"]) == {2}
