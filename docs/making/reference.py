"""The reference: a page for each package, of all that it and its modules make public.

Which names there are is read from the packages, so that none is forgotten. Their texts
are the docstrings, written in plain text with names between backticks; `escaped` makes
of one what Sphinx reads.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from types import ModuleType

import lth
from lth import lab

# Rooms whose functions are for users' own code. Those of `lth.lab` and `lth.cli` are
# behind the doors at the top, but for what a configuration may say.
ROOMS = tuple(name for name in lth.PACKAGES if name != "lab")
STORED = ("lth.lab.stored.Run", "lth.lab.stored.StoredTicket", "lth.lab.stored.State")
FIELDS = ("Data", "Model", "Optimizer", "Prune", "Learn", "Dynamic", "Rewind")


def pages() -> dict[str, str]:
    """Return the pages of the reference."""
    rooms = {f"reference/{room}.rst": _room(room) for room in ROOMS}
    return {
        "reference/index.rst": _index(),
        "reference/lth.rst": _top(),
        "reference/configuration.rst": _configuration(),
        **rooms,
    }


def documented() -> dict[str, str]:
    """Return the kind of each name that has a place in the reference, by full name."""
    found = {f"lth.{name}": "function" for name in lth.__all__}
    found |= {f"lth.lab.{name}": "function" for name in lab.__all__}
    found |= dict.fromkeys(STORED, "class")
    found |= {f"lth.lab.config.{n}": "class" for n in ("Experiment", *FIELDS)}
    for room in ROOMS:
        for module in modules(room):
            found |= {f"{module.__name__}.{n}": kind for n, kind in public(module)}
    return found


def modules(room: str) -> list[ModuleType]:
    """Return a package and its modules, those that it names first."""
    package = importlib.import_module(f"lth.{room}")
    names = [info.name for info in pkgutil.iter_modules(package.__path__)]
    names.sort(key=lambda name: (name not in package.__all__, name))
    below = [importlib.import_module(f"lth.{room}.{name}") for name in names]
    return [package, *(m for m in below if [*public(m)])]


def public(module: ModuleType) -> Iterator[tuple[str, str]]:
    """Yield what has its place at a module: a package's names, or what none re-exports.

    A name is a function, a class or a data.
    """
    package = importlib.import_module(".".join(module.__name__.split(".")[:2]))
    above = [getattr(package, name) for name in package.__all__]
    for name, value in vars(module).items():
        if module is package:
            if name in package.__all__ and not inspect.ismodule(value):
                yield name, _kind(value)
        elif (
            not name.startswith("_")
            and getattr(value, "__module__", "") == module.__name__
            and _kind(value) != "data"
            and not any(value is other for other in above)
        ):
            yield name, _kind(value)


def _kind(value: object) -> str:
    ours = getattr(value, "__module__", "").startswith("lth.")
    if inspect.isclass(value) and ours:
        return "class"
    # Of a jitted function too, which is none for `inspect`; of no alias of a type.
    return "function" if callable(value) and ours else "data"


def _room(room: str) -> str:
    package, *rest = modules(room)
    parts = [_title(f"lth.{room}", "="), _module(package)]
    for module in rest:
        parts += [_title(module.__name__.removeprefix("lth."), "-"), _module(module)]
    return "\n".join(parts)


def _module(module: ModuleType) -> str:
    entries = sorted(public(module))
    head = f".. automodule:: {module.__name__}\n"
    listed = [_line(module, *at) for at in entries]
    return "\n".join([head, *listed, "", *(_entry(module, *at) for at in entries)])


def _line(module: ModuleType, name: str, kind: str) -> str:
    """Return the line of a list of what there is: a link, and the first sentence."""
    link = f"* :py:obj:`{name} <{module.__name__}.{name}>`"
    if kind == "data":
        return link
    told = inspect.getdoc(getattr(module, name)) or ""
    first = " ".join(told.partition("\n\n")[0].split())
    return f"{link}: {escaped(first)}"


def _entry(module: ModuleType, name: str, kind: str) -> str:
    whole = f"{module.__name__}.{name}"
    if kind == "function":
        return f".. autofunction:: {whole}\n"
    if kind == "class":
        return f".. autoclass:: {whole}\n   :members:\n   :member-order: bysource\n"
    told = _comment(module, name)
    return f".. py:data:: {whole}\n\n   {escaped(told)}\n"


def _comment(module: ModuleType, name: str) -> str:
    """Return the comment beside a name that is neither a function nor a class."""
    for part in [module, *map(importlib.import_module, _below(module))]:
        text = inspect.getsource(part)
        if line := re.search(rf"^{name}\b[^=\n]*=[^#\n]*(?:#\s*(.*))?$", text, re.M):
            text = line[1] or f"Defined in `{part.__name__}`"
            return f"{text[:1].upper()}{text[1:]}."
    return ""


def _below(module: ModuleType) -> list[str]:
    names = [info.name for info in pkgutil.iter_modules(module.__path__)]
    return [f"{module.__name__}.{name}" for name in names]


def _top() -> str:
    functions = [f".. autofunction:: lth.{name}\n" for name in lth.__all__]
    classes = [f".. autoclass:: {n}\n   :members:\n" for n in STORED]
    who = [f".. autofunction:: lth.lab.{name}\n" for name in lab.__all__]
    return "\n".join(
        [
            _title("lth", "="),
            "The doors at the top: a run, a recipe, a stored run.\n",
            *functions,
            _title("A stored run", "-"),
            *classes,
            _title("Who trains the cells of a sweep", "-"),
            *who,
        ]
    )


def _configuration() -> str:
    head = (
        "What a run made of names may say. Each field is a flag of ``lth run`` "
        "(``--prune.criterion lamp``) and an argument of :py:func:`lth.run` "
        '(``prune={"criterion": "lamp"}``).\n'
    )
    names = [f"lth.lab.config.{name}" for name in ("Experiment", *FIELDS)]
    classes = [
        f".. autoclass:: {name}\n   :members:\n   :member-order: bysource\n"
        for name in names
    ]
    return "\n".join([_title("Fields of a run", "="), head, *classes])


def _index() -> str:
    rows = ["lth", "configuration", *ROOMS]
    return "\n".join(
        [
            _title("Reference", "="),
            "Every public function, from its docstring. Functions of the library are "
            "of one network; ``jax.vmap`` maps them over replicates.\n",
            ".. toctree::\n   :maxdepth: 1\n",
            *(f"   {name}" for name in rows),
            "",
        ]
    )


def _title(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}\n"


def signature(function: object) -> tuple[str, str]:
    """Return arguments and result as the file has them: `Mask`, which is Any to Python.

    Both are '' of what is no function of a file of ours.
    """
    try:
        source = inspect.getsource(inspect.unwrap(function))  # type: ignore[arg-type]
    except (TypeError, OSError):
        return "", ""
    body = ast.parse(textwrap.dedent(source)).body[:1]
    if not body or not isinstance(node := body[0], ast.FunctionDef):
        return "", ""
    node.args.args = [arg for arg in node.args.args if arg.arg != "self"]
    result = ast.unparse(node.returns) if node.returns else ""
    return f"({ast.unparse(node.args)})", result


def escaped(text: str, module: str = "", known: frozenset[str] = frozenset()) -> str:
    r"""Make reStructuredText of a docstring's plain text.

    Names between backticks become code, with a link where `known` has them, as they
    stand, below `module` or below `lth`; `|w|` and a `*` stay what they are.
    """
    parts = re.split(r"`([^`]+)`", text)
    plain = [re.sub(r"([\\|*])|(?<=\w)(_)(?!\w)", r"\\\1\2", p) for p in parts[::2]]
    codes = [_code(" ".join(p.split()), module, known) for p in parts[1::2]]
    # A backslash and a space end a code before a letter: `mask`s.
    ends = [r"\ " if after[:1].isalnum() else "" for after in plain[1:]]
    after = [a + b + c for a, b, c in zip(codes, ends, plain[1:], strict=True)]
    return plain[0] + "".join(after)


def _code(text: str, module: str, known: frozenset[str]) -> str:
    package = ".".join(module.split(".")[:2])
    for whole in (text, f"{module}.{text}", f"{package}.{text}", f"lth.{text}"):
        if whole in known:
            return f":py:obj:`{text} <{whole}>`"
    return f"``{text}``"
