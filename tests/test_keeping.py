"""A training under way is kept, and goes on to the same bits."""

import itertools
import shutil
import warnings
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lth
from lth import data, models, train
from lth.lab import front, keeping, store
from lth.lab.build import assemble
from lth.lab.config import ConfigError, parse
from lth.lab.config.presets import PRESETS, SUPERMASKS
from lth.lab.keeping import Saving
from lth.lab.store import checkpoint
from tests import conftest
from tests.conftest import assert_same, plain_mlp

SHORT = {"steps": "60it", "eval_every": "20it", "replicates": 2}
SMALL = replace(PRESETS["digits"].experiment.model, widths=(8,))
DIGITS = replace(
    PRESETS["digits"].experiment,
    **SHORT,
    model=SMALL,
    levels=1,
    controls="reinit",
    rewind=replace(PRESETS["digits"].experiment.rewind, to="25it"),
)
LEARNED = replace(
    SUPERMASKS["digits"]["movement"].experiment,
    **SHORT,
    model=SMALL,
    levels=0,
    controls="",
)


def interrupted(e, folder, saving, calls=200):
    """Run again and again, until nothing stops it: the path, and how often that was."""
    built = assemble.build(e)
    for stopped in range(calls):
        try:
            outcome = front.train(built, "digits", folder, saving=saving)
        except keeping.Stopped:
            continue
        return outcome.path, stopped
    raise AssertionError("it makes no progress")


def counted(count):
    """Ask to stop at each `count`-th time."""
    calls = itertools.count(1)
    return lambda: next(calls) % count == 0


@pytest.mark.parametrize("e", [DIGITS, LEARNED], ids=["tickets", "learned"])
@pytest.mark.parametrize("steps", [3])
def test_stopped_again_and_again_it_ends_with_the_bits_of_an_unbroken_run(
    e, steps, tmp_path, monkeypatch
):
    monkeypatch.setattr(keeping, "FIRST", 7)
    whole = conftest.start(e, "digits", tmp_path / "whole").path
    monkeypatch.setattr(keeping.Pace, "learn", lambda pace, steps, seconds: None)
    saving = Saving(None, steps, counted(4))
    path, stopped = interrupted(e, tmp_path / "broken", saving)
    assert stopped > 3
    assert store.contents(path) == store.contents(whole)
    assert not list(path.rglob("training"))
    resumed = [line["step"] for line in store.logged(path, "resumed")]
    assert any(step % 20 for step in resumed)  # between two measurements too


def test_by_the_clock_it_is_saved_without_being_asked_to_stop(tmp_path):
    e = replace(DIGITS, controls="")
    built = assemble.build(e)
    path = front.train(built, "digits", tmp_path, saving=Saving(1e-9)).path
    saved = store.logged(path, "kept")
    assert {line["variant"] for line in saved} >= {"early", "ticket"}
    assert not list(path.rglob("training"))


def test_a_way_back_far_into_training_goes_on_from_the_checkpoint_before(tmp_path):
    """Killed between two checkpoints, it starts again from the first, not from 0."""
    e = replace(DIGITS, controls="", levels=0, checkpoint_at="10it")
    whole = conftest.start(e, "digits", tmp_path / "whole").path
    saving = Saving(None, 3, counted(3))
    path, stopped = interrupted(e, tmp_path / "broken", saving)
    assert stopped > 4
    assert store.contents(path) == store.contents(whole)
    found = store.logged(path, "resumed")
    steps = [line["step"] for line in found if line["variant"] == "early"]
    assert steps
    assert all(10 < step < 25 for step in steps)
    assert not store.logged(path, "dropped")


def left(tmp_path, level=0):
    """A run that was stopped in midst of a training: its path."""
    calls = itertools.count()
    saving = Saving(None, 10, lambda: next(calls) == (6 if level == 0 else 10))
    e = replace(DIGITS, controls="", rewind=replace(DIGITS.rewind, to="0it"))
    with pytest.raises(keeping.Stopped):
        front.train(assemble.build(e), "digits", tmp_path, saving=saving)
    (path,) = (p.parent for p in tmp_path.glob("*/config.json"))
    assert list((path / "training").glob("step_*"))
    return e, path


def test_a_damaged_one_is_named_and_the_training_starts_again(tmp_path):
    e, path = left(tmp_path)
    for file in (path / "training").rglob("d/*"):
        file.write_bytes(b"")
    with pytest.warns(UserWarning, match="starts again, since .*step_.* cannot be"):
        conftest.start(e, "digits", tmp_path)
    assert store.stored(path) == {0, 1}
    assert not store.logged(path, "resumed")


def test_one_of_another_run_is_refused_by_name(tmp_path):
    e, path = left(tmp_path / "a")
    _, other = left(tmp_path / "b")
    config = (other / "config.json").read_text()
    strange = store.sealed({**store.read_config(other), "id": "0" * 10})
    (other / "config.json").write_text(strange)
    shutil.rmtree(path / "training")
    shutil.copytree(other / "training", path / "training")
    conftest.start(e, "digits", tmp_path / "a")  # the same run, by what is in it

    e, path = left(tmp_path / "c")
    name = store.training(path)
    tree = store.load_training(path, name, {}, _told(path, name))
    (path / "config.json").write_text(strange)
    shutil.rmtree(path / "training")
    store.save_training(path, name, tree, {})()
    (path / "config.json").write_text(config)
    with pytest.raises(store.ForeignError, match="belongs elsewhere: .*run '000"):
        conftest.start(e, "digits", tmp_path / "c")


def _told(path, name):
    return checkpoint.about(path / "training" / name)["training"]


def test_one_that_is_of_another_start_is_dropped(tmp_path):
    e, path = left(tmp_path)
    name = store.training(path)
    told = _told(path, name)
    tree = store.load_training(path, name, {}, told)
    shutil.rmtree(path / "training")
    store.save_training(path, name, tree, {**told, "start": "other"})()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conftest.start(e, "digits", tmp_path)
    assert [line["why"] for line in store.logged(path, "dropped")] == [
        "it is another training"
    ]


class Kept:
    """Keeps in memory what it is offered, and cuts as it is told."""

    def __init__(self, cuts, begun=None):
        self.cuts, self.offered, self.start = iter(cuts), [], begun

    def begun(self, state, mask):
        return self.start

    def steps(self, at, left, piece):
        return min(left, next(self.cuts, left))

    def offer(self, unfinished):
        self.offered.append(
            unfinished._replace(
                state=train.copied(unfinished.state),
                records=list(unfinished.records),
                sums=unfinished.sums and {**unfinished.sums},
            )
        )


def test_a_training_goes_on_from_wherever_it_was_cut(adam):
    def loop(state, mask, n, sums=None):
        return step(state, mask, adam.data, key, n, sums)

    loss, _ = train.classification(models.standardized(plain_mlp(), 0, 255).apply)
    tx, key = optax.adam(1e-2), jax.random.key(1)
    sample = data.make_sample(8, 50)
    step = jax.jit(train.make_train(loss, sample, tx))
    none = train.no_sums({"loss": jnp.float32(0), "accuracy": jnp.float32(0)})

    def trained(state, mask, n, sums=None):
        return loop(state, mask, np.int32(n), none if sums is None else sums)

    fit = partial(train.fit, train=trained, measures={}, stops=(30, 50, 80), piece=1)
    state, curves = fit(adam.early, adam.mask)
    keep = Kept([1, 5, 12, 100, 3, 3, 3, 3])
    again, cut = fit(adam.early, adam.mask, keep=keep)
    assert_same((state, curves), (again, cut))
    assert len(keep.offered) > 6
    for unfinished in keep.offered:
        assert_same(
            (state, curves), fit(adam.early, adam.mask, keep=Kept([4], unfinished))
        )


def test_how_often_it_is_saved_is_read_from_text():
    assert parse.parse_saving("10min") == (600, 0)
    assert parse.parse_saving("1.5h") == (5400, 0)
    assert parse.parse_saving("30s") == (30, 0)
    assert parse.parse_saving("5000it") == (None, 5000)
    assert parse.parse_saving("never") == (None, 0)
    for text in ("10", "0s", "0it", "min", "-3s", "1ep"):
        with pytest.raises(ConfigError, match="--save-every is a time such as 30s"):
            parse.parse_saving(text)
    with pytest.raises(ConfigError, match="save_every is a time"):
        lth.run("digits", save_every="soon")


def test_a_training_that_breaks_off_waits_for_what_it_writes(tmp_path):
    """Else the next one, in the same process, finds a checkpoint half written."""
    waited = []

    def write():
        waited.append(True)
        raise OSError("the disk is full")  # is not told instead of what broke off

    def broken_off():
        with keeping.keeping(tmp_path, "ticket", 0, Saving(), keeping.Pace()) as keeper:
            keeper.write = write
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert waited == [True]
