"""Amounts: the annotated parameters of a function that makes a branch or a probe."""

import hashlib
import inspect
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lth.lab.config import parse


def whole(make: Callable) -> Callable:
    """Return the function that has its first arguments already, or itself."""
    while isinstance(make, partial):
        make = make.func
    return make


def usual(make: Callable) -> dict[str, Any]:
    """Return the amounts of a function that makes something, at their defaults."""
    every = inspect.signature(make).parameters.values()
    return {p.name: p.default for p in every if p.default is not p.empty}


def made(
    table: Mapping[str, Callable], name: str, amounts: Mapping[str, Any], what: str
) -> tuple[Any, str]:
    """Make what a name and amounts stand for.

    Args:
      table: Functions that make such things, by name.
      name: Which of them.
      amounts: Its arguments.
      what: What it is called in errors, such as `probe`.

    Returns:
      What was made, and what it is called: its name, with what is not usual.

    Raises:
      ValueError: for a name and an amount that are not there, with those that are.
    """
    if name not in table:
        there = ", ".join(table)
        several = {"branch": "branches"}.get(what, f"{what}s")
        guess = parse.perhaps(name, table)
        raise ValueError(f"{several} by name are {there}; got {name!r}{guess}")
    known = usual(table[name])
    for amount in amounts:
        if amount not in known:
            there = ", ".join(known) or "none"
            raise ValueError(f"amounts of the {what} {name} are {there}; got {amount}")
    amounts = read(table[name], amounts)
    return table[name](**amounts), called(name, amounts, known)


def read(make: Callable, amounts: Mapping[str, Any]) -> dict[str, Any]:
    """Return amounts as their annotations have them: 1 is 1.0 where that is a number.

    Raises ValueError for a word that is none of those allowed.
    """
    hints, found = get_type_hints(whole(make)), {}
    for name, value in amounts.items():
        hint = hints.get(name)
        if hint is float and type(value) is int:
            value = float(value)
        if get_origin(hint) is Literal and value not in get_args(hint):
            allowed = ", ".join(map(str, get_args(hint)))
            raise ValueError(f"{name} is one of {allowed}; got {value!r}")
        found[name] = value
    return found


def called(name: str, amounts: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """Say what something of these amounts is called, as in `noise-scale=0.5`."""
    told = [
        f"{amount}={_short(str(amounts[amount]))}"
        for amount in known
        if amount in amounts and amounts[amount] != known[amount]
    ]
    return "-".join([name, *told])


def _short(text: str) -> str:
    """A value as it is, of a path its last part, told apart from others of that name.

    A run directory that ends with the run's id needs nothing more.
    """
    *folders, last = text.rstrip("/").split("/")
    if not folders or re.search("-[0-9a-f]{10}$", last):
        return last
    return f"{last}-{hashlib.sha256(os.path.abspath(text).encode()).hexdigest()[:8]}"
