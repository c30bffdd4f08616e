"""Runs looked at while they go: in a terminal, by a script, by trackers."""

import json
import os
import subprocess
import sys

import pytest

import lth
from lth import results
from lth.cli import main, watching
from lth.lab import following, store, trackers
from lth.lab.progress import Progress

SMALL = {"steps": "8it", "eval_every": "4it", "levels": 2, "replicates": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    seen = []
    run = lth.run(
        "digits", runs=folder, controls=("reinit",), watch=seen.append, **SMALL
    )
    return run, seen


def copied(run, folder, lines):
    """A run of which only the first lines of the trunk's log were written so far."""
    path = folder / "early"
    path.mkdir()
    (path / "config.json").write_bytes((run.path / "config.json").read_bytes())
    text = (run.path / "log.jsonl").read_text().splitlines(keepends=True)
    (path / "log.jsonl").write_text("".join(text[:lines]))
    return path


def test_a_finished_run_is_finished_and_its_levels_are_those_of_the_table(run):
    opened, seen = run
    at = following.standing(opened.path)
    assert (at.state, at.done, at.left) == ("finished", 1.0, 0.0)
    assert at.metric == "accuracy"
    ends = results.final(opened.table, "validation")
    means = ends.groupby(["variant", "level"])["value"].mean()
    assert {v: sorted(levels) for v, levels in at.scores.items()} == {
        "ticket": [0, 1, 2],
        "reinit": [1, 2],
    }
    for (variant, level), mean in means.items():
        assert at.scores[variant][level] == pytest.approx(mean, abs=2e-6)
    assert len(at.curve) == 2
    assert seen[-1].fraction == 1


def test_the_time_left_is_by_what_this_call_took(run, tmp_path):
    opened, _ = run
    lines = [json.loads(x) for x in (opened.path / "log.jsonl").open()]
    measured = [i for i, line in enumerate(lines) if line["event"] == "measured"]
    path = copied(opened, tmp_path, measured[2] + 1)  # level 0, and half of level 1
    first, last = lines[measured[0]], lines[measured[2]]
    # Five trainings of two measurements each: a tenth, two tenths, three tenths.
    assert [lines[i]["done"] for i in measured[:3]] == pytest.approx([0.1, 0.2, 0.3])
    at = following.standing(path, now=last["time"] + 1)
    assert (at.state, at.variant, at.level, at.step) == ("at work", "ticket", 1, 4)
    assert at.done == pytest.approx(0.3)
    assert at.left == pytest.approx(
        (last["time"] - first["time"]) * 0.7 / 0.2, rel=1e-6
    )
    assert len(at.curve) == 1
    assert following.standing(path, now=last["time"] + 3600).state == "silent"
    (path / "log.jsonl").write_text("")
    assert following.standing(path).state == "waiting"
    assert following.standing(path).left is None


def test_the_time_left_of_a_run_that_goes_on_leaves_out_the_pause(run, tmp_path):
    path = copied(run[0], tmp_path, 0)
    times = [(0, 0.25), (10, 0.5), (1000, 0.5), (1010, 0.75)]  # killed after 10 s
    with (path / "log.jsonl").open("w") as file:
        for when, done in times:
            line = {"time": when, "event": "measured", "variant": "ticket", "level": 1}
            line |= {"step": 4, "done": done, "validation_accuracy": 0.5}
            file.write(json.dumps(line) + "\n")
    assert following.standing(path, now=1011).left == pytest.approx(10)


def test_watching_one_run_and_a_folder_of_runs(run, tmp_path, capsys):
    opened, _ = run
    assert main.command(["watch", str(opened.path)]) == 0
    out = capsys.readouterr().out
    assert "finished" in out
    assert "reinit" in out
    assert main.command(["watch", str(opened.path.parent), "--once"]) == 0
    assert "ticket" in capsys.readouterr().out
    path = copied(opened, tmp_path, 2)
    assert main.command(["watch", str(path), "--once"]) == 4
    assert main.command(["watch", str(tmp_path / "none"), "--once"]) == 5
    os.makedirs(tmp_path / "empty")
    assert main.command(["watch", str(tmp_path / "empty")]) == 5
    assert "nor a folder of runs" in capsys.readouterr().err


def test_bars_are_of_the_values():
    assert watching.spark([0, 7, 3]) == "▁█▄"
    assert watching.spark([2, 2]) == "▁▁"
    assert watching.spark([]) == ""
    assert watching.spark([*range(100)]) == watching.spark([*range(100)], 24)
    assert len(watching.spark([*range(100)])) == 24
    assert watching.spark([float("nan"), 0, 1]) == "▁█"


def test_a_query_has_what_the_table_says(run, capsys):
    opened, _ = run
    assert main.command(["query", str(opened.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["facts"]["state"] == "finished"
    assert found["facts"]["levels"] == [0, 1, 2]
    assert found["facts"]["variants"] == ["ticket", "reinit"]
    assert found["failed"] == []
    assert found["settings"]["batch_size"] == opened.config.batch_size
    summary = results.summary(opened.table)
    assert [row["accuracy"] for row in found["summary"]] == summary["accuracy"].tolist()
    costs = {(row["variant"], row["level"]): row["steps"] for row in found["costs"]}
    assert costs["ticket", 2] == 8
    ends = results.final(opened.table)
    dense = ends[(ends["level"] == 0)]["value"]
    assert found["findings"]["dense"]["score"] == pytest.approx(dense.mean())
    assert main.command(["query", str(opened.path)]) == 0
    assert "state: finished" in capsys.readouterr().out


def test_what_trackers_are_told_is_finite():
    told = Progress("reinit", 3, 5, 10, 0.5, float("nan"), "accuracy", 0.25)
    wanted = {"reinit/level_03/validation_accuracy": 0.25, "done": 0.5}
    assert trackers.numbers(told) == wanted


def test_tensorboard_is_told_each_measurement(tmp_path):
    board = pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    del board
    args = "--steps 8it --eval-every 4it --levels 1 --replicates 2 --quiet".split()
    args += ["--model.widths", "8", "--runs", str(tmp_path), "--track", "tensorboard"]
    assert main.command(["run", "digits", *args]) == 0
    (path,) = tmp_path.glob("digits-*")
    (events,) = (tmp_path / "trackers" / path.name / "tensorboard").glob("events*")
    content = events.read_bytes()
    for level in (0, 1):
        assert content.count(b"ticket/level_%02d/train_loss" % level) == 2
    assert lth.open_run(path).levels == [0, 1]


def test_weights_and_biases_keep_a_run_offline(tmp_path):
    pytest.importorskip("wandb", reason="wandb is not installed")
    code = (
        "from lth.lab import trackers; from lth.lab.progress import Progress\n"
        f"with trackers.wandb({str(tmp_path / 'new')!r}) as watch:\n"
        "    watch(Progress('ticket', 0, 5, 10, 0.5, 1.5, 'accuracy', 0.25))\n"
    )  # it writes the last when its process ends
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    (kept,) = tmp_path.glob("new/wandb/offline-run-*/run-*.wandb")
    assert b"ticket/level_00/train_loss" in kept.read_bytes()


def test_a_tracker_that_is_not_installed_says_what_to_install(tmp_path, monkeypatch):
    for name in ("tensorboardX", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)  # an import of it fails
    flags = ["--track", "wandb", "--quiet", "--runs", str(tmp_path)]
    assert main.command(["run", "digits", *flags]) == 2
    assert not [*tmp_path.glob("digits-*")]
    with (
        pytest.raises(ValueError, match=r"pip install 'lth\[track\]'"),
        trackers.together(("tensorboard",), tmp_path, lambda progress: None),
    ):
        pass


def test_a_folder_that_is_none_is_no_run(tmp_path):
    with pytest.raises(store.StoreError):
        following.standings(tmp_path)
