"""What `experiments/criteria_at_init.py` claims, on a network for seconds."""

import importlib.util
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lth
from lth import data, lottery, masks, models, train
from lth.lab.build import ranking, tasks
from lth.lab.build.names import Examples
from lth.lab.config import Model, Prune
from lth.lottery import Ticket
from lth.train import TrainState
from tests.conftest import assert_same

PLACE = Path(lth.__file__).parents[1] / "experiments" / "criteria_at_init.py"
SHAPE, DENSITY = (32, 32, 3), 0.002


@pytest.fixture(scope="module")
def study():
    sys.path.insert(0, str(PLACE.parent))  # studies import their own `study`
    spec = importlib.util.spec_from_file_location("criteria_at_init", PLACE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(PLACE.parent))
    return module


def make_data(seed: int) -> data.Dataset:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (20, *SHAPE), dtype=np.uint8)
    return data.Dataset(images, rng.integers(0, 10, 20).astype(np.int32))


@pytest.fixture(scope="module")
def narrow():
    """VGG-11 with a sixteenth of the channels: 36 428 prunable weights in 9 layers."""
    network = models.from_linen(models.VGG(depth=11, width=1 / 16), SHAPE)
    model = models.standardized(network, 128, 64)
    loss, measure = train.classification(model.apply)
    task = tasks.Task(
        examples=Examples(SHAPE, 10),
        size=20,
        digest="",
        model=model,
        loss=loss,
        measure=measure,
        sample=lambda key, step, data: data,
        blocks=lambda key, start, stop: iter(()),
        parts={},
    )
    params, stats = drawn(jax.eval_shape(model.init, jax.random.key(0)))
    return task, network, TrainState(jnp.zeros(1, int), params, stats, ())


def drawn(like):
    """Kaiming's weights with NumPy: to compile the network's own would take seconds."""
    rng = np.random.default_rng(0)

    def leaf(path, x):
        if x.ndim < 2:
            fill = masks.name(path).endswith(("scale", "var"))
            return jnp.full((1, *x.shape), fill, x.dtype)
        deviation = np.sqrt(2 / np.prod(x.shape[:-1]))
        return jnp.asarray(rng.normal(0, deviation, (1, *x.shape)), x.dtype)

    return jax.tree_util.tree_map_with_path(leaf, like)


def pruned(narrow, prune: Prune, dataset) -> Ticket:
    """One network, pruned as the study prunes it."""
    task, _, state = narrow
    model = Model(name="vgg11", width=1 / 16)
    one = ranking.make_scores(prune, model, task)
    program = jax.jit(jax.vmap(partial(one, data=dataset)))

    def scores(early, state, mask, keys):
        return program(early.params, state, mask, keys)

    choose = lottery.make_prune_early(scores, masks.keep_top, rounds=prune.rounds)
    ones = jax.vmap(masks.ones)(state.params)
    ticket = Ticket(0, ones, state, {})
    return ticket._replace(
        mask=choose(state, ticket, DENSITY, jax.random.split(KEY, 1))
    )


KEY = jax.random.key(1)
SYNFLOW = Prune(criterion="synflow", at="early", rounds=100)
MAGNITUDE = Prune(criterion="magnitude", at="early")


def test_synflow_keeps_every_layer_where_one_shot_magnitude_loses_one(study, narrow):
    flow, magnitude = (pruned(narrow, p, make_data(0)) for p in (SYNFLOW, MAGNITUDE))
    total = masks.size(flow.mask)
    for ticket in (flow, magnitude):
        assert masks.count(ticket.mask) == round(DENSITY * total)
    assert study.layers(None, None, flow)["empty"] == [0]
    assert study.layers(None, None, flow)["least"] > 0
    assert study.layers(None, None, magnitude)["empty"] >= 1
    assert study.layers(None, None, magnitude)["least"] == 0


def test_synflow_asks_no_data(narrow):
    one, other = (pruned(narrow, SYNFLOW, make_data(seed)) for seed in (0, 1))
    assert_same(one.mask, other.mask)


def test_layer_sums_are_equal_until_batch_norm_has_averages(study, narrow):
    task, network, state = narrow
    first = jax.tree.map(lambda x: x[0], state)
    images = make_data(0).inputs
    _, seen = task.model.apply(first.params, first.stats, images, True, KEY)
    apart = jax.jit(partial(study.apart, network))
    assert apart(first) < 1e-5
    # |average| is taken from what flows.
    assert apart(first._replace(stats=seen)) > 1e-4
