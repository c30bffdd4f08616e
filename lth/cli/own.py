"""A user's own file: its function makes a recipe, and its parameters are flags."""

import difflib
import functools
import importlib.util
import inspect
import json
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import tyro

import lth
from lth.lab.config import ConfigError

# Parameters that may add to a run without changing what it already holds.
ADDING = ("levels", "replicates", "branches", "controls", "checkpoints", "data_dir")


def function(text: str) -> Callable[..., Any]:
    """Find the function in FILE.py:FUNCTION, once the file is run.

    One of a module of `lth` itself is named by that, wherever it is installed. Raises
    ConfigError for a file that is not there or does not run, and a function that is not
    in it.
    """
    file, _, name = text.partition(":")
    path = _place(file)
    if path.suffix != ".py" or not path.is_file():
        raise ConfigError(f"there is no file {file}: lth run FILE.py:FUNCTION")
    there = inspect.getmembers(_module(path), _is_own(path))
    known = [n for n, _ in there if not n.startswith("_")]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        perhaps = f": perhaps {file}:{near[0]}" if near else ""
        what = f"has no function {name!r}" if name else "needs the name of a function"
        raise ConfigError(
            f"{file} {what}{perhaps}; it has {', '.join(known) or 'none'}"
        )
    return dict(there)[name]


def is_there(text: str) -> bool:
    """Whether the file of FILE.py:FUNCTION is found from here."""
    return _place(text.partition(":")[0]).is_file()


def cells(text: str) -> dict[str, Any]:
    """Find the cells of a sweep in FILE.py:NAME, a dict, once the file is run.

    Raises ConfigError as `function` does.
    """
    file, _, name = text.partition(":")
    path = Path(file)
    if path.suffix != ".py" or not path.is_file():
        raise ConfigError(f"there is no file {file}: lth sweep FILE.py:CELLS")
    found = getattr(_module(path), name or "CELLS", None)
    if not isinstance(found, Mapping) or not found:
        raise ConfigError(
            f"{file} has no cells {name or 'CELLS'}: a dict, by names of cells, of "
            "experiments, presets with settings, or functions that make a recipe"
        )
    return {str(cell): what for cell, what in found.items()}


def made(text: str, cell: str, flags: Mapping[str, Any]) -> Any:
    """Call the function that is a cell of FILE.py:NAME; returns its recipe.

    One that takes the flags of a study gets those of its file, with these in place.
    """
    make = cells(text)[cell]
    needed = [
        p for p in inspect.signature(make).parameters.values() if p.default is p.empty
    ]
    if not needed:
        return make(**flags)
    module = sys.modules[f"own_{Path(text.partition(':')[0]).stem}"]
    kind = getattr(module, "Flags", None) or getattr(
        getattr(module, "study", None), "Flags", None
    )
    if kind is None or len(needed) > 1:
        names = ", ".join(p.name for p in needed)
        raise ConfigError(
            f"{text}: cell {cell} needs {names}: give them to it, functools.partial"
        )
    return make(kind(**flags))


def called(make: Callable[..., Any], args: list[str], prog: str):
    """Call a function with flags for its parameters; return its result and them.

    The flags are those that are not at their default.
    """
    given: dict[str, Any] = {}

    @functools.wraps(make)
    def remembered(*values, **named):
        bound = inspect.signature(make).bind(*values, **named)
        given.update(bound.arguments)
        return make(*values, **named)

    result = tyro.cli(
        remembered, args=args, prog=prog, config=(tyro.conf.FlagCreatePairsOff,)
    )
    usual = {n: p.default for n, p in inspect.signature(make).parameters.items()}
    return result, {n: v for n, v in given.items() if not _same(v, usual[n])}


def amounts(make: Callable[..., Any], args: list[str], prog: str) -> dict[str, Any]:
    """Read flags for those parameters of a function that have a default.

    Nothing is called. What is given is returned, also where it is the default.
    """
    from lth.lab.build import naming

    every = inspect.signature(make).parameters.values()
    known = [p for p in every if p.default is not p.empty]
    whole = naming.whole(make)  # what a recipe offers has its first arguments
    hints = get_type_hints(whole)

    def read(**named):
        return named

    read.__signature__ = inspect.Signature(known)  # type: ignore[attr-defined]
    read.__annotations__ = {p.name: hints[p.name] for p in known}
    read.__doc__ = whole.__doc__
    return tyro.cli(read, args=args, prog=prog, config=(tyro.conf.FlagCreatePairsOff,))


def told(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags as JSON holds them: what it has no word for, as a path, in text."""
    return json.loads(json.dumps(flags, default=str))


def folder(text: str, flags: dict[str, Any], name: str) -> str:
    """What the run directory of a file's function is called.

    Flags that change what a run is are in it; those that add to a run are not.
    """
    file, _, made = text.partition(":")
    stem = name or f"{_place(file).stem}-{made}"
    parts = [
        f"{flag}={_plain(value)}"
        for flag, value in sorted(flags.items())
        if flag not in ADDING
    ]
    return re.sub(r"[^\w.,=+-]+", "_", "-".join([stem, *parts]))[:120]


def _place(file: str) -> Path:
    """The file that is meant, also where it is given as a module of `lth`."""
    if re.fullmatch(r"lth(\.\w+)+", file) and not file.endswith(".py"):
        return (
            Path(lth.__file__).parent.joinpath(*file.split(".")[1:]).with_suffix(".py")
        )
    return Path(file)


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "+".join(map(str, value))
    return str(value)


def _same(value: Any, usual: Any) -> bool:
    try:
        return bool(value == usual)
    except (TypeError, ValueError):
        return value is usual


def _is_own(path: Path) -> Callable[[Any], bool]:
    """Whether a member of a module is a function written in its file."""

    def test(member):
        if not inspect.isfunction(member):
            return False
        return Path(member.__code__.co_filename).resolve() == path.resolve()

    return test


def _module(path: Path) -> ModuleType:
    """The file run as a module, beside which it finds its own."""
    spec = importlib.util.spec_from_file_location(f"own_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there for their module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if Path(f.filename).resolve() == path.resolve()]
        line = getattr(error, "lineno", None) or (own[-1].lineno if own else "?")
        raise ConfigError(
            f"{path} cannot be run: line {line}: {type(error).__name__}: {error}"
        ) from error
    return module
