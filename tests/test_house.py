"""How much of the house one has to enter: counted, so that it does not grow unseen."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import lth
from lth.cli import main
from lth.lab.config import Experiment
from tests.test_layers import MODULES, imported, ours

ROOT = Path(lth.__file__).parent
# Presets are experiments, and written from one another.
DATA = Path("lab/config/presets")


# What people call with one, and what reads any dataclass and knows no field of it.
DOORS = {"lab/front.py: run", "lab/front.py: build"}
GENERIC = {"lab/config/identity.py: as_dict", "lab/config/identity.py: _typed"}


def whole_configurations() -> list[str]:
    """The functions that are said to take a whole configuration."""
    found = []
    for path, tree in MODULES.items():
        if DATA in path.parents:
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef):
                continue
            args = [*node.args.args, *node.args.kwonlyargs]
            if any(
                a.annotation and "Experiment" in ast.unparse(a.annotation) for a in args
            ):
                found.append(f"{path}: {node.name}")
    return found


def test_few_functions_see_a_whole_configuration():
    found = whole_configurations()
    assert "lab/config/validate/__init__.py: check" in found  # it looks where they are
    inside = [name for name in found if name not in DOORS]
    assert len(inside) <= 5, inside
    assert all(name.startswith(("lab/config", "lab/build")) for name in inside), inside
    assert set(found) >= DOORS


def test_the_runner_knows_no_configuration_and_no_builder():
    parts = ours(Path("lab/runner.py"))
    assert parts
    assert not [p for p in parts if p[:2] in (["lab", "config"], ["lab", "build"])]


def test_only_assembling_sees_configuration_and_functions():
    for path, tree in MODULES.items():
        if path.parts[:1] != ("lab",) or path.parts[:2] in (
            ("lab", "config"),
            ("lab", "build"),
        ):
            continue
        names = set(imported(tree))
        both = {"lth.lab.config", "lth.criteria"} <= names
        assert not both, path


class StepError(Exception):
    """The first step is traced."""


class Way(NamedTuple):
    """Holds what a command calls before the first step, each once."""

    files: list[str]  # of `lth`, in which a function is called
    wholes: list[str]  # the functions that are given a whole configuration


def way(*args: str) -> Way:
    """Follow a command to the first step."""
    files: dict[str, None] = {}
    wholes: dict[str, None] = {}

    def look(frame, event, arg):
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(str(ROOT)):
            return
        outer = frame
        while outer and outer.f_code.co_name != "<module>":
            outer = outer.f_back
        if outer and outer.f_code.co_filename.startswith(str(ROOT)):
            return  # it is being imported
        name = str(Path(code.co_filename).relative_to(ROOT))
        files[name] = None
        count = code.co_argcount + code.co_kwonlyargcount
        given = [frame.f_locals.get(a) for a in code.co_varnames[:count]]
        if any(isinstance(value, Experiment) for value in given):
            wholes[f"{name}: {code.co_name}"] = None
        if name == "train/step.py" and code.co_name == "train":
            sys.setprofile(None)
            raise StepError

    sys.setprofile(look)
    try:
        with pytest.raises(StepError):
            main.command([*args])
    finally:
        sys.setprofile(None)
    return Way([*files], [*wholes])


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Way:
    args = ("run", "digits", "--levels", "1", "--replicates", "1", "--quiet")
    return way(*args, "--runs", str(tmp_path_factory.mktemp("runs")))


def test_what_is_given_a_whole_configuration_says_so(digits):
    assert "lab/build/assemble.py: build" in digits.wholes
    assert not set(digits.wholes) - {*whole_configurations(), *GENERIC}


def test_the_way_to_the_first_step_is_short(digits):
    files = digits.files
    assert "lab/runner.py" in files
    # 25 was the aim: what is left are the library's own rooms, each for one thing.
    assert len(files) <= 45, files


def test_the_reading_path_is_short():
    """From the README's first loop to the mask, without blank lines and docstrings."""
    path = ("lottery/loop.py", "lottery/rewind.py", "train/step.py", "masks/tree.py")
    study = ROOT.parent / "experiments" / "own_model.py"
    assert sum(map(code, [*(ROOT / name for name in path), study])) < 600


# What is no study: what they share, and tests of the store that take hours.
OTHERS = {"study.py", "elsewhere.py", "tasks.py", "damage_test.py", "kill_test.py"}


def test_studies_are_short():
    """A study is its docstring, and 150 lines beside it at most."""
    studies = sorted((ROOT.parent / "experiments").glob("*.py"))
    assert len(studies) > 12
    for path in studies:
        if path.name in OTHERS:
            continue
        text = path.read_text()
        told = ast.parse(text).body[0]
        lines = len(text.splitlines()) - (told.end_lineno or 0)
        assert lines <= 150, path


def code(path: Path) -> int:
    """The lines of a file beside docstrings and blank ones."""
    text = path.read_text()
    told: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        kinds = ast.FunctionDef | ast.ClassDef | ast.Module
        if isinstance(node, kinds) and ast.get_docstring(node):
            first = node.body[0]
            told |= set(range(first.lineno, (first.end_lineno or 0) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(bool(line.strip()) and n not in told for n, line in lines)


def test_help_and_import_need_no_jax():
    """How long they take is for a clock: here it is what they do not import."""
    for command in ("import lth", "from lth.cli import main; main.command(['--help'])"):
        heavy = (
            "[m for m in ('jax', 'flax', 'pandas', 'matplotlib') if m in sys.modules]"
        )
        told = subprocess.run(
            [sys.executable, "-c", f"import sys; {command}; print({heavy})"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stdout.splitlines()[-1] == "[]"
