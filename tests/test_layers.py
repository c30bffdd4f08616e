"""Imports go down five rows, and each room keeps to its rule."""

import ast
from collections.abc import Iterator
from pathlib import Path

import lth

ROOT = Path(lth.__file__).parent
ROWS = [
    {"masks", "models", "data", "results"},
    {"criteria", "train", "supermask", "compress", "plot"},
    {"lottery", "dynamic", "analysis"},
    {"lab"},
    {"cli"},
]
LAB = [
    {"compiler"},
    {"config", "store", "devices"},
    {"build", "progress", "measured", "following"},
    {"keeping", "trackers"},
    {"runner", "joint"},
    {"probes", "adopting"},
    {"stored"},
    {"front", "doctor", "shipping"},
    {"cells", "costing", "continuing", "filters", "openlth"},
    {"standing", "submit"},
    {"cluster"},
    {"sweep"},
]
ENTRIES = ("__init__", "__main__")
MODULES = {
    path.relative_to(ROOT): ast.parse(path.read_text()) for path in ROOT.rglob("*.py")
}
PATHS = list(MODULES)


def dotted(path: Path) -> str:
    """A module or package as it is imported, such as `lth.masks.tree`."""
    return ".".join(["lth", *path.with_suffix("").parts]).removesuffix(".__init__")


KNOWN = {dotted(path) for path in PATHS}


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules that a module imports: of `from lth.a import b`, b if it is one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in KNOWN else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def ours(path: Path) -> list[list[str]]:
    """The modules of ours that the module at `path` imports, as parts below `lth`."""
    names = (name.split(".") for name in imported(MODULES[path]))
    return [parts[1:] for parts in names if parts[0] == "lth" and len(parts) > 1]


def test_imports_go_down_the_rows():
    rank = {name: i for i, row in enumerate(ROWS) for name in row}
    rooms = {path.parts[0] for path in PATHS if len(path.parts) > 1}
    assert rooms == set(rank)
    for path in PATHS:
        if len(path.parts) == 1:
            continue
        here = path.parts[0]
        for there, *_ in ours(path):
            assert there == here or rank[there] < rank[here], f"{path} imports {there}"


def test_imports_go_down_inside_the_laboratory():
    rank = {name: i for i, row in enumerate(LAB) for name in row}
    for path in PATHS:
        if path.parts[0] != "lab" or (path.stem == "__init__" and len(path.parts) == 2):
            continue
        here = path.parts[1].removesuffix(".py")
        for parts in ours(path):
            if parts[0] == "lab" and parts[1] != here:
                assert rank[parts[1]] < rank[here], f"{path} imports {parts[1]}"


def test_nothing_but_the_command_knows_the_laboratory():
    for path in PATHS:
        if path.parts[0] in ("lab", "cli", "__init__.py", "__main__.py"):
            continue
        assert not [p for p in ours(path) if p[0] in ("lab", "cli")], path


def test_the_configuration_needs_neither_jax_nor_the_library():
    for path in PATHS:
        if path.parts[:2] != ("lab", "config"):
            continue
        assert all(parts[:2] == ["lab", "config"] for parts in ours(path)), path
        assert not {name.split(".")[0] for name in imported(MODULES[path])} & {
            "jax",
            "flax",
            "optax",
            "numpy",
        }, path


def test_the_loops_know_no_model_no_data_and_no_criterion():
    for path in PATHS:
        if path.parts[0] == "lottery":
            names = {parts[0] for parts in ours(path)}
            assert not names & {"models", "data", "criteria"}, path


def test_only_results_and_store_write():
    for path, tree in MODULES.items():
        if path.parts[0] in ("results", "data") or path.parts[:2] == ("lab", "store"):
            continue
        for node in ast.walk(tree):
            name = getattr(node, "attr", None)
            assert name not in ("write_text", "write_bytes", "mkdir", "unlink"), path


def test_the_front_has_few_doors():
    doors = {path.parts[0] for path in PATHS if path.stem not in ENTRIES} | {
        path.parts[0] for path in PATHS if len(path.parts) > 1
    }
    assert len(doors) <= 14, sorted(doors)


def test_no_package_hides_a_module_behind_a_function_of_its_name():
    for path, tree in MODULES.items():
        if path.stem != "__init__":
            continue
        modules = {p.stem for p in PATHS if p.parent == path.parent}
        assert isinstance(tree, ast.Module)
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and f"{node.module}" in KNOWN:
                names = {alias.asname or alias.name for alias in node.names}
                functions = {n for n in names if f"{node.module}.{n}" not in KNOWN}
                assert not functions & modules, path
