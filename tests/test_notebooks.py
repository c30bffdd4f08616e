"""The notebooks run from top to bottom, and the README names the run of one."""

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from lth.lab.config import identity
from lth.lab.config.presets import PRESETS

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path, monkeypatch, compiled):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
    for name, value in compiled.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": tmp_path}}
    NotebookClient(notebook, timeout=300, resources=resources).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    images = [o for c in code for o in c.outputs if "image/png" in o.get("data", {})]
    assert images


def test_the_run_that_the_readme_names_is_the_one_it_would_make():
    names = set(re.findall(r"runs/(\w+-\w{10})\b", (ROOT / "README.md").read_text()))
    assert names == {f"digits-{identity.identity(PRESETS['digits'].experiment)}"}
