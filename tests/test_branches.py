"""Branches of one's own: trained off stored tickets, and the trunk never changes."""

import shutil
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import lth
from lth import lottery, masks, plot
from lth.cli import main
from lth.lab import store
from lth.lottery import Branch, branches
from lth.lottery import recipe as recipes
from lth.lottery.recipe import TRAIN
from tests import own
from tests.conftest import assert_same
from tests.test_experiment import StopError, stop_after


def signs(early, ticket, key):
    """Of one replicate: the signs of its early weights, all of one size, and noise."""
    noise = 0.01 * jax.random.normal(key)
    params = jax.tree.map(lambda w: 0.3 * jnp.sign(w) + noise, early.params)
    return early._replace(params=masks.apply(params, ticket.mask)), ticket.mask


SIGNS = Branch(signs, "signs of the early weights", settings={"size": 0.3})


@cache
def mine():
    return own.recipe()


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    return lth.run(mine(), tmp_path_factory.mktemp("runs") / "mine").path


@pytest.fixture
def run(trunk, tmp_path):
    return lth.open_run(shutil.copytree(trunk, tmp_path / "mine"), mine())


def test_a_branch_of_ones_own_hangs_off_stored_tickets(run, capsys):
    before = own.hashes(run.path)
    run.branch(SIGNS, name="signs")
    assert own.hashes(run.path, but=("branches",)) == before
    assert run.variants == ["ticket", "signs"]
    assert run.titles == {"signs": "signs of the early weights"}
    rows = run.table[run.table["variant"] == "signs"]
    assert set(rows["level"]) == {1, 2}  # the dense network has none unless asked
    assert set(rows["replicate"]) == {0, 1}
    ticket, branch = run.ticket(2), run.ticket(2, "signs")
    assert_same(branch.mask, ticket.mask)
    dead = jax.tree.map(lambda w, m: np.abs(w[~m]).max(), branch.params, branch.mask)
    assert max(jax.tree.leaves(dead)) == 0
    ax = plot.accuracy(run.table, Figure().subplots(), titles=run.titles)
    told = [text.get_text() for text in ax.get_legend().get_texts()]
    assert told == ["ticket", "signs of the early weights"]
    assert main.command(["show", str(run.path)]) == 0
    assert "signs of the early weights" in capsys.readouterr().out
    assert main.command(["report", str(run.path)]) == 0
    assert "signs of the early weights" in (run.path / "report.html").read_text()
    assert own.hashes(run.path, but=("branches",)) == before
    seen = []
    run.branch(SIGNS, name="signs", watch=seen.append)
    assert not seen
    run.branch(SIGNS, levels=(0,), name="signs", watch=seen.append)
    assert {(p.variant, p.level) for p in seen} == {("signs", 0)}


def test_a_branch_that_was_stopped_goes_on_to_the_same_bits(run, trunk, tmp_path):
    whole = lth.open_run(shutil.copytree(trunk, tmp_path / "whole"), mine())
    whole.branch(SIGNS, name="signs")
    for measurements in (1, 3):
        with pytest.raises(StopError):
            run.branch(SIGNS, name="signs", watch=stop_after(measurements))
    run.branch(SIGNS, name="signs")
    for level in (1, 2):
        assert_same(run.ticket(level, "signs"), whole.ticket(level, "signs"))
    a, b = (r.table.drop(columns="run") for r in (run, whole))
    assert a.equals(b)


@pytest.mark.parametrize("name", ["a-b.c", "a, b", "it's", 'a "b"', "ω 3", "$x_{"])
def test_names_with_signs_in_them(run, name):
    run.branch(SIGNS, levels=(2,), name=name)
    again = lth.open_run(run.path)
    assert again.variants == ["ticket", name]
    assert set(again.table["variant"]) == {"ticket", name}
    assert again.ticket(2, name).level == 2
    ax = plot.accuracy(again.table, Figure().subplots())
    assert len(ax.get_legend().get_texts()) == 2
    ax.figure.canvas.draw()
    assert main.command(["report", str(run.path)]) == 0


@pytest.mark.parametrize("name", ["a/b", "a\\b", ".a", " a", "a\nb", "ticket"])
def test_names_that_no_folder_can_have_are_refused(run, name):
    before = own.hashes(run.path)
    with pytest.raises(ValueError, match="name of a branch|called 'ticket'"):
        run.branch(SIGNS, name=name)
    assert own.hashes(run.path) == before
    bad = mine()._replace(branches={name: SIGNS})
    with pytest.raises(ValueError, match="name of a branch|called 'ticket'"):
        lottery.check(bad)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (SIGNS._replace(settings={"size": 0.5}), r"got order 0 and \{'size': 0.5\}"),
        (SIGNS._replace(order=1), r"got order 1 and \{'size': 0.3\}"),
    ],
)
def test_one_name_is_of_one_branch(run, other, said):
    run.branch(SIGNS, levels=(2,), name="signs")
    with pytest.raises(
        store.StoreError, match="called signs already.*with order 0"
    ) as e:
        run.branch(other, name="signs")
    assert e.match(said)
    run.branch(other, levels=(2,), name="others")
    assert run.variants == ["ticket", "others", "signs"]


def test_what_is_not_stored_has_no_branches(run):
    with pytest.raises(ValueError, match=r"levels of .*\[0, 1, 2\]; got \[3, 7\]"):
        run.branch(SIGNS, levels=(2, 3, 7), name="signs")
    with pytest.raises(ValueError, match="branches by name are .*; got 'invert'"):
        run.branch("invert")
    with pytest.raises(ValueError, match="of functions of your own: give them to it"):
        lth.open_run(run.path).branch(SIGNS)
    with pytest.raises(store.StoreError, match="holds no branch signs; it holds none"):
        run.ticket(1, "signs")


def test_branches_are_trained_while_the_trunk_is_and_each_by_one(run):
    with store.claim(run.path):
        run.branch(SIGNS, levels=(1,), name="signs")
    folder = store.branches(run.path)["signs"]
    with store.claim(folder):
        run.branch(branches.rewound(), levels=(1,), name="rewound")
        with pytest.raises(store.BusyError, match="signs-.* is in use by process"):
            run.branch(SIGNS, name="signs")


@pytest.fixture(scope="module")
def stored(trunk):
    """The early state and the ticket of level 1, with the optimizer's state."""
    early = store.load_tree(trunk, "early", {"state": recipes.shapes(mine())})["state"]
    return early, store.load(trunk, 1, (mine().mask, early))


def test_branches_together_have_the_bits_of_one_after_another(stored):
    there = {
        "signs": SIGNS,
        "shuffled": branches.shuffled(),
        "other": branches.reordered(),
    }
    recipe = mine()._replace(branches=there)
    together = lottery.branched(recipe, list(there), *stored)
    for name, both in zip(there, together, strict=True):
        (alone,) = lottery.branched(recipe, [name], *stored)
        assert_same(both[:-1], alone[:-1])
        for metric, values in alone.metrics.items():  # see test_extend.py
            np.testing.assert_allclose(both.metrics[metric], values, rtol=1e-6)
    changed = SIGNS._replace(changed=lambda recipe: recipe)
    recipe = mine()._replace(branches={"a": SIGNS, "b": changed})
    with pytest.raises(ValueError, match="one changes the recipe, so not together"):
        lottery.branched(recipe, ["a", "b"], *stored)


def test_another_order_changes_the_order_of_the_data_and_nothing_else(stored):
    early, ticket = stored
    given = []

    def train(state, mask, n, order):
        given.append(jax.tree.map(np.array, (state, mask, jax.random.key_data(order))))
        return mine().train(state, mask, n, order)

    starts = {
        "same": branches.rewound(own.halfway),
        "other": branches.reordered(1, own.halfway),
    }
    spied = mine()._replace(train=train, branches=starts)
    (same,) = lottery.branched(spied, ["same"], early, ticket)
    (other,) = lottery.branched(spied, ["other"], early, ticket)
    first, _, second, _ = given  # each is measured half way
    assert_same(first[:2], second[:2])
    numbers = mine().replicates
    orders = [jax.random.key_data(recipes.keys(numbers, TRAIN, i)) for i in (0, 1)]
    np.testing.assert_array_equal(first[2], orders[0])
    np.testing.assert_array_equal(second[2], orders[1])
    assert_same(same.mask, other.mask)
    assert not np.array_equal(
        same.state.params["last"]["kernel"], other.state.params["last"]["kernel"]
    )


def test_order_0_from_the_same_start_gives_the_bits_of_the_trunk(trunk, stored):
    early, ticket = stored
    dense = store.load(trunk, 0, (mine().mask, early))
    # Tickets of this recipe go back half way from the dense network.
    start = own.halfway(early, dense.state)
    state, _ = lottery.fit(mine(), start, ticket.mask, order=0)
    assert_same(state, ticket.state)
    state, _ = lottery.fit(mine(), start, ticket.mask, order=1)
    assert not np.array_equal(
        state.params["last"]["kernel"], ticket.state.params["last"]["kernel"]
    )


def test_streams_of_names_are_fixed_numbers():
    """They are part of every stored branch: another number is another result."""
    assert recipes.stream("reinit") == 3
    assert recipes.stream("shuffle") == 4
    assert recipes.stream("shuffle_global") == 6
    assert recipes.stream("signs") == 3797491756
    assert recipes.stream("fresh initialisation") == 2568445569
    assert recipes.stream('it\'s, "ω"') == 2703158400
