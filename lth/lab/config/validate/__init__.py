"""What can be seen to be wrong with an experiment before any data is read."""

from collections.abc import Mapping
from typing import Any

from lth.lab.config import (
    ABLATIONS,
    CONTROLS,
    MASK_0,
    NORMS,
    SEEDS,
    ConfigError,
    Data,
    Dynamic,
    Experiment,
    Learn,
    Model,
    Optimizer,
    Prune,
    Rewind,
)
from lth.lab.config.parse import parse_steps, perhaps, split_list
from lth.lab.config.validate import effects, learning, moving, pruning
from lth.lab.config.validate.pruning import WITHOUT_NORM

IN_ONE_PIECE = ("mlp", "lenet5", "conv2", "conv4", "conv6", "conv8")
FOR = {"tinyshakespeare": ("transformer",), "regression": ("mlp",)}


def check(e: Experiment) -> None:
    """Refuse what can be seen to be wrong before any data is read."""
    last = e.first_replicate + e.replicates - 1
    for flag, value, good, allowed in (
        ("--levels", e.levels, e.levels >= 0, "at least 0"),
        ("--replicates", e.replicates, e.replicates >= 1, "at least 1"),
        (
            "--first-replicate",
            e.first_replicate,
            e.first_replicate in SEEDS,
            "in [0, 2**31)",
        ),
        ("the last replicate", last, last in SEEDS, "in [0, 2**31)"),
        ("--batch-size", e.batch_size, e.batch_size >= 1, "at least 1"),
        *_limits(e.data, e.model, e.prune),
        *_optimizer_limits("--optimizer", e.optimizer),
        *_optimizer_limits("--learn.optimizer", e.learn.optimizer),
    ):
        if not good:
            raise ConfigError(f"{flag} is {allowed}; got {value}")
    found = e.learn.method != "none" or e.dynamic.rule != "none"
    _check_controls(e.controls, e.prune, e.rewind, e.model, found)
    _check_model(e.model, e.data.name)
    _check_data(e.data, e.replicates)
    pruning.check(e.prune, e.rewind, e.optimizer, e.model)
    if found and e.prune.structure in ("filter", "channel"):
        raise ConfigError(
            f"--prune.structure {e.prune.structure} prunes whole channels of networks "
            "trained dense: it goes without --learn.method and --dynamic.rule"
        )
    if e.prune.surgery == "sparse_gpt" and e.levels > 1:
        raise ConfigError(
            "--prune.surgery sparse_gpt prunes a dense network at once: --levels is at "
            f"most 1; got {e.levels}"
        )
    outside = learning.Outside(
        e.levels, e.controls, e.checkpoint_at, e.prune, e.rewind, e.optimizer
    )
    if e.learn != Learn():
        learning.check(e.learn, e.data.name, outside)
    around = moving.Outside(
        e.levels, e.checkpoint_at, e.learn.method, e.data.name, e.rewind.to
    )
    if e.dynamic != Dynamic():
        moving.check(e.dynamic, around)
    _check_optimizer("--optimizer", e.optimizer)
    _check_optimizer("--learn.optimizer", e.learn.optimizer)
    _check_effects(vars(e))
    _check_rewinding(e.rewind, e.optimizer)


def _check_effects(sections: Mapping[str, Any]) -> None:
    """Refuse a field that differs from its default where it has no effect."""
    default = vars(Experiment())
    for path, (when, asked, looked_at) in effects.EFFECTS.items():
        value, usual = field(sections, path), field(default, path)
        if value != usual and not looked_at(*(sections[name] for name in asked)):
            flag = f"--{path.replace('_', '-')}"
            if isinstance(usual, tuple):
                usual = ",".join(map(str, usual))
            raise ConfigError(
                f"{flag} {when}: here nothing would look at it. Leave it out, or give "
                f"{flag} {usual or repr(usual)}"
            )


def field(sections: Mapping[str, Any], path: str) -> Any:
    """Return the field of an experiment under names with dots."""
    first, *rest = path.split(".")
    value = sections[first]
    for name in rest:
        value = getattr(value, name)
    return value


def same_rewinding(r: Rewind, o: Optimizer) -> str:
    """Return the mode of rewinding that trains the same, where a rate is constant."""
    same = {"learning_rate": "finetune", "weights_low_rate": "weights"}
    warmup = parse_steps(o.warmup, 1, "--optimizer.warmup")
    changes = warmup or o.milestones or o.cosine
    return r.mode if changes else same.get(r.mode, r.mode)


def _check_rewinding(r: Rewind, o: Optimizer) -> None:
    same = same_rewinding(r, o)
    if same != r.mode:
        raise ConfigError(
            f"--rewind.mode {r.mode} needs a learning rate that changes: with "
            "a constant one it is --rewind.mode "
            f"{same}; give that, or --optimizer.warmup, "
            "--optimizer.milestones or --optimizer.cosine"
        )


def _check_optimizer(flag: str, o: Optimizer) -> None:
    if o.name == "adam" and (o.momentum or o.nesterov):
        raise ConfigError(f"{flag}.momentum belongs to sgd; adam has its own")
    if o.nesterov and not o.momentum:
        raise ConfigError(f"{flag}.nesterov needs {flag}.momentum above 0")
    if o.cosine and o.milestones:
        raise ConfigError(
            f"{flag}.cosine and {flag}.milestones are two schedules: give one"
        )


def _check_controls(text: str, p: Prune, r: Rewind, m: Model, found: bool) -> None:
    controls = split_list(text)
    for control in controls:
        if control not in CONTROLS or controls.count(control) > 1:
            raise ConfigError(
                f"--controls is a list of {', '.join(CONTROLS)}, each once; "
                f"got {text!r}{perhaps(control, CONTROLS)}"
            )
        if why := unfit(control, p, m, found):
            raise ConfigError(why)
    if controls and r.mode != "weights":
        raise ConfigError(
            "--controls are trained from the rewind point, so they compare with "
            f"--rewind.mode weights alone; got {r.mode}"
        )


def fitting(p: Prune, r: Rewind, m: Model, found: bool) -> list[str]:
    """Return the controls that may hang off an experiment of these sections.

    Asked for by themselves, ablations go with any way of rewinding.

    Args:
      p: How it prunes.
      r: How it rewinds.
      m: Its network.
      found: Whether its mask is found in the first training.

    Returns:
      Their names.
    """
    every = CONTROLS if r.mode == "weights" else ABLATIONS
    return [control for control in every if not unfit(control, p, m, found)]


def unfit(control: str, p: Prune, m: Model, found: bool) -> str:
    """Say why a control does not go with an experiment.

    Args:
      control: Its name.
      p: How the experiment prunes.
      m: Its network.
      found: Whether its mask is found in the first training.

    Returns:
      The reason, or an empty text where it goes with it.
    """
    if control == "invert" and p.at != "early":
        return (
            "--controls invert ranks weights that are not trained yet: it goes with "
            "--prune.at early"
        )
    if control in ("rewind", "train") and not found:
        return (
            f"--controls {control} trains under a learned mask: it goes with "
            "--learn.method or --dynamic.rule"
        )
    if control in MASK_0 and found:
        return (
            f"--controls {control} holds weights that a round of pruning has pruned; "
            "here there is none"
        )
    if control == "early_bird" and found:
        return (
            "--controls early_bird prunes the dense network of an early step; here "
            "none is trained"
        )
    if control in NORMS and m.name in WITHOUT_NORM:
        return f"--controls {control} is of networks that normalise; got {m.name}"
    return ""


def _check_model(m: Model, name: str) -> None:
    fits = FOR.get(name, ())
    if (m.name not in fits) if fits else (m.name == "transformer"):
        models = ", ".join(fits) if fits else "any but transformer"
        raise ConfigError(
            f"--model.name {m.name} does not fit --data.name {name}: that takes "
            f"{models}"
        )
    if m.remat and m.name in IN_ONE_PIECE:
        raise ConfigError(f"--model.remat works by blocks, and {m.name} has none")
    if m.depth and m.name not in ("vit", "transformer"):
        raise ConfigError(
            f"--model.depth is of vit and transformer; the depth of {m.name} is in "
            "its name"
        )
    if m.name == "mlp" and m.width != 1:
        raise ConfigError("--model.width is not of mlp; give --model.widths")


def _check_data(d: Data, replicates: int) -> None:
    if d.name in FOR:
        for flag, given in (
            ("--data.augment", d.augment != "none"),
            ("--data.classes", bool(d.classes)),
            ("--data.label-noise", bool(d.label_noise)),
        ):
            if given:
                raise ConfigError(f"{flag} is of labelled images, not of {d.name}")
    if len(set(d.classes)) < len(d.classes) or len(d.classes) == 1:
        raise ConfigError(
            f"--data.classes are two or more different classes; got {d.classes}"
        )
    if d.pixels == "openlth" and d.name not in ("mnist", "cifar10"):
        raise ConfigError(
            "--data.pixels openlth is of --data.name mnist and cifar10, whose pixels "
            f"OpenLTH scales by numbers of its own; got {d.name}"
        )
    if d.name == "images":
        for flag, given in (
            ("--data.classes", bool(d.classes)),
            ("--data.label-noise", bool(d.label_noise)),
            ("--data.examples", bool(d.examples)),
        ):
            if given:
                raise ConfigError(f"{flag} is not of images, which are read in passing")
        if replicates > 1:
            raise ConfigError(
                "images are read in the order of one replicate: run each with "
                f"--replicates 1 and its own --first-replicate; got {replicates}"
            )


def _limits(d: Data, m: Model, p: Prune) -> list[tuple[str, Any, bool, str]]:
    """Of each flag that is a number: its value, whether it is good, what is allowed."""
    infinity, seed = float("inf"), "--data.split-seed"
    widths = all(width >= 1 for width in m.widths)
    classes = all(c >= 0 for c in d.classes)
    return [
        ("--model.widths", m.widths, widths, "at least 1"),
        ("--model.width", m.width, 0 < m.width < infinity, "above 0"),
        ("--model.depth", m.depth, m.depth >= 0, "at least 0"),
        ("--data.validation", d.validation, d.validation >= 1, "at least 1"),
        (seed, d.split_seed, d.split_seed in SEEDS, "in [0, 2**31)"),
        ("--data.examples", d.examples, d.examples >= 0, "at least 0"),
        ("--data.classes", d.classes, classes, "at least 0"),
        ("--data.label-noise", d.label_noise, 0 <= d.label_noise <= 1, "in [0, 1]"),
        ("--data.length", d.length, d.length >= 2, "at least 2"),
        ("--data.size", d.size, 8 <= d.size <= 1024, "8 to 1024"),
        ("--prune.rounds", p.rounds, p.rounds >= 1, "at least 1"),
        ("--prune.reestimate", p.reestimate, p.reestimate >= 0, "at least 0"),
        ("--prune.batches", p.batches, p.batches >= 1, "at least 1"),
        ("--prune.rate", p.rate, 0 < p.rate < 1, "in (0, 1)"),
    ]


def _optimizer_limits(flag: str, o: Optimizer) -> list[tuple[str, Any, bool, str]]:
    infinity = float("inf")
    rate, decay = o.learning_rate, o.weight_decay
    return [
        (f"{flag}.learning-rate", rate, 0 < rate < infinity, "above 0"),
        (f"{flag}.momentum", o.momentum, 0 <= o.momentum < 1, "in [0, 1)"),
        (f"{flag}.weight-decay", decay, 0 <= decay < infinity, "at least 0"),
        (f"{flag}.drop", o.drop, 0 < o.drop <= 1, "in (0, 1]"),
    ]
