"""What a sweep varies, as it is written: fields, values, and the names of cells."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lth.lab.config import ConfigError, grid, settings

READ = [
    (["prune.criterion=magnitude,snip"], {"prune.criterion": ("magnitude", "snip")}),
    (["--rewind.to=0it, 500it"], {"rewind.to": ("0it", "500it")}),
    (["first-replicate=0,5"], {"first_replicate": (0, 5)}),
    (["optimizer.cosine=true,no"], {"optimizer.cosine": (True, False)}),
    (["prune.rate=0.2,.5"], {"prune.rate": (0.2, 0.5)}),
    (["model.widths=300,100;50"], {"model.widths": ((300, 100), (50,))}),
    (["model.widths=300,100"], {"model.widths": ((300,), (100,))}),
    (["prune.densities=0.5,0.2;0.1"], {"prune.densities": ("0.5,0.2", "0.1")}),
]


@pytest.mark.parametrize(("texts", "axes"), READ)
def test_values_are_read_as_their_fields_hold_them(texts, axes):
    read = grid.parse_over(texts)
    assert read == axes
    for field, values in read.items():
        for value in values:
            settings.configured("digits", {field: value})  # the field takes it


REFUSED = [
    ("prune.criterion", "FIELD=VALUE,VALUE"),
    ("prune.criterion=", "FIELD=VALUE,VALUE"),
    ("rewind.mod=weights", "no such field; perhaps rewind.mode"),
    ("criterion=snip", "no such field; perhaps prune.criterion"),
    ("rewind=weights", "no such field; perhaps rewind.mode or rewind.to"),
    ("prune.criterion=magnitud,snip", "one of magnitude, .*; perhaps magnitude"),
    ("prune.rate=x", "takes numbers; got 'x'"),
    ("batch_size=6.5", "takes whole numbers; got '6.5'"),
    ("optimizer.cosine=maybe", "takes true or false"),
    ("model.widths=a;b", "takes lists of whole numbers"),
    ("levels=1,2", "add to a run: give --levels the largest"),
    ("replicates=1,2", "add to a run: give --replicates the largest"),
    ("prune.rate=0.5,.5", "has a value twice"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_what_cannot_be_varied_is_refused_with_what_can(text, message):
    with pytest.raises(ConfigError, match=message):
        grid.parse_over([text])
    with pytest.raises(ConfigError, match="given twice"):
        grid.parse_over(["prune.rate=0.1", "prune.rate=0.2"])


def test_every_combination_is_a_cell_and_the_first_field_varies_slowest():
    axes = grid.parse_over(["prune.rate=0.2,0.5", "model.widths=8,4;8;"])
    assert grid.grid(axes) == {
        "prune.rate=0.2,model.widths=8+4": {"prune.rate": 0.2, "model.widths": (8, 4)},
        "prune.rate=0.2,model.widths=8": {"prune.rate": 0.2, "model.widths": (8,)},
        "prune.rate=0.2,model.widths=none": {"prune.rate": 0.2, "model.widths": ()},
        "prune.rate=0.5,model.widths=8+4": {"prune.rate": 0.5, "model.widths": (8, 4)},
        "prune.rate=0.5,model.widths=8": {"prune.rate": 0.5, "model.widths": (8,)},
        "prune.rate=0.5,model.widths=none": {"prune.rate": 0.5, "model.widths": ()},
    }
    assert grid.grid({}) == {"": {}}


@given(st.lists(st.integers(1, 4), max_size=4))
def test_a_grid_has_as_many_cells_as_combinations(sizes):
    axes = {f"field{i}": [f"{n}" for n in range(size)] for i, size in enumerate(sizes)}
    cells = grid.grid(axes)
    product = 1
    for size in sizes:
        product *= size
    assert len(cells) == product
    assert len({str(changes) for changes in cells.values()}) == product


def test_a_grid_is_refused_without_jax():
    code = (
        "import sys; from lth.cli import main\n"
        "over = ['--over', 'prune.criterion=snop']\n"
        "assert main.command(['sweep', 'digits', *over]) == 2\n"
        "assert 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "perhaps snip" in done.stderr
