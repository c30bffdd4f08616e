"""What the README says to type works as it stands."""

from pathlib import Path

import pytest

from lth import masks
from tests import pages

TEXT = (Path(__file__).parents[1] / "README.md").read_text()
PYTHON = pages.python(TEXT)
COMMANDS = pages.commands(TEXT)


def finds_tickets(found, told):
    """What comes of the quickstart."""
    assert found["ticket"].level == 12
    assert found["ticket"].metrics["test_accuracy"][-1] > 0.9
    assert len(told.splitlines()) == 12


def starts_from_masked_params(found, told):
    """What comes of the rules that change a mask in training."""
    assert found["params"]["kernel"].shape == (20, 10)
    assert float(masks.density(found["opt_state"].mask)) == 1  # it prunes in training


FACTS = {"lottery.imp": finds_tickets, "dynamic.sparsify": starts_from_masked_params}


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.split("\n")[0])
def test_python_runs_as_it_stands(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found: dict = {"__name__": "readme"}
    exec(compile(block, "README.md", "exec"), found)
    told = capsys.readouterr().out
    for part, fact in FACTS.items():
        if part in block:
            fact(found, told)


@pytest.mark.parametrize("part", FACTS)
def test_a_fact_is_of_one_block(part):
    assert sum(part in block for block in PYTHON) == 1


def test_there_is_something_to_run():
    assert len(PYTHON) >= 4
    assert len(COMMANDS) >= 15


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_understood(line, monkeypatch, tmp_path, capsys):
    pages.understand(line, monkeypatch, tmp_path, capsys)
