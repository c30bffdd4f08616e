"""Flags as people type them: mistyped, by other programs' names, lists in two ways."""

import dataclasses
import importlib
import itertools
import json
import pkgutil
import re
from pathlib import Path

import pytest
import tyro

from lth import cli
from lth.cli import flags, main, running, taking, terminal
from lth.lab import store
from lth.lab.config import ConfigError, identity
from lth.lab.config.presets import PRESETS
from lth.lab.config.settings import configured as settings_of

MEANT = [
    ("--seed", ["--first-replicate"]),
    ("--epochs", ["--steps"]),
    ("--lr", ["--optimizer.learning-rate"]),
    ("--batch", ["--batch-size"]),
    ("--sparsity", ["--prune.densities"]),
    ("--out", ["--runs"]),
    ("--levls", ["--levels"]),
    ("--widths", ["--model.widths"]),
    ("--prune.structre", ["--prune.structure"]),
    ("--momentum", ["--optimizer.momentum", "--learn.optimizer.momentum"]),
]


@pytest.mark.parametrize(("typed", "meant"), MEANT)
def test_an_unknown_flag_names_what_was_meant_and_its_help(typed, meant, capsys):
    assert main.command(["run", "digits", typed, "3"]) == 2
    first, *rest = capsys.readouterr().err.splitlines()
    assert first == f"lth: there is no flag {typed}; perhaps it is"
    assert [line.split()[0] for line in rest][: len(meant)] == meant
    assert all(len(line.split()) > 3 for line in rest)


def test_flags_that_are_not_needed_or_mean_nothing(capsys):
    assert main.command(["run", "digits", "--resume"]) == 2
    assert "the same command continues a run" in capsys.readouterr().err
    assert main.command(["run", "digits", "--xyzzy=3"]) == 2
    assert "no flag --xyzzy; --help lists" in capsys.readouterr().err


def test_every_name_in_the_table_leads_to_a_flag_that_is_there():
    there = flags.describe(running.RunFlags)
    assert set(flags.MEANT.values()) <= set(there)
    assert not {f"--{name}" for name in (*flags.MEANT, *flags.NEEDLESS)} & set(there)
    assert set(flags.TEXTS) <= set(there)
    assert all(there.values())


def parsed(*args):
    default = running.RunFlags(PRESETS["digits"].experiment)
    listed = flags.read(list(args), running.RunFlags)
    options = (tyro.conf.FlagCreatePairsOff,)
    return tyro.cli(running.RunFlags, args=listed, default=default, config=options)


@pytest.mark.parametrize(
    "args",
    [
        ["--model.widths", "30", "10", "--controls", "reinit", "shuffle"],
        ["--model.widths", "30,10", "--controls", "reinit,shuffle"],
        ["--model.widths=30,10", "--controls=reinit,", "shuffle", "--quiet"],
        ["--model.widths", "30,", "10", "--controls", "reinit, shuffle"],
    ],
)
def test_lists_are_written_with_commas_or_spaces(args):
    e = parsed(
        *args, "--prune.rates", "a=.1", "b=.2", "--data.classes", "3,1"
    ).experiment
    assert e.model.widths == (30, 10)
    assert e.controls.replace(" ", "") == "reinit,shuffle"
    assert e.prune.rates == "a=.1,b=.2"
    assert e.data.classes == (3, 1)
    assert parsed("--prune.rates", "").experiment.prune.rates == ""
    assert parsed("--batch_size=7").experiment.batch_size == 7


def test_help_has_no_line_broken_where_the_source_is(capsys):
    with pytest.raises(SystemExit):
        main.command(["run", "digits", "--help"])
    text = capsys.readouterr().out
    for flag, sentence in flags.describe(running.RunFlags).items():
        lines = re.findall(rf"│ {re.escape(flag)} .*?(?=│ --|╰)", text, re.DOTALL)
        words = [line.strip("│ ").split() for line in "".join(lines).splitlines()[1:]]
        for line, following in itertools.pairwise(words):
            if line and following and line[0] != "({" and "}" not in line[-1]:
                assert len(" ".join(line)) + len(following[0]) > 60, (flag, sentence)


def test_every_flag_of_every_command_has_words():
    """Those that a class of flags inherits too."""
    kinds = {
        kind
        for info in pkgutil.iter_modules(cli.__path__)
        for kind in vars(importlib.import_module(f"lth.cli.{info.name}")).values()
        if dataclasses.is_dataclass(kind)
        and getattr(kind, "__name__", "").endswith("Flags")
    }
    assert {running.MeasureFlags, taking.ExportFlags, taking.ShrinkFlags} < kinds
    for kind in kinds:
        wordless = [f for f, words in flags.describe(kind).items() if not words]
        assert not wordless, kind


def test_one_network_has_one_name(monkeypatch):
    asked = []

    def run(name, preset, args, prog):
        asked.append((name, prog))
        return 0

    monkeypatch.setattr(running, "_run", run)
    for name in ("conv2", "conv2-cifar10"):
        assert main.command(["run", name]) == 0
        assert main.command(["supermask", name, "movement"]) == 0
    assert asked[0] == asked[2] == ("conv2", "lth run conv2")
    # Runs of before are found: their folders have the long name.
    wanted = ("conv2-cifar10-movement", "lth supermask conv2 movement")
    assert asked[1] == asked[3] == wanted


def test_a_run_is_found_by_the_name_that_a_list_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("digits-8d5160d171", "digits-8d99999999", "mnist-1111111111"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").write_text("{}")
    runs = Path("runs")
    found = runs / "digits-8d5160d171"
    assert terminal.located(Path("digits-8d5160d171"), runs) == found
    assert terminal.located(Path("digits-8d51…"), runs) == found
    assert terminal.located(Path("digits-8d51"), runs) == found
    assert terminal.located(Path("8d5160d171"), runs) == found
    assert terminal.located(found, runs) == found
    with pytest.raises(store.StoreError, match="no run digits-7: .* in runs/; `lth li"):
        terminal.located(Path("digits-7"), runs)
    with pytest.raises(ConfigError, match="may be digits-8d5160d171, digits-8d9999"):
        terminal.located(Path("digits-8d"), runs)


def test_a_presets_name_is_of_the_run_that_is_nothing_else(tmp_path):
    def write(name, **settings):
        (tmp_path / name).mkdir()
        _, experiment = settings_of("digits", settings)
        config = {"preset": "digits", "config": identity.as_dict(experiment)}
        (tmp_path / name / "config.json").write_text(json.dumps(config))

    write("digits-1111111111", prune={"criterion": "random"})
    write("digits-2222222222", levels=2, replicates=2, controls=["reinit"])
    found = tmp_path / "digits-2222222222"
    assert terminal.located(Path("digits"), tmp_path) == found
    write("digits-3333333333", replicates=3)
    with pytest.raises(ConfigError, match="digits may be digits-1111111111, digits-22"):
        terminal.located(Path("digits"), tmp_path)


def test_a_report_into_a_folder_is_told_a_file(tmp_path, capsys):
    assert main.command(["report", "run", "--out", str(tmp_path)]) == 2
    assert f"is a folder; give --out {tmp_path}/report.html" in capsys.readouterr().err
