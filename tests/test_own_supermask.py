"""A learned mask, and a draw of batches, of the user's own through `make_recipe`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lth
from lth import data, masks, models, supermask, train
from lth.lottery import recipe as lottery_recipe
from lth.supermask import Supermask
from lth.train import TrainState
from tests.conftest import normal

WIDTH, EXAMPLES = 12, 64


def linear() -> models.Model:
    def init(key):
        return {"kernel": normal(key, (WIDTH, 3))}, {}

    def apply(params, stats, inputs, train, key):
        return inputs @ params["kernel"], stats

    return models.Model(init, apply)


def positive(model: models.Model) -> Supermask:
    """Keeps the weights whose score is above 0; the weights stay as drawn."""

    def init(key):
        weights, inner = model.init(key)
        scores = jax.tree.map(lambda w: 0.1 * jnp.sin(100 * w), weights)
        return scores, supermask.Frozen(weights, inner)

    def above(scores):
        return jax.tree.map(lambda s: s > 0, scores)

    def apply(params, stats, inputs, train, key):
        soft = jax.tree.map(
            lambda w, s: w * ((s > 0) + s - jax.lax.stop_gradient(s)),
            stats.weights,
            params,
        )
        return model.apply(soft, stats.inner, inputs, train, key)[0], stats

    return Supermask(
        models.Model(init, apply),
        lambda params, stats, key: above(params),
        lambda params, stats, mask: masks.apply(stats.weights, mask),
    )


def splits() -> data.Splits:
    random = np.random.default_rng(0)
    inputs = random.normal(size=(3 * EXAMPLES, WIDTH)).astype(np.float32)
    targets = inputs[:, :3].argmax(1).astype(np.int32)
    parts = (slice(i * EXAMPLES, (i + 1) * EXAMPLES) for i in range(3))
    return data.Splits(*(data.Dataset(inputs[p], targets[p]) for p in parts))


def recipe(levels=0, learned=True, **options):
    model = linear()
    given = {}
    if learned:
        own = positive(model)
        given = {
            "learn": own,
            "learn_tx": optax.adam(0.02),
            "learn_by": train.classification(own.model.apply),
        }
    return lth.make_recipe(
        model,
        optax.sgd(0.1),
        *train.classification(model.apply),
        splits(),
        batch_size=16,
        steps=80,
        densities=[0.2] * bool(levels),
        replicates=2,
        prunable=lambda path, leaf: True,
        branches=("rewind",),
        **{**given, **options},
    )


def test_a_mask_of_ones_own_is_learned_stored_and_gone_on_from(tmp_path):
    run = lth.run(recipe(), tmp_path / "mine")
    scores, ticket = run.learned, run.ticket(0)
    kept = scores.params["kernel"] > 0
    assert (ticket.mask["kernel"] == kept).all()
    assert (scores.stats["weights"]["kernel"] == run.init.params["kernel"]).all()
    weights = np.where(kept, run.init.params["kernel"], 0)
    assert (ticket.params["kernel"] == weights).all()
    ends = run.table.query("split == 'train' and metric == 'loss'")
    curves = ends.pivot(
        index=["variant", "level", "step"], columns="replicate", values="value"
    )
    assert (curves.loc["ticket", 0, 80] < curves.loc["ticket", 0, 8]).all()
    assert ("rewind", 0, 80) in curves.index  # off the learned mask of level 0
    longer = lth.run(recipe(levels=1), tmp_path / "mine")
    again = longer.ticket(0)
    assert (again.mask["kernel"] == kept).all()
    new = longer.ticket(1).mask["kernel"]
    assert new.sum() == 2 * round(0.2 * WIDTH * 3)
    assert not (new & ~kept).any()


def test_a_mask_that_is_learned_is_another_recipe(tmp_path):
    lth.run(recipe(), tmp_path / "mine")
    with pytest.raises(Exception, match="learned was .*kernel.* is None"):
        lth.run(recipe(learned=False), tmp_path / "mine")


def test_what_learns_needs_an_optimizer_and_a_loss():
    with pytest.raises(ValueError, match="`learn` needs `learn_tx`"):
        recipe(learn_by=None)


def test_batches_can_be_drawn_by_a_function_of_ones_own():
    def first(key, step, data):
        return jax.tree.map(lambda x: x[:16], data)

    own = recipe(learned=False, sample=first)
    plain = recipe(learned=False)
    assert own.stamp["data"] == plain.stamp["data"]
    assert own.stamp["batches"] != plain.stamp["batches"]
    keys = lth.lottery.keys(own.replicates, 0)
    state, sums = own.train(own.init(keys), own.mask, 1, keys)
    assert isinstance(state, TrainState)
    inputs, targets = (x[:16] for x in splits().train)
    logits = inputs @ own.init(keys).params["kernel"][0]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()
    np.testing.assert_allclose(sums["loss"][0], loss, rtol=1e-5)


def test_params_may_be_a_pair():
    params = supermask.Gated({"w": jnp.ones((2, 3))}, {"w": jnp.ones((2, 3))})
    mask = masks.ones(params, lambda path, leaf: path.startswith("weights"))
    lottery_recipe.check_like(mask, params, "it")
    wrong = mask._replace(weights={"w": jnp.ones((2, 4), bool)})
    with pytest.raises(ValueError, match=r"it does not fit .* weights/w: \(2, 4\) ag"):
        lottery_recipe.check_like(wrong, params, "it")
