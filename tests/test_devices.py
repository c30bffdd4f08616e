"""Runs over several devices and processes; what training gives up; streamed images.

What needs devices or processes of its own runs beside these tests (devices_worker.py).
"""

import contextlib
import itertools
import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest

import lth
from lth.cli import main
from lth.data import folder as images
from lth.lab import config, front, keeping, runner, store
from lth.lab.build import assemble, tasks
from tests.conftest import assert_same, start
from tests.devices_worker import FLAGS, SMALL, STREAMED, paint

jax.devices()  # starts JAX with one CPU device, before a run asks for more


class Worker:
    """A process of devices_worker.py at work, and what it prints at its end."""

    def __init__(self, *args, **environment):
        own = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.devices_worker", *map(str, args)],
            env={**own, "JAX_PLATFORMS": "cpu", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def facts(self):
        out, error = self.process.communicate(timeout=300)
        assert self.process.returncode == 0, error[-3000:]
        return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module", autouse=True)
def started(tmp_path_factory, compiled):
    """All workers, from the first of these tests on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    eight = "--xla_force_host_platform_device_count=8"
    folder = tmp_path_factory.mktemp("joined")
    paint(folder / "data")
    fast = {**compiled, "XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    workers = [
        Worker("many", tmp_path_factory.mktemp("many"), XLA_FLAGS=eight),
        *(Worker("joined", i, port, folder, **fast) for i in range(2)),
    ]
    jax.config.update("jax_disable_most_optimizations", True)  # to compile faster
    yield workers
    jax.config.update("jax_disable_most_optimizations", False)
    for worker in workers:
        worker.process.kill()


MODES = ["weights", "learning_rate", "finetune", "weights_low_rate", "reinit"]


@pytest.mark.parametrize("mode", MODES)
def test_training_uses_up_its_own_states_and_never_the_early_one(
    mode, tmp_path, monkeypatch, recwarn
):
    saved, given, early = [], [], []
    falling = replace(SMALL.optimizer, milestones="3it")  # what rewinding rates needs
    e = replace(SMALL, optimizer=falling, rewind=config.Rewind(mode=mode, to="2it"))
    recipe = lth.build(e)

    def trained(state, *rest):
        given.append(state)
        return recipe.train(state, *rest)

    def rewound(first, late, keys):
        early.append(first)
        return recipe.rewind(first, late, keys)

    monkeypatch.setattr(store, "save", lambda unit, ticket, facts: saved.append(ticket))
    spied = recipe._replace(train=trained, rewind=rewound)
    path = front.train_own(spied, tmp_path / "run").path
    assert_same(early[0], runner.early(recipe, path))  # as it is stored
    assert len(given) == 1 + 2 * 2  # to the rewind point, and to two stops each level
    large = [(state.params, state.opt_state) for state in given]
    assert all(x.is_deleted() for x in jax.tree.leaves(large))
    apart = [early[0], *(ticket.state for ticket in saved)]
    places = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(apart)]
    assert len(set(places)) == len(places) == 3 * len(jax.tree.leaves(early[0]))
    assert not [w for w in recwarn if "donat" in str(w.message)]


def test_weights_stay_float32_where_the_arithmetic_is_bfloat16(tmp_path):
    e = replace(SMALL, model=replace(SMALL.model, compute="bfloat16"), levels=0)
    state = lth.open_run(start(e, "small", tmp_path).path).ticket(0)
    assert {x.dtype.name for x in jax.tree.leaves(state.params)} == {"float32"}
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


def test_blocks_that_are_made_again_change_nothing(tmp_path):
    vit = config.Model(name="vit", depth=1, width=0.1)
    e = replace(SMALL, model=vit, replicates=1, levels=0)
    plain, again = (
        lth.open_run(start(replace(e, model=m), "small", tmp_path).path)
        for m in (vit, replace(vit, remat=True))
    )
    a, b = (run.ticket(0).params for run in (plain, again))
    assert_close(a, b, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A data folder with 36 images of three classes, told apart by their colour."""
    pytest.importorskip("grain", reason="the extra imagenet is not installed")
    pytest.importorskip("PIL.Image", reason="the extra imagenet is not installed")
    data = tmp_path_factory.mktemp("data")
    paint(data)
    return data


def test_streamed_images_run_stop_and_go_on_to_the_same_bits(
    folders, tmp_path, monkeypatch
):
    stored = round(16 * 8 / 7)
    monkeypatch.setattr(tasks, "BLOCK", 2 * 8 * stored**2 * 3)  # of two steps each
    monkeypatch.setattr(keeping, "FIRST", 2)
    e = replace(STREAMED, levels=2)
    whole = start(e, "small", tmp_path / "whole", folders).path
    moved = folders.rename(tmp_path / "moved")
    calls = itertools.count(1)
    saving = keeping.Saving(None, 2, lambda: next(calls) % 3 == 0)
    built = assemble.build(e, moved)
    assert built.recipe.piece == 2
    for _ in range(40):
        with contextlib.suppress(keeping.Stopped):
            parts = front.train(built, "small", tmp_path / "parts", saving=saving).path
            break
    resumed = [line["step"] for line in store.logged(parts, "resumed")]
    assert any(step % 4 for step in resumed), resumed  # not where it measures
    assert whole.name == parts.name
    assert (whole / "table.csv").read_bytes() == (parts / "table.csv").read_bytes()
    for level in range(3):
        a, b = (lth.open_run(path).ticket(level) for path in (whole, parts))
        assert_same(a, b)
    shape = a.params["conv_0"]["kernel"].shape
    assert shape[:-1] == (1, 3, 3, 3)
    table = lth.open_run(whole).table
    assert {"validation", "test", "train"} == set(table["split"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--coordinator localhost:1 --processes 2 --process 2", "got 2 of 2"),
        ("--coordinator localhost:1 --processes 2 --process -1", "got -1 of 2"),
        ("--coordinator localhost --processes 2", "is host:port or auto"),
        ("--processes 2", "need --coordinator"),
        ("--process 1", "need --coordinator"),
    ],
)
def test_bad_processes_are_refused_before_any_connects(flags, message, capsys):
    assert main.command(["run", "digits", *flags.split()]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


# The workers have had time by now.


@pytest.fixture(scope="module")
def many(started):
    return started[0].facts()


@pytest.fixture(scope="module")
def joined(started):
    return [worker.facts() for worker in started[1:]]


def assert_close(a, b, **tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


def stored(run):
    """The variant and level of every ticket."""
    folders = {store.TRUNK: run.path, **store.branches(run.path)}
    return [(name, n) for name, unit in folders.items() for n in store.stored(unit)]


def optimizer_of(run, variant, level):
    unit = {store.TRUNK: run.path, **store.branches(run.path)}[variant]
    return store.load(unit, level).state["opt_state"]


def test_no_more_devices_are_used_than_replicates_need(many):
    assert many["devices"] == [1, 3, 8, 5, 7]  # of 8, for 1, 3, 8, 9, 13 replicates


@pytest.mark.parametrize(("name", "count"), [("three", 3), ("eight", 8), ("padded", 3)])
def test_replicates_over_devices_are_those_of_one_device(many, name, count):
    one, spread = lth.open_run(many["one"]), lth.open_run(many[name])
    first = jax.tree.map(lambda x: x[:count], one.early)
    assert_same(first, spread.early)
    for variant, level in stored(spread):
        a, b = (run.ticket(level, variant) for run in (one, spread))
        assert_same(jax.tree.map(lambda x: x[:count], a[1:]), b[1:])
        a, b = (optimizer_of(run, variant, level) for run in (one, spread))
        assert_same(jax.tree.map(lambda x: x[:count], a), b)
    rows, found = one.table.drop(columns="run"), spread.table.drop(columns="run")
    known = found[["variant", "level"]].drop_duplicates()
    rows = rows[rows["replicate"] < count].merge(known)
    order = [name for name in rows.columns if name != "value"]
    a, b = (table.sort_values(order, ignore_index=True) for table in (rows, found))
    assert a.equals(b)
    if name == "three":
        assert len(stored(spread)) == 4  # dense, ticket and two controls


def test_a_batch_over_devices_trains_like_a_whole_one(many):
    one, spread = (lth.open_run(many[name]) for name in ("batch_one", "batch_eight"))
    assert "multiple of the 8 devices" in many["refused"]
    assert many["not_split"] == "a batch of 6 does not divide among 8 devices"
    for name in ("level_00", "level_01"):
        a, b = (store.load_tree(run.path, name) for run in (one, spread))
        assert_same(a["mask"], b["mask"])
        # Were each device to normalise its own 8 images, these would be far apart.
        assert set(a["state"]) == {"step", "params", "stats", "opt_state"}
        assert_close(a["state"], b["state"], rtol=1e-5, atol=1e-5)
    loss = one.table["metric"] == "loss"
    losses = (run.table["value"][loss].to_numpy() for run in (one, spread))
    assert_close(*losses, rtol=0, atol=1e-5)


def test_masks_learned_over_devices_are_those_of_one_device(many):
    one, spread, batch = (
        lth.open_run(many[f"learned_{name}"]) for name in ("one", "spread", "batch")
    )
    assert_same(one.learned, spread.learned)
    assert_same(one.ticket(0)[1:], spread.ticket(0)[1:])
    assert one.table["value"].equals(spread.table["value"])
    # Each device has its part of the batch, under the mask that all have drawn.
    assert_close(one.learned, batch.learned, rtol=1e-5, atol=1e-5)


def test_a_mask_of_weights_on_several_devices_is_chosen_where_they_lie(many):
    assert many["selected"]
    assert many["stays"]
    assert many["gathered"] == [4 * 2**10]  # a sample: four times the root of 2**20


def test_programs_are_kept_beside_the_runs_and_give_buffers_up_quietly(many, started):
    assert many["hits"] >= 2  # training and measuring, of a run like one before it
    assert many["donation"] == []


def test_two_processes_share_the_replicates(joined, tmp_path, capsys):
    assert main.command(["run", "digits", *FLAGS.split(), "--runs", str(tmp_path)]) == 0
    assert re.search(
        r"time +[\d.]+ s, and [\d.]+ s of compiling", capsys.readouterr().out
    )
    (alone,) = tmp_path.glob("digits-*")
    one, shared = lth.open_run(alone), lth.open_run(joined[0]["path"])
    assert [f["code"] for f in joined] == [0, 0]
    assert [f["processes"] for f in joined] == [2, 2]
    assert joined[0]["used"] == [0, 1]  # a device of each for two replicates
    assert alone.name == shared.path.name
    assert_same(one.early, shared.early)
    for level in (0, 1):
        assert_same(one.ticket(level), shared.ticket(level))
    tables = [(path / "table.csv").read_bytes() for path in (alone, shared.path)]
    assert tables[0] == tables[1]
    assert [f["trained_again"] for f in joined] == [0, 0]
    sessions = json.loads((shared.path / "environment.json").read_text())
    assert len(sessions) == 2  # one process writes: this run and the one after it


def test_two_processes_share_each_batch(joined):
    shared, spread = (lth.open_run(joined[0][name]) for name in ("path", "spread"))
    for level in (0, 1):
        a, b = shared.ticket(level), spread.ticket(level)
        assert_close(a.params, b.params, rtol=0, atol=1e-5)


def test_two_processes_each_read_their_share_of_the_images(
    joined, started, tmp_path, monkeypatch
):
    count = mock.Mock(side_effect=images.decode)
    monkeypatch.setattr(images, "decode", count)
    folder = Path(joined[0]["images_batch"]).parents[1] / "data"
    alone = start(STREAMED, "small", tmp_path, folder)
    one, shared, spread = (
        lth.open_run(path)
        for path in (
            alone.path,
            joined[0]["images_replicates"],
            joined[0]["images_batch"],
        )
    )
    for level in (0, 1):
        a, b, c = (run.ticket(level) for run in (one, shared, spread))
        assert_same(a, b)
        assert_close(a.params, c.params, rtol=1e-5, atol=1e-5)
    for over in ("replicates", "batch"):
        read = [facts[f"read_{over}"] for facts in joined]
        assert sum(read) == count.call_count
        assert max(read) < 0.75 * count.call_count


def test_a_failure_of_the_first_process_ends_both(joined):
    first, second = (f["failure"] for f in joined)
    assert first.startswith("StoreError: cannot write")
    assert second == "StoreError: the first process of this run failed: see its message"
