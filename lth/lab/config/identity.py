"""An experiment as JSON, and the id of a run: a hash of what changes its numbers."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, get_type_hints

from lth.lab.config.fields import EXTENDING, ConfigError, Experiment
from lth.lab.config.parse import (
    STEPS,
    parse_cuts,
    parse_densities,
    parse_rates,
    split_list,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def identity(experiment: Experiment) -> str:
    """The id of a run: a hash of every field that changes the numbers it gives.

    Spellings of one value (600 and 600it, 1 and 1.0) give one id; 10ep and the number
    of iterations it comes to do not, for that depends on the data. Fields left at their
    default are no part of it, so a field that is new in `lth` does not change the ids
    of runs made before it; hence a default is never changed.
    """
    return _hashed(as_dict(experiment), goes=" with all that belongs to it")


def of_kernels(fields: dict[str, Any]) -> str:
    """Return the id that a run of filters or channels had when kernels alone lost them.

    Their biases and normalisations lived on. Such runs can be read, and no longer be
    continued. The fields are those of `as_dict`.
    """
    return _hashed(fields, goes="")


def _hashed(fields: dict[str, Any], goes: str) -> str:
    """The id; `goes` says how a filter or channel does, if other than it once did."""
    fields, defaults = _canonical(fields), _canonical(as_dict(Experiment()))
    if fields["prune"]["structure"] in ("filter", "channel"):
        fields["prune"]["structure"] += goes
    text = json.dumps(_chosen(fields, defaults), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _canonical(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that make up an id, each in one spelling."""
    for name in EXTENDING:
        del fields[name]
    for name in ("steps", "eval_every"):
        fields[name] = _spelling(fields[name])
    fields["rewind"]["to"] = _spelling(fields["rewind"]["to"])
    for optimizer in (fields["optimizer"], fields["learn"]["optimizer"]):
        optimizer["warmup"] = _spelling(optimizer["warmup"])
        optimizer["milestones"] = [
            _spelling(m) for m in split_list(optimizer["milestones"])
        ]
    for name in ("begin", "end", "every"):
        fields["dynamic"][name] = _spelling(fields["dynamic"][name])
    prune = fields["prune"]
    prune["cuts"] = [list(cut) for cut in parse_cuts(prune["cuts"])]
    prune["densities"] = parse_densities(prune["densities"])
    prune["rates"] = sorted(parse_rates(prune["rates"]).items())
    return fields


def _chosen(fields: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The fields that are not at their default."""
    result = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            value = _chosen(value, defaults[name])
            if value:
                result[name] = value
        elif value != defaults[name]:
            result[name] = value
    return result


def _spelling(steps: str) -> str:
    match = STEPS.fullmatch(steps)
    return f"{int(match[1] or 0)}ep{int(match[2] or 0)}it" if match else steps


def extended(new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """Return fields with what the same run, asked for before, has beyond them.

    Both are as `as_dict` gives them.
    """
    whole = {**new, "levels": max(new["levels"], old["levels"])}
    for name in "controls", "checkpoint_at":
        every = split_list(old[name]) + split_list(new[name])
        whole[name] = ",".join(dict.fromkeys(every))
    return whole


def as_dict(values: "DataclassInstance") -> dict[str, Any]:
    """The fields of a dataclass as JSON holds them; `from_dict` reads them back."""
    return json.loads(json.dumps(dataclasses.asdict(_typed(values))))


def flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the fields by names with dots."""
    found = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def apart(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Return the fields in which an experiment differs from another, with dots."""
    base = flat(theirs)
    return {name: value for name, value in flat(ours).items() if value != base[name]}


def _typed(values: "DataclassInstance") -> "DataclassInstance":
    """The dataclass with whole numbers in fields of type float made floats."""
    changes = {}
    for name, hint in hints(type(values)).items():
        value = getattr(values, name)
        if hint is float:
            changes[name] = float(value)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            changes[name] = _typed(value)
    return dataclasses.replace(values, **changes)


@cache  # of a thousand cells it was two thirds of the time until their ids were known
def hints(kind: type) -> dict[str, Any]:
    """Return the types of the fields of a dataclass."""
    return get_type_hints(kind)


def from_dict(values: Any, kind: type = Experiment, where: str = "config") -> Any:
    """A dataclass from JSON; unknown and mistyped fields are errors."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is a table of fields; got {values!r}")
    known = hints(kind)
    odd = set(values) - set(known)
    if odd:
        raise ConfigError(f"{where} has unknown fields: {', '.join(sorted(odd))}")
    built = {}
    for name, hint in known.items():
        if name not in values:
            continue  # a field newer than the file: its default is what was meant
        value = values[name]
        if dataclasses.is_dataclass(hint):
            built[name] = from_dict(value, hint, f"{where}.{name}")  # type: ignore[arg-type]
            continue
        good = {
            int: isinstance(value, int) and not isinstance(value, bool),
            float: isinstance(value, int | float),
            bool: isinstance(value, bool),
            str: isinstance(value, str),
            tuple[int, ...]: isinstance(value, list)
            and all(isinstance(v, int) for v in value),
        }.get(hint, value in getattr(hint, "__args__", ()))
        if not good:
            raise ConfigError(f"{where}.{name} cannot be {value!r}")
        built[name] = tuple(value) if isinstance(value, list) else value
    return kind(**built)


def of_fingerprint(fingerprint: Mapping[str, Any]) -> str:
    """Return the id of a run of functions of one's own; more levels keep it."""
    text = json.dumps({**fingerprint, "densities": []}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]
