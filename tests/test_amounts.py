"""Branches with amounts: flags, names and ids, beside each other and as controls."""

import json
import shutil
from dataclasses import replace
from functools import cache

import flax.linen as nn
import jax
import numpy as np
import pytest

import lth
from lth import data, masks, models, train
from lth.cli import conclusion, main
from lth.lab import config, store
from lth.lab.build import assemble, branching, names, naming
from lth.lab.config import ConfigError, presets, validate
from lth.lottery import Branch, rewind
from tests import own
from tests.conftest import assert_same
from tests.test_experiment import StopError, stop_after

DIGITS = replace(
    presets.PRESETS["digits"].experiment,
    model=config.Model(widths=(12,)),
    steps="20it",
    eval_every="10it",
    levels=1,
    replicates=2,
    checkpoint_at="5it,10it",
)
FITTING = [n for n in config.ABLATIONS if n not in config.NORMS]


@cache
def mine():
    changes = {"rewind": rewind.weights, "rewind_to": 2, "checkpoints": (4, 6, 8)}
    return own.recipe(**changes)


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    return lth.run(mine(), tmp_path_factory.mktemp("runs") / "mine").path


@pytest.fixture
def run(trunk, tmp_path):
    return lth.open_run(shutil.copytree(trunk, tmp_path / "mine"), mine())


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    return lth.run(DIGITS, runs=folder, controls=FITTING)


def about(run, name):
    return store.read_branch(store.branches(run.path)[name])


def test_the_names_of_controls_are_said_twice_and_agree():
    assert tuple(names.CONTROLS) == config.CONTROLS
    assert set(config.ABLATIONS) <= set(config.CONTROLS)
    assert set(names.BRANCHES) - set(names.CONTROLS) == {
        "rewound_to",
        "retrain",
        "transfer",
    }


@pytest.mark.parametrize("name", names.BRANCHES)
def test_every_amount_has_a_type_and_words(name):
    make = names.BRANCHES[name]
    for amount in naming.usual(make):
        assert make.__annotations__[amount] is not None
        assert f"  {amount}: " in (make.__doc__ or "")


def test_two_amounts_lie_side_by_side(run):
    before = own.hashes(run.path)
    run.branch("noise", (1,), scale=0.5)
    run.branch("noise", (1,), scale=2, relative="weights")
    run.branch("noise", (1,))
    called = ["noise", "noise-scale=0.5", "noise-scale=2.0-relative=weights"]
    assert run.variants == ["ticket", *called]
    assert own.hashes(run.path, but=("branches",)) == before
    told = [about(run, name) for name in called]
    assert [t["settings"] for t in told] == [
        {"scale": 0.1, "relative": "travelled"},
        {"scale": 0.5, "relative": "travelled"},
        {"scale": 2.0, "relative": "weights"},
    ]
    assert len({t["id"] for t in told}) == 3
    assert set(run.table["variant"]) == {"ticket", *called}
    # Called alike, another amount is another branch.
    with pytest.raises(store.StoreError, match="has a branch called noise already"):
        run.branch("noise", (1,), name="noise", scale=0.5)
    seen = []
    run.branch("noise", (1,), watch=seen.append, scale=0.1)  # what is usual
    run.branch("noise", (1,), watch=seen.append, scale=2.0, relative="weights")
    assert not seen


def test_with_amounts_it_is_stopped_and_ends_with_the_same_bits(run, trunk, tmp_path):
    whole = lth.open_run(shutil.copytree(trunk, tmp_path / "whole"), mine())
    asked = {"scale": 0.5, "relative": "weights"}
    whole.branch("noise", **asked)
    for measurements in (1, 3):
        with pytest.raises(StopError):
            run.branch("noise", watch=stop_after(measurements), **asked)
    run.branch("noise", **asked)
    name = "noise-scale=0.5-relative=weights"
    for level in (1, 2):
        found = run.ticket(level, name)
        assert_same(found, whole.ticket(level, name))
        assert_same(found.mask, run.ticket(level).mask)
        for layer, leaves in found.params.items():
            assert not leaves["kernel"][~found.mask[layer]["kernel"]].any()


def test_more_steps_are_measured_where_they_end(run):
    run.branch("steps", (1,), share=2.0)
    rows = run.table[run.table["variant"] == "steps-share=2.0"]
    assert sorted(set(rows["step"])) == [6, 12, 18, 22]  # 2 + 2 * 10
    run.branch("steps", (1,), share=1.0)
    found, ticket = run.ticket(1, "steps-share=1.0"), run.ticket(1)
    assert_same(found.params, ticket.params)  # as many steps are the ticket's own


def test_an_early_mask_is_that_of_the_stored_step(run):
    run.branch("early_bird", (2,), at="4it")
    settled = {"at": "4it,6it,8it", "window": 1, "close": 1.0}
    run.branch("early_bird", (2,), **settled)  # the second: any distance is near
    steps = {"early_bird-at=4it": 4, "early_bird-at=4it,6it,8it-window=1-close=1.0": 6}
    early = run.early.params
    for name, step in steps.items():
        mask, state = run.ticket(2, name).mask, run.checkpoint(step)
        far = jax.tree.map(lambda a, b: np.abs(b) - np.abs(a), early, state.params)
        whole = jax.tree.map(lambda m: np.ones(m.shape, bool), mask)
        keep = jax.vmap(lambda s, m: masks.keep_top(s, m, 0.3))
        assert_same(mask, jax.tree.map(np.asarray, keep(far, whole)))
        kept = sum(m.reshape(2, -1).sum(1) for m in jax.tree.leaves(mask))
        np.testing.assert_array_equal(kept, round(0.3 * 42))


REFUSED = [
    (
        ("early_bird",),
        {"at": "7it"},
        "step_7 .* init, step_4, step_6, step_8, early",
    ),
    (("early_bird",), {"at": "4it,6it"}, "at least 6: one, and 5 .* step_4, step_6"),
    (("early_bird",), {"at": "soon"}, "a step such as 37it, init or early; got 'soon'"),
    (("early_bird", (0, 1)), {}, "early_bird prunes, and nothing at level 0 is"),
    (("noise",), {"scal": 1}, "amounts of the branch noise are scale, relative; got"),
    (("noise",), {"scale": -1}, "scale of the noise is at least 0; got -1.0"),
    (("noise",), {"relative": "x"}, "relative is one of travelled, weights; got 'x'"),
    (("retrain",), {"mode": "all"}, "mode is one of weights, learning_rate, .* 'all'"),
    (("shuffle",), {"scale": 1}, "amounts of the branch shuffle are none; got scale"),
    (("order",), {"at": "5it"}, "the branch order-at=5it needs the state step_5"),
    (("transfer",), {"data": "mnist"}, "transferred, which is given the other recipe"),
    (("norms_late",), {}, "the network has no normalisation"),
]


@pytest.mark.parametrize(("asked", "amounts", "said"), REFUSED)
def test_what_cannot_be_trained_is_refused(asked, amounts, said, run):
    with pytest.raises((ValueError, store.StoreError), match=said):
        run.branch(*asked, **amounts)
    if asked[0] != "norms_late":  # which is known once it begins
        assert run.variants == ["ticket"]


class Normed(nn.Module):
    """A network with batch norm."""

    @nn.compact
    def __call__(self, inputs, train):
        x = nn.Dense(5, name="first")(inputs)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dense(own.OUTPUTS, name="last")(nn.relu(x))


def test_norms_of_the_end_start_on_early_weights(tmp_path):
    model = models.from_linen(Normed(), (own.INPUTS,))
    loss, measure = train.classification(model.apply)
    splits = {
        name: data.Dataset(part["points"], part["largest"].astype(np.int32))
        for name, part in own.splits().items()
    }
    parts = {"model": model, "loss": loss, "measure": measure, "splits": splits}
    usual = {"criterion": None, "rewind": rewind.weights, "densities": (0.5,)}
    recipe = own.recipe(**parts, **usual)
    run, begun = lth.run(recipe, tmp_path / "run"), []

    def spied(state, mask, n, order, *sums):
        begun.append(jax.tree.map(np.array, (state.params, state.stats)))
        return recipe.train(state, mask, n, order, *sums)

    ticket, early = run.ticket(1), run.early
    again = lth.open_run(run.path, recipe._replace(train=spied))
    again.branch("norms_late", (1,))
    again.branch("norms_early", (1,))
    (late, averages), _, (reverse, first), _ = begun  # each is measured half way
    assert_same(late["norm"], ticket.params["norm"])
    assert_same(averages, ticket.stats)
    assert_same(reverse["norm"], early.params["norm"])
    assert_same(first, early.stats)
    assert not np.array_equal(late["norm"]["scale"], reverse["norm"]["scale"])
    keep = ticket.mask["last"]["kernel"]
    np.testing.assert_array_equal(
        late["last"]["kernel"], np.where(keep, early.params["last"]["kernel"], 0)
    )
    assert_same(reverse["last"], ticket.params["last"])


def turned(share: float = 0.5, sign: bool = True) -> Branch:
    """Turn the signs of early weights, times a share."""

    def start(early, ticket, key):
        size = -share if sign else share
        params = jax.tree.map(lambda w: size * w, early.params)
        return early._replace(params=masks.apply(params, ticket.mask)), ticket.mask

    return Branch(start, "signs turned")


def test_a_function_of_ones_own_has_amounts(run):
    run.branch(turned, (1,), share=1)
    assert run.variants == ["ticket", "turned-share=1.0"]
    assert about(run, "turned-share=1.0")["settings"] == {"share": 1.0, "sign": True}
    with pytest.raises(ValueError, match="of the branch turned are share, sign"):
        run.branch(turned, part=1)
    with pytest.raises(ValueError, match="branch of your own has its amounts; got sh"):
        run.branch(turned(), share=1)
    offering = mine()._replace(offers={"turned": turned}, branches={"mine": turned()})
    again = lth.open_run(run.path, offering)
    again.branch("turned", (1,), sign=False)
    assert again.variants == ["ticket", "turned-share=1.0", "turned-sign=False"]
    with pytest.raises(ValueError, match="the branch mine of the recipe has its am"):
        again.branch("mine", share=1)
    with pytest.raises(ValueError, match="are mine, turned; got 'noise'"):
        again.branch("noise")
    with pytest.raises(ValueError, match="number makes a branch; got int"):
        branching.by_name({"number": lambda: 3}, "number")


def test_as_controls_they_have_what_is_usual(digits):
    assert set(digits.variants) == {"ticket", *FITTING}
    for name in FITTING:
        ticket, found = digits.ticket(1), digits.ticket(1, name)
        kernels = list(ticket.mask)
        kept, others = (
            [np.asarray(t.mask[layer]["kernel"]) for layer in kernels]
            for t in (ticket, found)
        )
        for mask, other in zip(kept, others, strict=True):
            np.testing.assert_array_equal(mask.sum((1, 2)), other.sum((1, 2)))
        equal = all(map(np.array_equal, kept, others))
        assert equal is (name not in ("random_mask", "early_bird")), name
        for layer, keep in zip(kernels, others, strict=True):
            assert not found.params[layer]["kernel"][~keep].any()
        assert np.any(found.params["output"]["kernel"])
    assert set(digits.ticket(1, "steps").step.tolist()) == {10}
    seen = []
    for name in FITTING:  # asked for by themselves they are the same branches
        digits.branch(name, watch=seen.append)
    assert not seen


def test_a_transfer_by_name(digits, capsys):
    args = ["branch", str(digits.path), "transfer", "--classes", "3,5,8", "--quiet"]
    before = own.hashes(digits.path)
    assert main.command(args) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "other classes need a new head" in told
    assert "output/bias is [10] here and [3] on the other data" in told
    assert own.hashes(digits.path) == before
    assert main.command([*args, "--head", "new"]) == 0
    assert own.hashes(digits.path, but=("branches",)) == {
        n: d for n, d in before.items() if not n.startswith("branches")
    }
    run = lth.open_run(digits.path)
    name = "transfer-classes=3,5,8-head=new"
    other = assemble.build(
        replace(DIGITS, data=replace(DIGITS.data, classes=(3, 5, 8)))
    )
    assert about(run, name)["settings"]["digest"] == other.data  # in its id
    assert run.apart == {name}
    (told,) = [s for s in conclusion.sentences(run.table, {}, run.apart) if name in s]
    assert "of another task and has no dense network of its own" in told
    found = run.ticket(1, name)
    assert found.params["output"]["kernel"].shape == (2, 12, 3)
    assert found.mask["output"]["kernel"].all()
    assert_same(found.mask["hidden_0"], run.ticket(1).mask["hidden_0"])


def test_flags_of_a_branch_are_its_amounts(digits, capsys):
    path = str(digits.path)
    with pytest.raises(SystemExit, match="0"):
        main.command(["branch", path, "noise", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "noise. Add Gaussian noise to the kept early weights" in told
    assert "--scale 0.1: Of the noise, at least 0." in told
    assert "--relative 'travelled': To the way which" in told
    with pytest.raises(SystemExit, match="0"):
        main.command(["branch", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "early_bird --at 'early' --window 5 --close 0.1" in told
    assert main.command(["branch", path, "noise", "--scle", "1"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "no flag --scle; the flags of lth branch RUN noise are --scale" in told
    args = ["branch", path, "noise", "--levels", "1", "--scale", "0.5", "--quiet"]
    assert main.command(args) == 0
    capsys.readouterr()
    run, seen = lth.open_run(digits.path), []
    run.branch("noise", (1,), scale=0.5, watch=seen.append)
    assert "noise-scale=0.5" in run.variants
    assert not seen  # what the flags say and what Python says is one branch


FILE = '''
import jax
from lth.lottery import Branch
from tests import own


def turned(share: float = 0.5) -> Branch:
    """Turn signs.

    Args:
      share: Of the weight.
    """

    def start(early, ticket, key):
        params = jax.tree.map(lambda w: -share * w, early.params)
        return early._replace(params=params), ticket.mask

    return Branch(start, "signs turned")


def make():
    return own.recipe(densities=(0.6,))._replace(offers={"turned": turned})
'''


def test_what_a_file_of_ones_own_offers_has_flags(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.py").write_text(FILE)
    assert main.command(["run", "study.py:make", "--quiet"]) == 0
    (path,) = (tmp_path / "runs").glob("study-*")
    args = ["branch", str(path), "turned", "--quiet"]
    assert main.command([*args, "--share", "0.25"]) == 0
    assert main.command([*args, "--part", "0.25"]) == 2
    assert "the flags of lth branch RUN turned are --share" in capsys.readouterr().err
    told = json.loads(next(path.glob("branches/turned-*/branch.json")).read_text())
    assert told["settings"] == {"share": 0.25}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"controls": "norms_late"},
            "is of networks that normalise; got mlp",
        ),
        (
            {"controls": "transfer"},
            "--controls is a list of reinit, .*early_bird",
        ),
        (
            {"controls": "order", "rewind": config.Rewind(mode="finetune")},
            "compare with --rewind.mode weights alone",
        ),
        (
            {
                "controls": "early_bird",
                "dynamic": config.Dynamic(rule="static"),
                "levels": 0,
                "checkpoint_at": "",
                "prune": config.Prune(),
            },
            "early_bird prunes the dense network of an early step",
        ),
    ],
)
def test_controls_that_do_not_go_with_an_experiment(change, said):
    with pytest.raises(ConfigError, match=said):
        validate.check(replace(DIGITS, **change))


def test_ablations_go_with_any_way_of_rewinding():
    e, mode = DIGITS, config.Rewind(mode="finetune")
    found = validate.fitting(e.prune, mode, e.model, found=False)
    assert found == FITTING
    normal = config.Model(name="resnet20")
    whole = validate.fitting(e.prune, e.rewind, normal, found=False)
    assert set(config.NORMS) < set(whole)


def test_runs_of_one_name_in_two_folders_are_told_apart():
    known = {"to": "before", "run": ""}
    names = [
        naming.called("overlap", {"run": run}, known)
        for run in ("a/mine", "./a/mine/", "b/mine", "a/digits-0123456789")
    ]
    assert names[0] == names[1]
    assert names[0] != names[2]
    assert names[3] == "overlap-run=digits-0123456789"  # its id does
