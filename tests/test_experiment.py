"""Whole runs, small ones: resuming, controls, replicates, compilations, failures."""

import functools
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lth
from lth import masks, models, plot, results, train
from lth.lab import config, front, runner, store
from lth.lab.config import ConfigError
from lth.lab.config.presets import PRESETS
from lth.lab.store import checkpoint
from lth.lottery import branches
from lth.lottery import recipe as recipes
from tests.conftest import assert_same, start

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
    return start(SMALL, "small", tmp_path_factory.mktemp("runs")).path


def test_a_global_shuffle_is_a_control_like_the_others(tmp_path):
    e = replace(SMALL, levels=1, controls="shuffle,shuffle_global")
    run = lth.open_run(start(e, "small", tmp_path).path)
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
    assert_same(one[2:], jax.tree.map(lambda x: x[1], ticket[2:]))
    assert one.level == 1
    with pytest.raises(ValueError, match="replicate is one of 0, 1; got 2"):
        run.ticket(1, replicate=2)


def kernels_of(ticket):
    return jax.tree.map(
        lambda w, m: None if m is None else w, ticket.params, ticket.mask
    )


def contents(path):
    """A digest of each stored checkpoint's arrays, and each table, branches too."""
    found, tables = {}, {}
    for unit in sorted(folder.parent for folder in path.rglob("tickets")):
        for folder in sorted((unit / "tickets").iterdir()):
            tree = store.load_tree(unit, folder.name)
            found[str(folder.relative_to(path))] = checkpoint.digest(tree)
        table = unit / "table.csv"
        tables[str(table.relative_to(path))] = table.read_bytes()
    return found, tables


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
    kept = [path.name.split("-")[0] for path in (unbroken / "branches").iterdir()]
    assert sorted(kept) == ["reinit", "shuffle"]
    assert list(run.table.columns) == list(results.COLUMNS)
    counts = run.table.groupby(["variant", "level"]).size()
    assert len(counts) == 1 + 3 * 3
    assert set(counts) == {2 * 2 * 6}  # replicates x stops x (3 splits of 2 metrics)
    ticket = run.ticket(2)
    assert ticket.mask["hidden_0"]["kernel"].shape == (2, 64, 12)
    # Dicts of arrays, with no network or optimizer behind them.
    assert type(ticket.params) is type(ticket.params["output"]) is dict
    assert isinstance(ticket.params["output"]["kernel"], np.ndarray)
    assert not hasattr(ticket, "opt_state")
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
    path = start(other, "small", tmp_path).path
    run = lth.open_run(path)
    assert_same(store.load(path, 0).state, store.load(unbroken, 0).state)
    assert int(run.early.step[0]) == 7
    assert int(run.checkpoint(33).step[0]) == 33
    assert {"init", "early", "step_3", "step_33"} <= {
        p.name for p in (path / "tickets").iterdir()
    }


@pytest.mark.parametrize("measurements", [1, 2, 5, 9, 14])  # 8 are of the trunk
def test_a_stopped_run_continues_to_the_same_bits(unbroken, tmp_path, measurements):
    with pytest.raises(StopError):
        start(SMALL, "small", tmp_path, watch=stop_after(measurements))
    path = start(SMALL, "small", tmp_path).path
    assert contents(path) == contents(unbroken)


@pytest.mark.parametrize("where", ["small-", "shuffle-"])
def test_rows_ahead_of_their_ticket_are_dropped(unbroken, tmp_path, monkeypatch, where):
    def crash(unit, ticket, facts):
        if ticket.level == 1 and unit.name.startswith(where):
            raise StopError
        save(unit, ticket, facts)

    save = store.save
    monkeypatch.setattr(store, "save", crash)
    with pytest.raises(StopError):
        start(SMALL, "small", tmp_path)
    monkeypatch.undo()
    (path,) = tmp_path.glob("[!.]*")
    (unit,) = (p.parent for p in path.rglob("table.csv") if where in p.parent.name)
    assert ",1," in (unit / "table.csv").read_text()
    with (unit / "table.csv").open("a") as table:
        table.write("small-half a li")
    start(SMALL, "small", tmp_path)
    assert contents(path) == contents(unbroken)


def test_more_levels_and_controls_extend_a_run(unbroken, tmp_path):
    bare = replace(SMALL, levels=1, controls="")
    path = start(bare, "small", tmp_path).path
    first = checkpoint.digest(store.load_tree(path, "level_01"))
    assert start(SMALL, "small", tmp_path).path == path
    assert contents(path) == contents(unbroken)
    assert contents(path)[0]["tickets/level_01"] == first
    assert lth.open_run(path).config == SMALL


def test_replicates_have_the_same_streams_together_and_alone(unbroken, tmp_path):
    alone = replace(SMALL, replicates=1, first_replicate=1, levels=1, controls="reinit")
    one = lth.open_run(start(alone, "small", tmp_path).path)
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
            *map(jax.tree.leaves, (a.params, b.params)),
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
def test_nothing_compiles_again_at_later_levels(mode, tmp_path):
    compiled, at = [0], {}

    def listen(event, duration, **kwargs):
        compiled[0] += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(listen)
    e = replace(rewinding(mode), levels=5, eval_every="40it")

    def watch(progress):
        at[progress.variant, progress.level] = compiled[0]

    start(e, "small", tmp_path, watch=watch)
    assert compiled[0] > 0
    # Masks change their place in memory once, after the first pruning; then nothing.
    for variant in dict.fromkeys(variant for variant, _ in at):
        assert len({at[variant, level] for level in (2, 3, 4, 5)}) == 1, variant


def test_a_training_is_traced_once_for_all_levels_and_branches(tmp_path):
    """And for the way to the rewind point."""
    splits = lth.data.load("digits", None, 180, 0)
    model = models.standardized(models.from_linen(models.MLP((12,)), (8, 8, 1)), 0, 16)
    inner, measure = train.classification(model.apply)
    traced, seen = [], []

    def loss(*args):
        traced.append(args)
        return inner(*args)

    recipe = lth.make_recipe(
        model,
        optax.sgd(0.2),
        loss,
        measure,
        splits,
        batch_size=60,
        steps=20,
        densities=(0.5, 0.25),
        replicates=2,
        eval_every=10,
        branches=("reinit", "shuffle"),
    )
    begun = len(traced)
    lth.run(recipe, tmp_path / "from-0", watch=lambda _: seen.append(len(traced)))
    once = seen[0] - begun
    assert once > 0
    assert set(seen) == {seen[0]}
    again = recipe._replace(rewind_to=5, checkpoints={"early": 5})
    lth.run(again, tmp_path / "from-5")
    assert len(traced) == seen[0]  # the program is that of the recipe before


@pytest.mark.parametrize(
    ("mode", "moments"),
    [
        *((mode, "keep") for mode in MODES),
        *((m, "drop") for m in MODES if m != "reinit"),
    ],
)
def test_every_mode_retrains_masked_from_the_rewind_point(mode, moments, tmp_path):
    e = replace(rewinding(mode, moments=moments), levels=1, controls="")
    run = lth.open_run(start(e, "small", tmp_path).path)
    ticket = run.ticket(1)
    assert set(ticket.step.tolist()) == {40}
    assert set(np.ravel(ticket.metrics["step"])) == {20, 40}
    gone = jax.tree.map(
        lambda w, m: None if m is None else jnp.abs(w * ~m).max(),
        ticket.params,
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
    one = lth.open_run(start(e, "small", tmp_path).path).ticket(1)
    e = replace(e, optimizer=config.Optimizer(learning_rate=0.01))
    two = lth.open_run(start(e, "small", tmp_path).path).ticket(1)
    assert_same(one.mask, two.mask)
    assert (
        one.mask["hidden_0"]["kernel"][0] != one.mask["hidden_0"]["kernel"][1]
    ).any()


def spoiled(params):
    """The params, those of replicate 1 infinite."""

    def scale(w):
        return w * jnp.array([1.0, jnp.inf]).reshape(2, *(1,) * (w.ndim - 1))

    return jax.tree.map(scale, params)


def test_a_replicate_with_nan_loss_stops_and_the_others_go_on(unbroken, tmp_path):
    recipe = lth.build(SMALL)

    def init(keys):
        state = recipe.init(keys)
        return state._replace(params=spoiled(state.params))

    broken, path = recipe._replace(init=init), tmp_path / "run"
    outcome = front.train_own(broken, path)
    assert outcome.failed == {("ticket", 1): (0, 0)}
    run, whole = lth.open_run(path), lth.open_run(unbroken)
    assert set(run.table["replicate"]) == {0}
    kept = whole.table[whole.table["replicate"] == 0].drop(columns="run")
    found = run.table.drop(columns="run").reset_index(drop=True)
    assert found.equals(kept.reset_index(drop=True))
    log = (path / "log.jsonl").read_text()
    assert '"event": "failed", "replicate": 1, "variant": "ticket", "level": 0' in log
    assert run.ticket(3).failed.tolist() == [[-1, -1], [0, 0]]
    assert run.ticket(3, "reinit").failed.tolist() == [[-1, -1], [0, 0]]
    assert run.ticket(3, replicate=1).failed.tolist() == [0, 0]
    again = front.train_own(broken, path)
    assert again.failed == outcome.failed  # remembered, not trained anew
    for table in path.rglob("table.csv"):
        table.unlink()
    assert runner.failures(path) == outcome.failed  # no row was missed to know it


def ending_in_infinity(recipe, training):
    """The recipe whose so-manieth call of `train` leaves replicate 1 infinite.

    A training from step 0 is two of them, to the two stops.
    """
    left = [training]

    def train(*args):
        state, sums = recipe.train(*args)
        left[0] -= 1
        if not left[0]:
            state = state._replace(params=spoiled(state.params))
        return state, sums

    return recipe._replace(train=train, piece=0)


def test_weights_that_end_not_finite_fail_their_replicate_alone(tmp_path):
    """The loss of the last step is taken before its update."""
    recipe = lth.build(SMALL, controls="", levels=2)
    outcome = front.train_own(ending_in_infinity(recipe, 4), tmp_path / "run")
    assert outcome.failed == {("ticket", 1): (1, 40)}
    run = lth.open_run(outcome.path)
    assert set(run.table.loc[run.table["replicate"] == 1, "level"]) == {0}
    assert set(run.table.loc[run.table["replicate"] == 0, "level"]) == {0, 1, 2}
    failed = [run.ticket(level).failed[1].tolist() for level in run.levels]
    assert failed == [[-1, -1], [1, 40], [1, 40]]


def test_a_branch_that_fails_is_reported_too_and_alone(unbroken, tmp_path):
    recipe, path = lth.build(SMALL), tmp_path / "run"
    broken = ending_in_infinity(recipe, 4)
    fails = branches.rewound()._replace(changed=lambda recipe: broken)
    recipe = recipe._replace(branches={**recipe.branches, "fails": fails})
    outcome = front.train_own(recipe, path)
    assert outcome.failed == {("fails", 1): (2, 40)}
    run = lth.open_run(path)
    rows = run.table[run.table["variant"] == "fails"]
    assert set(rows.loc[rows["replicate"] == 1, "level"]) == {1, 3}
    assert set(rows.loc[rows["replicate"] == 0, "level"]) == {1, 2, 3}
    assert run.ticket(2, "fails").failed.tolist() == [[-1, -1], [2, 40]]
    assert run.ticket(3).failed.tolist() == [[-1, -1]] * 2
    assert front.train_own(recipe, path).failed == outcome.failed
    whole = contents(unbroken)[0]
    assert whole.items() <= contents(path)[0].items()


def test_a_run_whose_replicates_all_fail_ends(tmp_path):
    e = replace(SMALL, optimizer=config.Optimizer(name="sgd", learning_rate=1e30))
    outcome = start(e, "small", tmp_path)
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
        start(e, "small", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_is_not_continued_on_other_data(unbroken, tmp_path):
    path = tmp_path / unbroken.name
    shutil.copytree(unbroken, path)
    content = store.read_config(path)
    text = store.sealed({**content, "data": "of another file"})
    (path / "config.json").write_text(text)
    with pytest.raises(store.StoreError, match="was trained on other data"):
        start(replace(SMALL, levels=4), "small", tmp_path)
    with pytest.raises(store.StoreError, match="was trained on other data"):
        lth.open_run(path).recipe()
    (path / "config.json").write_text(store.sealed({**content, "id": "abc"}))
    with pytest.raises(store.StoreError, match="holds the run abc of another config"):
        start(SMALL, "small", tmp_path)


def test_asking_for_less_loses_nothing(unbroken):
    before = (unbroken / "config.json").read_bytes()
    start(replace(SMALL, levels=1, controls=""), "small", unbroken.parent)
    assert (unbroken / "config.json").read_bytes() == before


def test_a_validation_set_as_large_as_the_data_is_refused(tmp_path):
    e = replace(SMALL, data=replace(SMALL.data, validation=1437))
    with pytest.raises(lth.data.DataError, match="1437 examples cannot be held out"):
        start(e, "small", tmp_path)
