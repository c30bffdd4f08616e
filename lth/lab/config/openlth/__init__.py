"""The settings of an OpenLTH run as ours: what `hparams.log` says, and what differs.

What has no counterpart is refused by its name and value; what differs is said. Steps
become iterations, so that nothing hangs on how many examples an epoch has here.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lth.lab.config.fields import (
    ConfigError,
    Data,
    Experiment,
    Optimizer,
    Prune,
    Rewind,
)
from lth.lab.config.openlth import differing, groups, networks
from lth.lab.config.openlth.groups import Groups
from lth.lab.config.parse import parse_steps

EXAMPLES = {"mnist": 60000, "cifar10": 50000}  # that OpenLTH trains on


class Settings(NamedTuple):
    """Holds a run of OpenLTH as an experiment of ours, and what that cannot say."""

    experiment: Experiment
    names: Mapping[str, str]  # of modules, ours to theirs
    ignored: tuple[str, ...]  # tensors that are never pruned, by their names
    files: tuple[str, str]  # of weights where trainings begin and end
    rewinds: bool  # to a step after the first
    differs: tuple[str, ...]  # from a run that OpenLTH would continue, in sentences


def read(
    text: str, levels: int, replicates: Sequence[int], validation: int = 0
) -> Settings:
    """Read `hparams.log`.

    Args:
      text: What it says.
      levels: Pruning rounds of the run.
      replicates: Their numbers.
      validation: Training examples to hold out for the levels to come; 0: as many as
        leave an epoch as many iterations as it had.

    Returns:
      The settings.

    Raises:
      ConfigError: for a setting that has no counterpart.
    """
    found = groups.parse(text)
    data, training = found["Dataset"], found["Training"]
    name = groups.one(data, "dataset_name", EXAMPLES)
    batch = groups.number(data, "batch_size", int)
    if not 1 <= batch <= EXAMPLES[name]:
        raise ConfigError(f"OpenLTH's batch_size {batch} is none of {name}")
    per_epoch = math.ceil(EXAMPLES[name] / batch)
    to = _rewinding(found, per_epoch)
    model, names = networks.network(found["Model"], name)
    ignored = networks.ignored(found["Pruning"], names)
    optimizer = _optimizer(training, per_epoch)
    moves = optimizer.name == "adam" or optimizer.momentum
    held = validation or max(1, EXAMPLES[name] - (per_epoch - 1) * batch - 1)
    augment = name == "cifar10" and not data.get("do_not_augment")
    back = {theirs: ours for ours, theirs in names.items()}
    exclude = "|".join(
        f"^{back[tensor.removesuffix('.weight')]}/kernel$" for tensor in ignored
    )
    experiment = Experiment(
        data=Data(
            name=name,  # type: ignore[arg-type]
            validation=held,
            pixels="openlth",
            augment="crop_flip" if augment else "none",
        ),
        model=model,
        optimizer=optimizer,
        prune=Prune(
            rate=groups.number(found["Pruning"], "pruning_fraction", float),
            exclude=exclude,
        ),
        rewind=Rewind(to=f"{to}it", moments="drop" if to and moves else "keep"),
        batch_size=batch,
        steps=f"{groups.steps(training, 'training_steps', per_epoch)}it",
        eval_every=f"{per_epoch}it",
        levels=levels,
        replicates=len(replicates),
        first_replicate=min(replicates),
    )
    start = found["Pretraining Training"]["training_steps"] if to else "0ep"
    differs = (
        *differing.of_data(found, held, EXAMPLES[name]),
        *differing.of_training(found, ignored, to),
    )
    ends = (
        groups.model_file(start, per_epoch),
        groups.model_file(training["training_steps"], per_epoch),
    )
    return Settings(experiment, names, ignored, ends, to > 0, differs)


def _rewinding(found: Groups, per_epoch: int) -> int:
    """The step that levels are rewound to, which OpenLTH calls pretraining."""
    before = found.get("Pretraining Training")
    if before is None:
        return 0
    same = {**found["Training"], "training_steps": before.get("training_steps", "")}
    if before != same or found.get("Pretraining Dataset") != found["Dataset"]:
        raise ConfigError(
            "this run was pretrained on other data or with other settings than it was "
            "trained: only OpenLTH's --rewinding_steps can be imported"
        )
    return groups.steps(before, "training_steps", per_epoch)


def _optimizer(group: Mapping[str, str], per_epoch: int) -> Optimizer:
    name = groups.one(group, "optimizer_name", {"sgd": 0, "adam": 0})
    plain = groups.number(group, "momentum", float, 0.0)
    ahead = groups.number(group, "nesterov_momentum", float, 0.0)
    decay = groups.number(group, "weight_decay", float, 0.0)
    if name == "adam" and decay:
        raise ConfigError(
            f"OpenLTH's adam with weight_decay {decay:g} adds it to the gradient, and "
            "adam here is AdamW: a run with it cannot be imported"
        )
    milestones = [s for s in group.get("milestone_steps", "").split(",") if s]
    at = [parse_steps(s, per_epoch, "OpenLTH's milestone_steps") for s in milestones]
    warmup = group.get("warmup_steps", "0it")
    return Optimizer(
        name=name,  # type: ignore[arg-type]
        learning_rate=groups.number(group, "lr", float),
        momentum=(plain or ahead) if name == "sgd" else 0.0,
        nesterov=name == "sgd" and ahead > 0,
        weight_decay=decay,
        warmup=f"{parse_steps(warmup, per_epoch, 'warmup_steps')}it",
        milestones=",".join(f"{step}it" for step in at),
        drop=groups.number(group, "gamma", float, 0.1) if milestones else 0.1,
    )
