"""The notebooks run from top to bottom, and so does the README."""

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from lth import masks
from lth.lab.config import identity
from lth.lab.config.presets import PRESETS

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": tmp_path}}
    NotebookClient(notebook, timeout=300, resources=resources).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    images = [o for c in code for o in c.outputs if "image/png" in o.get("data", {})]
    assert len(images) >= 3


def block(part):
    """The one Python block of the README that has this part."""
    text = (ROOT / "README.md").read_text()
    (found,) = (b for b in re.findall(r"```python\n(.*?)```", text, re.S) if part in b)
    return compile(found, "README.md", "exec")


def test_the_quickstart_of_the_readme_finds_tickets(capsys):
    found: dict = {}
    exec(block("lottery.imp"), found)
    assert found["ticket"].level == 12
    assert found["ticket"].metrics["test_accuracy"][-1] > 0.9
    assert len(capsys.readouterr().out.splitlines()) == 12


def test_the_rules_of_the_readme_start_from_masked_params():
    found: dict = {}
    exec(block("dynamic.sparsify"), found)
    assert found["params"]["kernel"].shape == (20, 10)
    assert float(masks.density(found["opt_state"].mask)) == 1  # it prunes in training


def test_the_run_that_the_readme_names_is_the_one_it_would_make():
    names = set(re.findall(r"runs/(\w+-\w{10})\b", (ROOT / "README.md").read_text()))
    assert names == {f"digits-{identity.identity(PRESETS['digits'].experiment)}"}
