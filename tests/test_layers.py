"""Imports only go down the layers, and the loops know no model and no criterion."""

import ast
from pathlib import Path

import lth

ROOT = Path(lth.__file__).parent
LAYERS = [
    {
        "_compiler",
        "interrupt",
        "tiles",
        "branch",
        "select",
        "checkpoint",
        "compilation",
        "config",
        "memory",
    },
    {"masks", "presets", "notation", "devices"},
    {"manifest", "checks", "optimizers", "sides", "flags"},
    {"models", "data", "allocation", "schedules", "results", "criteria"},
    {"structure", "actions", "accounting", "search", "packing", "superposition"},
    {"optimizers"},
    {"train", "plot"},
    {"rewind", "networks", "reparametrise", "supermask"},
    {"lottery", "tasks", "dynamic"},
    {"learners", "rules"},
    {"ranking"},
    {"targets"},
    {"store", "build"},
    {"runs", "progress"},
    {"levels", "conclusion"},
    {"experiment", "report"},
    {"terminal"},
    {"cli"},
    {"__main__"},
]


def room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "lth":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "lth."
        ):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            names = (alias.name for alias in node.names)
            yield from (n.split(".")[1] for n in names if n.startswith("lth."))


def test_imports_only_go_down():
    rank = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    modules = [
        p for p in ROOT.rglob("*.py") if p.name != "__init__.py" or p.parent != ROOT
    ]
    assert {room(path) for path in modules} == set(rank)
    for path in modules:
        here = room(path)
        for name in imported(ast.parse(path.read_text())):
            if name == here:
                continue
            assert rank[name] < rank[here], f"{here} imports {name}"


def test_the_loops_know_no_model_no_data_and_no_criterion():
    for loop in ("rewind", "lottery"):
        names = set(imported(ast.parse((ROOT / f"{loop}.py").read_text())))
        assert not names & {"models", "data", "criteria"}


def test_only_results_and_store_write():
    for path in ROOT.rglob("*.py"):
        if room(path) in ("results", "store", "checkpoint", "data"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "attr", None)
            assert name not in ("write_text", "write_bytes", "mkdir", "unlink"), path
