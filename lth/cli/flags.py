"""Flags as they are typed: what was meant by an unknown one, and two ways to list.

As `config`, nothing here imports JAX.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any, get_type_hints

from lth.lab.config import ConfigError

# Lists that are texts, and so end up with commas.
TEXTS = (
    "--controls",
    "--checkpoint-at",
    "--prune.densities",
    "--prune.rates",
    "--optimizer.milestones",
    "--learn.optimizer.milestones",
)
# What other programs call it, and what it is here.
MEANT = {
    "seed": "--first-replicate",
    "seeds": "--replicates",
    "num-seeds": "--replicates",
    "epochs": "--steps",
    "num-epochs": "--steps",
    "iterations": "--steps",
    "iters": "--steps",
    "max-steps": "--steps",
    "lr": "--optimizer.learning-rate",
    "wd": "--optimizer.weight-decay",
    "optim": "--optimizer.name",
    "optimizer": "--optimizer.name",
    "batch": "--batch-size",
    "bs": "--batch-size",
    "train-batch-size": "--batch-size",
    "sparsity": "--prune.densities",
    "density": "--prune.densities",
    "pruning-rate": "--prune.rate",
    "prune-rate": "--prune.rate",
    "prune": "--prune.rate",
    "rounds": "--levels",
    "pruning-rounds": "--levels",
    "rewind": "--rewind.to",
    "rewind-to": "--rewind.to",
    "model": "--model.name",
    "arch": "--model.name",
    "network": "--model.name",
    "hidden": "--model.widths",
    "layers": "--model.widths",
    "dataset": "--data.name",
    "data": "--data.name",
    "data-path": "--data-dir",
    "data-root": "--data-dir",
    "val": "--data.validation",
    "init": "--model.initialiser",
    "initializer": "--model.initialiser",
    "bf16": "--model.compute",
    "dtype": "--model.compute",
    "augmentation": "--data.augment",
    "warmup-steps": "--optimizer.warmup",
    "gamma": "--optimizer.drop",
    "scheduler": "--optimizer.cosine",
    "l2": "--optimizer.weight-decay",
    "eval": "--eval-every",
    "eval-interval": "--eval-every",
    "log-every": "--eval-every",
    "checkpoint-every": "--save-every",
    "output": "--runs",
    "output-dir": "--runs",
    "out-dir": "--runs",
    "out": "--runs",
    "outdir": "--runs",
    "logdir": "--runs",
    "save-dir": "--runs",
    "silent": "--quiet",
}
NEEDLESS = {
    "resume": "the same command continues a run",
    "continue": "the same command continues a run",
    "verbose": "it says what it does unless told to be --quiet",
    "device": "JAX takes what there is, or what JAX_PLATFORMS says",
    "gpu": "JAX takes what there is, or what JAX_PLATFORMS says",
    "cuda": "JAX takes what there is, or what JAX_PLATFORMS says",
}


def read(args: list[str], kind: type) -> list[str]:
    """The arguments with every list as `tyro` takes it.

    Lists may be written 300,100 or 300 100. Raises ConfigError for a flag that `kind`,
    a dataclass, has not, naming what may have been meant.
    """
    known = {flag: hint for flag, _, _, hint in _leaves(kind)}
    result: list[str] = []
    flag, items = "", []
    if {"-h", "--help"} & set(args):
        describe(kind)
    for arg in [*_split(args), "--"]:
        if not arg.startswith("--") and arg != "-h":
            items.append(arg)
            continue
        result += _listed(flag, items, known.get(flag))
        flag, items = arg.replace("_", "-"), []
        own = flag in ("--", "-h", "--help") or flag.startswith("--tyro")
        switch = known.get(re.sub(r"^(--|.*\.)no-", r"\1", flag)) is bool
        if not own and not switch and flag not in known:
            raise ConfigError(_unknown(arg, kind))
    return result


def parted(args: list[str], kind: type) -> tuple[list[str], list[str]]:
    """Part the arguments: those of `kind`, a dataclass, and flags that it has not."""
    known = {flag for flag, _, _, _ in _leaves(kind)} | {"-h", "--help"}
    ours: list[str] = []
    others: list[str] = []
    part = ours
    for arg in _split(args):
        if arg.startswith("--") or arg == "-h":
            flag = re.sub("^--no-", "--", arg.replace("_", "-"))
            part = ours if flag in known else others
        part.append(arg)
    return ours, others


def _split(args: list[str]) -> Iterator[str]:
    """The arguments, --flag=value as two."""
    for arg in args:
        name, equals, value = arg.partition("=")
        if arg.startswith("--") and equals:
            yield from (name, value)
        else:
            yield arg


def _listed(flag: str, items: list[str], hint: Any) -> list[str]:
    if flag in TEXTS and items:
        items = [",".join(item.strip(", ") for item in items)]
    elif getattr(hint, "__origin__", None) is tuple and flag:
        items = [part for item in items for part in item.split(",") if part.strip()]
    return [flag, *items] if flag else items


def _unknown(arg: str, kind: type) -> str:
    """What to say of a flag that is not there."""
    helps = describe(kind)
    name = arg.removeprefix("--").replace("_", "-").lower()
    if name in NEEDLESS:
        return f"there is no flag {arg}: {NEEDLESS[name]}"
    leaf = name.rsplit(".", 1)[-1]
    same = [flag for flag in helps if flag.strip("-").rsplit(".", 1)[-1] == leaf]
    meant = [MEANT[name]] if MEANT.get(name) in helps else same
    if not meant:
        short = {flag.strip("-").rsplit(".", 1)[-1]: flag for flag in reversed(helps)}
        full = {flag.strip("-"): flag for flag in helps}
        near = difflib.get_close_matches(name, [*full, *short], n=3, cutoff=0.75)
        meant = list(dict.fromkeys({**short, **full}[n] for n in near))
    if not meant:
        return f"there is no flag {arg}; --help lists those there are"
    lines = "\n".join(f"  {flag}  {helps[flag]}" for flag in meant[:3])
    return f"there is no flag {arg}; perhaps it is\n{lines}"


def describe(kind: type) -> dict[str, str]:
    """Return the help of each flag of a dataclass, on one line.

    It becomes the fields' own, for `tyro` keeps the breaks of source lines.
    """
    from docstring_parser import parse_from_object  # a part of tyro

    result = {}
    for flag, owner, field, _ in _leaves(kind):
        texts = {  # of inherited fields too
            p.arg_name: p.description
            for base in reversed(owner.__mro__[:-1])
            for p in parse_from_object(base).params
        }
        text = " ".join((texts.get(field.name) or "").split())
        field.metadata = MappingProxyType({**field.metadata, "help": text})
        result[flag] = text
    return result


def _leaves(kind: type, prefix: str = "") -> Iterator[tuple[str, type, Any, Any]]:
    """Of each flag: its name, the dataclass it is a field of, the field, its type."""
    from tyro.conf import Positional

    hints = get_type_hints(kind)
    marks = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, name = hints[field.name], field.name.replace("_", "-")
        if Positional in getattr(marks[field.name], "__metadata__", ()):
            continue
        if not dataclasses.is_dataclass(hint):
            yield f"--{prefix}{name}", kind, field, hint
        elif field.name == "experiment":  # its fields are flags without a prefix
            yield from _leaves(hint, prefix)  # type: ignore[arg-type]
        else:
            yield from _leaves(hint, f"{prefix}{name}.")  # type: ignore[arg-type]
