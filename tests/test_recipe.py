"""Recipes of one's own functions: run, continued, refused; probes of their tickets."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lth
from lth import data, lottery, masks, train
from lth.cli import main
from lth.lab import runner, store
from tests import own
from tests.conftest import assert_same
from tests.test_experiment import StopError, contents, stop_after


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return lth.run(own.recipe(), tmp_path_factory.mktemp("runs") / "mine")


def test_a_recipe_of_plain_functions_runs(whole):
    assert whole.levels == [0, 1, 2]
    assert set(whole.table["split"]) == {"train", "validation", "test"}
    counts = jax.vmap(masks.count)(whole.ticket(2).mask).tolist()
    assert counts == [round(0.3 * (4 * 6 + 6 * 3))] * 2
    assert (whole.name, whole.config, whole.settings) == ("mine", None, {})
    # It prunes by what grew, and goes back half way.
    recipe, early = own.recipe(), whole.early
    dense, first = whole.ticket(0), whole.ticket(1)
    grew = jax.tree.map(lambda a, b: np.abs(b) - np.abs(a), early.params, dense.params)
    kept = jax.tree.map(lambda g, m: g[0][m[0]], grew, first.mask)
    gone = jax.tree.map(lambda g, m: g[0][~m[0]], grew, first.mask)
    least = min(x.min() for x in jax.tree.leaves(kept))
    assert least >= max(x.max() for x in jax.tree.leaves(gone))
    half = jax.tree.map(lambda a, b: (a + b) / 2, early.params, dense.params)
    start = recipe.init(lottery.keys((0, 1), 0))._replace(params=half)
    trained, _ = lottery.fit(recipe, start, first.mask)
    assert_same(jax.tree.map(np.asarray, trained.params), first.params)


@pytest.mark.parametrize("measurements", [1, 4])
def test_it_stops_and_goes_on_to_the_same_bits(whole, tmp_path, measurements):
    with pytest.raises(StopError):
        lth.run(own.recipe(), tmp_path / "mine", watch=stop_after(measurements))
    run = lth.run(own.recipe(), tmp_path / "mine")
    assert contents(run.path) == contents(whole.path)


DIFFERS = [
    ({"steps": 18}, r"stops was \[6, 12\], is \[6, 12, 18\]"),
    ({"rewind_to": 3}, "rewind_to was 0, is 3"),
    ({"splits": own.splits(seed=1)}, r"data was \w{12}…, is \w{12}…"),
    ({"width": 7}, r"first/kernel was float32\[4, 6\], is float32\[4, 7\]"),
    ({"batch_size": 6}, r"batch was .*points float32\[8, 4\].*, is .*\[6, 4\]"),
    ({"densities": (0.5, 0.3)}, r"densities was \[\[0.6\], \[0.3\]\], is \[\[0.5\]"),
    (
        {"prunable": lambda path, leaf: "first" in path},
        r"prunable was \['first/kernel', 'last/kernel'\], is \['first/kernel'\]",
    ),
    ({"tx": optax.sgd(0.1)}, r"opt_state/0/count was int32\[\], is not there"),
]


@pytest.mark.parametrize(("change", "said"), DIFFERS)
def test_another_recipe_is_refused_and_what_differs_is_said(whole, change, said):
    before = own.hashes(whole.path)
    with pytest.raises(store.StoreError, match="holds a run of another recipe") as e:
        lth.run(own.recipe(**change), whole.path)
    assert re.search(said, str(e.value)), str(e.value)
    assert "Choose another folder, or another name" in str(e.value)
    assert own.hashes(whole.path) == before


def test_a_run_of_names_and_one_of_functions_do_not_share_a_folder(whole, tmp_path):
    tiny = {"steps": "2it", "eval_every": "2it", "replicates": 1, "levels": 0}
    named = lth.run("digits", runs=tmp_path, **tiny)
    with pytest.raises(store.StoreError, match="holds a run of the preset digits"):
        lth.run(own.recipe(), named.path)


def wrong_loss(params, stats, batch, key):
    loss, _ = own.objective(own.model())
    value, rest = loss(params, stats, batch, key)
    return value[None], rest


class ShapesError(Exception):
    """An error of a kind of its own, as libraries of networks have them."""


def raises(params, stats, batch, key):
    raise ShapesError("kernel is (4, 6); got (1, 6)")


def number(params, stats, batch, key):
    return wrong_loss(params, stats, batch, key)[0]


def of_pairs(params, stats, batch, key):
    return train.classification(own.model().apply)[0](params, stats, batch, key)


def mean_measure(params, stats, batch):
    _, measure = own.objective(own.model())
    return jax.tree.map(jnp.mean, measure(params, stats, batch))


def no_loss(params, stats, batch):
    _, measure = own.objective(own.model())
    return {"accuracy": measure(params, stats, batch)["accuracy"]}


def no_images(params, stats, batch):
    return batch["images"]


EMPTY = {**own.splits(), "test": {"points": np.zeros((0, 4)), "largest": np.zeros(0)}}
UNEVEN = {**own.splits(), "test": {"points": np.zeros((3, 4)), "largest": np.zeros(2)}}
MISFITS = [
    ({"loss": wrong_loss}, r"the loss is one number; got \(1,\)"),
    ({"loss": raises}, r"the loss on a batch .* fails: kernel is \(4, 6\); got"),
    ({"loss": number}, r"the loss returns \(value, \(stats, metrics\)\); got"),
    ({"loss": of_pairs}, r"fails: examples are pairs \(inputs, targets\), .* a dict"),
    ({"measure": mean_measure}, r"measure gives \[8\], a number an example; got"),
    ({"measure": no_loss}, "the measure has a `loss`, by which"),
    ({"measure": no_images}, r"the measure on a batch .*\[8, 4\] fails: 'images'"),
    ({"splits": EMPTY}, r"of the split test .*, at least 1; got \[0\]"),
    ({"splits": UNEVEN}, r"of the split test have as many examples.*got \[2, 3\]"),
    ({"splits": {"train": own.splits()["train"]}}, "at least one more.*got train"),
    ({"splits": {"test": own.splits()["test"]}}, "splits hold `train`.*got test"),
    ({"batch_size": 49}, "batch.* 48.*49|batch.* 49.*48"),
    ({"steps": 0}, r"stops is rising steps, the first at least 1; got \(0,\)"),
    ({"rewind_to": 12}, "rewind_to is before the last of `stops`, 12; got 12"),
    ({"rewind_to": -1}, "rewind_to is before the last of `stops`, 12; got -1"),
    ({"checkpoints": (13,)}, "checkpoints is steps up to 12; got .*'step_13': 13"),
    ({"densities": (0.5, 0.6)}, "densities fall; got 0.6 at level 2, more than at"),
    ({"densities": (1.5,)}, r"densities are .* in \(0, 1\]; got 1.5 at level 1"),
    ({"densities": (0.5, 0.0)}, r"densities are .* in \(0, 1\]; got 0.0 at level 2"),
    ({"replicates": 0}, "replicates are at least 1; got none"),
    ({"replicates": (1, 1)}, r"replicates is different .*; got \(1, 1\)"),
    ({"replicates": (2**31,)}, r"replicates is .*in \[0, 2\*\*31\); got \(2147483648"),
    ({"prunable": lambda path, leaf: False}, "prun"),
    (
        {"branches": ("reinit", "shufle")},
        "by name are .*shuffle.*got 'shufle'; perhaps shuffle",
    ),
]


COMPILED: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def count_programs():
    def listen(event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            COMPILED.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)


@pytest.mark.parametrize(("change", "said"), MISFITS)
def test_parts_that_do_not_fit_are_refused(change, said):
    before = len(COMPILED)
    with pytest.raises(ValueError, match=said):
        own.recipe(**change)
    if {"loss", "measure", "splits", "batch_size"} & set(change):
        assert len(COMPILED) == before  # not even a batch was drawn


def test_a_mask_of_another_shape_is_refused_before_anything_is_trained(tmp_path):
    recipe = own.recipe()
    flat = jax.tree.map(lambda m: m[0], recipe.mask)
    bad = recipe._replace(mask=flat)
    with pytest.raises(ValueError, match="recipe.mask does not fit .* at first/ker"):
        lth.run(bad, tmp_path / "mine")
    bad = recipe._replace(mask={"first": recipe.mask["first"]})
    with pytest.raises(ValueError, match="recipe.mask has not the structure of"):
        lth.run(bad, tmp_path / "mine")
    bad = recipe._replace(init=lambda keys: {"w": jnp.ones(2)})
    with pytest.raises(ValueError, match="recipe.init returns a TrainState; got dict"):
        lth.run(bad, tmp_path / "mine")
    assert not list(tmp_path.iterdir())


def test_a_mask_that_prune_made_is_looked_at(tmp_path):
    recipe = own.recipe()

    def prune(*args):
        return jax.tree.map(lambda m: m[:, :1], recipe.prune(*args))

    with pytest.raises(ValueError, match="mask that `prune` returned does not fit"):
        lth.run(recipe._replace(prune=prune), tmp_path / "mine")


def test_what_a_path_and_settings_are_for(tmp_path):
    with pytest.raises(ValueError, match="a recipe needs the path of its folder"):
        lth.run(own.recipe())
    with pytest.raises(ValueError, match="no settings, change its fields; got levels"):
        lth.run(own.recipe(), tmp_path, levels=3)
    with pytest.raises(ValueError, match="finds its folder in `runs`"):
        lth.run("digits", tmp_path)


def test_a_probe_is_asked_once_for_each_ticket(tmp_path):
    run = lth.run(own.recipe(), tmp_path / "mine")
    before, asked = own.hashes(run.path), []

    def norm(recipe, early, ticket):
        asked.append(ticket.level)
        assert recipe.replicates == (0, 1)
        assert ticket.state.opt_state is not None

        def of_one(params):
            return sum(jnp.sum(jnp.square(w)) for w in jax.tree.leaves(params))

        return {
            "l2": jax.vmap(of_one)(ticket.state.params),
            "level": [ticket.level] * 2,
        }

    table = run.measure("my norm", norm, levels=(2, 0))
    assert asked == [0, 2]
    assert own.hashes(run.path, but=("probes",)) == before
    assert set(table["split"]) == {"my norm"}
    assert table[table["metric"] == "level"]["value"].tolist() == [0, 0, 2, 2]
    again = lth.open_run(run.path, own.recipe()).measure("my norm", norm)
    assert asked == [0, 2, 1]  # what was stored is read
    assert len(again) == 3 * 2 * 2
    found = again[(again["metric"] == "l2") & (again["level"] == 1)]["value"]
    leaves = jax.tree.leaves(run.ticket(1).params)
    expected = sum(np.square(w).sum((1, 2)) for w in leaves)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_probe_by_name_is_of_all_replicates_also_those_that_were_added(tmp_path):
    lth.run(own.recipe(), tmp_path / "mine")
    run = lth.run(own.recipe(replicates=3), tmp_path / "mine")
    table = run.measure("densities", levels=(1,))
    assert table["replicate"].tolist() == [0, 1, 2] * 2
    for path, rows in table.groupby("metric"):
        kept = jax.vmap(masks.densities)(run.ticket(1).mask)[path]
        np.testing.assert_allclose(rows["value"], kept, rtol=1e-6)
    with pytest.raises(ValueError, match="probes by name are densities.*got 'barier'"):
        run.measure("barier")


@pytest.mark.parametrize("name", ["../mine", "a/b", ".a", ""])
def test_a_probe_is_called_as_a_folder_can_be(whole, name):
    with pytest.raises(ValueError, match="the name of a probe is of printable"):
        whole.measure(name, lambda *_: {"a": [1, 2]})


@pytest.mark.parametrize("numbers", [1.0, [1.0], [[1, 2], [3, 4]], [1, 2, 3]])
def test_a_probe_gives_a_number_for_each_replicate(whole, numbers):
    with pytest.raises(ValueError, match=r"probe odd gives .* \[2\], .*; got a \["):
        whole.measure("odd", lambda *_: {"a": numbers})
    assert not list(whole.path.glob("probes/odd/*"))


def test_runs_are_compared_within_replicates(whole, tmp_path):
    same = whole.compare(whole)
    assert (same["difference"] == 0).all()
    assert same["n"].tolist() == [2, 2, 2]
    other = lth.run(own.recipe(tx=optax.adam(0.2), replicates=(1, 2)), tmp_path / "b")
    found = whole.compare(other).set_index("level")
    ends = [
        run.table.query("split == 'test' and metric == 'accuracy' and step == 12")
        .query("replicate == 1")
        .set_index("level")["value"]
        for run in (whole, other)
    ]
    assert (found["n"] == 1).all()  # replicate 1 is in both
    np.testing.assert_allclose(found["difference"], ends[0] - ends[1])


def test_failures_are_known_without_a_table(tmp_path):
    recipe = own.recipe(tx=optax.sgd(1e30), densities=())
    run = lth.run(recipe, tmp_path / "mine")
    failed = runner.failures(run.path)
    assert set(failed) == {("ticket", 0), ("ticket", 1)}
    assert run.ticket(0).failed.tolist() == [list(at) for at in failed.values()]
    logged = store.logged(run.path, "failed")
    assert [(line["replicate"], line["level"]) for line in logged] == [(0, 0), (1, 0)]


def test_a_measure_of_ones_own_need_not_be_an_accuracy(tmp_path):
    def renamed(params, stats, batch):
        _, measure = own.objective(own.model())
        found = measure(params, stats, batch)
        return {"loss": found["loss"], "closeness": 1 - found["loss"]}

    seen = []
    run = lth.run(own.recipe(measure=renamed), tmp_path / "mine", watch=seen.append)
    assert {p.metric for p in seen} == {"closeness"}
    assert set(run.table["metric"]) >= {"loss", "closeness"}


def test_a_changed_recipe_of_names_knows_its_batches():
    one, same, other = (
        lth.build("digits", replicates=1, batch_size=size).stamp
        for size in (60, 60, 30)
    )
    assert one == same
    assert one["data"] == other["data"]
    assert one["batches"] != other["batches"]


def test_a_measure_of_the_loss_alone_is_refused():
    _, measure = own.objective(own.model())
    with pytest.raises(ValueError, match="a metric beside `loss`"):
        own.recipe(measure=lambda *args: {"loss": measure(*args)["loss"]})


def test_runs_are_compared_by_a_metric_of_ones_own(tmp_path, capsys):
    _, measure = own.objective(own.model())

    def hits(*args):
        found = measure(*args)
        return {"loss": found["loss"], "hits": found["accuracy"]}

    run = lth.run(own.recipe(measure=hits, densities=(0.5,)), tmp_path / "run")
    assert set(run.compare(run)["difference"]) == {0.0}
    assert main.command(["report", str(run.path)]) == 0
    report = (run.path / "report.html").read_text()
    assert "test hits" in report
    assert re.search(r">Masks of \w+/kernel</h2>", report)  # which is first, who knows
    assert any("best test hits" in part for part in run.described())


def test_plain_pairs_are_examples_as_a_dataset_is():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(8, own.INPUTS)).astype(np.float32)
    targets = rng.integers(0, own.OUTPUTS, 8)
    model, key = own.model(), jax.random.key(0)
    params, stats = model.init(key)
    loss, measure = train.classification(model.apply)
    sample = data.make_sample(4, 8, lambda key, images: images + 1)
    ends = []
    for examples in (inputs, targets), data.Dataset(inputs, targets):
        batch = sample(key, 0, examples)
        value, _ = loss(params, stats, batch, key)
        ends.append((batch, value, measure(params, stats, examples)))
    assert_same(*ends)
    assert float(ends[0][0].inputs.min()) > inputs.min()
