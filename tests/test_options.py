"""What `lth run` reaches beside criteria: rules in training, actions, cuts, surgery."""

from dataclasses import replace
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lth import data, lottery, masks, models, train
from lth.criteria import obs
from lth.lab import config, devices
from lth.lab.build import assemble, compose, names, surgery
from lth.lab.config import ConfigError, validate
from lth.lab.config.presets import PRESETS
from lth.lottery import recipe as recipes
from lth.lottery import starts
from tests.conftest import assert_same

SMALL = replace(
    PRESETS["digits"].experiment,
    model=config.Model(widths=(12,)),
    prune=config.Prune(densities="0.5,0.2"),
    steps="40it",
    eval_every="20it",
    levels=2,
    replicates=2,
)


def built(**fields):
    return assemble.build(replace(SMALL, **fields)).recipe


@cache
def dense():
    """A recipe, its early state and its dense ticket, trained once."""
    recipe = built(controls=",".join([*config.MASK_0, "signed_constant", "reshuffled"]))
    early = recipe.init(recipes.keys(recipe.replicates, recipes.INIT))
    return recipe, early, lottery.first_ticket(recipe)[0]


def first_mask(recipe):
    """The mask of level 1 of a recipe, from the dense ticket that all share here."""
    _, early, ticket = dense()
    keys = recipes.keys(recipe.replicates, recipes.PRUNE, 1)
    return recipe.prune(early, ticket, recipe.densities[0], keys)


@cache
def pruned():
    """The ticket of level 1, as if it had moved no further than the dense one."""
    recipe, _, ticket = dense()
    return ticket._replace(level=1, mask=first_mask(recipe))


def kernels(tree):
    return [np.asarray(tree[name]["kernel"]) for name in ("hidden_0", "output")]


RULES = {
    "static": {},
    "gradual": {"begin": "5it", "end": "30it", "every": "5it"},
    "rigl": {"begin": "5it", "end": "30it", "every": "5it"},
    "sparse_evolution": {"begin": "5it", "end": "30it", "every": "5it"},
    "ac_dc": {"begin": "10it", "every": "10it"},
    "straight_through": {"every": "1it"},
    "top_kast": {"every": "1it"},
    "soft_threshold": {"start": -2.0},
}


def test_every_rule_has_a_case():
    assert set(RULES) == {*names.RULES, *names.FORWARDS}
    literal = config.Dynamic.__annotations__["rule"].__args__
    assert set(literal) == {"none", *RULES}


@pytest.mark.parametrize("rule", RULES)
def test_a_mask_changes_in_training_and_is_a_ticket(rule):
    density = {} if rule == "soft_threshold" else {"density": 0.3}
    moving = config.Dynamic(rule=rule, **density, **RULES[rule])
    recipe = built(dynamic=moving, levels=0, prune=config.Prune())
    told = []
    ticket, beside = lottery.first_ticket(
        recipe, lambda state, record: told.append(record)
    )
    assert beside == {}
    assert set(ticket.state.step.tolist()) == {40}
    each = np.asarray(jax.vmap(masks.density)(ticket.mask))
    if density:
        np.testing.assert_allclose(each, 0.3, atol=0.002)
    for w, m in zip(kernels(ticket.state.params), kernels(ticket.mask), strict=True):
        assert not w[~m].any()
    np.testing.assert_allclose(told[-1]["mask_density"], each)
    updates = [row for record in told for row in record.get("updates", [])]
    if rule in ("gradual", "rigl", "sparse_evolution"):
        assert {row["step"] for row in updates} >= {5, 10, 15, 20, 25}
        assert {row["replicate"] for row in updates} == {0, 1}
        steps = [(r["replicate"], r["path"], r["step"]) for r in updates]
        assert len(set(steps)) == len(steps)  # each is told once


def test_rules_draw_for_each_replicate_by_its_own_key():
    moving = config.Dynamic(rule="static", density=0.3)
    recipe = built(dynamic=moving, levels=0, prune=config.Prune())
    both = lottery.first_ticket(recipe)[0].mask
    alone = lottery.first_ticket(lottery.only(recipe, [1]))[0].mask
    one, two = kernels(both)[0]
    assert (one != two).any()
    np.testing.assert_array_equal(kernels(alone)[0][0], two)


WRONG = [
    (
        {"dynamic": config.Dynamic(density=0.5)},
        "--dynamic.density is of",
    ),
    ({"dynamic": config.Dynamic(rule="rigl")}, "--levels is 0"),
    (
        {"dynamic": config.Dynamic(rule="rigl", backward=0.7), "levels": 0},
        "--dynamic.backward is of --dynamic.rule top_kast; got rigl",
    ),
    (
        {"dynamic": config.Dynamic(rule="rigl", scope="global"), "levels": 0},
        "each layer has a density",
    ),
    (
        {"dynamic": config.Dynamic(rule="top_kast", density=0.6), "levels": 0},
        "--dynamic.backward is at least",
    ),
    ({"prune": config.Prune(cuts="0.2,0.1")}, "--prune.cuts is a rising list"),
    ({"prune": config.Prune(cuts="0.1,1sd")}, "--prune.cuts is a rising list"),
    (
        {"prune": config.Prune(cuts="1sd", criterion="random")},
        "are of --prune.criterion magnitude",
    ),
    ({"prune": config.Prune(pool="max")}, "--prune.pool is of --prune.structure block"),
    ({"prune": config.Prune(along="outputs")}, "--prune.along is of"),
    ({"prune": config.Prune(surgery="obs")}, "learning_rate or finetune goes on"),
    (
        {
            "prune": config.Prune(surgery="sparse_gpt"),
            "rewind": config.Rewind(mode="finetune"),
        },
        "--levels is at most 1; got 2",
    ),
    (
        {
            "prune": config.Prune(reestimate=3),
            "rewind": config.Rewind(mode="finetune"),
        },
        "--prune.reestimate takes averages of batch norm anew",
    ),
    (
        {
            "dynamic": config.Dynamic(rule="static"),
            "levels": 0,
            "controls": "freeze_init",
        },
        "here there is none",
    ),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_what_does_not_go_together_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        validate.check(replace(SMALL, **{"prune": config.Prune(), **change}))


def test_a_rule_that_does_not_fit_the_training_is_refused():
    moving = config.Dynamic(rule="gradual", density=0.3, end="99it", every="5it")
    with pytest.raises(ConfigError, match="--dynamic.rule gradual"):
        built(dynamic=moving, levels=0, prune=config.Prune())


def test_cuts_keep_what_lies_above_them():
    recipe = built(prune=config.Prune(cuts="0.05,0.1"))
    assert recipe.densities == (1.0, 1.0)
    _, _, ticket = dense()
    found = first_mask(recipe)
    for w, m in zip(kernels(ticket.state.params), kernels(found), strict=True):
        np.testing.assert_array_equal(m, np.abs(w) > np.float32(0.05))


def test_cuts_in_deviations_are_of_each_layer():
    _, _, ticket = dense()
    found = first_mask(built(prune=config.Prune(cuts="0.5sd")))
    for w, m in zip(kernels(ticket.state.params), kernels(found), strict=True):
        for one, kept in zip(w, m, strict=True):
            near = np.abs(np.abs(one) - 0.5 * one.std()) < 1e-6
            assert (kept == (np.abs(one) > 0.5 * one.std()))[~near].all()


def test_columns_are_ranked_by_their_norms():
    p = config.Prune(structure="filter", scope="layer", pool="l2", densities="0.5")
    _, _, ticket = dense()
    found = first_mask(built(prune=p, levels=1))
    for one, kept in zip(
        kernels(ticket.state.params)[0], kernels(found)[0], strict=True
    ):
        norms = np.linalg.norm(one, axis=0)
        best = np.argsort(-norms)[:6]
        assert set(np.flatnonzero(kept.all(0))) == set(best)
        assert set(np.flatnonzero(kept.any(0))) == set(best)


def test_blocks_are_ranked_by_their_largest():
    p = config.Prune(structure="block:4x4", scope="layer", pool="max", densities="0.5")
    _, _, ticket = dense()
    found = first_mask(built(prune=p, levels=1))
    w, m = kernels(ticket.state.params)[0][0], kernels(found)[0][0]
    pooled = np.abs(w).reshape(16, 4, 3, 4).max((1, 3))
    kept = m.reshape(16, 4, 3, 4).all((1, 3))
    assert kept.sum() == 24
    assert pooled[kept].min() > pooled[~kept].max()


def test_groups_lie_along_outputs_if_asked():
    p = config.Prune(structure="2:4", along="outputs")
    found = first_mask(built(prune=p, levels=1))
    kept = kernels(found)[0].reshape(2, 64, 3, 4).sum(-1)
    assert (kept == 2).all()
    assert (kernels(found)[0].reshape(2, 16, 4, 12).sum(2) != 2).any()


def surgeon(name, densities):
    p = config.Prune(surgery=name, densities=densities, batches=4)
    return built(prune=p, levels=1, rewind=config.Rewind(mode="finetune"))


def test_sparse_gpt_moves_what_stays_and_keeps_exactly_so_many():
    recipe = surgeon("sparse_gpt", "0.25")
    _, early, ticket = dense()
    keys = recipes.keys(recipe.replicates, recipes.PRUNE, 1)
    made = recipe.prune(early, ticket, 0.25, keys)
    assert isinstance(made, lottery.Pruned)
    for before, after, m in zip(
        *map(kernels, (ticket.state.params, made.state.params, made.mask)), strict=True
    ):
        assert m.reshape(2, -1).sum(1).tolist() == [round(0.25 * m[0].size)] * 2
        assert not after[~m].any()
        assert (before[m] != after[m]).mean() > 0.5
    # The weights that stay train on from where surgery left them.
    state = recipe.rewind(early, made.state, keys)
    assert_same(state.params, made.state.params)


def test_surgery_step_by_step_is_that_of_the_library():
    recipe = surgeon("obs", "0.5")
    _, early, ticket = dense()
    keys = recipes.keys(recipe.replicates, recipes.PRUNE, 1)
    made = recipe.prune(early, ticket, 0.5, keys)
    kept = kernels(made.mask)[0].sum(1)
    assert (kept == 32).all()  # of each output as many
    # What a layer makes of its inputs changes less than without making up for it.
    images = np.asarray(assemble.tasks.data.load("digits", None, 180, 0).train.inputs)
    x = images.reshape(len(images), -1) / 16.0
    trees = ticket.state.params, made.state.params, made.mask
    w, new, m = (kernels(tree)[0][0] for tree in trees)
    moved, cut = np.square(x @ w - x @ new).sum(), np.square(x @ w - x @ (w * m)).sum()
    assert moved < 0.5 * cut
    by_hand, alive = obs.delete(
        jnp.asarray(w), obs.hessian(jnp.asarray(x), 0.01), jnp.ones(w.shape, bool), 32
    )
    assert np.square(x @ w - x @ np.asarray(by_hand)).sum() < 0.5 * cut
    assert np.asarray(alive).sum(0).tolist() == [32] * 12


class Normed(nn.Module):
    """A layer, its normalisation, and another layer."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(4)(x.reshape(len(x), -1))
        x = nn.BatchNorm(not train, momentum=0.5)(x)
        return nn.Dense(2)(nn.relu(x))


def test_averages_are_taken_anew_under_the_mask():
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((32, 3)).astype(np.float32)
    part = data.Dataset(inputs, rng.integers(0, 2, 32).astype(np.int32))
    model, plan = models.from_linen(Normed(), (3,)), devices.plan(1)
    loss, measure = train.classification(model.apply)
    parts = {"train": part, "validation": part}
    task = compose.own_task(model, loss, measure, parts, 8, None, plan)
    init = partial(train.init_state, model.init, optax.sgd(0.1))
    early = jax.vmap(init)(jax.random.split(jax.random.key(0), 1))
    ones = masks.ones(jax.tree.map(lambda x: x[0], early.params))
    mask = jax.tree.map(lambda m: m[None].at[:, 1:].set(False), ones)
    ticket = lottery.Ticket(0, mask, early, {})
    keys = jax.random.split(jax.random.key(1), 1)
    settle = compose.objective(task, plan).reestimate
    made = surgery.reestimated(lambda *_: mask, 3, settle)(early, ticket, 0.5, keys)
    assert_same(made.state.params, early.params)
    kernel, bias = (
        np.asarray(early.params["Dense_0"][n][0]) for n in ("kernel", "bias")
    )
    kept = kernel * np.asarray(mask["Dense_0"]["kernel"][0])
    mean, spread = np.zeros(4), np.ones(4)
    for step in range(3):
        batch = np.asarray(task.sample(keys[0], step, part).inputs)
        x = batch @ kept + bias
        mean, spread = (mean + x.mean(0)) / 2, (spread + x.var(0)) / 2
    found = made.state.stats["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(found["mean"][0], mean, atol=1e-5)
    np.testing.assert_allclose(found["var"][0], spread, atol=1e-5)


def begun(name):
    """Where a branch of the first ticket begins: its state and mask."""
    recipe, early, before = dense()
    _, state, mask = lottery.begun(recipe, name, early, pruned(), before)
    return early, before, pruned(), state, mask


def test_kept_weights_start_where_an_action_says():
    early, _, ticket, state, mask = begun("signed_constant")
    assert_same(mask, ticket.mask)
    for w, m, new in zip(
        *map(kernels, (early.params, mask, state.params)), strict=True
    ):
        for i in range(2):
            right = np.sign(w[i]) * w[i].std() * m[i]
            np.testing.assert_allclose(new[i], right, rtol=1e-5)
    _, _, _, state, _ = begun("reshuffled")
    w, m, new = (kernels(t)[0][1] for t in (early.params, mask, state.params))
    assert sorted(w[m].tolist()) == sorted(new[m].tolist())
    assert (w[m] != new[m]).mean() > 0.9


def test_pruned_weights_are_held_where_an_action_says():
    early, before, ticket, state, mask = begun("freeze_init_zero_shrunk")
    assert_same(mask, ticket.mask)
    for first, last, m, held in zip(
        *map(kernels, (early.params, before.state.params, mask, state.stats.frozen)),
        strict=True,
    ):
        right = np.where(m | (np.abs(last) < np.abs(first)), 0, first)
        np.testing.assert_array_equal(held, right)


def test_a_network_computes_with_what_is_held():
    recipe, early, before = dense()
    _, _, _, state, mask = begun("freeze_init")
    changed = recipe.branches["freeze_init"].changed
    assert changed is not None
    by = changed(recipe)
    whole = starts.filled(state.params, mask, state.stats.frozen)
    assert_same(whole, early.params)  # kept ones rewound, the others at their start
    held = by.measures["validation"](train.copied(state))
    dense_loss = recipe.measures["validation"](early)
    np.testing.assert_allclose(held["loss"], dense_loss["loss"], rtol=1e-6)
    (new,) = lottery.branched(recipe, ["freeze_init"], early, pruned(), before)
    for w, m in zip(kernels(new.state.params), kernels(mask), strict=True):
        assert not w[~m].any()
    assert_same(new.state.stats.frozen, state.stats.frozen)


def test_a_mix_is_chosen_on_validation_data_and_may_be_the_ticket():
    recipe, early, before = dense()
    (new,) = lottery.branched(recipe, ["mix"], early, pruned(), before)
    (again,) = lottery.branched(recipe, ["mix"], early, pruned(), before)
    assert_same(new.state, again.state)
    facts = new.state.stats.facts
    assert set(facts) == set(masks.paths(new.mask))
    shares = np.stack([np.asarray(v) for v in facts.values()])
    assert shares.shape == (2, 2, 2)  # layers, replicates, redrawn and frozen
    assert ((shares >= 0) & (shares <= 1)).all()
    assert_same(new.mask, pruned().mask)
    for first, m, held, (path, by) in zip(
        *map(kernels, (early.params, new.mask, new.state.stats.frozen)),
        facts.items(),
        strict=True,
    ):
        for i in range(2):
            frozen = held[i] != 0
            assert not (frozen & m[i]).any(), path
            count = round(float(np.asarray(by)[i, 1]) * int((~m[i]).sum()))
            assert abs(int(frozen.sum()) - count) <= 1
            np.testing.assert_array_equal(held[i][frozen], first[i][frozen])
