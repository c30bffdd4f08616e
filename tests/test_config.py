"""Settings: the step grammar, the identity of a run, what is refused at the door."""

import dataclasses
import json
from dataclasses import replace

import pytest

from lth import data, models
from lth.lab import config
from lth.lab.build import names
from lth.lab.config import (
    ConfigError,
    Experiment,
    identity,
    parse,
    presets,
    settings,
    validate,
)

STEPS = [
    ("500it", 500),
    ("500", 500),
    ("10ep", 70),
    ("2ep50it", 64),
    ("0", 0),
    ("0ep", 0),
]


@pytest.mark.parametrize(("text", "steps"), STEPS)
def test_step_grammar(text, steps):
    assert parse.parse_steps(text, epoch=7, flag="--steps") == steps


@pytest.mark.parametrize(
    "text", ["", "ep", "5 it", "-3it", "3it2ep", "1.5ep", "1e3", "x"]
)
def test_what_is_no_number_of_steps(text):
    with pytest.raises(
        ConfigError, match=r"--steps is a number of steps such as 500it"
    ):
        parse.parse_steps(text, epoch=7, flag="--steps")


def fields(kind, prefix=()):
    for field in dataclasses.fields(kind):
        default = (
            field.default_factory()
            if field.default is dataclasses.MISSING
            else field.default
        )
        if dataclasses.is_dataclass(default):
            yield from fields(type(default), (*prefix, field.name))
        else:
            yield (*prefix, field.name), default


def changed(experiment, path, value):
    if len(path) == 1:
        return replace(experiment, **{path[0]: value})
    inner = changed(getattr(experiment, path[0]), path[1:], value)
    return replace(experiment, **{path[0]: inner})


def another(path, value):
    """A value of the same type that means something else."""
    if path[-1] == "densities":
        return "0.5,0.1"
    if path[-1] == "cuts":
        return "0.5sd"
    if isinstance(value, str):
        return "7it" if value[:1].isdigit() or not value else "other=0.3"
    return (1,) if isinstance(value, tuple) else value + 1


@pytest.mark.parametrize("path", [path for path, _ in fields(Experiment)], ids=".".join)
def test_the_id_covers_what_changes_the_result_and_nothing_else(path):
    base = replace(Experiment(), prune=config.Prune(rates="a=0.1"))
    value = {**dict(fields(Experiment)), ("prune", "rates"): "a=0.1"}[path]
    other = changed(base, path, another(path, value))
    same = identity.identity(other) == identity.identity(base)
    assert same == (path[0] in config.EXTENDING)


def test_spellings_of_one_value_are_one_run():
    a = replace(
        Experiment(),
        steps="600",
        optimizer=config.Optimizer(momentum=0, milestones="100, 2ep"),
        prune=config.Prune(rates="a=0.10,b=0.2"),
    )
    b = replace(
        Experiment(),
        steps="600it",
        optimizer=config.Optimizer(momentum=0.0, milestones="100it,2ep0it"),
        prune=config.Prune(rates="b=.2,a=.1"),
    )
    assert identity.identity(a) == identity.identity(b)


def test_a_field_that_is_newer_than_a_run_has_its_default_there():
    """So runs of an older lth are opened, and have the id they had."""
    experiment = replace(Experiment(), batch_size=61)
    stored = identity.as_dict(experiment)
    del stored["levels"], stored["model"]["width"]
    assert identity.from_dict(stored) == experiment


def test_a_run_remembers_the_most_that_was_asked_of_it():
    old = replace(Experiment(), levels=9, controls="shuffle", checkpoint_at="5it")
    new = replace(Experiment(), levels=3, controls="reinit,shuffle")
    fields = identity.extended(identity.as_dict(new), identity.as_dict(old))
    whole = identity.from_dict(fields)
    assert (whole.levels, whole.controls) == (9, "shuffle,reinit")
    assert whole.checkpoint_at == "5it"
    assert whole == replace(
        old, levels=9, controls="shuffle,reinit", checkpoint_at="5it"
    )


LEARNED = [f"{p}-{m}" for p, methods in presets.SUPERMASKS.items() for m in methods]


@pytest.mark.parametrize("name", [*presets.PRESETS, *LEARNED])
def test_presets_are_sound_and_survive_json(name):
    experiment = presets.named(name).experiment
    validate.check(experiment)
    stored = json.loads(json.dumps(identity.as_dict(experiment)))
    assert identity.from_dict(stored) == experiment


def test_choices_name_what_exists():
    # The Literal types repeat these names so that --help needs no JAX.
    assert config.Data.__annotations__["name"].__args__ == (
        *data.SOURCES,
        "images",
    )
    assert config.Model.__annotations__["name"].__args__ == tuple(names.NETWORKS)
    assert config.Model.__annotations__["norm_scale"].__args__ == tuple(
        models.NORM_SCALES
    )
    assert config.Model.__annotations__["initialiser"].__args__ == tuple(
        models.INITIALISERS
    )
    methods = ("none", *names.LEARNERS)
    assert config.Learn.__annotations__["method"].__args__ == methods


REFUSED = [
    ({"levels": -1}, "--levels is at least 0; got -1"),
    ({"replicates": 0}, "--replicates is at least 1; got 0"),
    ({"batch_size": 0}, "--batch-size is at least 1"),
    ({"prune": {"rate": 1.0}}, r"--prune.rate is in \(0, 1\); got 1.0"),
    ({"prune": {"rate": 0.0}}, "--prune.rate"),
    ({"prune": {"rates": "output"}}, "PATTERN=RATE"),
    ({"prune": {"rates": "output=1.5"}}, r"rates in \[0, 1\); got 'output=1.5'"),
    ({"prune": {"rates": "a=.1", "scope": "global"}}, "choose --prune.scope layer"),
    (
        {"controls": "reinit,shufle"},
        "shuffle, invert, rewind, train, shuffle_global, .*, mix, .*, each once",
    ),
    ({"prune": {"structure": "block:0x2"}}, "block:HxW, .*; got 'block:0x2'"),
    ({"prune": {"structure": "4:2"}}, "N:M with N < M, .*; got '4:2'"),
    ({"prune": {"densities": "0.2,0.5"}}, "falling list of fractions .*'0.2,0.5'"),
    ({"prune": {"densities": "half"}}, "falling list of fractions .*'half'"),
    ({"prune": {"densities": "1.0"}}, "falling list"),
    ({"prune": {"densities": ".5", "rates": "a=.1"}}, "give --prune.rates ''"),
    ({"prune": {"rates": "a=.1", "scope": "erk"}}, "scope erk they have none"),
    ({"prune": {"dense": "output"}}, "--prune.dense is of --prune.scope er and erk"),
    ({"prune": {"structure": "2:4", "scope": "layer"}}, "2:4 is a density in every"),
    ({"prune": {"scope": "erk", "structure": "filter"}}, "erk counts weights, and"),
    (
        {"prune": {"structure": "filter", "criterion": "large_final_same_sign"}},
        "excludes single weights, and --prune.structure filter prunes them together",
    ),
    (
        {"prune": {"structure": "filter", "criterion": "mean_activation"}},
        "scores what a layer reads, .* --prune.structure channel fits it",
    ),
    (
        {"prune": {"at": "early", "criterion": "adam_second_moment"}},
        "at --rewind.to 0 it has seen nothing",
    ),
    ({"prune": {"rounds": 3}}, "--prune.rounds is of --prune.at early"),
    ({"prune": {"rounds": 0}}, "--prune.rounds is at least 1; got 0"),
    ({"prune": {"batches": 0}}, "--prune.batches is at least 1; got 0"),
    (
        {"prune": {"at": "early"}, "rewind": {"mode": "finetune"}},
        "--prune.at early prunes weights that are not trained yet",
    ),
    ({"prune": {"at": "early", "criterion": "movement"}}, "there is no training yet"),
    (
        {"prune": {"criterion": "movement"}, "rewind": {"mode": "learning_rate"}},
        "mode is weights or weights_low_rate; got learning_rate",
    ),
    (
        {"prune": {"criterion": "adam_second_moment"}, "optimizer": {"name": "sgd"}},
        "reads Adam's state; got --optimizer.name sgd",
    ),
    (
        {"prune": {"criterion": "synflow"}, "model": {"name": "vit"}},
        "needs a network of ReLUs; vit centres",
    ),
    ({"prune": {"precision": "float64"}}, "is of --prune.criterion synflow"),
    ({"controls": "invert"}, "--controls invert .* goes with --prune.at early"),
    ({"controls": "reinit,reinit"}, "each once; got 'reinit,reinit'"),
    ({"controls": "reinit", "rewind": {"mode": "finetune"}}, "mode weights alone"),
    ({"first_replicate": 2**31}, "--first-replicate"),
    ({"first_replicate": 2**31 - 2, "replicates": 3}, "the last replicate"),
    ({"data": {"split_seed": -1}}, "--data.split-seed"),
    ({"optimizer": {"learning_rate": float("nan")}}, "--optimizer.learning-rate"),
    ({"optimizer": {"learning_rate": -1.0}}, "--optimizer.learning-rate is above 0"),
    ({"optimizer": {"momentum": 0.9}}, "belongs to sgd"),
    ({"model": {"widths": (3, 0)}}, "--model.widths is at least 1"),
    ({"model": {"name": "transformer"}}, "transformer does not fit --data.name mnist"),
    ({"data": {"name": "tinyshakespeare"}}, "mlp does not fit.*takes transformer"),
    ({"model": {"remat": True}}, "--model.remat works by blocks, and mlp has none"),
    ({"model": {"depth": 3}}, "the depth of mlp is in its name"),
    ({"model": {"width": 0.5}}, "give --model.widths"),
    ({"data": {"classes": (3,)}}, "two or more different classes"),
    ({"data": {"name": "regression", "label_noise": 0.1}}, "is of labelled images"),
    ({"data": {"name": "images"}}, "--replicates 1 and its own --first-replicate"),
    ({"optimizer": {"nesterov": True, "name": "sgd"}}, "momentum above 0"),
    ({"optimizer": {"cosine": True, "milestones": "5it"}}, "two schedules"),
    ({"controls": "train"}, "--controls train .* goes with --learn.method"),
    ({"learn": {"keep": 0.3}}, "--learn.keep is of --learn.method edge_popup, multi"),
    ({"learn": {"keep": 0.0}}, r"--learn.keep is in \(0, 1\]; got 0.0"),
    ({"learn": {"every": 0}}, "--learn.every is at least 1; got 0"),
    ({"learn": {"start": 1.0}}, r"--learn.start is in \(0, 1\); got 1.0"),
    ({"learn": {"threshold": 0.0}}, r"--learn.threshold is in \(0, 1\); got 0.0"),
    (
        {"learn": {"method": "movement", "threshold": 0.2}},
        "--learn.threshold is of --learn.method movement_soft; got movement",
    ),
    ({"learn": {"penalty": -1.0}}, "--learn.penalty is at least 0; got -1.0"),
    (
        {"learn": {"method": "bernoulli", "penalty": 0.1}},
        "--learn.penalty is of --learn.method hard_concrete, continuous, movement_soft;"
        " got bernoulli",
    ),
    (
        {"learn": {"optimizer": config.Optimizer(learning_rate=0.0)}},
        "--learn.optimizer.learning-rate is above 0; got 0.0",
    ),
    (
        {"learn": {"optimizer": config.Optimizer(name="sgd")}},
        "--learn.optimizer goes with --learn.method",
    ),
    ({"learn": {"method": "movement"}}, "--levels is 0: nothing is pruned after"),
    ({"learn": {"method": "movement"}, "levels": 0}, "only --prune.include and"),
    (
        {"learn": {"method": "movement"}, "levels": 0, "prune": {"scope": "global"}}
        | {"rewind": {"to": "5it"}},
        "nothing is rewound: masks are learned for the",
    ),
    (
        {"rewind": {"mode": "learning_rate"}},
        "mode learning_rate needs a learning rate that changes: with a constant one it "
        "is --rewind.mode finetune",
    ),
    (
        {"rewind": {"mode": "weights_low_rate"}},
        "with a constant one it is --rewind.mode weights;",
    ),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_settings_out_of_range_are_refused(change, message):
    experiment = Experiment(prune=config.Prune(scope="layer"))
    for name, value in change.items():
        new = (
            replace(getattr(experiment, name), **value)
            if isinstance(value, dict)
            else value
        )
        experiment = replace(experiment, **{name: new})
    with pytest.raises(ConfigError, match=message):
        validate.check(experiment)


def test_settings_are_changed_as_python_gives_them():
    name, e = settings.configured(
        presets.PRESETS["digits"].experiment,
        {
            "levels": 3,
            "prune": {"rate": 0.5, "scope": "global", "rates": ()},
            "rewind.to": 20,
            "steps": "2ep",
            "controls": ("reinit", "shuffle"),
            "checkpoint_at": [0, 100],
            "model": config.Model(widths=(30, 10)),
            "learn": {"optimizer": {"momentum": 0.9}},
            "learn.optimizer.cosine": True,
            "data.classes": [3, 1],
        },
    )
    assert (e.levels, e.steps, e.rewind.to) == (3, "2ep", "20")
    assert (e.prune.rate, e.prune.scope, e.prune.rates) == (0.5, "global", "")
    assert (e.controls, e.checkpoint_at) == ("reinit,shuffle", "0,100")
    assert (e.model.widths, e.data.classes) == ((30, 10), (3, 1))
    moves = {"momentum": 0.9, "cosine": True}
    assert e.learn.optimizer == replace(Experiment().learn.optimizer, **moves)
    assert settings.configured(e, {}) == (name, e)
    assert name == "experiment"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": 3}, "no setting 'level': perhaps levels.*Experiment has data, mod"),
        ({"prune.rte": 0.5}, "no setting 'prune.rte': perhaps .*rate.*Prune has crit"),
        ({"prune": {"rte": 0.5}}, "no setting 'prune.rte': perhaps .*rate"),
        ({"xyzzy": 1}, "there is no setting 'xyzzy'; Experiment has"),
        ({"levels": "3"}, "config.levels cannot be '3'"),
        ({"levels": 3.5}, "config.levels cannot be 3.5"),
        ({"levels": True}, "config.levels cannot be True"),
        ({"steps": 2.5}, "config.steps cannot be 2.5"),
        ({"prune.scope": "lyer"}, "config.prune.scope cannot be 'lyer'"),
        ({"model.remat": 1}, "config.model.remat cannot be 1"),
        ({"prune": 0.5}, "config.prune is a table of fields; got 0.5"),
        ({"prune.rate": "half"}, "the setting 'prune.rate' is a number; got 'half'"),
        ({"prune": {"rate": "0.5"}}, "the setting 'prune.rate' is a number; got '0.5'"),
        ({"levels.rate": 1}, "no setting 'levels.rate': 12 has no fields"),
    ],
)
def test_a_setting_that_is_none_or_cannot_be_so_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        settings.configured(Experiment(), change)


def test_stored_configurations_are_not_trusted():
    stored = identity.as_dict(Experiment())
    with pytest.raises(ConfigError, match="unknown fields: extra"):
        identity.from_dict({**stored, "extra": 1})
    with pytest.raises(ConfigError, match=r"config.levels cannot be 'many'"):
        identity.from_dict({**stored, "levels": "many"})
    with pytest.raises(ConfigError, match=r"config.rewind.mode cannot be 'back'"):
        identity.from_dict({**stored, "rewind": {**stored["rewind"], "mode": "back"}})
    with pytest.raises(ConfigError, match=r"config.data is a table of fields; got 3"):
        identity.from_dict({**stored, "data": 3})
