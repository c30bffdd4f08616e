"""Runs of OpenLTH: what they were is what is stored, and they go on."""

import dataclasses
import os
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import lth
from lth import masks
from lth.cli import main
from lth.lab import adopting, continuing, store
from lth.lab import openlth as importing
from lth.lab.build import imported
from lth.lab.config import ConfigError
from lth.lab.config import openlth as settings
from lth.lab.config.openlth import networks
from lth.lab.openlth import files
from tests import openlth

DEFAULTS = openlth.HPARAMS.replace("12_8", "300_100").replace("32", "128")
DEFAULTS = DEFAULTS.replace("8it", "40ep")
REAL = Path(os.environ.get("LTH_OPENLTH", "none"))
DATA = os.environ.get("LTH_DATA")  # of the real run; no test keeps it in its place


def test_the_defaults_of_openlth_are_read():
    found = settings.read(DEFAULTS, levels=3, replicates=[1, 2])
    e = found.experiment
    assert e.data == dataclasses.replace(
        e.data, name="mnist", pixels="openlth", augment="none"
    )
    # 60 000 / 128 is 468.75: 95 may be missing, and an epoch still has 469 iterations.
    assert e.data.validation == 95
    assert -(-(60000 - 95) // 128) == 469 == -(-60000 // 128) > -(-(60000 - 96) // 128)
    assert (e.model.name, e.model.widths) == ("mlp", (300, 100))
    assert (e.steps, e.eval_every, e.batch_size) == ("18760it", "469it", 128)
    assert (e.optimizer.name, e.optimizer.learning_rate) == ("sgd", 0.1)
    assert (e.prune.rate, e.prune.exclude) == (0.2, "^output/kernel$")
    assert (e.rewind.to, e.rewind.moments) == ("0it", "keep")
    assert (e.levels, e.replicates, e.first_replicate) == (3, 2, 1)
    assert found.files == ("model_ep0_it0.pth", "model_ep40_it0.pth")
    assert found.names == {
        "hidden_0": "fc_layers.0",
        "hidden_1": "fc_layers.1",
        "output": "fc",
    }


RESNET = (
    DEFAULTS.replace("mnist_lenet_300_100", "cifar_resnet_20_32")
    .replace("mnist", "cifar10")
    .replace("    * pruning_layers_to_ignore => fc.weight\n", "")
    .replace("40ep", "160ep")
)
SCHEDULE = """
    * momentum => 0.9
    * milestone_steps => 80ep,120ep
    * gamma => 0.1
    * warmup_steps => 1ep
    * weight_decay => 0.0001"""


def test_a_resnet_with_a_schedule_and_a_rewind_point_is_read():
    main = RESNET + SCHEDULE
    before = main[main.index("Training") :].replace("160ep", "2ep5it")
    again = main[main.index("Dataset") : main.index("Model")]
    found = settings.read(f"{main}\nPretraining {again}Pretraining {before}", 1, [1])
    e = found.experiment
    assert (e.model.name, e.model.width, e.model.norm_scale) == (
        "resnet20",
        2.0,
        "uniform",
    )
    assert e.data.augment == "crop_flip"
    o = e.optimizer
    assert (o.momentum, o.weight_decay, o.warmup) == (0.9, 1e-4, "391it")
    assert (o.milestones, o.drop) == ("31280it,46920it", 0.1)
    assert (e.rewind.to, e.rewind.moments) == ("787it", "drop")
    assert found.files == ("model_ep2_it5.pth", "model_ep160_it0.pth")
    assert found.rewinds
    told = " ".join(found.differs)
    assert all(word in told for word in ("Moments", "Batch norm", "Augmentation"))


def with_line(group, line):
    """The defaults with one more setting in a group."""
    head = f"{group} Hyperparameters\n"
    return DEFAULTS.replace(head, f"{head}    * {line}\n")


OTHER_BATCH = openlth.REWOUND.replace("size => 32\nPre", "size => 64\nPre")
REFUSED = {
    "subsample_fraction 0.5": with_line("Dataset", "subsample_fraction => 0.5"),
    "output_frozen True": with_line("Model", "output_frozen => True"),
    "dataset_name imagenet": DEFAULTS.replace("=> mnist\n", "=> imagenet\n"),
    "model_name mnist_lenet_": DEFAULTS.replace("_300_100", "_"),
    "model_name cifar_resnet_9": RESNET.replace("20_32", "9"),
    "model_name cifar_vgg_11": DEFAULTS.replace("mnist_lenet_300_100", "cifar_vgg_11"),
    "batch_size is a number": DEFAULTS.replace("128", "many"),
    "batch_size 0": DEFAULTS.replace("128", "0"),
    "batchnorm_init sided": DEFAULTS.replace("uniform", "sided"),
    "optimizer_name lamb": DEFAULTS.replace("sgd", "lamb"),
    "adam with weight_decay": with_line("Training", "weight_decay => 0.1").replace(
        "sgd", "adam"
    ),
    "training_steps is a number of steps": DEFAULTS.replace("40ep", "forever"),
    "names conv.weight": DEFAULTS.replace("fc.weight", "conv.weight"),
    "pretrained on other data": OTHER_BATCH,
    "lacks the group Pruning": DEFAULTS.replace("Pruning", "Cutting"),
    "a line that is no setting": DEFAULTS + "\nimport os",
    "pruning_strategy snip": DEFAULTS.replace("sparse_global", "snip"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_has_no_counterpart_is_refused_by_name(message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        settings.read(REFUSED[message], 1, [1])


def test_the_modules_of_networks_are_where_openlth_has_them():
    group = {"model_init": "binary", "batchnorm_init": "fixed"}
    model, names = networks.network({**group, "model_name": "cifar_vgg_11"}, "cifar10")
    # 64 M 128 M 256 256 M 512 512 M 512 512, poolings counted.
    convs = [n for ours, n in names.items() if "conv" in ours]
    assert convs == [f"layers.{i}.conv" for i in (0, 2, 4, 5, 7, 8, 10, 11)]
    assert (model.name, model.initialiser) == ("vgg11", "signed_constant")
    model, names = networks.network(
        {**group, "model_name": "cifar_resnet_56"}, "cifar10"
    )
    assert names["block_2_0/shortcut_norm"] == "blocks.18.shortcut.1"
    assert names["block_1_8/conv_1"] == "blocks.17.conv2"
    assert len(names) == 3 + 27 * 4 + 4


def test_levels_keep_as_many_as_the_rule_of_openlth_does():
    # By hand: of 266 200 go ceil(53 240) + 1, then ceil(42 591.8) + 1.
    assert imported.sizes([265200], 2, 0.2, 1000) == [265200, 211959, 169366]
    rng = np.random.default_rng(0)
    weights = {"a": rng.normal(size=400), "fc.weight": rng.normal(size=50)}
    mask = {n: np.ones(w.shape, np.int32) for n, w in weights.items()}
    kept = [400]
    for _ in range(5):
        mask = openlth.pruned(weights, mask)
        kept.append(int(mask["a"].sum()))
    assert imported.sizes([400], 5, 0.2, 50) == kept
    with pytest.raises(ConfigError, match="level 3 keeps no weight"):
        imported.sizes([10], 9, 0.2, 5)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Data in the place of MNIST's, and what is to be learned of the tests."""
    folder = tmp_path_factory.mktemp("data")
    return folder, openlth.data(folder)


@pytest.fixture(scope="module")
def written(tmp_path_factory, place):
    """A run of two replicates that OpenLTH might have written, and its masks."""
    folder = tmp_path_factory.mktemp("theirs") / "lottery_0123456789abcdef"
    return folder, openlth.write(folder, *place[1])


@pytest.fixture(scope="module")
def made(written, place, tmp_path_factory):
    """The same, imported."""
    runs = tmp_path_factory.mktemp("ours")
    return importing.import_run(written[0], runs, data_dir=place[0])


def test_its_numbers_are_those_of_its_log_and_of_its_networks(made, written):
    assert (made.levels, made.replicates) == ([0, 1, 2], [1, 2])
    assert made.off < 1e-6  # what the networks score here
    assert made.path.name == "openlth-0123456789"
    table = lth.open_run(made.path).table.query(
        "split == 'test' and variant == 'ticket'"
    )
    for replicate in (1, 2):
        for level in range(3):
            main = written[0] / f"replicate_{replicate}" / f"level_{level}" / "main"
            logged = sorted(
                line
                for line in (main / "logger").read_text().splitlines()
                if "examples" not in line
            )
            rows = table.query(f"replicate == {replicate} and level == {level}")
            told = sorted(
                f"test_{r.metric},{r.step},{r.value}" for r in rows.itertuples()
            )
            assert told == logged


def test_its_masks_and_weights_are_those_of_its_files(made, written):
    run = lth.open_run(made.path)
    for (replicate, level), mask in written[1].items():
        ticket = run.ticket(level, replicate=replicate)
        for ours, theirs in (("hidden_0", "fc_layers.0"), ("hidden_1", "fc_layers.1")):
            keep = mask[f"{theirs}.weight"].T == 1
            np.testing.assert_array_equal(ticket.mask[ours]["kernel"], keep)
            assert (ticket.params[ours]["kernel"] != 0).sum() == keep.sum()
        assert ticket.mask["output"]["kernel"] is None
    early = lth.open_run(made.path).early
    first = openlth.drawn(np.random.default_rng(2))
    np.testing.assert_array_equal(
        early.params["hidden_1"]["kernel"][1], first["fc_layers.1.weight"].T
    )
    np.testing.assert_array_equal(early.params["output"]["bias"][1], first["fc.bias"])


def test_it_is_continued_branched_and_reported_by_its_directory(
    made, place, capsys, monkeypatch
):
    monkeypatch.setenv("LTH_DATA", str(place[0]))
    before = store.contents(made.path)
    assert main.command(["run", str(made.path), "--levels", "4", "--quiet"]) == 0
    run = lth.open_run(made.path)
    assert run.levels == [0, 1, 2, 3, 4]
    after = store.contents(made.path)
    table = before.pop("table.csv")
    assert after["table.csv"].startswith(table)
    assert {name: after[name] for name in before} == before
    # The mask continues: from what level 2 trained to, by OpenLTH's rule.
    third, fourth = run.ticket(3), run.ticket(4)
    total = masks.size(third.mask) // 2
    kept = imported.sizes([total], 4, 0.2, 80)
    for ticket, count in ((third, kept[3]), (fourth, kept[4])):
        np.testing.assert_array_equal(jax.vmap(masks.count)(ticket.mask), [count] * 2)
    earlier = run.ticket(2).mask
    for path in ("hidden_0", "hidden_1"):
        assert not (third.mask[path]["kernel"] & ~earlier[path]["kernel"]).any()
    assert (
        main.command(["branch", str(made.path), "shuffle", "--levels", "2", "4"]) == 0
    )
    assert main.command(["show", str(made.path)]) == 0
    told = capsys.readouterr().out
    assert "mask shuffled in layers" in told
    assert "nan" not in told
    page = (made.path / "report.html").read_text()
    assert "levels 0 to 4, up to 2 from OpenLTH" in page
    costs = run.costs()
    assert costs["seconds"].isna().sum() == 3


def test_a_level_to_come_is_pruned_as_openlth_would(made, written, place):
    """Asked for from level 1 on, level 2 has the mask that OpenLTH gave it."""
    run = lth.open_run(made.path, data_dir=place[0])
    recipe = run.recipe()
    ticket = store.load(
        made.path, 1, (recipe.mask, jax.eval_shape(lambda: recipe.init(keys(recipe))))
    )
    made_mask = recipe.prune(ticket.state, ticket, recipe.densities[1], keys(recipe))
    for ours, theirs in run.ticket(2).mask.items():
        np.testing.assert_array_equal(made_mask[ours]["kernel"], theirs["kernel"])


def keys(recipe):
    """The keys by which the recipe prunes."""
    return lth.lottery.keys(recipe.replicates, lth.lottery.recipe.PRUNE)


def test_the_same_import_again_adds_what_is_new(made, written, place):
    again = importing.import_run(written[0], made.path.parent, data_dir=place[0])
    assert again.levels == []
    assert again.path == made.path


def changed(written, tmp_path, edit):
    """A copy of a run with one thing changed."""
    folder = tmp_path / "lottery_x"
    shutil.copytree(written[0], folder)
    edit(folder)
    return folder


def of(folder, level=1, replicate=1):
    return folder / f"replicate_{replicate}" / f"level_{level}" / "main"


def other_weights(folder):
    path = of(folder) / "model_ep0_it8.pth"
    weights = files.read_weights(path)
    openlth.save(path, {n: -w for n, w in weights.items()})


def rewritten(level, change):
    def edit(folder):
        path = of(folder, level) / "mask.pth"
        mask = files.read_mask(of(folder, 0).parents[1], level) or {}
        openlth.save(path, {n: change(n, m.copy()) for n, m in mask.items()})

    return edit


def set_one(name, value):
    def change(n, m):
        if n == name:
            m[0, 0] = value
        return m

    return change


def back_again(folder):
    path = of(folder, 2) / "mask.pth"
    mask = files.read_mask(folder / "replicate_1", 0)
    openlth.save(path, mask)


def other_start(folder):
    path = of(folder) / "model_ep0_it0.pth"
    weights = files.read_weights(path)
    openlth.save(path, {n: w + np.float32(1) for n, w in weights.items()})


def appended(name, text):
    return lambda folder: (of(folder, 0, 2) / name).open("a").write(text)


def infinite(folder):
    path = of(folder) / "model_ep0_it8.pth"
    weights = files.read_weights(path)
    openlth.save(path, {n: np.full_like(w, np.inf) for n, w in weights.items()})


HOSTILE = {
    "scores .* on the test set here, and": other_weights,
    "holds other numbers than 0 and 1": rewritten(1, set_one("fc_layers.0.weight", 2)),
    "fc.weight is never pruned": rewritten(1, set_one("fc.weight", 0)),
    "it keeps weights of fc_layers.0.weight that level 1": back_again,
    "does not begin where level 0 did": other_start,
    "have different settings": appended("hparams.log", "\n    * momentum => 0.9"),
    "is no name, iteration and number": appended("logger", "\n__import__('os')"),
    "test_accuracy 2.0": appended("logger", "\ntest_accuracy,8,2.0"),
    "is not finite": infinite,
    "lacks model_ep0_it8.pth": lambda f: (of(f, 0) / "model_ep0_it8.pth").unlink(),
    "cannot be read": lambda f: (of(f, 0) / "hparams.log").unlink(),
    "no file of tensors": lambda f: (of(f, 0) / "mask.pth").write_bytes(b"PK\x03\x04"),
}  # fmt: skip


@pytest.mark.parametrize("message", HOSTILE)
def test_files_that_do_not_fit_are_refused(message, written, tmp_path, place, capsys):
    folder = changed(written, tmp_path, HOSTILE[message])
    args = [str(folder), "--runs", str(tmp_path), "--data-dir", str(place[0])]
    assert main.command(["import", "openlth", *args]) == 2
    assert re.search(message, capsys.readouterr().err.replace("\n", " "))


def test_a_level_that_is_not_whole_is_left_out_and_said(
    written, tmp_path, place, capsys
):
    def half(folder):
        (of(folder, 2, 2) / "logger").unlink()
        (of(folder, 0).parent / "lottery_branch_x_1").mkdir()

    folder = changed(written, tmp_path, half)
    args = [str(folder), "--runs", str(tmp_path), "--data-dir", str(place[0])]
    assert main.command(["import", "openlth", *args]) == 0
    told = capsys.readouterr().out
    assert "levels    0, 1\n" in told
    assert "left out  the branch lottery_branch_x_1" in told
    assert "left out  level 2 of replicate 2, which is not whole" in told
    assert "each network scores on the test set here what its log says" in told


def test_a_rewound_run_starts_levels_at_its_rewind_point(tmp_path, place):
    folder = tmp_path / "lottery_r"
    openlth.write(folder, *place[1], levels=1, replicates=1, rewound=True)
    made = importing.import_run(folder, tmp_path / "runs", data_dir=place[0])
    run = lth.open_run(made.path)
    assert (int(run.init.step[0]), int(run.early.step[0])) == (0, 3)
    assert (
        run.init.params["output"]["kernel"] != run.early.params["output"]["kernel"]
    ).all()
    assert (
        continuing.continued(made.path, levels=2, data_dir=place[0]).recipe.rewind_to
        == 3
    )


def test_folders_that_are_none_of_openlth_are_told(tmp_path, capsys):
    (tmp_path / "lottery_a").mkdir()
    assert main.command(["import", "openlth", str(tmp_path)]) == 2
    assert "give one of lottery_a" in capsys.readouterr().err
    assert main.command(["import", "openlth", str(tmp_path / "none")]) == 2
    assert main.command(["import", "shrinkbench", "x"]) == 2
    assert "usage: lth import openlth DIR" in capsys.readouterr().err


def test_a_recipe_must_have_its_states(made, place, tmp_path):
    recipe = lth.open_run(made.path, data_dir=place[0]).recipe()
    with pytest.raises(ValueError, match="states are missing: early, init"):
        adopting.adopt(recipe, tmp_path / "a", lambda before: {}, {}, [])


@pytest.mark.skipif(not REAL.is_dir(), reason="LTH_OPENLTH names no run of OpenLTH")
def test_a_real_run_scores_what_its_log_says(tmp_path):
    made = importing.import_run(REAL, tmp_path, data_dir=DATA)
    assert made.off < 1e-6
    run = lth.open_run(made.path, data_dir=DATA)
    for level in made.levels[:-1]:
        recipe = run.recipe()
        like = (recipe.mask, jax.eval_shape(lambda r=recipe: r.init(keys(r))))
        ticket = store.load(made.path, level, like)
        mask = recipe.prune(ticket.state, ticket, recipe.densities[level], keys(recipe))
        theirs = run.ticket(level + 1).mask
        off = [
            int((mask[name]["kernel"] != theirs[name]["kernel"]).sum())
            for name in ("hidden_0", "hidden_1")
        ]
        assert off == [0, 0]
