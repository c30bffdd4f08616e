"""Presets can be built: their networks, what they prune, and their schedules fit.

And their notes say in what they differ from their source.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lth import data, masks, train
from lth.lab.build import assemble, networks, ranking
from lth.lab.build.names import Examples
from lth.lab.config import Optimizer, parse
from lth.lab.config.presets import PRESETS, SUPERMASKS

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
    written = e.steps, e.eval_every, e.rewind.to, e.checkpoint_at
    drops = e.optimizer.milestones, e.learn.optimizer.milestones
    times = assemble.times_of(assemble.Lengths(*written), drops, e.batch_size, epoch)
    steps, rewind_to, stops, _ = times
    assert 0 <= rewind_to < steps == stops[-1]
    model = networks.network(e.model, examples(e))
    tx = networks.optimizer(e.optimizer, epoch, steps)
    state = jax.eval_shape(lambda: train.init_state(model.init, tx, jax.random.key(0)))
    mask = ranking.prunable(e.prune, state.params)
    assert len(ranking.densities(e.prune, e.levels, mask)) == e.levels
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


# How a note speaks of a field.
WORDS = {
    "batch_size": "batches",
    "controls": "reinit",
    "data.augment": "crops|augment",
    "data.length": "window",
    "data.name": "data set",
    "data.pixels": "pixels",
    "data.validation": "held out",
    "eval_every": "measured every",
    "learn.every": "every",
    "learn.optimizer.cosine": "falls",
    "learn.optimizer.learning_rate": "learning rate",
    "learn.optimizer.name": "Adam",
    "learn.optimizer.weight_decay": "decay",
    "learn.penalty": "penalty",
    "learn.rank": "ranked",
    "levels": "levels",
    "model.compute": "bfloat16",
    "model.depth": "blocks",
    "model.norm_scale": "scales",
    "model.width": "channels|width",
    "optimizer.learning_rate": "learning rate",
    "optimizer.milestones": "milestones",
    "optimizer.name": "Adam",
    "optimizer.warmup": "warmup",
    "optimizer.weight_decay": "weight decay",
    "prune.exclude": "output|stem",
    "replicates": "replicate",
    "rewind.moments": "momentum",
    "rewind.to": "rewound",
    "steps": "iterations|epochs",
}
# Of these the note has a fraction or a name, not the number.
SAID = ("data.augment", "data.name", "model.width", "controls", "prune.exclude")
NUMBER = re.compile(r"\d{1,3}(?: \d{3})+|\d+(?:\.\d+)?(?:e-?\d+)?")
LEARNED = {f"{p} {m}": x for p, each in SUPERMASKS.items() for m, x in each.items()}


def fields(e):
    """The fields of an experiment by dotted name."""
    found = {}
    for name, value in dataclasses.asdict(e).items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        for key, v in inner:
            if isinstance(v, dict):
                found |= {f"{name}.{key}.{k}": w for k, w in v.items()}
            else:
                found[f"{name}.{key}".strip(".")] = v
    return found


def numbers(text):
    return {float(n.replace(" ", "")) for n in NUMBER.findall(text)}


def differ(e, name, value):
    """Whether a field of `e` is not what the source has."""
    ours = fields(e)[name]
    if name == "steps" and value.endswith("it") and "," not in value:
        epoch = -(-SIZES[e.data.name] // e.batch_size)
        return parse.parse_steps(ours, epoch, name) != int(value[:-2])
    return ours != value


def unsaid(note, values):
    """What a note leaves out of {field: the value it should name}."""
    left = []
    for name, value in values.items():
        said = re.search(WORDS[name], note)
        if name not in SAID and value not in ("", "drop"):
            expected = numbers(str(value)) - {0.0, 1.0}
            said = said and (isinstance(value, bool) or expected <= numbers(note))
        if not said:
            left.append(name)
    return left


def differences(preset):
    e, known = preset.experiment, preset.published
    return {name: v for name, v in known.items() if differ(e, name, v)}


@pytest.mark.parametrize("name", [*PRESETS, *LEARNED])
def test_a_note_names_every_difference_from_what_is_published(name):
    preset = (PRESETS | LEARNED)[name]
    known = differences(preset)
    assert unsaid(preset.differs, known) == []
    # Who has a paper has its numbers; who follows another preset says so.
    follows = "else as" in preset.differs
    ours = "no paper's" in preset.differs or name == "digits"
    assert bool(preset.published) != (follows or ours)
    assert unsaid("", known) == list(known)  # a note of nothing would not do


@pytest.mark.parametrize("name", [n for n in PRESETS if n.endswith("-fast")])
def test_a_fast_form_names_every_difference_from_the_whole(name):
    whole = name.removesuffix("-fast")
    note, e = PRESETS[name].differs, PRESETS[name].experiment
    assert f"else as {whole}" in note
    base = fields(PRESETS[whole].experiment)
    changed = {n: v for n, v in fields(e).items() if v != base[n]}
    assert changed.keys() & {"steps", "levels", "replicates", "model.width"}
    halves = {"model.depth": "", "data.length": changed.get("data.length", "")}
    assert unsaid(note, changed | {n: halves[n] for n in halves if n in changed}) == []


def test_what_the_sources_of_some_presets_have():
    known = {n: differences(PRESETS[n]) for n in ("conv2", "conv4", "conv6", "wrn")}
    assert known["conv2"] == {"steps": "20000it"}
    assert known["conv4"] == {"steps": "25000it"}
    assert known["conv6"] == {}
    assert known["wrn"] == {"data.validation": 0, "prune.exclude": "stem"}
    assert "WRN-22-2" in PRESETS["wrn"].differs
    for name in ("resnet20", "vgg16", "vgg19", "resnet50-imagenet"):
        assert "biases start at 0" in PRESETS[name].differs
        assert differences(PRESETS[name])["rewind.moments"] == "drop"
    assert "central square" in PRESETS["resnet50-imagenet"].differs
    assert "constant 100" in LEARNED["lenet-mnist bernoulli"].differs
