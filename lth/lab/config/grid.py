"""The cells of a grid: what a sweep varies, as it is written, and as settings.

As `config`, nothing here imports JAX.
"""

import dataclasses
import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lth.lab.config import parse
from lth.lab.config.fields import EXTENDING, ConfigError, Experiment

FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
ADDING = (*EXTENDING, "replicates")  # make no run of their own, but a longer one


def parse_over(texts: Iterable[str]) -> dict[str, tuple[Any, ...]]:
    """Return the values of each field, of texts such as `prune.rate=0.2,0.5`.

    Values are parted by commas; by semicolons where they hold commas themselves, as
    lists do. Raises ConfigError for a field that is not there, one that makes no run
    of its own, and a value that the field cannot have.
    """
    axes: dict[str, tuple[Any, ...]] = {}
    known = fields()
    for text in texts:
        name, equals, listed = text.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        if not equals or not listed.strip(" ,;"):
            raise ConfigError(
                f"--over is FIELD=VALUE,VALUE… such as prune.rate=0.2,0.5; got {text!r}"
            )
        if name not in known:
            raise ConfigError(_no_field(name, known))
        if name in ADDING:
            raise ConfigError(
                f"--over {name} would make no runs of their own, for {name} add to a "
                f"run: give --{name.replace('_', '-')} the largest, once"
            )
        if name in axes:
            raise ConfigError(f"--over {name} is given twice: list all its values once")
        parts = listed.split(";" if ";" in listed else ",")
        values = [value(name, known[name], part.strip()) for part in parts]
        if len(set(map(str, values))) < len(values):
            raise ConfigError(f"--over {name} has a value twice; got {listed!r}")
        axes[name] = tuple(values)
    return axes


def grid(axes: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """Return the settings of every combination of values, by the names of the cells.

    The first field varies slowest. A name is such as `prune.rate=0.2,rewind.to=500it`.
    """
    cells = {}
    for values in itertools.product(*axes.values()):
        settings = dict(zip(axes, values, strict=True))
        name = ",".join(f"{field}={said(one)}" for field, one in settings.items())
        cells[name] = settings
    return cells


def said(value: Any) -> str:
    """Write a value as a name and a table have it: lists with +, nothing as none."""
    if isinstance(value, list | tuple):
        value = "+".join(map(str, value))
    return str(value).replace(",", "+") or "none"


def fields(kind: type = Experiment, prefix: str = "") -> dict[str, Any]:
    """Return the type of every field, by its name with dots."""
    found = {}
    for name, hint in get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            found |= fields(hint, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            found[prefix + name] = hint
    return found


def value(name: str, hint: Any, text: str, flag: str = "") -> Any:
    """Read the value of a field from its text.

    Args:
      name: Of the field.
      hint: Its type.
      text: The value, as it is written.
      flag: What it was given as, for the message; by default `--over` with the name.

    Returns:
      The value as the field holds it.

    Raises:
      ConfigError, which names what is allowed.
    """
    flag = flag or f"--over {name}"
    if get_origin(hint) is Literal:
        there = get_args(hint)
        if text not in there:
            guess = parse.perhaps(text, there)
            raise ConfigError(
                f"{flag} is one of {', '.join(there)}; got {text!r}{guess}"
            )
        return text
    try:
        if hint is bool:
            return FLAGS[text.lower()]
        if hint in (int, float):
            return hint(text)
        if get_origin(hint) is tuple:
            return tuple(int(part) for part in text.split(",") if part.strip())
    except (KeyError, ValueError):
        words = {bool: "true or false", int: "whole numbers", float: "numbers"}
        kind = words.get(hint, "lists of whole numbers, parted by semicolons")
        raise ConfigError(f"{flag} takes {kind}; got {text!r}") from None
    return text


def _no_field(name: str, known: Mapping[str, Any]) -> str:
    """What to say of a field that is not there."""
    leaf = name.rsplit(".", 1)[-1]
    near = [field for field in known if field.rsplit(".", 1)[-1] == leaf]
    near = near or [field for field in known if field.startswith(f"{name}.")]
    near = near or difflib.get_close_matches(name, known, n=3)
    near = near or difflib.get_close_matches(leaf, known, n=3, cutoff=0.4)
    perhaps = f"; perhaps {' or '.join(near)}" if near else ""
    return (
        f"--over {name}: there is no such field{perhaps}. They are the flags of 'lth "
        "run PRESET --help' without dashes"
    )
