"""What `hparams.log` of OpenLTH says, by group and name, and how its texts are read."""

import math
import re
from collections.abc import Mapping
from typing import Any

from lth.lab.config.fields import ConfigError
from lth.lab.config.parse import parse_steps

# The groups of settings, and what of each is read; a value beside is of no effect.
GROUPS: dict[str, dict[str, str]] = {
    "Dataset": {
        "dataset_name": "",
        "batch_size": "",
        "do_not_augment": "",
        "subset_stride": "1",
    },
    "Model": {"model_name": "", "model_init": "", "batchnorm_init": ""},
    "Training": {
        "optimizer_name": "",
        "lr": "",
        "training_steps": "",
        "data_order_seed": "",
        "momentum": "",
        "nesterov_momentum": "",
        "milestone_steps": "",
        "gamma": "",
        "warmup_steps": "",
        "weight_decay": "",
        "apex_fp16": "",
    },
    "Pruning": {
        "pruning_strategy": "sparse_global",
        "pruning_fraction": "",
        "pruning_layers_to_ignore": "",
    },
}
Groups = Mapping[str, Mapping[str, str]]


def parse(text: str) -> Groups:
    """Return the settings by group and name.

    Raises ConfigError for one that is not known.
    """
    groups: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"(\w[\w ]*) Hyperparameters", line.strip()):
            groups[match[1]] = {}
        elif (match := re.fullmatch(r" *\* (\w+) => (.*)", line)) and groups:
            groups[list(groups)[-1]][match[1]] = match[2].strip()
        elif line.strip():
            raise ConfigError(f"hparams.log has a line that is no setting: {line!r}")
    for name in (*GROUPS, *groups):
        known = GROUPS.get(name.removeprefix("Pretraining "))
        if name not in groups or known is None:
            what = "lacks" if known else "has, and lth cannot read,"
            raise ConfigError(f"hparams.log {what} the group {name} Hyperparameters")
        for field, value in groups[name].items():
            if field not in known or (known[field] and value != known[field]):
                raise ConfigError(
                    f"OpenLTH's {field} {value} has no counterpart here: a run with it "
                    "cannot be imported"
                )
    return groups


def one(group: Mapping[str, str], field: str, known: Mapping[str, Any]) -> str:
    """Return the value of a field, one of those known. Raises ConfigError."""
    value = group.get(field, "")
    if value not in known:
        raise ConfigError(
            f"OpenLTH's {field} {value or 'is missing'} cannot be imported; "
            f"{', '.join(known)} can"
        )
    return value


def number(group: Mapping[str, str], field: str, kind: type, usual: Any = None) -> Any:
    """Read a field that is a number, at least 0.

    Args:
      group: The settings it is among.
      field: Its name.
      kind: int or float.
      usual: The value where it is not there; None: it must be.

    Returns:
      The number.

    Raises:
      ConfigError.
    """
    try:
        value = kind(group[field]) if field in group else usual
        if value is None or not 0 <= value < math.inf:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"OpenLTH's {field} is a number; got {group.get(field, 'none')}"
        ) from None
    return value


def steps(group: Mapping[str, str], field: str, per_epoch: int) -> int:
    """Read a field that is a length, in iterations. Raises ConfigError."""
    return parse_steps(group.get(field, ""), per_epoch, f"OpenLTH's {field}")


def model_file(text: str, per_epoch: int) -> str:
    """Return what the file of a model at that step is called."""
    epochs, rest = divmod(parse_steps(text, per_epoch, "a step"), per_epoch)
    return f"model_ep{epochs}_it{rest}.pth"
