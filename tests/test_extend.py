"""What is added to a stored run has the bits it would have had from the start."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import lth
from lth import results
from lth.cli import main
from lth.lab import config
from lth.lab.config.presets import PRESETS
from tests import own
from tests.conftest import assert_same
from tests.test_experiment import StopError, stop_after

SMALL = replace(
    PRESETS["digits"].experiment,
    model=config.Model(widths=(8,)),
    rewind=config.Rewind(to="2it"),
    steps="8it",
    eval_every="4it",
    levels=2,
    replicates=3,
)


def assert_same_run(one, other):
    """Masks and weights are equal to the bit, and so is who failed.

    Measured means may differ in a last bit: a lone replicate is summed up by a program
    of its own.
    """
    assert one.replicates == other.replicates
    assert one.levels == other.levels
    assert one.variants == other.variants
    assert_same((one.init, one.early), (other.init, other.early))
    for variant in one.variants:
        for level in one.levels[variant != "ticket" :]:
            a, b = (run.ticket(level, variant) for run in (one, other))
            assert_same(a[:-1], b[:-1])
            assert_same(a.failed, b.failed)
    names = [name for name in results.COLUMNS if name not in ("run", "value")]
    a, b = (run.table.sort_values(names, ignore_index=True) for run in (one, other))
    assert a[names].equals(b[names])
    np.testing.assert_allclose(a["value"], b["value"], rtol=1e-6)


def of_names(levels, replicates, folder, **more):
    e = replace(SMALL, levels=levels, replicates=replicates)
    return lth.run(e, runs=folder, **more)


def of_functions(levels, replicates, folder, **more):
    recipe = own.recipe(
        densities=(0.6, 0.3)[:levels],
        replicates=replicates,
        branches=("reinit", "shuffle"),
    )
    return lth.run(recipe, folder / "mine", **more)


@pytest.mark.parametrize("kind", [of_names, of_functions])
def test_levels_and_replicates_are_added_and_are_what_they_had_been(kind, tmp_path):
    whole = kind(2, 3, tmp_path / "whole")
    few = kind(1, 2, tmp_path / "parts")
    assert (few.replicates, few.levels) == ([0, 1], [0, 1])
    stored = own.hashes(few.path, but=("config.json", "environment.json", "log.jsonl"))
    grown = kind(2, 3, tmp_path / "parts")
    assert grown.path == few.path  # its id stays
    assert_same_run(grown, whole)
    assert (grown.path / "replicates" / "1" / "tickets" / "level_02").is_dir()
    after = own.hashes(grown.path)
    tickets = {name for name in stored if "tickets" in name}
    assert tickets
    assert all(after[name] == stored[name] for name in tickets)
    seen = []
    kind(2, 3, tmp_path / "parts", watch=seen.append)
    assert not seen  # nothing is left to train


def test_a_stored_run_goes_on_by_its_directory_alone(tmp_path, capsys):
    run = of_names(1, 2, tmp_path / "parts")
    more = ["--levels", "2", "--controls", "reinit", "--quiet"]
    assert main.command(["run", str(run.path), *more]) == 0
    assert capsys.readouterr().out.split()[-1] == str(run.path)
    whole = replace(SMALL, levels=2, replicates=2, controls="reinit")
    assert_same_run(lth.open_run(run.path), lth.run(whole, runs=tmp_path / "whole"))
    mine = of_functions(1, 2, tmp_path)
    assert main.command(["run", str(mine.path), "--levels", "2"]) == 2
    assert "a run of functions of your own" in capsys.readouterr().err


def test_asking_for_less_loses_nothing_and_trains_nothing(tmp_path):
    of_functions(2, 3, tmp_path)
    config = (tmp_path / "mine" / "config.json").read_bytes()
    seen = []
    less = of_functions(1, 2, tmp_path, watch=seen.append)
    assert not seen
    assert (less.replicates, less.levels) == ([0, 1, 2], [0, 1, 2])
    assert less.variants == ["ticket", "reinit", "shuffle"]
    assert (tmp_path / "mine" / "config.json").read_bytes() == config


@pytest.mark.parametrize("measurements", [1, 9])
def test_adding_that_was_stopped_goes_on_to_the_same_bits(measurements, tmp_path):
    whole = of_functions(2, 3, tmp_path / "whole")
    of_functions(1, 2, tmp_path / "parts")
    with pytest.raises(StopError):
        of_functions(2, 3, tmp_path / "parts", watch=stop_after(measurements))
    assert_same_run(of_functions(2, 3, tmp_path / "parts"), whole)


def test_replicates_need_not_follow_each_other_and_are_found_by_number(tmp_path):
    of_functions(1, (4,), tmp_path)
    run = of_functions(1, (7, 2), tmp_path)
    assert run.replicates == [4, 7, 2]
    assert set(run.table["replicate"]) == {2, 4, 7}
    every = run.ticket(1)
    for place, number in enumerate(run.replicates):
        alone = run.ticket(1, replicate=number)
        assert_same(alone.mask, jax.tree.map(lambda m, i=place: m[i], every.mask))
        assert_same(alone.params, jax.tree.map(lambda w, i=place: w[i], every.params))
