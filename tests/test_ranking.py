"""Every criterion × scope × structure: one count, one tie rule, one density."""

import functools
from dataclasses import replace
from typing import get_type_hints

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lth import masks, models, train
from lth.lab.build import names, networks, ranking, tasks
from lth.lab.config import (
    ConfigError,
    Data,
    Experiment,
    Model,
    Optimizer,
    Prune,
    needs,
    validate,
)
from lth.masks import allocation, structure, tiles

E = Experiment(
    data=Data(name="digits", validation=100),
    model=Model(name="conv2", width=1 / 16),
    optimizer=Optimizer(name="adam"),
    batch_size=10,
)
STRUCTURES = ("weight", "block:2x3", "filter", "channel", "2:4")
SCOPES = ("global", "layer", "erk")


@functools.cache
def task():
    return tasks.load(E.data, E.model, E.batch_size)


@functools.cache
def trained():
    """Two replicates: their initial params, their states after a few steps."""
    t = task()
    tx = networks.optimizer(E.optimizer, 100, 20)
    keys = jax.random.split(jax.random.key(3), 2)
    start = jax.jit(jax.vmap(lambda k: train.init_state(t.model.init, tx, k)))(keys)
    step = train.make_train(t.loss, t.sample, tx)
    block, _ = next(t.blocks(keys[0], 0, 5))
    nothing = masks.unmasked(start.params)
    run = jax.jit(jax.vmap(step, (0, None, None, 0, None)), static_argnums=4)
    state, _ = run(start, nothing, block, keys, 5)
    return start.params, state, keys, block


def mask_of(params):
    """Of three kernels: two convolutions and what they end in. Each compiles anew."""

    def prunable(path, leaf):
        return masks.is_kernel(path, leaf) and not path.startswith("hidden")

    return masks.ones(first(params), prunable)


@functools.cache
def scorer(criterion, batches=2):
    p = Prune(criterion=criterion, batches=batches)
    made = ranking.make_scores(p, E.model, task())
    return jax.jit(jax.vmap(made, (0, 0, 0, 0, None)))


@functools.cache
def scores(criterion):
    """Of both replicates, all of whose weights are kept."""
    initial, state, keys, block = trained()
    ones = both(mask_of(initial))
    return scorer(criterion)(initial, state, ones, keys, block)


def both(mask):
    return jax.tree.map(lambda m: jnp.stack([m, m]), mask)


def test_every_name_has_its_criterion():
    assert set(get_type_hints(Prune)["criterion"].__args__) == set(names.CRITERIA)


def first(tree):
    return jax.tree.map(lambda x: x[0], tree)


def count_units(e, mask):
    if e.prune.structure == "weight":
        return [int(m.sum()) for m in jax.tree.leaves(mask)]
    unit = ranking.unit_of(e.prune)
    found = []
    for leaf in jax.tree.leaves(mask):
        units = tiles.split(leaf, unit.tile(leaf.shape))
        found.append(int(jnp.sum(jnp.any(units, -1))))
    return found


@functools.cache
def keeper(text, scope, kind):
    """The experiment, what keeps, and the same compiled, for one and for both."""
    e = replace(E, prune=Prune(structure=text, scope=scope, criterion=kind))
    ones, keep = mask_of(trained()[0]), ranking.make_keep(e.prune)
    density = densities(e, ones, 0.5)

    def half(scores):
        return keep(scores, ones, density)

    return e, keep, jax.jit(half), jax.jit(jax.vmap(half))


def densities(e, ones, density):
    if e.prune.scope == "erk" and e.prune.structure == "weight":
        return allocation.erdos_renyi(ones, density, kernel=True)
    return density


@pytest.mark.parametrize("criterion", names.CRITERIA)
def test_every_criterion_scope_and_structure(criterion):
    found = scores(criterion)
    for leaf in jax.tree.leaves(found):
        assert np.isfinite(leaf).all() or criterion.endswith("sign")
    ones = mask_of(trained()[0])
    found = covered(found, ones)
    for text in STRUCTURES:
        # A criterion says how filters and channels are pooled, and no more.
        pooled = text in ("filter", "channel") and needs.has(criterion, "activations")
        kind = "wanda" if pooled else "magnitude"
        for scope in SCOPES if text != "2:4" else ["global"]:
            if scope == "erk" and text != "weight":
                continue
            e, keep, alone, together = keeper(text, scope, kind)
            half = keep(first(found), ones, densities(e, ones, 0.5))
            less = keep(first(found), half, densities(e, ones, 0.2))
            check_counts(e, ones, half, 0.5)
            if text != "2:4":
                check_counts(e, ones, less, 0.2)
            assert nested(less, half)
            assert int(masks.count(less)) >= 1
            # Scopes see what is pooled and no more: one compiles with another pool.
            if scope == "global" or text == "weight":
                assert equal(alone(first(found)), half)
            if scope == "global" or kind == "magnitude":
                assert equal(first(together(found)), half)


def covered(scores, ones):
    """The scores of what can be pruned: all criteria have those, in one shape."""
    return jax.tree.map(
        lambda m, s: None if m is None else s, ones, scores, is_leaf=lambda m: m is None
    )


def check_counts(e, ones, mask, density):
    if e.prune.structure == "2:4":
        structure.check_n_of_m(mask, 2, 4)
        return
    total, kept = ranking.competitors(e.prune, ones), count_units(e, mask)
    if e.prune.scope == "global":
        assert sum(kept) == max(1, round(density * sum(total)))
    elif e.prune.scope == "layer":
        assert kept == [max(1, round(density * n)) for n in total]
    else:
        assert sum(kept) == round(density * sum(total))
    if e.prune.structure != "weight":
        structure.check(mask, ranking.unit_of(e.prune))


def nested(inner, outer):
    pairs = zip(jax.tree.leaves(inner), jax.tree.leaves(outer), strict=True)
    return all(not (a & ~b).any() for a, b in pairs)


def equal(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all((x == y).all() for x, y in pairs)


@pytest.mark.parametrize("text", STRUCTURES)
def test_equal_scores_keep_the_lower_index(text):
    ones = mask_of(trained()[0])
    flat = jax.tree.map(lambda m: jnp.ones(m.shape), ones)
    e, keep, *_ = keeper(text, "layer" if text != "2:4" else "global", "magnitude")
    kept = keep(flat, ones, 0.5)
    for leaf in jax.tree.leaves(kept):
        if text == "2:4":
            assert leaf[..., :2, :].all()
            assert not leaf[..., 2:4, :].any()
            continue
        units = tiles.split(leaf, ranking.unit_of(e.prune).tile(leaf.shape))
        order = jnp.any(units, -1).ravel().astype(int)
        assert (np.diff(order) <= 0).all()


@pytest.mark.parametrize("text", STRUCTURES)
def test_nan_is_refused(text):
    ones = mask_of(trained()[0])
    bad = jax.tree.map(lambda m: jnp.ones(m.shape).at[..., 0, 0].set(jnp.nan), ones)
    _, keep, *_ = keeper(text, "global", "magnitude")
    with pytest.raises(ValueError, match="NaN among"):
        keep(bad, ones, 0.5)


def test_the_dead_score_nothing_and_are_not_chosen():
    initial, state, keys, block = trained()
    ones = mask_of(initial)
    half = masks.keep_top(masks.apply(first(state).params, ones), ones, 0.3)
    for criterion in ("snip", "grasp", "synflow", "weight_gradient", "wanda", "lamp"):
        found = first(scorer(criterion)(initial, state, both(half), keys, block))
        dead = jax.tree.map(lambda s, m: None if m is None else s[~m], found, half)
        assert not any(np.asarray(x).any() for x in jax.tree.leaves(dead)), criterion


def test_scores_of_one_batch_and_of_more_differ():
    initial, state, keys, block = trained()
    one = scorer("snip", 1)(initial, state, both(mask_of(initial)), keys, block)
    assert not equal(first(one), first(scores("snip")))


def test_synflow_sees_no_data():
    initial, state, keys, block = trained()
    other = jax.tree.map(lambda x: x[::-1], block)
    ones = both(mask_of(initial))
    a = scorer("synflow")(initial, state, ones, keys, block)
    b = scorer("synflow")(initial, state, ones, keys[::-1], other)
    assert equal(a, b)


def test_criteria_of_inputs_need_inputs():
    e = replace(E, prune=Prune(criterion="wanda", include="bias"))
    validate.check(e)
    initial, state, keys, block = trained()
    params = first(initial)
    mask = masks.ones(params, lambda path, leaf: True)
    with pytest.raises(ConfigError, match="bias.* has none: --prune.exclude"):
        ranking.make_scores(e.prune, e.model, task())(
            params, first(state), mask, keys[0], block
        )


@pytest.mark.parametrize("text", ["filter", "channel", "block:2x3"])
@pytest.mark.parametrize("criterion", ["small_final", "small_init", "grasp", "hessian"])
def test_units_respect_the_signs_of_scores(text, criterion):
    # What a criterion ranks last is kept by its opposite: no unit is in both halves.
    found, ones = first(scores(criterion)), mask_of(trained()[0])
    e = replace(E, prune=Prune(structure=text, scope="layer", criterion=criterion))
    keep = ranking.make_keep(e.prune)
    one = keep(found, ones, 0.4)
    other = keep(jax.tree.map(jnp.negative, found), ones, 0.4)
    for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        alone = text == "channel" and a.shape[-2] == 1  # the one channel of grey images
        assert alone or not (a & b).any()


def test_the_filters_that_magnitude_keeps_are_those_small_final_prunes():
    ones = mask_of(trained()[0])
    kept = [
        ranking.make_keep(Prune(structure="filter", scope="layer", criterion=name))(
            first(scores(name)), ones, 0.5
        )
        for name in ("magnitude", "small_final")
    ]
    even = [m.shape[-1] % 2 == 0 for m in jax.tree.leaves(ones)]
    for a, b, halves in zip(*map(jax.tree.leaves, kept), even, strict=True):
        assert not halves or not (a & b).any()


def test_levels_of_scope_output_count_all_that_an_output_reads():
    mask = {"kernel": jnp.ones((5, 5, 1, 6), bool)}
    prune = Prune(criterion="wanda", scope="output", densities="0.9,0.5,0.4")
    # 22, 12 and 10 of 25
    assert ranking.densities(prune, 3, mask) == [0.9, 0.5, 0.4]
    prune = replace(prune, densities="0.9,0.49,0.485")
    with pytest.raises(ConfigError, match="level 3 would keep 12 of 25"):
        ranking.densities(prune, 3, mask)


def test_wanda_compares_the_weights_of_an_output():
    e = replace(E, prune=Prune(criterion="wanda", scope="output"))
    validate.check(e)
    ones = mask_of(trained()[0])
    kept = ranking.make_keep(e.prune)(first(scores("wanda")), ones, 0.5)
    for leaf in jax.tree.leaves(kept):
        rows = leaf.reshape(-1, leaf.shape[-1])
        assert (rows.sum(0) == max(1, round(0.5 * len(rows)))).all()


class Normed(nn.Module):
    """A hidden layer with batch norm, and dropout if asked for."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(6, name="hidden")(x.reshape(len(x), -1))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(x))
        return nn.Dense(10, name="output")(x)


def normed_task(dropout=0.0):
    """The digits and a network with batch norm; the averages are not the batch's."""
    model = models.standardized(models.from_linen(Normed(dropout), (8, 8, 1)), 0, 16)
    loss, measure = train.classification(model.apply)
    params, stats = model.init(jax.random.key(1))
    stats = jax.tree.map(lambda x: x + 0.5, stats)
    state = train.TrainState(jnp.int32(0), params, stats, None)
    return task()._replace(model=model, loss=loss, measure=measure), state


def restated_loss(params, stats, images, label, heat, training):
    p, averages = params, stats["batch_stats"]["norm"]
    h = images.reshape(len(images), -1) / 16
    h = h @ p["hidden"]["kernel"] + p["hidden"]["bias"][None]
    mean, variance = averages["mean"], averages["var"]
    if training:
        mean = h.mean(0)
        variance = jnp.square(h - mean[None]).mean(0)
    h = (h - mean[None]) / jnp.sqrt(variance[None] + 1e-5)
    h = jnp.maximum(0, h * p["norm"]["scale"][None] + p["norm"]["bias"][None])
    logits = (h @ p["output"]["kernel"] + p["output"]["bias"][None]) / heat
    chosen = logits[jnp.arange(len(label)), label]
    return jnp.mean(jnp.log(jnp.exp(logits).sum(1)) - chosen)


@pytest.mark.parametrize("mode", ["evaluation", "training"])
def test_the_loss_is_asked_in_the_mode_that_is_given(mode):
    t, state = normed_task()
    key, (block, _) = jax.random.key(5), next(t.blocks(jax.random.key(0), 0, 1))
    order = jax.random.split(key)[0]
    batches = [t.sample(order, jnp.int32(i), block) for i in range(2)]
    ones = masks.ones(state.params)

    def loss(params, heat=1):
        each = [
            restated_loss(params, state.stats, x, y, heat, mode == "training")
            for x, y in batches
        ]
        return sum(each) / len(each)

    def found(criterion):
        p = Prune(criterion=criterion, mode=mode, batches=2)
        score = ranking.make_scores(p, E.model, t)
        return score(state.params, state, ones, key, block)

    gradient = jax.grad(loss)(state.params)
    size = {n: np.abs(gradient[n]["kernel"]) for n in ("hidden", "output")}
    moved = {n: np.abs(state.params[n]["kernel"]) * size[n] for n in size}
    total = sum(m.sum() for m in moved.values())
    cool = jax.grad(loss)(state.params, ranking.GRASP_TEMPERATURE)
    # Of what a mask covers, the kernels.
    cool = jax.tree.map(lambda g, m: g * 0 if m is None else g, cool, ones)

    def flow(params):
        g = jax.grad(loss)(params, ranking.GRASP_TEMPERATURE)
        return sum(
            jnp.sum(a * b)
            for a, b in zip(jax.tree.leaves(g), jax.tree.leaves(cool), strict=True)
        )

    product = jax.grad(flow)(state.params)
    kept = {
        n: np.asarray(state.params[n]["kernel"] * product[n]["kernel"]) for n in size
    }
    norm = abs(sum(k.sum() for k in kept.values())) + 1e-10
    for criterion, expected in (
        ("gradient_magnitude", size),
        ("weight_gradient", moved),
        ("snip", {n: m / total for n, m in moved.items()}),
        ("grasp", {n: k / norm for n, k in kept.items()}),
    ):
        scores = found(criterion)
        for n, values in expected.items():
            near = 2e-4 * np.abs(values).max()
            np.testing.assert_allclose(scores[n]["kernel"], values, 1e-3, near)


@pytest.mark.parametrize("criterion", ["snip", "grasp", "hessian"])
def test_the_two_modes_rank_differently_and_leave_the_averages(criterion):
    t, state = normed_task(dropout=0.5)
    key, (block, _) = jax.random.key(5), next(t.blocks(jax.random.key(0), 0, 1))
    ones = masks.ones(state.params)
    both = {
        mode: ranking.make_scores(Prune(criterion=criterion, mode=mode), E.model, t)(
            state.params, state, ones, key, block
        )
        for mode in ("evaluation", "training")
    }
    half = [masks.keep_top(scores, ones, 0.5) for scores in both.values()]
    assert not equal(*half)


@pytest.mark.parametrize("criterion", sorted(names.CRITERIA))
def test_a_mode_is_of_criteria_that_ask_the_loss_on_batches(criterion):
    e = replace(E, prune=Prune(criterion=criterion, mode="training"))
    if criterion in (
        "gradient_magnitude",
        "weight_gradient",
        "snip",
        "grasp",
        "hessian",
    ):
        validate.check(e)
        return
    with pytest.raises(ConfigError, match="--prune.mode training is of"):
        validate.check(e)
