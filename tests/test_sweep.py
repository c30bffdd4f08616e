"""Sweeps: every cell is done once, whoever does it, and with the bits it has alone."""

import shutil
from concurrent.futures import Future
from functools import partial
from importlib import import_module

import numpy as np
import pandas as pd
import pytest

import lth
from lth.lab import cells, store, stored, submit
from lth.lab.build import assemble
from lth.lab.config import ConfigError
from lth.lab.devices import memory
from lth.lab.submit import LostError
from tests import own, sweeps

sweep = import_module("lth.lab.sweep")
GRID = sweeps.grid(0, 2)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder in which the grid is done, and what came of each cell."""
    folder, told, built = tmp_path_factory.mktemp("runs"), [], []
    build = assemble.build

    def counted(e, *args):
        built.append(e)
        return build(e, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "build", counted)
        patch.setattr(cells, "_built", {})
        runs = lth.sweep(GRID, folder, ended=told.append)
    assert len(built) == len(GRID) / 2  # those of other seeds had what was compiled
    return folder, runs, {one.cell: one for one in told}


def test_ids_are_known_before_anything_is_trained(done, tmp_path):
    _, runs, told = done
    planned = sweep.plan(GRID, tmp_path)
    assert not list(tmp_path.iterdir())
    assert {c: job.path.name for c, job in planned.items()} == {
        c: run.path.name for c, run in runs.items()
    }
    assert [run.path for run in runs.values()] == [one.path for one in told.values()]
    assert all(run.content["id"] in run.path.name for run in runs.values())


def test_cells_that_differ_in_seeds_alone_compile_once_and_have_their_own_bits(done):
    folder, runs, told = done
    firsts = [told[c].compiling for c in GRID if c.endswith("0")]
    others = [told[c].compiling for c in GRID if c.endswith("2")]
    assert max(others) < min(firsts)
    alone = lth.run("digits", runs=folder / "alone", **GRID["random, 2"][1])
    assert not sweeps.differences(runs["random, 2"], alone)
    assert sweeps.differences(runs["random, 0"], alone)
    assert alone.path.name.split("-")[-1] == runs["random, 2"].content["id"]


def test_a_finished_cell_is_skipped(done, monkeypatch):
    folder, runs, _ = done
    monkeypatch.setattr(cells, "work", lambda *args, **named: pytest.fail("it works"))
    again = lth.sweep(GRID, folder)
    assert [run.path for run in again.values()] == [run.path for run in runs.values()]


def test_a_cell_is_finished_only_when_all_that_it_asks_for_is_stored(done):
    folder, _, _ = done

    def state(**changes):
        e = sweeps.cell(prune__criterion="magnitude", **changes)
        (one,) = sweep.status(sweep.plan({"magnitude, 0": e}, folder))
        return one.state, one.levels, one.wanted

    assert state() == ("finished", 2, 2)
    assert state(levels=0) == ("finished", 1, 1)
    assert state(levels=2) == ("begun", 2, 3)
    assert state(controls="reinit")[0] == "begun"
    assert state(checkpoint_at="7")[0] == "begun"
    assert state(replicates=3)[0] == "begun"  # it adds to the run of two
    assert state(first_replicate=1)[0] == "waiting"


def test_what_a_run_holds_beyond_its_cell_is_left_out(done):
    folder, runs, _ = done
    name = "random, 0"
    planned = sweep.plan(
        {name: sweeps.cell(prune__criterion="random", levels=0)}, folder
    )
    assert planned[name].path == runs[name].path  # which has level 1 too
    both = sweep.table({name: runs[name]})
    more = both.assign(replicate=both["replicate"] + 2)  # replicates added later
    rows = sweep.asked(pd.concat([both, more], ignore_index=True), planned)
    assert rows.equals(both[both["level"] == 0].reset_index(drop=True))
    assert 0 < len(rows) < len(both)
    assert sweep.asked(both, sweep.plan({name: sweeps.small}, folder)).equals(both)


def test_a_run_with_all_its_branches_and_states_is_finished(tmp_path):
    asked = {"controls": "reinit,order", "checkpoint_at": "0,7", "replicates": 1}
    one = {"all": sweeps.cell(**asked)}
    (run,) = lth.sweep(one, tmp_path).values()
    (at,) = sweep.status(sweep.plan(one, tmp_path))
    assert (at.state, at.reason) == ("finished", "")
    (branch,) = (run.path / "branches").glob("order-*")
    shutil.rmtree(branch / "tickets" / "level_01")
    (at,) = sweep.status(sweep.plan(one, tmp_path))
    assert at.state == "begun"


def test_failed_and_busy_cells_keep_none_from_its_turn(tmp_path):
    three = {
        "wrong": partial(sweeps.small, width="a"),
        "busy": sweeps.small,
        "right": partial(sweeps.small, width=6),
    }
    told = []
    with (
        store.claim(tmp_path / "busy"),
        pytest.raises(sweep.SweepError, match="2 cells are not finished") as caught,
    ):
        lth.sweep(three, tmp_path, ended=told.append)
    assert [(one.cell, one.state) for one in told] == [
        ("wrong", "failed"),
        ("busy", "busy"),
        ("right", "finished"),
    ]
    assert set(caught.value.done) == {"wrong", "busy"}
    assert "is in use by process" in caught.value.done["busy"].reason
    at = {one.cell: one for one in sweep.status(sweep.plan(three, tmp_path))}
    assert {c: one.state for c, one in at.items()} == {
        "wrong": "failed",
        "busy": "waiting",
        "right": "finished",
    }
    assert at["wrong"].reason == caught.value.done["wrong"].reason
    assert "ValueError: the model's `init` fails" in at["wrong"].reason
    three["wrong"] = sweeps.small  # put right, it is not failed
    runs = lth.sweep(three, tmp_path)
    assert not store.reason(tmp_path / "wrong")
    assert runs["right"].content["flags"] == {"width": 6}
    assert runs["wrong"].recipe().replicates == (0, 1)  # to hang branches off it


def test_whoever_holds_a_run_is_named_while_it_does(tmp_path):
    path = tmp_path / "small"
    assert store.holder(path) == ""
    planned = sweep.plan({"small": sweeps.small}, tmp_path)
    with store.claim(path):
        assert store.holder(path).startswith("process ")
        (at,) = sweep.status(planned)
        assert (at.state, at.reason) == ("running", store.holder(path))
    assert store.holder(path) == ""


def test_a_stopped_sweep_saves_and_goes_on(tmp_path):
    asks = iter([False] * 3)

    def stop():
        return next(asks, True)

    two = {c: GRID[c] for c in ("magnitude, 0", "magnitude, 2")}
    with pytest.raises(sweep.SweepError) as caught:
        lth.sweep(two, tmp_path, save_every="5it", stop=stop)
    assert {one.state for one in caught.value.done.values()} == {"stopped"}
    runs = lth.sweep(two, tmp_path)
    other = lth.sweep(two, tmp_path / "unbroken")
    assert not any(sweeps.differences(runs[c], other[c]) for c in two)


def test_what_can_be_seen_to_be_wrong_is_refused_before_anything_is_trained(tmp_path):
    good = sweeps.cell()
    for wrong, message in [
        (("digits", {"prune.rate": 2}), "cell b: --prune.rate is in"),
        (("digit", {}), "cell b: unknown preset"),
        (("digits", {"rate": 2}), "cell b: there is no setting"),
        (("digits", {"rewind.mode": "finetun"}), "cell b: config.rewind.mode cannot"),
    ]:
        with pytest.raises(ConfigError, match=message):
            lth.sweep({"a": good, "b": wrong}, tmp_path)
    with pytest.raises(ConfigError, match="at least one cell"):
        lth.sweep({}, tmp_path)
    with pytest.raises(ConfigError, match="save_every"):
        lth.sweep({"a": good}, tmp_path, save_every="often")
    assert not list(tmp_path.iterdir())


def test_the_table_has_a_column_for_each_thing_that_differs(done):
    _, runs, _ = done
    rows = sweep.collected(runs)
    extra = [name for name in rows.columns if name not in lth.results.COLUMNS]
    assert sorted(extra) == ["first_replicate", "prune.criterion"]
    for cell, mine in rows.groupby("run"):
        criterion, first = cell.split(", ")
        assert set(mine["prune.criterion"]) == {criterion}
        assert set(mine["first_replicate"]) == {int(first)}
        assert len(mine) == len(runs[cell].table)
    assert rows["value"].sum() == pytest.approx(
        sum(run.table["value"].sum() for run in runs.values())
    )


def test_a_table_is_written_whole_and_reads_back(done, tmp_path):
    _, runs, _ = done
    rows = sweep.collected(runs)
    lth.results.write_as(tmp_path / "all.csv", rows)
    back = pd.read_csv(tmp_path / "all.csv", converters={"value": float})
    assert back.columns.tolist() == rows.columns.tolist()
    assert np.array_equal(back["value"], rows["value"])
    with pytest.raises(ValueError, match="csv or .parquet; got all.xls"):
        lth.results.write_as(tmp_path / "all.xls", rows)
    assert [path.name for path in tmp_path.iterdir()] == ["all.csv"]
    pytest.importorskip("pyarrow")
    lth.results.write_as(tmp_path / "all.parquet", rows)
    assert pd.read_parquet(tmp_path / "all.parquet").equals(rows)


class Engine:
    """An engine of the tests, which does what it is given when it is told to."""

    def __init__(self, tmp_path):
        self.given: list[tuple[str, Future, cells.Job]] = []

    def __call__(self, work, jobs):
        tasks = []
        for job in jobs:
            tasks.append(Future())
            self.given.append((job.cell, tasks[-1], job))
        return tasks


def test_the_first_cell_of_each_program_goes_before_the_others(tmp_path, monkeypatch):
    engine, slept = Engine(tmp_path), []
    four = {
        **{f"m{i}": sweeps.cell(prune__rate=i / 10) for i in (1, 2, 3)},
        "w": sweeps.cell(model__widths=[4]),
    }

    def sleep(seconds):
        """What happens while the sweep waits."""
        slept.append([cell for cell, _, _ in engine.given])
        if len(slept) == 3:  # the first of m1 has a pruned ticket
            job = engine.given[0][2]
            (job.path / "tickets" / "level_01").mkdir(parents=True)
        if len(slept) == 5:
            for cell, future, job in engine.given:
                future.set_result(cells.Done(cell, "busy", job.path))

    monkeypatch.setattr(sweep.time, "sleep", sleep)
    with pytest.raises(sweep.SweepError):
        lth.sweep(four, tmp_path, submit=engine)
    assert slept[:3] == [["m1", "w"]] * 3
    assert slept[3] == ["m1", "w", "m2", "m3"]
    assert len({job.path for _, _, job in engine.given}) == 4


def test_a_lost_cell_is_given_out_again_so_many_times(tmp_path, monkeypatch):
    given = []

    def engine(work, jobs):
        tasks = []
        for job in jobs:
            given.append(job.cell)
            tasks.append(Future())
            if job.cell == "lost" or len(given) == 1:
                tasks[-1].set_exception(LostError("it was killed"))
            else:
                tasks[-1].set_result(work(job))
        return tasks

    monkeypatch.setattr(sweep, "PAUSE", 0.0)
    two = {"once": sweeps.small, "lost": partial(sweeps.small, width=4)}
    with pytest.raises(sweep.SweepError, match="lost lost: it was killed") as caught:
        lth.sweep(two, tmp_path, submit=engine)
    assert set(caught.value.done) == {"lost"}
    assert given.count("once") == 2
    assert given.count("lost") == 1 + sweep.AGAIN
    assert store.reason(tmp_path / "lost") == "it was killed"


@pytest.fixture
def shares_compiled(compiled, monkeypatch):
    for name, value in compiled.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("shares_compiled")
def test_a_pool_whose_process_is_killed_ends_with_the_bits_of_a_serial_sweep(
    done, tmp_path
):
    _, runs, _ = done
    some = {c: GRID[c] for c in ("magnitude, 0", "magnitude, 2")}
    some["killed"] = sweeps.dying(tmp_path / "marker")
    some["whole"] = sweeps.small
    some["wrong"] = lambda: own.recipe()  # which cannot be pickled
    told = []
    with pytest.raises(sweep.SweepError, match="cannot be given to another") as caught:
        lth.sweep(some, tmp_path / "runs", submit=submit.pool(2), ended=told.append)
    assert set(caught.value.done) == {"wrong"}
    assert (tmp_path / "marker").exists()
    for cell in ("magnitude, 0", "magnitude, 2"):
        (path,) = (tmp_path / "runs").glob(f"{cell}-*")
        assert not sweeps.differences(runs[cell], stored.open_run(path))
    # On as many devices: one trains two networks in another program than each of two.
    whole, killed = (
        stored.open_run(tmp_path / "runs" / n) for n in ("whole", "killed")
    )
    assert not sweeps.differences(whole, killed)


@pytest.mark.parametrize(("share", "processes"), [(0.0, 2), (np.inf, 1)])
def test_a_process_that_holds_more_than_its_share_of_memory_is_replaced(
    share, processes, tmp_path, monkeypatch
):
    one = submit.Share((0,), {}, share)
    monkeypatch.setattr(submit, "shared_out", lambda *_: [one])
    jobs = list(sweep.plan(GRID, tmp_path).values())[:2]
    tasks = submit.pool(1)(sweeps.tells, jobs)
    assert len({task.result().reason for task in tasks}) == processes


def test_the_memory_of_a_machine_is_shared_out():
    whole = memory.machine()
    assert [one.memory for one in submit.shared_out(3, [0], [])] == [whole / 4] * 3
    assert 1e7 < memory.resident() < whole


SHARED = [
    (0, "0123", "", [("0", None), ("1", None), ("2", None), ("3", None)]),
    (2, "0123", "", [("01", None), ("23", None)]),
    (3, "01", "", [("0", None), ("0", None), ("1", None)]),
    (0, "0123", "ab", [("01", "a"), ("23", "b")]),
    (4, "01", "ab", [("0", "a"), ("0", "a"), ("1", "b"), ("1", "b")]),
    (1, "01", "ab", [("01", "a,b")]),
]


@pytest.mark.parametrize(("count", "cores", "gpus", "expected"), SHARED)
def test_cores_and_gpus_are_shared_out(count, cores, gpus, expected):
    shares = submit.shared_out(count, [int(c) for c in cores], list(gpus))
    found = [
        ("".join(map(str, one.cores)), one.variables.get("CUDA_VISIBLE_DEVICES"))
        for one in shares
    ]
    assert found == expected
    fraction = {one.variables.get("XLA_PYTHON_CLIENT_MEM_FRACTION") for one in shares}
    assert fraction == ({"0.450"} if gpus and count > len(gpus) else {None})


def test_gpus_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-4f")
    assert submit.there() == ["2", "GPU-4f"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert submit.there() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert submit.there() == []
