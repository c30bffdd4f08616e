"""Runs that learn their masks: what is stored, what is frozen, how they end."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lth
from lth import masks, results, supermask, train
from lth.cli import main, report
from lth.lab.build import learners, names, networks, ranking, tasks
from lth.lab.config import Experiment, Learn, Model, Optimizer
from lth.lab.config.presets import SUPERMASKS
from lth.lottery import recipe as recipes
from tests.conftest import assert_same, start
from tests.test_experiment import StopError, contents, stop_after

SMALL = replace(
    SUPERMASKS["digits"]["edge_popup"].experiment,
    model=Model(widths=(12,)),
    steps="40it",
    eval_every="20it",
    replicates=2,
    controls="rewind,train,reinit,shuffle",
)


def small(method, **fields):
    e = SUPERMASKS["digits"][method].experiment
    return replace(e, model=Model(widths=(6,)), **fields)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return start(SMALL, "small", tmp_path_factory.mktemp("runs")).path


def test_the_scores_are_stored_and_the_weights_stayed_as_they_were(unbroken):
    run = lth.open_run(unbroken)
    model = tasks.load(SMALL.data, SMALL.model, SMALL.batch_size).model
    ones = masks.ones(jax.eval_shape(model.init, jax.random.key(0))[0])
    init = learners.learner(SMALL.learn, model, ones, 40).model.init
    _, begun = jax.jit(jax.vmap(init))(recipes.keys(run.replicates, recipes.INIT))
    frozen, ticket = run.learned.stats["weights"], run.ticket(0)
    assert_same(frozen, dict(begun.weights))
    assert_same(ticket.params, masks.apply(frozen, ticket.mask))
    np.testing.assert_allclose(  # those of the run, over the root of what is kept
        frozen["output"]["kernel"] * np.sqrt(0.5),
        run.early.params["output"]["kernel"],
        rtol=1e-6,
    )


def test_the_ticket_is_an_ordinary_one(unbroken):
    run = lth.open_run(unbroken)
    ticket = run.ticket(0)
    sizes = [m.shape[1] * m.shape[2] for m in jax.tree.leaves(ticket.mask)]
    kept = jax.vmap(masks.count)(ticket.mask)
    assert kept.tolist() == [sum(round(n / 2) for n in sizes)] * 2
    table = run.table
    assert set(table["variant"]) == {"ticket", "rewind", "train", "reinit", "shuffle"}
    assert table.query("variant == 'ticket' and split == 'mask'")["value"].eq(0.5).all()
    kept_same = {"train": True, "rewind": True, "reinit": True, "shuffle": False}
    for variant, same in kept_same.items():
        control = run.ticket(0, variant)
        equal = jax.tree.map(np.array_equal, control.mask, ticket.mask)
        assert all(jax.tree.leaves(equal)) == same
        assert jax.vmap(masks.count)(control.mask).tolist() == kept.tolist()
        trained = control.params
        assert_same(trained, masks.apply(trained, control.mask))
    # From the weights it has, training starts where learning ended.
    after = table.query("split == 'train' and metric == 'loss' and step == 20")
    loss = after.groupby("variant")["value"].mean()
    assert loss["train"] < loss["rewind"]


def test_a_finished_run_takes_more_controls(unbroken, tmp_path):
    bare = replace(SMALL, controls="")
    path = start(bare, "small", tmp_path).path
    assert lth.open_run(path).variants == ["ticket"]
    assert start(SMALL, "small", tmp_path).path == path
    assert contents(path) == contents(unbroken)


def test_a_run_beside_trained_weights(tmp_path):
    e = small("movement", steps="30it", eval_every="10it", replicates=2)
    run = lth.open_run(start(e, "moved", tmp_path).path)
    scores, ticket = run.learned, run.ticket(0)
    assert set(scores.params) == set(supermask.Gated._fields)
    found = masks.apply(scores.params["weights"], ticket.mask)
    assert_same(ticket.params, found)
    density = run.table.query("split == 'mask'").groupby("step")["value"].mean()
    assert density[10] > density[20] > density[30] == pytest.approx(0.1, abs=0.002)
    # A step does not count before the mask is as sparse as the last.
    assert set(results.early_stop(run.table)["step"]) == {30}
    assert not run.empty_layers()


def test_of_masks_that_are_drawn_the_rounded_one_is_measured_too(tmp_path):
    e = small("bernoulli", steps="20it", eval_every="20it", replicates=1)
    run = lth.open_run(start(e, "drawn", tmp_path).path)
    scores = jax.tree.map(lambda x: x[0], run.learned)
    mask = supermask.rounded(scores.params)
    weights = jax.tree.map(
        lambda w, m: np.asarray(w if m is None else w * m * (m.size / m.sum())),
        scores.stats["weights"],
        mask,
    )
    source = lth.data.load("digits", None, 180, 0)
    image = source.test.inputs.reshape(len(source.test.targets), -1) / np.float32(16)
    hidden = weights["hidden_0"]
    x = np.maximum(image @ hidden["kernel"] + hidden["bias"], 0)
    x = x @ weights["output"]["kernel"] + weights["output"]["bias"]
    accuracy = np.mean(np.argmax(x, -1) == source.test.targets)
    measured = results.final(run.table, metric="rounded_accuracy")["value"]
    assert measured.item() == pytest.approx(accuracy, abs=1e-6)


@pytest.mark.parametrize("measurements", [1, 3, 5])  # 2 are of the mask
def test_a_stopped_run_continues_to_the_same_bits(unbroken, tmp_path, measurements):
    with pytest.raises(StopError):
        start(SMALL, "small", tmp_path, watch=stop_after(measurements))
    path = start(SMALL, "small", tmp_path).path
    assert contents(path) == contents(unbroken)


@pytest.mark.parametrize("method", names.LEARNERS)
def test_every_method_moves_what_it_trains_at_the_rates_of_its_preset(method):
    e = SUPERMASKS["digits"][method].experiment
    learn = replace(e.learn, every=1)
    e = replace(e, model=replace(e.model, widths=(6,)), learn=learn)
    examples = names.Examples((8, 8, 1), 10)
    model = networks.network(e.model, examples)
    params, _ = model.init(jax.random.key(0))
    mask = ranking.prunable(e.prune, params)
    learned = learners.learner(e.learn, model, mask, 10)
    tx = learners.optimizer(e.learn, e.optimizer, 5, 10)
    state = train.init_state(learned.model.init, tx, jax.random.key(0))
    loss, _ = train.classification(learned.model.apply)

    def value(params):
        x, y = jnp.ones((4, 8, 8, 1)), jnp.arange(4)
        batch = type("Batch", (), {"inputs": x, "targets": y})
        return loss(params, state.stats, batch, jax.random.key(1))[0]

    updates, opt_state = tx.update(
        jax.grad(value)(state.params), state.opt_state, state.params
    )
    gone = masks.unmasked(state.params)
    assert_same(train.masked_slots(tx, opt_state, gone), opt_state)
    if isinstance(state.params, supermask.Gated):  # each part at its own rate
        rates = e.optimizer.learning_rate, e.learn.optimizer.learning_rate
        for part, rate in zip(updates, rates, strict=True):
            sizes = [float(jnp.abs(u).max()) for u in jax.tree.leaves(part)]
            assert max(sizes) == pytest.approx(rate, rel=1e-3)
    found = learned.choose(state.params, state.stats, jax.random.key(0))
    assert masks.paths(found) == masks.paths(mask)


def test_a_penalty_that_leaves_nothing_ends_the_run_with_its_name(tmp_path, capsys):
    args = "supermask digits hard_concrete --model.widths 6 --steps 40it --eval-every "
    args += "20it --replicates 1 --learn.penalty 1000 --learn.optimizer.learning-rate 1"
    assert main.command([*args.split(), "--quiet", "--runs", str(tmp_path)]) == 3
    error = capsys.readouterr().err
    assert "--learn.penalty 1000 of hard_concrete left no weight at level 0, " in error


def test_a_layer_left_empty_is_named(tmp_path, capsys):
    args = "supermask digits edge_popup --model.widths 6 --steps 20it --eval-every 20it"
    args += " --replicates 1 --learn.keep 0.005 --learn.scope global"
    assert main.command([*args.split(), "--runs", str(tmp_path)]) == 0
    error = capsys.readouterr().err
    assert "the mask of replicate 0 keeps nothing of hidden_0/kernel" in error


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["digit", "bernoulli"],
            "unknown preset 'digit'; perhaps digits; there are digits, lenet-mn",
        ),
        (["digits", "bernouli"], "unknown method 'bernouli'; there are bernoulli, ed"),
        (["digits", "bernoulli", "--learn.keep", "0.3"], "--learn.keep is of --learn"),
        (["digits", "edge_popup", "--learn.keep", "1.3"], "--learn.keep is in (0, 1]"),
        (["digits", "edge_popup", "--levels", "2"], "--levels is 0: nothing is pruned"),
        (["digit"], "unknown preset 'digit'"),
        (
            ["digits", "bernoulli", "--optimizer.learning-rate", "7"],
            "--optimizer moves nothing unless there are --controls",
        ),
        (["digits", "bernoulli", "--checkpoint-at", "3"], "no --checkpoint-at"),
        (
            ["digits", "bernoulli", "--learn.optimizer.warmup", "abc"],
            "--learn.optimizer.warmup is a number of steps",
        ),
        (
            "digits edge_popup --learn.optimizer.no-cosine "
            "--learn.optimizer.milestones 5000it".split(),
            "--learn.optimizer.milestones 5000it is not before the end",
        ),
    ],
)
def test_what_was_mistyped_is_said(args, message, capsys):
    assert main.command(["supermask", *args]) == 2
    assert message in capsys.readouterr().err


def test_without_a_method_they_are_listed(capsys):
    assert main.command(["supermask", "digits"]) == 2
    assert "bernoulli, edge_popup, multi_prize" in capsys.readouterr().out
    assert main.command(["supermask", "--help"]) == 0


def test_weights_beside_scores_have_their_own_optimizer():
    scores = Optimizer(name="sgd", learning_rate=0.1)
    e = Experiment(learn=Learn(method="movement", optimizer=scores), levels=0)
    tx = learners.optimizer(e.learn, e.optimizer, 5, 10)
    weights = {"w": jnp.full(3, 2.0), "b": jnp.full(2, 2.0)}
    params = supermask.Gated(weights, {"w": jnp.full(3, 2.0), "b": None})
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates.weights["w"], -1.2e-3, rtol=1e-3)  # Adam's
    np.testing.assert_allclose(updates.gates["w"], -0.2, rtol=1e-6)  # rate * gradient


def test_a_run_that_learned_no_mask_has_no_scores(tmp_path):
    e = replace(SMALL, learn=Learn(), controls="", levels=0, steps="2it")
    e = replace(e, eval_every="2it", replicates=1)
    run = lth.open_run(start(e, "dense", tmp_path).path)
    with pytest.raises(lth.lab.store.StoreError, match="learned no masks"):
        _ = run.learned


def test_the_report_calls_the_mask_learned(unbroken):
    text = report.write([lth.open_run(unbroken)], unbroken / "report.html").read_text()
    assert "learned mask" in text
    assert "its weights trained" in text
    assert "masks learned for 40it" in text
    assert "winning ticket" not in text
