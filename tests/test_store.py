"""The run directory: round trips, damage, other formats and processes, full disks."""

import errno
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
import pandas as pd
import pytest

import lth
from lth import lottery, results, train
from lth.lab import store
from lth.lab.config import identity
from lth.lab.store import checkpoint
from tests.conftest import assert_same, plain_mlp


class Small(NamedTuple):
    """A ticket of two replicates, in a claimed run directory."""

    run: object
    ticket: lottery.Ticket
    like: tuple


@pytest.fixture
def small(tmp_path):
    init, tx = plain_mlp().init, optax.adam(optax.linear_schedule(0.1, 0, 9))
    keys = jax.random.split(jax.random.key(0), 2)
    state = jax.vmap(lambda key: train.init_state(init, tx, key))(keys)
    mask = {k: v > 0 if k[0] == "w" else None for k, v in state.params.items()}
    metrics = {
        "test_loss": np.array([[0.1, 0.2]], np.float32),
        "failed": np.array([[-1, -1]]),
    }
    ticket = lottery.Ticket(2, mask, state, metrics)
    (tmp_path / "tickets").mkdir()
    return Small(tmp_path, ticket, (mask, state))


def test_a_ticket_comes_back_with_its_types_nones_and_bits(small):
    store.save(small.run, small.ticket)
    loaded = store.load(small.run, 2, small.like)
    assert loaded.level == 2
    assert_same(loaded, small.ticket)
    assert isinstance(loaded.state, train.TrainState)
    assert loaded.mask["b0"] is None
    assert loaded.metrics["failed"].dtype == np.int64
    bare = store.load(small.run, 2, None)  # with nothing to compare to: dicts and lists
    assert_same(
        bare.state["params"], jax.tree.map(np.asarray, small.ticket.state.params)
    )


def test_typed_keys_in_optimizer_state_can_be_stored(tmp_path):
    (tmp_path / "tickets").mkdir()
    tree = {"key": jax.random.key(3)}
    store.save_tree(tmp_path, "noise", tree)
    loaded = store.load_tree(tmp_path, "noise", tree)
    np.testing.assert_array_equal(
        jax.random.key_data(loaded["key"]), jax.random.key_data(tree["key"])
    )


def test_what_is_stored_is_known_by_name(small):
    assert store.latest(small.run) is None
    store.save(small.run, small.ticket)
    store.save(small.run, small.ticket._replace(level=11))
    (small.run / "tickets" / "level_03_old").mkdir()
    assert store.stored(small.run) == {2, 11}
    assert store.latest(small.run) == 11
    with pytest.raises(store.StoreError, match="no level_05; it holds level_02, level"):
        store.load(small.run, 5, small.like)


def largest_file(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "empty"])
def test_damaged_checkpoints_are_refused_by_name(small, damage):
    big = small.ticket._replace(
        metrics={"test_loss": np.random.default_rng(0).random((50, 999), np.float32)}
    )
    store.save(small.run, big)
    folder = small.run / "tickets" / "level_02"
    path = largest_file(folder)
    body = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(body[: len(body) // 2])
    elif damage == "flip":
        body[len(body) // 2] ^= 0x10
        path.write_bytes(body)
    elif damage == "gone":
        path.unlink()
    else:
        shutil.rmtree(folder)
        folder.mkdir()
    with pytest.raises(store.StoreError, match="level_02 cannot be read") as error:
        store.load(small.run, 2, small.like)
    assert "Delete that folder and give the same command again" in str(error.value)


def test_half_written_checkpoints_are_never_seen_and_are_swept_away(small):
    half = small.run / "tickets" / "level_03.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "data").write_text("half")
    assert store.stored(small.run) == set()
    with store.claim(small.run):
        assert not half.exists()


def test_a_second_process_is_told_who_holds_the_run(tmp_path):
    with (
        store.claim(tmp_path),
        pytest.raises(store.BusyError, match=r"in use by process \d+ on "),
        store.claim(tmp_path),
    ):
        pass
    with store.claim(tmp_path):
        pass  # free again


def write_config(run, **changes):
    content = {"format": store.FORMAT, "id": "abc", "name": "digits", "data": "d"}
    content |= {"preset": "digits", "replicates": [[0]], "work": {}, "config": {}}
    content |= changes
    (run / "config.json").write_text(store.sealed(content))


def test_runs_of_another_format_are_refused(tmp_path):
    write_config(tmp_path)
    write_config(tmp_path, format=store.FORMAT + 1)
    with pytest.raises(store.StoreError, match="format 4.*install a newer lth"):
        lth.open_run(tmp_path)
    write_config(tmp_path, format=1)
    with pytest.raises(store.StoreError, match="format 1.*older lth.*again in another"):
        lth.open_run(tmp_path)
    with pytest.raises(store.StoreError, match="cannot be read: Not a directory"):
        lth.open_run(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{ half")
    with pytest.raises(store.StoreError, match=r"config\.json is damaged"):
        lth.open_run(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(store.StoreError, match="not the configuration of a run"):
        lth.open_run(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(store.StoreError, match=r"is not a run: it has no config\.json"):
        lth.open_run(tmp_path)


def test_a_configuration_that_was_edited_is_refused(tmp_path):
    from lth.lab.config.presets import PRESETS

    e = PRESETS["digits"].experiment
    write_config(
        tmp_path,
        id=identity.identity(e),
        config={**identity.as_dict(e), "batch_size": 61},
    )
    with pytest.raises(store.StoreError, match=r"config\.json was.*Undo the change"):
        lth.open_run(tmp_path)


def test_a_branch_that_other_runs_have_is_refused_with_the_reason(tmp_path):
    from lth.lab.config.presets import PRESETS

    e = PRESETS["digits"].experiment
    write_config(
        tmp_path,
        id=identity.identity(e),
        config=identity.as_dict(e),
        data="",
        preset="",
    )
    run = lth.open_run(tmp_path)
    assert "is of networks that normalise; got mlp" in run._unfit("norms_late")
    assert "goes with --prune.at early" in run._unfit("invert")
    assert "goes with --learn.method or" in run._unfit("train")
    assert not run._unfit("nobody")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(
            store.StoreError, match="cannot write .*file/run: Not a directory"
        ),
        store.claim(tmp_path / "file" / "run"),
    ):
        pass


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    ValueError("RESOURCE_EXHAUSTED: write failed [errno 28: No space left on device]"),
]


@pytest.mark.parametrize("error", FULL, ids=["python", "tensorstore"])
def test_a_full_disk_says_so_and_loses_nothing(small, error, monkeypatch):
    store.save(small.run, small.ticket)

    def full(*args, **kwargs):
        raise error

    monkeypatch.setattr(checkpoint.ocp, "save", full)
    with pytest.raises(
        store.StoreError, match=r"No space left.*What is stored is whole"
    ):
        store.save(small.run, small.ticket._replace(level=3))
    monkeypatch.undo()
    assert_same(store.load(small.run, 2, small.like), small.ticket)


ROW = ("run", 0, "ticket", 0, 1.0, 20, "test", "loss", "0.1")


def test_the_table_is_cut_to_what_is_stored(tmp_path):
    path = tmp_path / "table.csv"
    results.append(path, [ROW, (*ROW[:3], 1, *ROW[4:])])
    results.append(path, [(*ROW[:2], 'a, "b"', 2, *ROW[4:])])
    whole = path.read_bytes()
    results.keep(path, {0, 1, 2})
    assert path.read_bytes() == whole
    with path.open("a") as file:
        file.write("run,0,ticket,2,0.64,2")  # the process was killed here
    results.keep(path, {0, 2})
    assert list(results.read(path, {0, 2})["level"]) == [0, 2]
    assert list(results.read(path, {0, 2})["variant"]) == ["ticket", 'a, "b"']
    assert list(results.read(path, {2})["level"]) == [2]
    results.keep(path, set())
    assert not path.exists()
    results.keep(path, set())


def test_values_are_read_back_to_the_bit(tmp_path):
    value = np.float32(0.1) + np.float32(2**-20)
    path = tmp_path / "table.csv"
    results.append(path, [(*ROW[:4], 1 / 3, *ROW[5:8], str(value))])
    table = results.read(path, {0})
    assert np.float32(table["value"][0]) == value
    assert table["density"][0] == 1 / 3


def test_early_stopping_and_summary_by_hand(tmp_path):
    losses = {0: [0.5, 0.2, 0.2], 1: [0.3, 0.4, 0.1]}  # the first lowest counts
    rows = []
    for replicate, values in losses.items():
        for step, loss in zip((10, 20, 30), values, strict=True):
            base = ("run", replicate, "ticket", 3, 0.5, step)
            rows.append((*base, "validation", "loss", loss))
            rows.append((*base, "test", "accuracy", step / 100 + replicate / 10))
    results.append(tmp_path / "t", rows)
    table = results.read(tmp_path / "t", {3})
    stops = results.early_stop(table)
    assert list(stops["step"]) == [20, 30]
    np.testing.assert_allclose(stops["accuracy"], [0.2, 0.4])
    row = results.summary(table).iloc[0]
    assert (row["n"], row["stop"]) == (2, 25)
    assert row["accuracy"] == pytest.approx(0.35)
    # Two values 0.3 and 0.4: s = 0.0707, t(0.975, 1) = 12.706, half-width t s / sqrt 2.
    assert row["accuracy_ci"] == pytest.approx(12.706 * 0.05, rel=1e-3)
    alone = results.summary(table[table["replicate"] == 0]).iloc[0]
    assert np.isnan(alone["accuracy_ci"])


def rows_of(run, replicate, offset):
    for step, loss in ((10, 0.5), (20, 0.4 + offset), (30, 0.45)):
        base = (run, replicate, "ticket", 0, 1.0, step)
        yield (*base, "validation", "loss", loss)
        yield (*base, "test", "accuracy", step / 100 + replicate / 50)


def test_runs_drawn_together_do_not_mix(tmp_path):
    tables = []
    for run, offset in (("a", 0.0), ("b", 0.3)):
        path = tmp_path / run
        results.append(
            path, (row for r in (0, 1, 2) for row in rows_of(run, r, offset))
        )
        tables.append(results.read(path, {0}))
    both = results.summary(pd.concat(tables))
    alone = pd.concat([results.summary(table) for table in tables])
    pd.testing.assert_frame_equal(both, alone.reset_index(drop=True))
    assert list(both["stop"]) == [20, 30]


def test_a_table_read_while_it_is_written_has_whole_stored_rows_only(tmp_path):
    path = tmp_path / "table.csv"
    assert results.read(path, set()).empty
    results.append(path, [ROW, (*ROW[:3], 1, *ROW[4:])])
    with path.open("a") as file:
        file.write("run,0,ticket,0,1.0,2")
    assert list(results.read(path, {0})["level"]) == [0]
    path.write_text(",".join(results.COLUMNS) + "\nno,row\n")
    with pytest.raises(ValueError, match="line 2 is no row: 'no,row'"):
        results.read(path, {0})


def test_the_commit_of_the_code_is_on_record():
    """Where the tests run in a checkout, which a wrong file name once hid."""
    if not (Path(lth.__file__).parents[1] / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a checkout, or no git to ask")
    assert re.fullmatch(r"[0-9a-f]{12}\+?", str(store.environment()["code"]))
