"""Each field of an experiment changes something, or is refused where it would not."""

import dataclasses
from dataclasses import replace

import pytest

from lth.lab.build import names
from lth.lab.config import (
    ConfigError,
    Experiment,
    Learn,
    Model,
    Optimizer,
    needs,
    presets,
    validate,
)
from lth.lab.config.validate import effects, learning


def leaves(kind, prefix=""):
    for field in dataclasses.fields(kind):
        default = (
            field.default_factory()
            if field.default is dataclasses.MISSING
            else field.default
        )
        if dataclasses.is_dataclass(default):
            yield from leaves(type(default), f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def changed(e, fields):
    for path, value in fields.items():
        first, _, rest = path.partition(".")
        if rest:
            value = changed(getattr(e, first), {rest: value})
        e = replace(e, **{first: value})
    return e


# Every experiment looks at these.
ALWAYS = """
data.name data.validation model.name model.initialiser model.compute
model.precision optimizer.name optimizer.learning_rate optimizer.weight_decay
optimizer.warmup optimizer.cosine
learn.method batch_size steps eval_every levels replicates first_replicate
prune.criterion prune.at prune.scope prune.structure prune.exclude prune.include
rewind.mode rewind.to data.examples dynamic.rule
""".split()

# Of the others: a value, where it has an effect, and where it has none.
TEXT = {"data.name": "tinyshakespeare", "model.name": "transformer"}
SGD = {"optimizer.name": "sgd"}
ERK = {"prune.scope": "erk"}
MASK = {"learn.method": "edge_popup", "levels": 0, "prune.scope": "global"}
MOVING = {"levels": 0}
NORMED = {"rewind.mode": "finetune", "model.name": "resnet20"}
SCORES = {f"learn.optimizer.{name}": value for name, value in (("name", "sgd"),)}
SOMETIMES = [
    ("data.split_seed", 1, {}, TEXT),
    ("data.pixels", "standard", {}, {"data.name": "regression"}),
    ("data.pixels", "standard", {}, TEXT),
    ("data.augment", "flip", {}, TEXT),
    ("data.classes", (3, 1), {}, {"data.name": "images", "replicates": 1}),
    ("data.label_noise", 0.1, {}, {"data.name": "regression"}),
    ("data.length", 64, TEXT, {"data.name": "digits"}),
    ("data.size", 64, {"data.name": "images", "replicates": 1}, {}),
    ("model.widths", (30,), {}, {"model.name": "conv2"}),
    ("model.width", 0.5, {"model.name": "conv2"}, {}),
    ("model.depth", 2, TEXT, {"model.name": "vgg11"}),
    ("model.norm_scale", "uniform", {"model.name": "resnet20"}, {}),
    ("model.norm_scale", "uniform", {"model.name": "vgg11"}, {"model.name": "conv8"}),
    ("model.remat", True, {"model.name": "resnet20"}, {"model.name": "lenet5"}),
    ("optimizer.momentum", 0.9, SGD, {}),
    ("optimizer.nesterov", True, {**SGD, "optimizer.momentum": 0.9}, SGD),
    ("optimizer.milestones", "5it", {}, {"optimizer.drop": 1.0}),
    ("optimizer.drop", 0.5, {"optimizer.milestones": "5it"}, {}),
    ("learn.optimizer.learning_rate", 0.5, MASK, {}),
    ("learn.optimizer.name", "sgd", MASK, {}),
    ("learn.optimizer.weight_decay", 0.5, MASK, {}),
    ("learn.optimizer.warmup", "5it", MASK, {}),
    ("learn.optimizer.cosine", True, MASK, {}),
    ("learn.optimizer.momentum", 0.5, {**MASK, **SCORES}, MASK),
    (
        "learn.optimizer.nesterov",
        True,
        {**MASK, **SCORES, "learn.optimizer.momentum": 0.9},
        {**MASK, **SCORES},
    ),
    ("learn.optimizer.milestones", "5it", MASK, {**MASK, "learn.optimizer.drop": 1.0}),
    ("learn.optimizer.drop", 0.5, {**MASK, "learn.optimizer.milestones": "5it"}, MASK),
    ("prune.rounds", 2, {"prune.at": "early"}, {}),
    ("prune.batches", 2, {"prune.criterion": "snip"}, {}),
    ("prune.batches", 2, {"prune.criterion": "wanda"}, {"prune.criterion": "synflow"}),
    ("prune.precision", "float64", {"prune.criterion": "synflow"}, {}),
    ("prune.dense", "output", ERK, {}),
    ("prune.rate", 0.3, {}, {"prune.densities": "0.5,0.2"}),
    ("prune.rate", 0.3, {}, {"prune.structure": "2:4"}),
    ("prune.densities", "0.5,0.2", {}, {"prune.structure": "2:4"}),
    ("prune.rates", "output=.1", {"prune.scope": "layer"}, ERK),
    ("prune.mode", "training", {"prune.criterion": "snip"}, {}),
    ("prune.pool", "max", {"prune.structure": "filter"}, {}),
    ("prune.along", "outputs", {"prune.structure": "2:4"}, {}),
    ("prune.surgery", "obs", {"rewind.mode": "finetune"}, {}),
    ("prune.batches", 2, {"prune.surgery": "obs", "rewind.mode": "finetune"}, {}),
    ("prune.reestimate", 2, NORMED, {"rewind.mode": "finetune"}),
    ("prune.cuts", "0.1", {}, {"prune.densities": "0.5"}),
    ("prune.rate", 0.3, {}, {"prune.cuts": "0.1"}),
    *(
        (f"dynamic.{name}", value, {**MOVING, "dynamic.rule": rule}, others)
        for name, value, rule, others in (
            ("density", 0.2, "static", MOVING | {"dynamic.rule": "soft_threshold"}),
            ("scope", "erk", "rigl", MOVING | {"dynamic.rule": "ac_dc"}),
            ("begin", "5it", "rigl", MOVING | {"dynamic.rule": "static"}),
            ("end", "9it", "gradual", MOVING | {"dynamic.rule": "ac_dc"}),
            ("every", "5it", "ac_dc", MOVING | {"dynamic.rule": "static"}),
            ("drop", 0.2, "rigl", MOVING | {"dynamic.rule": "ac_dc"}),
            ("backward", 0.4, "top_kast", MOVING | {"dynamic.rule": "rigl"}),
            ("decay", 0.1, "top_kast", MOVING | {"dynamic.rule": "rigl"}),
            ("start", -2.0, "soft_threshold", MOVING | {"dynamic.rule": "rigl"}),
        )
    ),
    ("shrink", True, {"prune.structure": "filter"}, {}),
    ("rewind.moments", "drop", {"rewind.to": "5it"}, {}),
    ("rewind.moments", "drop", {"rewind.mode": "finetune"}, {**SGD, "rewind.to": "5"}),
    (
        "rewind.moments",
        "drop",
        {**SGD, "optimizer.momentum": 0.9, "rewind.to": "5it"},
        {"rewind.mode": "reinit", "rewind.to": "5it"},
    ),
    (
        "rewind.moments",
        "drop",
        {
            "rewind.mode": "weights_low_rate",
            "rewind.to": "5it",
            "optimizer.milestones": "9it",
        },
        {"rewind.to": "5it", "prune.at": "early"},
    ),
    ("controls", "train", MASK, {}),
    ("checkpoint_at", "5it", {}, MASK),
    *(
        (
            f"learn.{name}",
            {"scope": "global", "rank": "magnitude", "rescale": True}.get(name, 3e-1)
            if name != "every"
            else 3,
            {**MASK, "learn.method": methods[0]},
            {**MASK, "learn.method": "continuous" if name != "penalty" else "movement"},
        )
        for name, methods in learning.OF.items()
    ),
]


def test_the_tables_speak_of_every_field():
    sometimes = {path for path, *_ in SOMETIMES}
    assert sometimes | set(ALWAYS) == set(leaves(Experiment))
    assert not sometimes & set(ALWAYS)
    assert set(effects.EFFECTS) <= sometimes


@pytest.mark.parametrize(("path", "value", "looked_at", "passed_over"), SOMETIMES)
def test_a_field_without_effect_is_refused(path, value, looked_at, passed_over):
    validate.check(changed(Experiment(), {**looked_at, path: value}))
    bare = changed(Experiment(), passed_over)
    if "optimizer.drop" not in str(passed_over):  # which alone has no effect either
        validate.check(bare)
    last = path.replace("_", "-").split(".")[-1]
    with pytest.raises(ConfigError, match=f"{last}|--learn.optimizer goes with"):
        validate.check(changed(bare, {path: value}))


def test_refusals_say_what_to_give_instead():
    wide = Experiment(model=Model(name="conv2", widths=(3,)))
    with pytest.raises(ConfigError, match=r"or give --model.widths 300,100$"):
        validate.check(wide)
    falls = Experiment(optimizer=Optimizer(milestones="5it", drop=1.0))
    with pytest.raises(ConfigError, match=r"or give --optimizer.milestones ''$"):
        validate.check(falls)


def test_what_the_table_says_of_networks_and_criteria_is_so():
    examples = {"transformer": names.Examples((8,), 3)}
    for name in names.NETWORKS:
        shown = examples.get(name, names.Examples((32, 32, 3), 10))
        module = names.NETWORKS[name](Model(name=name), shown, "float32")
        assert hasattr(module, "norm_scale") != (name in effects.WITHOUT_NORM)
        assert hasattr(module, "widths") == (name == "mlp")
    assert set(needs.NEEDS) == set(names.CRITERIA)
    looks = {n for n, f in names.CRITERIA.items() if _looks_at_data(f)}
    assert looks == set(needs.needing("examples"))


def _looks_at_data(criterion):
    """Whether it asks for batches, or for inputs, which come of them."""

    class Asked(Exception):  # noqa: N818
        pass

    def ask(*args):
        raise Asked

    view = names.Inputs(*[None] * len(names.Inputs._fields))
    try:
        criterion(view._replace(batches=ask, inputs=ask, state=_Anything()))
    except Asked:
        return True
    except Exception:
        return False
    return False


class _Anything:
    params = stats = opt_state = None


def test_presets_have_no_field_without_effect():
    learned = [p for methods in presets.SUPERMASKS.values() for p in methods.values()]
    for preset in [*presets.PRESETS.values(), *learned]:
        validate.check(preset.experiment)
    assert Learn() == Experiment().learn
