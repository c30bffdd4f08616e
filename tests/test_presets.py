"""Presets can be built: their networks, what they prune, and their schedules fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lth import build, data, masks, networks, targets, train
from lth.config import Optimizer
from lth.networks import Examples
from lth.presets import PRESETS

SIZES = {"digits": 1257, "mnist": 55_000, "cifar10": 45_000, "regression": 7000}
SIZES |= {"tinyshakespeare": 7000, "images": 1_271_167}
PUBLISHED = {
    "lenet-mnist": 266_200,
    "conv2": 4_300_992,
    "conv4": 2_425_024,
    "conv6": 2_261_184,
    "resnet20": 270_896,
    "vgg16": 14_710_464,  # without the output layer, as pruned
    "vgg19": 20_018_880,
}


def examples(e):
    if e.data.name == "images":
        return Examples((e.data.size, e.data.size, 3), 1000)
    if e.data.name == "tinyshakespeare":
        return Examples((e.data.length,), 65)
    source = data.SOURCES[e.data.name]
    return Examples(source.shape, source.classes)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_can_be_built(name):
    e = PRESETS[name].experiment
    epoch = -(-SIZES[e.data.name] // e.batch_size)
    steps, rewind_to, stops, _ = build._times(e, epoch)
    assert 0 <= rewind_to < steps == stops[-1]
    model = networks.network(e.model, examples(e))
    tx = networks.optimizer(e.optimizer, epoch, steps)
    state = jax.eval_shape(lambda: train.init_state(model.init, tx, jax.random.key(0)))
    mask = targets.prunable(e, state.params)
    assert len(targets.densities(e, mask)) == e.levels
    if name in PUBLISHED:
        assert masks.size(mask) == PUBLISHED[name]


def test_every_preset_has_a_fast_form_or_says_why_not():
    for name, preset in PRESETS.items():
        short = name.endswith("-fast") or f"{name}-fast" in PRESETS
        assert (
            short
            or name in ("digits", "regression")
            or ("it has no fast form" in preset.differs)
        ), name


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({"milestones": "2it,4it"}, [1, 1, 0.1, 0.1, 0.01, 0.01]),
        ({"warmup": "2it"}, [0, 0.5, 1, 1, 1, 1]),
        ({"warmup": "1it", "milestones": "3it"}, [0, 1, 1, 0.1, 0.1, 0.1]),
        ({"cosine": True}, [0.5 * (1 + np.cos(np.pi * i / 6)) for i in range(6)]),
    ],
)
def test_learning_rates_by_step(settings, rates):
    o = Optimizer(name="sgd", learning_rate=1.0, **settings)
    tx = networks.optimizer(o, 10, 6)
    state, found = tx.init(jnp.float32(0)), []
    for _ in rates:
        update, state = tx.update(jnp.float32(1), state)
        found.append(-float(update))
    np.testing.assert_allclose(found, rates, atol=1e-6)
