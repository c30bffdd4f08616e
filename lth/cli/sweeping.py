"""The command `lth sweep`: many runs, and one table of what differs among them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import tyro

from lth.cli import flags as typed
from lth.cli import own, running, swept, terminal
from lth.lab import compiler
from lth.lab.config import ConfigError, Experiment, grid, identity, settings, validate
from lth.lab.config.presets import ALIASES, PRESETS, named

USAGE = """usage: lth sweep PRESET --over FIELD=VALUE,VALUE … [flags of lth run]
       lth sweep FILE.py:CELLS [--FIELD VALUE …]

  lth sweep digits --over prune.criterion=magnitude,snip --over rewind.to=0it,500it
"""


@dataclass(frozen=True)
class BaseFlags:
    """What all cells have in common."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")] = field(
        default_factory=Experiment
    )


def sweep(args: list[str]) -> int:
    """lth sweep PRESET --over FIELD=VALUE,VALUE …, or lth sweep FILE.py:CELLS"""
    if not args or args[0].startswith("-"):
        terminal.output.print(USAGE, markup=False)
        if {"-h", "--help"} & set(args):
            _parsed(["--help"], "lth sweep PRESET")
        return 2
    what, (over, rest) = args[0], _parted_over(args[1:])
    ours, others = typed.parted(rest, swept.SweepFlags)
    flags = _parsed(ours, f"lth sweep {what}")
    axes = grid.parse_over(over)
    if ".py" in what:
        cells, name = _of_file(what, axes, others), flags.name
    else:
        cells, name = _of_preset(what, axes, others), flags.name or _preset(what)
    if flags.collect is not None and flags.collect.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"--collect is a .csv or .parquet file; got {flags.collect}")
    if flags.deterministic:
        compiler.make_deterministic()
    return swept.carry_out(cells, name, flags)


def _parsed(args: list[str], prog: str) -> swept.SweepFlags:
    about = "Beside these, every flag of 'lth run PRESET' that says what a run is."
    read = typed.read(args, swept.SweepFlags)
    return tyro.cli(swept.SweepFlags, args=read, prog=prog, description=about)


def _parted_over(args: list[str]) -> tuple[list[str], list[str]]:
    """What is varied, and the other arguments: lists have commas of their own."""
    over, rest, taking = [], [], False
    for arg in args:
        if arg == "--over" or arg.startswith("--over="):
            taking = arg == "--over"
            over += [] if taking else [arg.removeprefix("--over=")]
        elif taking and not arg.startswith("--"):
            over.append(arg)
        else:
            taking = False
            rest.append(arg)
    return over, rest


def _preset(what: str) -> str:
    """The name of a preset as runs have it."""
    name = ALIASES.get(what, what)
    if named(what) is None and named(name) is None:
        raise ConfigError(running.no_preset(what, PRESETS))
    return what if named(what) else name


def _of_preset(
    what: str, axes: Mapping[str, Sequence[Any]], args: list[str]
) -> dict[str, Any]:
    """The cells of a preset; what all share are flags as of `lth run`."""
    name = _preset(what)
    preset = named(name)
    assert preset is not None
    if not axes:
        raise ConfigError(f"{what} needs --over FIELD=VALUE,VALUE…: what is varied")
    base = tyro.cli(
        BaseFlags,
        args=typed.read(args, BaseFlags),
        default=BaseFlags(preset.experiment),
        prog=f"lth sweep {what}",
        config=(tyro.conf.FlagCreatePairsOff,),
    ).experiment
    usual = identity.as_dict(preset.experiment)
    cells = {}
    for cell, changes in grid.grid(axes).items():
        _, e = settings.configured(base, changes)
        same = validate.same_rewinding(e.rewind, e.optimizer)
        if same != e.rewind.mode:
            terminal.errors.print(
                f"lth: {cell} is --rewind.mode {same}, for the learning rate does not "
                "change; it does with --optimizer.cosine, .milestones or .warmup"
            )
            _, e = settings.configured(e, {"rewind.mode": same})
        cells[cell] = name, identity.apart(identity.as_dict(e), usual)
    return cells


def _of_file(
    text: str, axes: Mapping[str, Sequence[Any]], args: list[str]
) -> dict[str, Any]:
    """The cells of a file, each with the fields that are given."""
    given = _fields(args)
    cells = {}
    for name, what in own.cells(text).items():
        if callable(what):
            flags = {f: v for f, v in given.items() if "." not in f}
            if axes:
                raise ConfigError(f"cell {name} is a function: it has no --over")
            cells[name] = partial(own.made, text, name, flags)
            continue
        for combined, changes in grid.grid(axes).items():
            cell = f"{name},{combined}" if combined else name
            if isinstance(what, tuple):
                cells[cell] = what[0], {**what[1], **given, **changes}
            else:
                _, cells[cell] = settings.configured(what, {**given, **changes})
    return cells


def _fields(args: list[str]) -> dict[str, Any]:
    """Fields of an experiment, given as flags to every cell of a file."""
    typed.read(args, BaseFlags)  # refuses what is no flag
    known = grid.fields()
    text = " ".join(args).replace("=", " ")
    found = {}
    for part in re.split(r"(?:^|\s)--", text)[1:]:
        name, _, value = part.partition(" ")
        name = name.replace("-", "_")
        hint = known[name]
        found[name] = grid.value(name, hint, value.strip() or "true", f"--{name}")
    return found
