"""What `experiments/criteria_at_init.py` claims, on a network for seconds."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lth
from lth import data, masks, models, train
from lth.lab.build import names, tasks
from lth.train import TrainState
from tests.conftest import assert_same

PLACE = Path(lth.__file__).parents[1] / "experiments" / "criteria_at_init.py"
spec = importlib.util.spec_from_file_location("criteria_at_init", PLACE)
assert spec
assert spec.loader
study = importlib.util.module_from_spec(spec)
spec.loader.exec_module(study)

SHAPE, DENSITY = (16, 16, 3), 0.002


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
    examples = names.Examples(SHAPE, 10)
    task = tasks.Task(
        examples=examples,
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
    state = TrainState(jnp.int32(0), params, stats, None)
    return task, network, state, study.make_scorers(task, network)


def drawn(like):
    """Kaiming's weights with NumPy: to compile the network's own would take seconds."""
    rng = np.random.default_rng(0)

    def leaf(path, x):
        if x.ndim < 2:
            fill = masks.name(path).endswith(("scale", "var"))
            return jnp.full(x.shape, fill, x.dtype)
        deviation = np.sqrt(2 / np.prod(x.shape[:-1]))
        return jnp.asarray(rng.normal(0, deviation, x.shape), x.dtype)

    return jax.tree_util.tree_map_with_path(leaf, like)


def layers(mask) -> list[int]:
    return [int(m.sum()) for m in jax.tree.leaves(mask)]


def pruned(narrow, name, dataset):
    _, _, state, scorers = narrow
    ones = masks.ones(state.params)

    def score(state, mask):
        return scorers[name](state, mask, dataset, jax.random.key(1))

    ((_, mask),) = study.prune(score, state, ones, [DENSITY], name != "synflow")
    return mask


def test_synflow_keeps_every_layer_where_one_shot_magnitude_loses_one(narrow):
    flow, magnitude = (
        layers(pruned(narrow, name, make_data(0))) for name in ("synflow", "magnitude")
    )
    total = masks.size(masks.ones(narrow[2].params))
    assert sum(flow) == sum(magnitude) == round(DENSITY * total) >= len(flow)
    assert min(flow) > 0
    assert min(magnitude) == 0


def test_synflow_asks_no_data(narrow):
    one, other = (pruned(narrow, "synflow", make_data(seed)) for seed in (0, 1))
    assert_same(one, other)


def test_layer_sums_are_equal_until_batch_norm_has_averages(narrow):
    task, network, state, _ = narrow
    fresh, once, often = study.make_conservation(task, network)(state, make_data(0))
    assert fresh < 1e-5
    assert min(once, often) > 1e-4  # |average| is taken from what flows
