"""Nothing is silently other: what is stored is checked against what it should be."""

import json
import os
import shutil
import time
from dataclasses import replace

import jax
import numpy as np
import pytest

import lth
from lth.cli import main
from lth.lab import devices, measured, runner, store
from lth.lab.config.presets import PRESETS
from lth.lab.store import checkpoint, sessions
from tests.conftest import start

SMALL = replace(
    PRESETS["digits"].experiment,
    model=replace(PRESETS["digits"].experiment.model, widths=(8,)),
    steps="40it",
    eval_every="20it",
    levels=2,
    replicates=2,
    controls="reinit",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return start(SMALL, "digits", tmp_path_factory.mktemp("trust")).path


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / whole.name)


def again(run, **changes):
    return start(replace(SMALL, **changes), "digits", run.parent)


def branch_of(run):
    return store.branches(run)["reinit"]


def test_tickets_that_changed_places_are_refused_by_name(run, whole):
    tickets = run / "tickets"
    shutil.rmtree(tickets / "level_02")
    shutil.copytree(tickets / "level_01", tickets / "level_02")
    with pytest.raises(store.ForeignError, match="name 'level_01', not 'level_02'"):
        again(run)
    with pytest.raises(store.ForeignError, match="level_02 belongs elsewhere"):
        lth.open_run(run).ticket(2)
    shutil.rmtree(tickets / "level_02")
    again(run)
    assert (run / "table.csv").read_text() == (whole / "table.csv").read_text()


def test_a_ticket_of_a_branch_or_of_another_run_is_none_of_the_trunk(run, tmp_path):
    tickets = run / "tickets"
    shutil.rmtree(tickets / "level_02")
    shutil.copytree(branch_of(run) / "tickets" / "level_02", tickets / "level_02")
    with pytest.raises(store.ForeignError, match="branch 'reinit-.*', not 'none'"):
        again(run)
    other = start(replace(SMALL, levels=2, batch_size=50), "digits", tmp_path).path
    shutil.rmtree(tickets / "level_02")
    shutil.copytree(other / "tickets" / "level_02", tickets / "level_02")
    with pytest.raises(store.ForeignError, match=f"run '{other.name[-10:]}', not"):
        again(run)
    for name in ("init", "early"):
        shutil.rmtree(tickets / name)
        shutil.copytree(other / "tickets" / name, tickets / name)
    with pytest.raises(store.ForeignError, match="belongs elsewhere"):
        _ = lth.open_run(run).early


def test_what_a_checkpoint_says_of_itself_is_sealed(run):
    path = run / "tickets" / "level_01"
    file = path / checkpoint.METADATA
    content = json.loads(file.read_text())
    content["custom_metadata"]["about"]["of"]["name"] = "level_02"
    file.write_text(json.dumps(content))
    with pytest.raises(store.StoreError, match="what it says of itself was changed"):
        lth.open_run(run).ticket(1)


def edits(text):
    """Tables that are other than `text`, one edit each."""
    lines = text.splitlines(keepends=True)
    yield "a line gone", "".join(lines[:5] + lines[6:])
    yield "a line twice", "".join([*lines[:5], lines[4], *lines[5:]])
    yield "two lines swapped", "".join([*lines[:4], lines[5], lines[4], *lines[6:]])
    yield "cut", "".join(lines[:-3])
    yield (
        "a line of another level",
        "".join([*lines[:5], lines[5].replace(",ticket,0,", ",ticket,1,"), *lines[6:]]),
    )
    yield "a level gone", "".join(line for line in lines if ",ticket,1," not in line)
    rng = np.random.default_rng(0)
    for at in rng.integers(lines[0].__len__(), len(text) - 1, 40).tolist():
        other = chr(ord(text[at]) ^ 1)
        yield f"a bit at {at}", text[:at] + other + text[at + 1 :]


def test_a_table_that_was_edited_is_named_as_that_and_repaired(run, capsys):
    path = run / "table.csv"
    text = path.read_text()
    for what, edited in edits(text):
        path.write_text(edited)
        with pytest.raises(store.StoreError, match="was changed or lost"):
            store.read_table(run)
        if what.startswith("a bit"):
            continue
        with pytest.raises(store.StoreError, match="'lth repair .*' writes the table"):
            store.reconcile(run)
        assert measured.repair(run) == [str(path)], what
        assert path.read_text() == text, what
    path.unlink()
    assert main.command(["show", str(run)]) == 5
    assert "table.csv was changed or lost: its rows of level 0" in (
        capsys.readouterr().err
    )
    with pytest.raises(store.StoreError, match="was changed or lost"):
        again(run)
    (branch_of(run) / "table.csv").unlink()
    assert main.command(["repair", str(run)]) == 0
    assert capsys.readouterr().out.count("written anew:") == 2
    assert path.read_text() == text
    assert again(run).failed == {}
    assert main.command(["repair", str(run)]) == 0
    assert "written anew" not in capsys.readouterr().out


def test_a_ticket_that_is_damaged_is_no_source_for_a_table(run):
    for file in (run / "tickets" / "level_01" / "state").rglob("d/*"):
        file.write_bytes(b"")
    (run / "table.csv").unlink()
    with pytest.raises(store.StoreError, match="level_01 cannot be read"):
        measured.repair(run)
    assert not (run / "table.csv").exists()


def test_replicates_that_failed_are_known_without_log_and_table(tmp_path):
    e = replace(SMALL, optimizer=replace(SMALL.optimizer, name="sgd"), controls="")
    e = replace(e, optimizer=replace(e.optimizer, learning_rate=1e30))
    outcome = start(e, "digits", tmp_path)
    assert len(outcome.failed) == 2
    (outcome.path / "log.jsonl").unlink()
    assert runner.failures(outcome.path) == outcome.failed
    assert again_of(e, tmp_path).failed == outcome.failed


def again_of(e, folder):
    return start(e, "digits", folder)


def test_a_log_that_was_cut_is_mended(run):
    path = run / "log.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"time": 12, "event": "meas')
    again(run)
    lines = path.read_text().splitlines()
    assert all(json.loads(line) for line in lines)
    assert lines[: whole.count("\n")] == whole.splitlines()


def test_a_probe_that_was_edited_is_named(run):
    opened = lth.open_run(run)

    def probe(recipe, early, ticket):
        return {"kept": jax.vmap(lth.masks.count)(ticket.mask)}

    table = opened.measure("counts", probe)
    (path, *_) = sorted((run / "probes" / "counts").iterdir())
    assert opened.measure("counts", probe).equals(table)
    path.write_text(path.read_text().replace(",1.0,", ",0.9,"))
    with pytest.raises(store.StoreError, match="was changed: delete it"):
        opened.measure("counts", probe)


def sessions_of(run):
    return json.loads((run / "environment.json").read_text())


def change(run, **fields):
    """Have the last session be another one."""
    found = sessions_of(run)
    found[-1] |= fields
    (run / "environment.json").write_text(json.dumps(found))


def test_other_random_numbers_are_refused_with_what_to_set(run):
    settings = sessions_of(run)[-1]["settings"]
    change(run, settings={**settings, "jax_default_prng_impl": "rbg"})
    with pytest.raises(store.StoreError, match="Set JAX_DEFAULT_PRNG_IMPL=rbg and"):
        again(run)
    change(run, settings={**settings, "jax_threefry_partitionable": False})
    with pytest.raises(store.StoreError, match="JAX_THREEFRY_PARTITIONABLE=0"):
        again(run)
    change(run, settings=settings)
    again(run)


def test_what_may_round_otherwise_is_said_once_and_logged(run):
    last = sessions_of(run)[-1]
    change(run, packages={**last["packages"], "jaxlib": "0.1.2"}, devices=["TPU v9"])
    with pytest.warns(store.RunWarning, match="jaxlib was 0.1.2, is .*devices was"):
        again(run)
    (line,) = store.logged(run, "environment")
    assert line["changed"]["jaxlib"] == ["0.1.2", last["packages"]["jaxlib"]]
    again(run)  # no more warning: it would be an error here
    assert len(store.logged(run, "environment")) == 1


def test_an_environment_of_an_older_lth_or_none_compares_with_nothing(run):
    found = sessions_of(run)
    (run / "environment.json").write_text(
        json.dumps([{"started": found[0]["started"], "packages": None}])
    )
    again(run)
    (run / "environment.json").unlink()
    again(run)
    assert len(sessions.recorded(run)) == 1


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("jax_enable_x64", "lth computes in 32"),
        ("jax_disable_jit", "lth trains compiled programs"),
    ],
)
def test_64_bits_and_no_compiling_are_refused(name, told, tmp_path, capsys):
    jax.config.update(name, True)
    try:
        with pytest.raises(devices.TypesError, match=f"unset {name.upper()}"):
            start(SMALL, "digits", tmp_path)
        assert main.command(["run", "digits", "--runs", str(tmp_path)]) == 2
    finally:
        jax.config.update(name, False)
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_tickets_folder_that_cannot_be_read_is_named(run, monkeypatch):
    def fail(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", fail)
    with pytest.raises(store.StoreError, match="tickets cannot be read: Permission"):
        store.stored(run)


def test_strangers_among_the_tickets_and_leftovers_do_no_harm(run, whole):
    (run / "tickets" / "level_01_foo").mkdir()
    (run / "tickets" / "notes.txt").write_text("mine")
    (run / "tickets" / "level_09.orbax-checkpoint-tmp-1").mkdir()
    (run / ".config.json.123").write_text("{")
    assert store.stored(run) == {0, 1, 2}
    again(run)
    left = {path.name for path in (run / "tickets").iterdir()}
    assert {"level_01_foo", "notes.txt"} < left
    assert not any("orbax" in name for name in left)
    assert not (run / ".config.json.123").exists()
    assert (run / "table.csv").read_text() == (whole / "table.csv").read_text()


def test_compiled_programs_are_read_only_where_this_user_wrote_them(
    tmp_path, monkeypatch
):
    folder = tmp_path / ".compiled"
    folder.mkdir()
    folder.chmod(0o777)
    empty, fresh, good = (folder / f"{n}-cache" for n in ("empty", "fresh", "good"))
    empty.write_bytes(b"")
    os.utime(empty, (time.time() - 3600,) * 2)
    fresh.write_bytes(b"")
    good.write_bytes(b"x")
    (folder / "link-cache").symlink_to(good)
    assert store.private_folder(folder) == folder
    assert folder.stat().st_mode & 0o022 == 0
    assert {path.name for path in folder.iterdir()} == {"fresh-cache", "good-cache"}
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    assert store.private_folder(folder) is None  # both are another's: none is used


def test_the_doctors_verdict_is_kept_with_a_run_that_asks_for_it(run, monkeypatch):
    from lth.lab import doctor

    one = {"devices": doctor.CHECKS["devices"]}
    monkeypatch.setattr(doctor, "CHECKS", one)
    args = ["--runs", str(run.parent), "--record", str(run)]
    assert main.command(["doctor", *args]) == 0
    assert sessions_of(run)[-1]["doctor"]["status"] == "ok"
    again(run)
    assert "doctor" in sessions_of(run)[-2]
    assert "doctor" not in sessions_of(run)[-1]
    assert main.command(["doctor", "--record", str(run / "none")]) == 5


@pytest.mark.parametrize("name", ["config.json", "branch.json"])
def test_a_description_that_was_changed_is_refused(tmp_path, name):
    """Also where the change says nothing about what was trained."""
    run = lth.open_run(start(replace(SMALL, controls="reinit"), "small", tmp_path).path)
    (path,) = run.path.rglob(name)
    field = {"config.json": "preset", "branch.json": "title"}[name]
    content = json.loads(path.read_text())
    bare = {k: v for k, v in content.items() if k != "seal"}
    for changed in ({**content, field: "other"}, bare):
        path.write_text(json.dumps(changed))
        with pytest.raises(store.StoreError, match=f"{name} was changed"):
            _ = lth.open_run(run.path).titles
    path.write_text(json.dumps(content))
    assert lth.open_run(run.path).titles == {"reinit": "fresh initialisation"}
