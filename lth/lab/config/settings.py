"""An experiment with other settings, as Python gives them."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, get_type_hints

from lth.lab.config import presets
from lth.lab.config.fields import ConfigError, Experiment
from lth.lab.config.identity import as_dict, from_dict


def configured(
    what: str | Experiment, changes: Mapping[str, Any]
) -> tuple[str, Experiment]:
    """Return the name of a preset, or `experiment`, and what it is with other settings.

    `what` is that name, or an experiment. A setting is a field, such as `levels`; a
    field of a section, `"prune.rate"`; or a section with some of its fields,
    `prune={"rate": 0.5}`. Lists that are texts on the command line may be lists here,
    and steps numbers. Raises ConfigError for an unknown name, a field that is not there
    or a value that it cannot have.
    """
    if isinstance(what, Experiment):
        name, e = "experiment", what
    else:
        name = str(what)
        preset = presets.named(presets.ALIASES.get(name, name)) or presets.named(name)
        if preset is None:
            there = ", ".join(presets.PRESETS)
            raise ConfigError(f"unknown preset {what!r}; there are {there}")
        e = preset.experiment
    for path, value in changes.items():
        e = _set(e, path.split("."), value, path)
    return name, from_dict(as_dict(e))


def _set(part: Any, path: list[str], value: Any, name: str) -> Any:
    """The dataclass, of whatever kind, with another value at a path of fields."""
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        raise ConfigError(f"there is no setting {name!r}: {part!r} has no fields")
    hints = get_type_hints(type(part))
    field, *rest = path
    if field not in hints:
        near = difflib.get_close_matches(field, hints, n=3)
        perhaps = f": perhaps {' or '.join(near)}" if near else ""
        raise ConfigError(
            f"there is no setting {name!r}{perhaps}; {type(part).__name__} has "
            f"{', '.join(hints)}"
        )
    old = getattr(part, field)
    if rest:
        new = _set(old, rest, value, name)
    elif dataclasses.is_dataclass(old) and isinstance(value, dict):
        new = old
        for key, inner in value.items():
            new = _set(new, key.split("."), inner, f"{name}.{key}")
    else:
        if hints[field] is float and not isinstance(value, int | float):
            raise ConfigError(f"the setting {name!r} is a number; got {value!r}")
        new = _spelled(value, hints[field])
    return dataclasses.replace(part, **{field: new})


def _spelled(value: Any, hint: Any) -> Any:
    """A value as the field holds it."""
    if hint is str and isinstance(value, list | tuple):
        return ",".join(map(str, value))
    if hint is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return tuple(value) if isinstance(value, list) else value
