"""Whole runs, small ones: resuming, controls, replicates, compilations, failures."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lth
from lth import masks, plot, results, train
from lth.lab import config, front, runner, store
from lth.lab.build import assemble
from lth.lab.config import ConfigError
from lth.lab.config.presets import PRESETS
from lth.lab.store import checkpoint
from tests.conftest import assert_same

SMALL = replace(
    PRESETS["digits"].experiment,
    model=config.Model(widths=(12,)),
    optimizer=config.Optimizer(
        name="sgd", learning_rate=0.2, momentum=0.9, milestones="30it"
    ),
    steps="40it",
    eval_every="20it",
    levels=3,
    replicates=2,
    controls="reinit,shuffle",
)


def rewinding(mode, to="5it", **fields):
    controls = SMALL.controls if mode == "weights" else ""
    return replace(
        SMALL, rewind=config.Rewind(mode=mode, to=to, **fields), controls=controls
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return front.start(SMALL, "small", tmp_path_factory.mktemp("runs")).path


def test_a_global_shuffle_is_a_control_like_the_others(tmp_path):
    e = replace(SMALL, levels=1, controls="shuffle,shuffle_global")
    run = lth.open_run(front.start(e, "small", tmp_path).path)
    assert run.variants == ["ticket", "shuffle", "shuffle_global"]
    assert set(run.table["variant"]) == {*run.variants}
    ticket, layered, mixed = (run.ticket(1, variant) for variant in run.variants)
    counts = [jax.vmap(masks.count)(t.mask).tolist() for t in (ticket, layered, mixed)]
    assert counts[0] == counts[1] == counts[2]
    shares = [jax.vmap(masks.densities)(t.mask) for t in (ticket, layered, mixed)]
    path = masks.paths(ticket.mask)[0]
    assert (shares[0][path] == shares[1][path]).all()
    assert (shares[0][path] != shares[2][path]).all()
    for mask, w in zip(
        *map(jax.tree.leaves, (mixed.mask, kernels_of(mixed))), strict=True
    ):
        assert not w[~mask].any()
    assert plot.name("shuffle_global", 1, 0.8) == "mask shuffled globally"
    one = run.ticket(1, replicate=1)
    assert_same(one.mask, jax.tree.map(lambda m: m[1], ticket.mask))
    assert_same(one.state, jax.tree.map(lambda x: x[1], ticket.state))
    assert one.level == 1
    with pytest.raises(ValueError, match="replicate is one of 0, 1; got 2"):
        run.ticket(1, replicate=2)


def kernels_of(ticket):
    return jax.tree.map(
        lambda w, m: None if m is None else w, ticket.state.params, ticket.mask
    )


def contents(path):
    """The digest that every stored checkpoint's arrays have, and the table."""
    found = {}
    for folder in sorted((path / "tickets").iterdir()):
        tree = store.load_tree(path, folder.name)
        found[folder.name] = checkpoint.digest(tree)
    return found, (path / "table.csv").read_bytes()


class StopError(Exception):
    pass


def stop_after(measurements):
    left = [measurements]

    def watch(progress):
        left[0] -= 1
        if not left[0]:
            raise StopError

    return watch


def test_a_run_stores_what_it_promises(unbroken):
    run = lth.open_run(unbroken)
    assert run.levels == [0, 1, 2, 3]
    assert run.variants == ["ticket", "reinit", "shuffle"]
    names = {p.name for p in unbroken.iterdir()}
    assert {"config.json", "environment.json", "table.csv", "log.jsonl"} <= names
    assert list(run.table.columns) == list(results.COLUMNS)
    counts = run.table.groupby(["variant", "level"]).size()
    assert len(counts) == 1 + 3 * 3
    assert set(counts) == {2 * 2 * 6}  # replicates x stops x (3 splits of 2 metrics)
    ticket = run.ticket(2)
    assert ticket.mask["hidden_0"]["kernel"].shape == (2, 64, 12)
    assert isinstance(ticket.state, train.TrainState)
    density = run.table.loc[run.table["level"] == 2, "density"].unique()
    kept = round(0.64 * 64 * 12) + round(0.81 * 12 * 10)
    assert list(density) == [kept / (64 * 12 + 120)]
    saved = run.savings()
    assert saved[0] == {"weights": 910, "compression": 1, "speedup": 1}
    assert saved[2]["weights"] == pytest.approx(kept + 22)
    assert saved[2]["compression"] == pytest.approx(910 / (kept + 22))
    assert saved[2]["speedup"] == pytest.approx((64 * 12 + 120) / kept)


def test_the_dense_ticket_is_one_unbroken_training(unbroken, tmp_path):
    """Stopping at the rewind point and at checkpoints leaves no trace in the bits."""
    other = replace(rewinding("weights", "7it"), levels=0, checkpoint_at="3it,33it")
    path = front.start(other, "small", tmp_path).path
    run, dense = lth.open_run(path), lth.open_run(unbroken).ticket(0)
    assert_same(run.ticket(0).state, dense.state)
    assert int(run.early.step[0]) == 7
    assert int(run.checkpoint(33).step[0]) == 33
    assert {"init", "early", "step_3", "step_33"} <= {
        p.name for p in (path / "tickets").iterdir()
    }


@pytest.mark.parametrize("measurements", [1, 2, 5, 9])
def test_a_stopped_run_continues_to_the_same_bits(unbroken, tmp_path, measurements):
    with pytest.raises(StopError):
        front.start(SMALL, "small", tmp_path, watch=stop_after(measurements))
    path = front.start(SMALL, "small", tmp_path).path
    assert contents(path) == contents(unbroken)


def test_rows_ahead_of_their_ticket_are_dropped(unbroken, tmp_path, monkeypatch):
    def crash(run, ticket, variant):
        if ticket.level == 1:
            raise StopError
        save(run, ticket, variant)

    save = store.save
    monkeypatch.setattr(store, "save", crash)
    with pytest.raises(StopError):
        front.start(SMALL, "small", tmp_path)
    monkeypatch.undo()
    (path,) = tmp_path.glob("[!.]*")
    assert ",1," in (path / "table.csv").read_text()
    with (path / "table.csv").open("a") as table:
        table.write("small-half a li")
    front.start(SMALL, "small", tmp_path)
    assert contents(path) == contents(unbroken)


def test_more_levels_and_controls_extend_a_run(unbroken, tmp_path):
    bare = replace(SMALL, levels=1, controls="")
    path = front.start(bare, "small", tmp_path).path
    first = checkpoint.digest(store.load_tree(path, "level_01"))
    assert front.start(SMALL, "small", tmp_path).path == path
    extended, table = contents(path)
    assert extended == contents(unbroken)[0]
    assert extended["level_01"] == first
    assert sorted(table.splitlines()) == sorted(contents(unbroken)[1].splitlines())
    assert lth.open_run(path).config == SMALL


def test_replicates_have_the_same_streams_together_and_alone(unbroken, tmp_path):
    alone = replace(SMALL, replicates=1, first_replicate=1, levels=1, controls="reinit")
    one = lth.open_run(front.start(alone, "small", tmp_path).path)
    both = lth.open_run(unbroken)
    assert_same(
        jax.tree.map(lambda x: x[0], one.early),
        jax.tree.map(lambda x: x[1], both.early),
    )
    for variant in ("ticket", "reinit"):
        a, b = one.ticket(1, variant), both.ticket(1, variant)
        same = jax.tree.map(lambda x, y: np.mean(x[0] == y[1]), a.mask, b.mask)
        assert min(jax.tree.leaves(same)) > 0.99  # sums may round differently
        for x, y in zip(
            jax.tree.leaves(a.state.params),
            jax.tree.leaves(b.state.params),
            strict=True,
        ):
            np.testing.assert_allclose(x[0], y[1], atol=0.02)


@pytest.mark.parametrize("stream", [recipes.INIT, recipes.TRAIN, recipes.SHUFFLE])
def test_keys_come_from_the_number_of_the_replicate_alone(stream):
    together = jax.random.key_data(recipes.keys([0, 1, 2], stream, 4))
    for i in range(3):
        alone = jax.random.key_data(recipes.keys([i], stream, 4))[0]
        np.testing.assert_array_equal(together[i], alone)
    assert len({tuple(k) for k in np.asarray(together).tolist()}) == 3


MODES = ["weights", "learning_rate", "finetune", "weights_low_rate", "reinit"]


@pytest.mark.parametrize("mode", MODES)
def test_nothing_compiles_again_at_later_levels(mode, tmp_path, monkeypatch):
    compiled, at_level, traces = [0], {}, [0]

    def listen(event, duration, **kwargs):
        compiled[0] += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(listen)
    make = train.make_train

    def counting(*args):
        inner = make(*args)

        def traced(*args):
            traces[0] += 1
            return inner(*args)

        return traced

    monkeypatch.setattr(train, "make_train", counting)
    e = replace(rewinding(mode), levels=5, eval_every="40it")

    def watch(progress):
        at_level[progress.level] = compiled[0]

    front.start(e, "small", tmp_path, watch=watch)
    assert traces[0] == 1  # of the training program, over all levels and controls
    assert compiled[0] > 0
    # Masks change their place in memory once, after the first pruning; then nothing.
    assert at_level[2] == at_level[3] == at_level[4] == at_level[5]


@pytest.mark.parametrize(
    ("mode", "moments"),
    [
        *((mode, "keep") for mode in MODES),
        *((m, "drop") for m in MODES if m != "reinit"),
    ],
)
def test_every_mode_retrains_masked_from_the_rewind_point(mode, moments, tmp_path):
    e = replace(rewinding(mode, moments=moments), levels=1, controls="")
    run = lth.open_run(front.start(e, "small", tmp_path).path)
    ticket = run.ticket(1)
    assert set(ticket.state.step.tolist()) == {40}
    assert set(np.ravel(ticket.metrics["step"])) == {20, 40}
    gone = jax.tree.map(
        lambda w, m: None if m is None else jnp.abs(w * ~m).max(),
        ticket.state.params,
        ticket.mask,
    )
    assert max(jax.tree.leaves(gone)) == 0


def test_controls_keep_the_counts_and_lose_what_they_should(unbroken):
    run = lth.open_run(unbroken)
    ticket, fresh, shuffled = (run.ticket(3, v) for v in run.variants)
    assert_same(fresh.mask, ticket.mask)
    before, after = masks.densities(ticket.mask), masks.densities(shuffled.mask)
    assert {k: float(v) for k, v in before.items()} == {
        k: float(v) for k, v in after.items()
    }
    assert float(masks.overlap(ticket.mask, shuffled.mask)) < 0.9


def test_the_random_criterion_ignores_the_weights(tmp_path):
    e = replace(
        SMALL, prune=replace(SMALL.prune, criterion="random"), controls="", levels=1
    )
    one = lth.open_run(front.start(e, "small", tmp_path).path).ticket(1)
    e = replace(e, optimizer=config.Optimizer(learning_rate=0.01))
    two = lth.open_run(front.start(e, "small", tmp_path).path).ticket(1)
    assert_same(one.mask, two.mask)
    assert (
        one.mask["hidden_0"]["kernel"][0] != one.mask["hidden_0"]["kernel"][1]
    ).any()


def broken_replicate(*args, real=assemble.build):
    """The parts of an experiment whose replicate 1 starts with infinite weights."""
    parts = real(*args)

    def init(keys):
        state = parts.init(keys)
        spoil = jnp.array([1.0, jnp.inf])

        def scale(w):
            return w * spoil.reshape(2, *(1,) * (w.ndim - 1))

        return state._replace(params=jax.tree.map(scale, state.params))

    return parts._replace(init=init)


def test_a_replicate_with_nan_loss_stops_and_the_others_go_on(
    unbroken, tmp_path, monkeypatch
):
    monkeypatch.setattr(assemble, "build", broken_replicate)
    outcome = front.start(SMALL, "small", tmp_path)
    assert outcome.failed == {("ticket", 1): (0, 0)}
    run, whole = lth.open_run(outcome.path), lth.open_run(unbroken)
    assert set(run.table["replicate"]) == {0}
    kept = whole.table[whole.table["replicate"] == 0].drop(columns="run")
    found = run.table.drop(columns="run").reset_index(drop=True)
    assert found.equals(kept.reset_index(drop=True))
    log = (outcome.path / "log.jsonl").read_text()
    assert '"event": "failed", "replicate": 1, "variant": "ticket", "level": 0' in log
    again = front.start(SMALL, "small", tmp_path)
    assert again.failed == outcome.failed  # remembered, not trained anew


def spoil_after(monkeypatch, variant, level):
    """Make replicate 1 end a level's ticket, or its controls, with infinite weights."""
    real = levels._judged
    name = {"ticket": "next_ticket", "reinit": "control"}[variant]
    inner = getattr(levels, name)
    armed = []

    def training(*args):
        armed.append(True)
        try:
            return inner(*args)
        finally:
            armed.pop()

    def judged(ticket, before):
        if armed and ticket.level == level:
            spoil = jnp.array([1.0, jnp.inf])
            kernel = ticket.state.params["output"]["kernel"] * spoil[:, None, None]
            output = {**ticket.state.params["output"], "kernel": kernel}
            params = {**ticket.state.params, "output": output}
            ticket = ticket._replace(state=ticket.state._replace(params=params))
        return real(ticket, before)

    monkeypatch.setattr(levels, name, training)
    monkeypatch.setattr(levels, "_judged", judged)


def test_weights_that_end_not_finite_fail_their_replicate_alone(tmp_path, monkeypatch):
    """The loss of the last step is taken before its update."""
    spoil_after(monkeypatch, "ticket", 1)
    e = replace(SMALL, controls="", levels=2)
    outcome = front.start(e, "small", tmp_path)
    assert outcome.failed == {("ticket", 1): (1, 40)}
    table = lth.open_run(outcome.path).table
    assert set(table.loc[table["replicate"] == 1, "level"]) == {0}
    assert set(table.loc[table["replicate"] == 0, "level"]) == {0, 1, 2}


def test_a_control_that_fails_is_reported_too(unbroken, tmp_path, monkeypatch):
    spoil_after(monkeypatch, "reinit", 2)
    outcome = front.start(SMALL, "small", tmp_path)
    assert outcome.failed == {("reinit", 1): (2, 40), ("shuffle", 1): (2, 40)}
    monkeypatch.undo()
    assert front.start(SMALL, "small", tmp_path).failed == outcome.failed


def test_a_run_whose_replicates_all_fail_ends(tmp_path):
    e = replace(SMALL, optimizer=config.Optimizer(name="sgd", learning_rate=1e30))
    outcome = front.start(e, "small", tmp_path)
    assert set(outcome.failed) == {("ticket", 0), ("ticket", 1)}
    with pytest.raises(store.StoreError, match="no results: every replicate failed"):
        _ = lth.open_run(outcome.path).table
    assert store.latest(outcome.path) == 0


BEYOND = [
    ({"steps": "0"}, "--steps is at least 1it"),
    ({"eval_every": "0ep"}, "--eval-every is at least 1it"),
    (
        {"rewind": config.Rewind(to="40it")},
        r"--rewind.to 40it \(step 40\) is not before",
    ),
    ({"rewind": config.Rewind(to="1ep")}, r"--rewind.to 1ep \(step 21\)"),
    ({"checkpoint_at": "0,41"}, "--checkpoint-at 41 is beyond the end of training"),
    ({"batch_size": 2000}, "at most the 1257 training examples; got 2000"),
    (
        {"prune": config.Prune(exclude="conv")},
        "'conv' matches no leaf; there are hidden_0",
    ),
    (
        {"prune": config.Prune(scope="layer", rates="conv=0.1")},
        "'conv' matches no leaf; there are hidden_0/kernel, output/kernel",
    ),
    ({"optimizer": config.Optimizer(milestones="50it")}, "--optimizer.milestones 50it"),
    ({"levels": 99}, r"--levels is at most 28: level 29 would keep 7 of 888 weights"),
    ({"steps": "2000000000it", "rewind": config.Rewind()}, "below 2\\*\\*32"),
]


@pytest.mark.parametrize(("change", "message"), BEYOND)
def test_what_does_not_fit_the_training_is_refused_before_it(
    change, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(train, "fit", functools.partial(pytest.fail, "it trained"))
    e = replace(SMALL, **change)
    if "1ep" in e.rewind.to:
        e = replace(e, steps="20it", optimizer=config.Optimizer())
    with pytest.raises(ConfigError, match=message):
        front.start(e, "small", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_is_not_continued_on_other_data(unbroken, monkeypatch):
    real = assemble.build
    monkeypatch.setattr(assemble, "build", lambda *a: real(*a)._replace(data="other"))
    with pytest.raises(store.StoreError, match="was trained on other data"):
        front.start(replace(SMALL, levels=4), "small", unbroken.parent)


def test_asking_for_less_loses_nothing(unbroken):
    before = (unbroken / "config.json").read_bytes()
    front.start(replace(SMALL, levels=1, controls=""), "small", unbroken.parent)
    assert (unbroken / "config.json").read_bytes() == before


def test_a_validation_set_as_large_as_the_data_is_refused(tmp_path):
    e = replace(SMALL, data=replace(SMALL.data, validation=1437))
    with pytest.raises(lth.data.DataError, match="1437 examples cannot be held out"):
        front.start(e, "small", tmp_path)
