"""Docstrings of the library: sentences first, and long lists of arguments described."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import lth

ROOT = Path(lth.__file__).parent
ROOMS = (
    *("masks", "models", "data", "results", "criteria", "train", "supermask"),
    *("compress", "plot", "lottery", "dynamic", "analysis", "lab", "cli"),
)
MANY = 4  # arguments, from which on they are listed
# What a fragment begins with. A sentence may too, if it has one of the verbs.
OPENERS = set("the a an what of which how whether where when that all each as".split())
VERBS = (
    "is are was has have does do can may gives keeps takes makes says holds stays "
    "reads maps begins ends falls grows ranks scores learns returns trains draws counts"
).split()

Definition = ast.FunctionDef | ast.ClassDef


def definitions(body: list[ast.stmt], before: str = "") -> Iterator[tuple]:
    """Yield the public functions and classes of a body, and of its classes, by name."""
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield f"{before}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from definitions(node.body, f"{before}{node.name}.")


PUBLIC: list[tuple[str, Definition]] = [
    (f"{path.relative_to(ROOT)}: {name}", node)
    for room in ROOMS
    for path in sorted((ROOT / room).rglob("*.py"))
    for name, node in definitions(ast.parse(path.read_text()).body)
]


def offenders(fault: Callable[[Definition], str]) -> list[str]:
    """List what is wrong with the public functions and classes; '' is nothing."""
    return [f"{name}: {text}" for name, node in PUBLIC if (text := fault(node))]


def arguments(node: ast.FunctionDef) -> list[str]:
    """Name the arguments of a function; what `*` and `**` gather does not count."""
    args = node.args
    names = [arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    return [name for name in names if name != "self"]


def sections(text: str) -> dict[str, str]:
    """Split a docstring into its sections, `Args` and the like, by name."""
    parts = re.split(r"^(Args|Returns|Yields|Raises):$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def listed(text: str) -> set[str]:
    """Read the names before each colon of a section: `a: …`, or `a, b: …`."""
    heads = re.findall(r"^  (\w+(?:, \w+)*): ", text, flags=re.MULTILINE)
    return {name for head in heads for name in head.split(", ")}


def not_listed(node: Definition) -> str:
    """Say which arguments of a long list, or what else, a docstring leaves out."""
    if not isinstance(node, ast.FunctionDef) or len(names := arguments(node)) < MANY:
        return ""
    parts = sections(ast.get_docstring(node) or "")
    known = listed(parts.get("Args", ""))
    missing = [name for name in names if name not in known]
    returns = node.returns is None or ast.unparse(node.returns) != "None"
    if returns and not {"Returns", "Yields"} & set(parts):
        missing.append("Returns:")
    every = {arg.arg for arg in (node.args.vararg, node.args.kwarg) if arg}
    unknown = sorted(known - set(names) - every)
    return ", ".join([*missing, *(f"{name} is no argument" for name in unknown)])


def fragment(text: str) -> str:
    """Return the first sentence of a docstring if it is none, and else ''."""
    first = re.split(r"(?<=[^.]{3}[.?!])\s|\n\n", text.strip(), maxsplit=1)[0]
    words = re.findall(r"[a-z]+", first.lower())
    begins = first[:1].isalpha() and words[0] not in OPENERS
    return "" if begins or set(words) & set(VERBS) else " ".join(first.split())


def test_everything_public_has_a_docstring():
    assert len(PUBLIC) > 300  # it looks where the library is
    assert not offenders(lambda node: "" if ast.get_docstring(node) else "none")


def test_long_lists_of_arguments_are_described():
    assert not offenders(not_listed)


def test_docstrings_begin_with_a_sentence():
    assert not offenders(lambda node: fragment(ast.get_docstring(node) or ""))


def test_fragments_are_told_from_sentences():
    fragments = ("The mask of a leaf.", "What a\nleaf.", "|w|.", "`a` of b: c.")
    assert [text for text in fragments if fragment(text)] == [*fragments]
    sentences = ("Scores |w|.", "The mask is a tree.\n\nOf leaves.", "Return a b.")
    assert not [text for text in sentences if fragment(text)]


def test_missing_arguments_are_told():
    source = 'def f(a, b, *, c, d=1, **e):\n  """F.\n\n  Args:\n    a, c: x.\n  """'
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.FunctionDef)
    assert not_listed(node) == "b, d, Returns:"
