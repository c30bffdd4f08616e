"""A recipe whose mask changes while the network trains, with a rule that draws."""

import jax
import numpy as np
import optax
import pytest

import lth
from lth import data, dynamic, lottery, masks, models, train
from lth.lab.build import changing
from lth.lottery import recipe as recipes

MODEL = models.from_linen(models.MLP(widths=(16,)), (8, 8, 1))
STEPS = 12


def optimizer(key=None):
    rule = dynamic.sparse_evolution(0.25, begin_step=2, end_step=9, frequency=3)
    return dynamic.sparsify(optax.adam(1e-2), rule, key=key)


def plain(tx):
    return lth.make_recipe(
        MODEL,
        tx,
        *train.classification(MODEL.apply),
        data.load("digits", None, 180, 0),
        batch_size=20,
        steps=STEPS,
        densities=(),
        replicates=2,
    )


@pytest.fixture(scope="module")
def recipe():
    return changing.changing_mask(plain(optimizer()), MODEL, optimizer)


@pytest.fixture(scope="module")
def ticket(recipe):
    return lottery.first_ticket(recipe)[0]


def kernels(tree):
    return np.concatenate([np.ravel(layer["kernel"]) for layer in tree.values()])


def test_the_ticket_has_the_last_mask_of_the_rule(ticket):
    last = dynamic.state_of(ticket.state.opt_state).mask
    jax.tree.map(np.testing.assert_array_equal, ticket.mask, last)
    assert not kernels(ticket.state.params)[~kernels(ticket.mask)].any()
    np.testing.assert_allclose(jax.vmap(masks.density)(ticket.mask), 0.25, atol=0.01)


def test_each_replicate_draws_its_own_masks(recipe, ticket):
    for tree in (recipes.drawn(recipe).opt_state.mask, ticket.mask):
        one, other = (kernels(jax.tree.map(lambda m, i=i: m[i], tree)) for i in (0, 1))
        assert (one != other).any()


def test_alone_a_replicate_draws_what_it_draws_beside_others(recipe, ticket):
    (alone, _) = lottery.first_ticket(lottery.only(recipe, [1]))
    for a, b in zip(
        jax.tree.leaves((alone.mask, alone.state.params)),
        jax.tree.leaves((ticket.mask, ticket.state.params)),
        strict=True,
    ):
        np.testing.assert_array_equal(a[0], b[1])


def test_it_starts_under_its_first_mask(recipe):
    state = recipes.drawn(recipe)
    assert not kernels(state.params)[~kernels(state.opt_state.mask)].any()


def test_it_goes_on_from_a_trained_network(recipe):
    dense = plain(optax.adam(1e-2))

    def trained():
        order = recipes.keys(dense.replicates, recipes.TRAIN)
        return dense.train(recipes.drawn(dense), dense.mask, 5, order)[0]

    later = changing.changing_mask(recipe, MODEL, optimizer, trained)
    ticket, _ = lottery.first_ticket(later)
    assert (np.asarray(ticket.state.step) == STEPS).all()
    sparse = dynamic.state_of(ticket.state.opt_state)
    assert (np.asarray(sparse.step) == STEPS - 5).all()


def test_a_stored_run_has_its_mask_and_its_record(recipe, tmp_path):
    run = lth.run(recipe, tmp_path / "run")

    def grown(recipe, early, ticket):
        log = dynamic.state_of(ticket.state.opt_state).log
        return {"grown": sum(np.sum(x, -1) for x in jax.tree.leaves(log.grown))}

    assert (run.measure("changes", grown)["value"] > 0).all()
    assert run.table["density"].between(0.24, 0.26).all()


def test_a_recipe_may_be_given_the_optimizer_of_a_key(ticket):
    made = lottery.first_ticket(plain(optimizer))[0]
    jax.tree.map(np.testing.assert_array_equal, made.state, ticket.state)
    jax.tree.map(np.testing.assert_array_equal, made.mask, ticket.mask)


def test_each_update_is_told_once_of_functions_of_ones_own_too(recipe):
    told = []
    lottery.first_ticket(recipe, lambda _, record: told.append(record))
    rows = [row for record in told for row in record.get("updates", [])]
    assert {row["step"] for row in rows} == {2, 5, 8}
    assert {row["replicate"] for row in rows} == {0, 1}
    units = [(row["replicate"], row["path"], row["step"]) for row in rows]
    assert len(set(units)) == len(units) == 2 * 2 * 3
