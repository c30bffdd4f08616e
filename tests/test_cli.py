"""The command line as the person who mistypes sees it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lth
from lth import results
from lth.cli import main
from lth.lab import store, stored
from lth.lab.config import identity
from tests import own

FAST = (
    "--model.widths 8 --steps 20it --eval-every 10it --levels 1 --replicates 2 "
    "--rewind.to 5it --checkpoint-at 0,7"
).split()


def lth_run(*args, folder):
    return main.command(["run", "digits", *FAST, "--runs", str(folder), *args])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    assert lth_run("--quiet", "--controls", "reinit", folder=folder) == 0
    return next(folder.iterdir())


def test_quiet_prints_the_path_alone(tmp_path, capfd):
    assert lth_run("--quiet", folder=tmp_path) == 0
    out, err = capfd.readouterr()
    (path,) = tmp_path.glob("digits-*")
    assert out == f"{path}\n"
    assert err == ""


def test_a_run_tells_what_it_found(tmp_path, capsys):
    assert lth_run(folder=tmp_path) == 0
    out, err = capsys.readouterr()
    (path,) = tmp_path.glob("digits-*")
    assert f"report  {path}/report.html" in out
    assert re.search(r"(winning )?ticket +│ +1 │", out)
    assert "match the dense network (test accuracy" in out
    assert re.search(r"level +1 ticket +loss \d", err)  # a line a training: no terminal
    assert lth_run(folder=tmp_path) == 0  # everything is stored: nothing to train
    assert "level" not in capsys.readouterr().err


def test_show_and_list(finished, capsys):
    assert main.command(["show", str(finished)]) == 0
    assert "early stop" in capsys.readouterr().out
    assert main.command(["list", "--runs", str(finished.parent)]) == 0
    out = capsys.readouterr().out
    assert "lenet-mnist-sgd" in out
    assert "figures 1, 3 and 4" in out
    (line,) = (line for line in out.splitlines() if finished.name in line)
    assert re.match(
        rf"  {finished.name}: {time.strftime('%Y-%m-%d')} \d\d:\d\d  ", line
    )
    for changed in ("model.widths 8", "steps 20it", "controls reinit", "rewind.to 5it"):
        assert f"  {changed}  " in line
    assert "replicates" not in line  # these are told as they are: n
    best = results.summary(lth.open_run(finished).table)["accuracy"].max()
    end = f"  levels 0 to 1  n = 2  best test accuracy {100 * best:.2f} %"
    assert line.endswith(end)


def test_the_report_is_one_file_that_needs_no_other(finished, tmp_path, capsys):
    args = ["--first-replicate", "3", "--quiet"]
    assert lth_run(*args, folder=tmp_path / "runs") == 0
    other = next((tmp_path / "runs").iterdir())
    capsys.readouterr()
    page = tmp_path / "page.html"
    assert main.command(["report", str(finished), str(other), "--out", str(page)]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    text = page.read_text()
    assert text.count('<svg role="img"') == 3 + 2 * 2 + 2 + 1
    # By what differs: levels and the one control, then levels alone.
    assert text.count("<td>first_replicate 0, controls reinit</td>") == 3 + 2 + 2
    assert text.count("<td>first_replicate 3, controls none</td>") == 2 + 2 + 2
    assert f"{other.name}</b> (first_replicate 3, controls none): " in text
    assert "early-stopping step" in text
    assert "fresh initialisation" in text
    text = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    links = re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', text)
    assert not [
        link for link in links if "w3.org" not in link and "matplotlib" not in link
    ]


def test_a_run_is_not_drawn_twice(finished, tmp_path, capsys):
    page = str(tmp_path / "page.html")
    assert main.command(["report", str(finished), str(finished), "--out", page]) == 2
    assert f"two runs are called {finished.name}" in capsys.readouterr().err


def test_help_names_every_field_without_importing_jax():
    code = (
        "import sys; from lth.cli import main as cli\n"
        "try: cli.command(['run', 'digits', '--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for flag in (
        "--rewind.mode",
        "--prune.rate ",
        "--steps",
        "--controls",
        "--checkpoint-at",
        "--prune.mode",
    ):
        assert flag in done.stdout
    text = " ".join(re.sub("[│╭╰─╮╯]", " ", done.stdout).split())
    for said in (
        # Of a pruned filter; of criteria; of a streamed picture.
        "A filter or channel goes with all that belongs to it",
        "ask the loss, by default in evaluation",
        "what lies beside it is never seen",
    ):
        assert said in text


REFUSED = [
    (["run", "digit"], "unknown preset 'digit'; perhaps digits; there are digits, len"),
    (["run", "digits-movement"], "learns its masks: lth supermask digits movement"),
    (["runn"], "unknown command 'runn'; perhaps run"),
    (["run", "digits", "--name", "a/b"], "the name of a run has no / and no"),
    (["run", "digits", "--controls", "reinnit"], "got 'reinnit'; perhaps reinit"),
    (["run", "digits", "--levels", "-1"], "--levels is at least 0; got -1"),
    (["run", "digits", "--prune.rate", "1.5"], "--prune.rate is in (0, 1); got 1.5"),
    (["run", "digits", "--steps", "ten"], "--steps is a number of steps such as 500it"),
    (["run", "digits", "--rewind.to", "9000it"], "is not before the end of training"),
    (["run", "digits", "--prune.rates", "conv=.1"], "'conv' matches no leaf"),
    (["report"], "needs at least one run directory"),
]


@pytest.mark.parametrize(("args", "message"), REFUSED)
def test_what_cannot_be_run_is_refused_with_exit_code_2(
    args, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main.command(args) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["--levels", "x"], "--levels"),
        (["--rewind.mode", "x"], "learning_rate"),
    ],
)
def test_unknown_flags_and_choices_exit_with_2(args, hint, capsys):
    with pytest.raises(SystemExit) as stop:
        main.command(["run", "digits", *args])
    assert stop.value.code == 2
    assert hint in capsys.readouterr().err


def test_missing_data_exits_with_2(tmp_path, capsys, monkeypatch):
    from lth.data import fetch

    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(fetch.urllib.request, "urlopen", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LTH_DATA", raising=False)
    args = ["run", "lenet-mnist", "--data-dir", str(tmp_path / "none")]
    assert main.command([*args, "--runs", str(tmp_path / "runs")]) == 2
    assert "Put these files there" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_run_in_use_exits_with_4(finished, capsys):
    with store.claim(finished):
        assert lth_run(folder=finished.parent) == 4
    assert "in use by process" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_exits_with_5(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert lth_run(folder=tmp_path / "file") == 5
    assert "cannot write" in capsys.readouterr().err
    assert main.command(["show", str(tmp_path)]) == 5
    assert "is not a run" in capsys.readouterr().err


def test_a_replicate_that_fails_exits_with_3_and_names_itself(tmp_path, capsys):
    args = ["--optimizer.name", "sgd", "--optimizer.learning-rate", "1e30"]
    assert lth_run(*args, folder=tmp_path) == 3
    err = capsys.readouterr().err
    assert (
        "replicate 1 of ticket stopped: its loss or its weights were not finite" in err
    )


def test_a_run_of_an_older_format_is_named_as_that_and_the_others_are_listed(
    finished, tmp_path, capsys
):
    runs = tmp_path / "runs"
    shutil.copytree(finished, runs / finished.name)
    shutil.copytree(finished, runs / "newer")
    content = json.loads((runs / finished.name / "config.json").read_text())
    old = {"format": 2, "id": content["id"], "preset": "digits", "config": {}}
    (runs / finished.name / "config.json").write_text(json.dumps(old))
    said = (
        f"was written in format 2, this lth reads format {store.FORMAT}: "
        "give it an older lth, or run it again in another folder"
    )
    with pytest.raises(store.StoreError, match=said):
        lth.open_run(runs / finished.name)
    before = own.hashes(runs)
    assert main.command(["list", "--runs", str(runs)]) == 0
    out = capsys.readouterr().out
    assert f"  {finished.name}: {said}\n" in out
    assert "  newer: 20" in out
    for args in (["show"], ["report"], ["branch"], ["measure"]):
        name = ["reinit"] if args[0] in ("branch", "measure") else []
        assert main.command([*args, str(runs / finished.name), *name]) == 5
        assert f"{finished.name} {said}" in capsys.readouterr().err
    assert lth_run("--controls", "reinit", folder=runs) == 5
    assert f"{finished.name} {said}" in capsys.readouterr().err
    assert own.hashes(runs) == before


def test_runs_together_are_called_by_what_differs(tmp_path):
    def run(name="digits", **flags):
        path = tmp_path / f"{name}-{flags}"
        path.mkdir(exist_ok=True)
        known = {"id": identity.of_fingerprint({}), "fingerprint": {}}
        content = {**known, "name": name, "flags": flags}
        store.create(path, content | {"replicates": [[0]]})
        return stored.open_run(path)

    a, b = run(width=3, rate=0.1), run(width=5, rate=0.1)
    assert stored.labels([a, b]) == ["width 3", "width 5"]
    assert stored.labels([a, run(rate=0.1)]) == ["width 3", "width none"]
    assert stored.labels([a]) == [a.path.name]
    c = run("mine", rate=0.2)
    told = [
        "digits, width 3, rate 0.1",
        "digits, width 5, rate 0.1",
        "mine, width none",
    ]
    assert stored.labels([a, b, c]) == [*told[:2], f"{told[2]}, rate 0.2"]
    same = [run(width=3), run(width=3)]  # in two folders
    assert stored.labels(same) == [run.path.name for run in same]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_run_cleanly(tmp_path, number):
    args = [*FAST, "--levels", "18", "--runs", str(tmp_path), "--quiet"]
    # A job in a shell's background is born deaf to Ctrl-C; this one must hear it.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from lth.cli.main import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "run", "digits", *args],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(lth.__file__).parents[1])},
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/tickets/level_01")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "The same command continues:" in err
    assert "Traceback" not in err
    (path,) = tmp_path.glob("digits-*")
    run = lth.open_run(path)
    assert set(run.table["level"]) == set(run.levels)
