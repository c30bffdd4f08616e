"""The pages of the site say what works, and forget nothing that the code has."""

import ast
import re
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from lth import criteria
from lth.cli import main
from lth.lab import config
from lth.lab.build import names
from lth.lab.config.presets import PRESETS, SUPERMASKS
from tests import pages, test_words

DOCS = pages.ROOT / "docs"
PAGES = {str(p.relative_to(DOCS)): p.read_text() for p in DOCS.glob("[!m]*.md")}
PAGES |= {str(p.relative_to(DOCS)): p.read_text() for p in DOCS.glob("howto/*.md")}
PAGES |= {str(p.relative_to(DOCS)): p.read_text() for p in DOCS.glob("migrate/*.md")}
RUNNING = [name for name, text in PAGES.items() if pages.python(text)]
COMMANDS = sorted({line for text in PAGES.values() for line in pages.commands(text)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where all pages run: what one has trained, another finds stored."""
    return tmp_path_factory.mktemp("docs")


@pytest.fixture(scope="module")
def making():
    """The modules that make pages."""
    sys.path.insert(0, str(DOCS))
    from making import presets, reference, studies

    yield {"presets": presets, "reference": reference, "studies": studies}
    sys.path.remove(str(DOCS))


def test_there_is_something_to_run():
    assert len(PAGES) >= 13
    assert len(RUNNING) >= 8
    assert len(COMMANDS) >= 20


@pytest.mark.parametrize("name", RUNNING)
def test_python_runs_as_it_stands(name, folder, monkeypatch):
    """The blocks of a page follow each other, as a reader would type them."""
    monkeypatch.chdir(folder)
    found: dict = {"__name__": "page"}
    for block in pages.python(PAGES[name]):
        exec(compile(block, name, "exec"), found)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_understood(line, monkeypatch, tmp_path, capsys):
    pages.understand(line, monkeypatch, tmp_path, capsys)


def test_what_the_start_prints_is_what_the_command_prints(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (line,) = [c for c in pages.commands(PAGES["start.md"]) if c.startswith("lth run")]
    (told,) = [b for k, b in pages.blocks(PAGES["start.md"]) if k == "text"]
    assert main.command(line.split()[1:]) == 0
    # Other processors round otherwise: the numbers may differ, and nothing else.
    said = " ".join(capsys.readouterr().out.split())
    for sentence in re.split(r"(?<=[a-z)]\.)\s", " ".join(told.split())):
        start = re.split(r"\d|only|at no|down", sentence)[0]
        assert start in said, sentence


def table_names(text: str) -> set[str]:
    """Read what the first cells of the tables of a page name."""
    cells = re.findall(r"^\| (`[^|]*`) \|", text, re.M)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_every_criterion_scope_and_unit_has_a_line():
    lines = table_names(PAGES["choosing.md"])
    assert set(names.CRITERIA) <= lines
    scopes = get_args(get_type_hints(config.Prune)["scope"])
    assert {*scopes} <= lines
    of_python = {f"criteria.{n}" for n in criteria.__all__ if n.startswith("taylor")}
    assert of_python - {"criteria.taylor_normalised"} <= lines
    known = {*names.CRITERIA, *scopes, "weight", "block:4x4", "filter", "channel"}
    unknown = {n for n in lines - known - {"2:4"} if not n.startswith("criteria.")}
    assert not unknown


def test_functions_in_the_tables_are_there():
    for name in table_names(PAGES["choosing.md"]):
        if name.startswith("criteria."):
            found = criteria
            for part in name.split(".")[1:]:
                found = getattr(found, part)


def test_every_branch_probe_and_mode_has_a_line():
    assert set(names.BRANCHES) == table_names(PAGES["howto/own_branch.md"])
    assert set(names.PROBES) == table_names(PAGES["howto/own_probe.md"])
    modes = get_args(get_type_hints(config.Rewind)["mode"])
    assert {"--rewind.mode", *modes} == table_names(PAGES["ideas.md"])


def test_counts_of_the_comparison_are_those_of_the_code():
    text = PAGES["comparison.md"]
    assert f"[{len(names.CRITERIA)} by name]" in text
    assert len(names.LEARNERS) == 7
    assert "seven methods" in text
    assert len(names.CONTROLS) >= 24


def test_guarantees_name_tests_that_are_there():
    named = re.findall(r"`(tests/\w+\.py)(?:::(\w+))?`", PAGES["guarantees.md"])
    assert len(named) > 20
    for path, function in named:
        tree = ast.parse((pages.ROOT / path).read_text())
        functions = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
        assert not function or function in functions, (path, function)


def test_numbers_of_studies_are_those_of_their_docstrings():
    """Each `a ± b` of the ideas is in the docstring of a study that the page names."""
    text = PAGES["ideas.md"]
    studies = set(re.findall(r"made/studies/(\w+)", text))
    told = "".join(
        (pages.ROOT / "experiments" / f"{name}.py").read_text() for name in studies
    )
    numbers = re.findall(r"\d+\.\d+ ± \d+\.\d+", text)
    assert len(numbers) >= 5
    assert not [n for n in numbers if n not in told]


def test_every_public_name_has_a_place(making):
    known = making["reference"].documented()
    short = {name.rsplit(".", 1)[1] for name in known}
    rooms = making["reference"].ROOMS
    public = [
        name.split(": ")[1]
        for name, _ in test_words.PUBLIC
        if name.partition("/")[0] in rooms and "." not in name.split(": ")[1]
    ]
    assert len(public) > 250
    # A name may be re-exported under another one, as `gates.normalised` is.
    assert not [name for name in public if name not in short | {"normalised"}]
    assert {"lth.run", "lth.masks.keep_top", "lth.lottery.imp"} <= set(known)


def test_docstrings_become_what_sphinx_reads(making):
    escaped = making["reference"].escaped
    known = frozenset({"lth.masks.ones"})
    assert escaped("Scores |w| * 2.") == r"Scores \|w\| \* 2."
    assert escaped("all `mask`s, x_") == r"all ``mask``\ s, x\_"
    link = ":py:obj:`masks.ones <lth.masks.ones>`"
    assert escaped("`masks.ones`", "lth.train", known) == link
    link = ":py:obj:`ones <lth.masks.ones>`"
    assert escaped("`ones`", "lth.masks.tree", known) == link
    assert escaped("`a\nb`, `c`") == "``a b``, ``c``"


def test_signatures_are_those_of_the_files(making):
    signature = making["reference"].signature
    assert signature(criteria.magnitude) == ("(params: Params)", "Scores")
    assert signature(3) == ("", "")


def test_every_preset_is_on_a_page_with_what_differs(making):
    made = making["presets"].pages()
    for name, preset in PRESETS.items():
        assert f"\n## {name}\n" in made["presets.md"]
        assert all(f"- {d}\n" in made["presets.md"] for d in preset.differs.split("; "))
    for name, methods in SUPERMASKS.items():
        for method in methods:
            assert f"\n## {name} {method}\n" in made["learned_masks.md"]
    row = "| `optimizer.learning_rate` | `0.0012` | `0.0012` |"  # of LeNet, published
    assert row in made["presets.md"]


def test_pages_that_are_no_more_are_removed(tmp_path, making):
    write = sys.modules["making"].write
    write({"a/b.md": "b", "c.rst": "c"}, tmp_path)
    before = (tmp_path / "a" / "b.md").stat().st_mtime_ns
    write({"a/b.md": "b"}, tmp_path)
    assert (tmp_path / "a" / "b.md").stat().st_mtime_ns == before
    assert not (tmp_path / "c.rst").exists()


def test_every_study_has_a_page(making):
    made = making["studies"].pages()
    for path in (pages.ROOT / "experiments" / "claims").glob("*.csv"):
        page = made[f"studies/{path.stem}.md"]
        assert (
            f"](../../../experiments/results/{path.stem}.png)" in page
            or not (
                pages.ROOT / "experiments" / "results" / f"{path.stem}.png"
            ).exists()
        )
    assert "(lottery_ticket.md)" in made["studies/index.md"]
    assert ".py)" not in made["studies/index.md"]


def test_docstrings_of_studies_become_markdown(making):
    told = "A claim of a * b.\n\n    x  1\n\n    y  2\n\nSo `a * b`."
    made = making["studies"].markdown(told)
    assert made == "A claim of a \\* b.\n\n```text\nx  1\n\ny  2\n```\n\nSo `a * b`."
