"""Whole channels: masks that cover all that belongs to a channel, counted in units."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import lth
from lth import compress, lottery, masks, models
from lth.cli import main, report
from lth.compress import whole
from lth.lab import config, shipping, store
from lth.lab.config import ConfigError, identity
from lth.lab.config.presets import PRESETS
from tests.conftest import assert_same, start
from tests.test_shrinking import network

SMALL = replace(
    PRESETS["digits"].experiment,
    model=config.Model(widths=(8, 6)),
    prune=config.Prune(structure="filter", rate=0.5, criterion="magnitude"),
    rewind=config.Rewind(to="5it"),
    steps="20it",
    eval_every="20it",
    levels=2,
    replicates=2,
)


@pytest.fixture(scope="module")
def filters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return lth.open_run(start(SMALL, "filters", folder).path)


def channels(mask):
    """How many neurons of each layer a mask keeps, of one replicate."""
    return [int(np.sum(mask[f"hidden_{i}"]["bias"])) for i in (0, 1)]


def test_a_removed_filter_says_nothing_at_any_rewind_point(filters):
    """14 neurons, of which 7 and then 4 (3.5 to even) stay; all their places are 0."""
    for level, count in ((1, 7), (2, 4)):
        for replicate in (0, 1):
            ticket = filters.ticket(level, replicate=replicate)
            mask = jax.tree.map(np.asarray, ticket.mask)
            assert sum(channels(mask)) == count
            first, second = (mask[f"hidden_{i}"]["bias"] for i in (0, 1))
            kernels = [mask[f"hidden_{i}"]["kernel"] for i in (0, 1)]
            np.testing.assert_array_equal(kernels[0], np.ones((64, 1), bool) & first)
            np.testing.assert_array_equal(kernels[1], first[:, None] & second)
            rows = np.broadcast_to(second[:, None], mask["output"]["kernel"].shape)
            np.testing.assert_array_equal(mask["output"]["kernel"], rows)
            assert mask["output"]["bias"] is None
            for name in ("hidden_0", "hidden_1"):
                bias = ticket.params[name]["bias"]
                assert (bias[~mask[name]["bias"]] == 0).all()


def test_filters_are_ranked_by_the_weights_that_make_them(filters):
    """By the sum of |w| of a column, all together, but for the best of each layer."""
    params = filters.ticket(0, replicate=1).params
    sums = [np.abs(params[f"hidden_{i}"]["kernel"]).sum(0) for i in (0, 1)]
    for own in sums:
        own[np.argmax(own)] = np.inf
    cut = np.sort(np.concatenate(sums))[7]
    kept = filters.ticket(1, replicate=1).mask
    for i in (0, 1):
        np.testing.assert_array_equal(kept[f"hidden_{i}"]["bias"], sums[i] >= cut)


def test_the_ticket_is_a_smaller_network(filters):
    ticket = filters.ticket(2, replicate=0)
    recipe = filters.recipe()
    apply, x = recipe.objective.apply, next(recipe.objective.examples()).inputs[:8]
    found = compress.find(apply, ticket.params, ticket.stats, x)
    kept = compress.living(ticket.mask, found)
    assert sum(map(len, kept.values())) == 4
    small = compress.shrink(apply, ticket.params, ticket.stats, x, kept, found)
    outputs = [
        apply(params, ticket.stats, x, False, None)[0]
        for params in (masks.apply(ticket.params, ticket.mask), ticket.params)
    ]
    np.testing.assert_array_equal(*outputs)
    assert small.difference <= 1e-5
    assert small.after.params < small.before.params / 2


def test_ids_of_runs_of_kernels_are_known_and_refused(filters, monkeypatch):
    """An older run can be read, and what needs its functions says why not."""
    old = identity.of_kernels(identity.as_dict(SMALL))
    assert old != identity.identity(SMALL)
    weights = replace(SMALL, prune=config.Prune())
    assert identity.of_kernels(identity.as_dict(weights)) == identity.identity(weights)
    monkeypatch.setitem(filters.content, "id", old)
    monkeypatch.setattr(filters, "_recipe", None)
    with pytest.raises(store.StoreError, match="can be read, and not be continued"):
        filters.recipe()
    page = report.write([filters], filters.path / "report.html").read_text()
    assert "its bias and its normalisation live on where they are not 0" in page


def test_the_last_channel_of_a_space_stays():
    _, found, tree, _ = network("mlp")
    mask = whole.covered(tree["params"], found)
    scores = {"hidden_0": np.arange(6.0) + 10, "hidden_1": np.arange(5.0)}
    kept = whole.keep_top(scores, mask, 4 / 11, found)
    alive = whole.alive(kept, found)
    assert np.flatnonzero(alive["hidden_0"]).tolist() == [3, 4, 5]
    assert np.flatnonzero(alive["hidden_1"]).tolist() == [4]
    with pytest.raises(ValueError, match=r"at most 9 of 11 channels .* got 0\.09"):
        whole.keep_top(scores, mask, 1 / 11, found)
    layer = whole.keep_top(scores, mask, 0.5, found, "layer")
    assert [int(a.sum()) for a in whole.alive(layer, found).values()] == [3, 2]


def test_programs_and_the_host_choose_the_same_channels():
    """Ties, infinities and channels that are gone among them."""
    _, found, tree, _ = network("mlp")
    mask = whole.covered(tree["params"], found)
    rng = np.random.default_rng(0)
    choose = jax.jit(lambda s, m: whole.keep_top(s, m, 5 / 11, found))
    for _ in range(40):
        few = rng.choice([-np.inf, -1, 0, 0.5, np.inf], 11).astype(np.float32)
        scores = {"hidden_0": few[:6], "hidden_1": few[6:]}
        left = {"hidden_0": [0, *range(2, 6)], "hidden_1": [0, 1, 3, 4]}
        before = compress.clear({"params": mask}, found, left)["params"]
        there = {n: np.isin(np.arange(len(scores[n])), own) for n, own in left.items()}
        expected = lottery.choosing.over_all(scores, 5 / 11, there)
        got = whole.alive(choose(scores, before), found)
        for name, index in expected.items():
            assert np.flatnonzero(got[name]).tolist() == index.tolist()


def test_no_channel_stays_for_a_score_that_is_nan():
    _, found, tree, _ = network("mlp")
    mask = whole.covered(tree["params"], found)
    scores = {"hidden_0": np.arange(6.0), "hidden_1": np.array([0, np.nan, 1, 2, 3])}
    with pytest.raises(ValueError, match="NaN among the scores of hidden_0, hidden_1"):
        whole.keep_top(scores, mask, 4 / 11, found)
    inside = jax.jit(lambda s: whole.keep_top(s, mask, 4 / 11, found))(scores)
    alive = whole.alive(inside, found)
    assert not any(own.any() for own in alive.values())  # which is no valid mask


@pytest.mark.parametrize("side", ["makes", "reads"])
def test_scores_of_channels_by_hand(side):
    _, found, tree, _ = network("mlp")
    params = tree["params"]
    mask = whole.covered(params, found)
    sizes = jax.tree.map(np.abs, params)
    got = whole.pooled(sizes, mask, found, side, "l2")["hidden_0"]
    layer, axis = ("hidden_0", 0) if side == "makes" else ("hidden_1", 1)
    want = np.linalg.norm(params[layer]["kernel"], axis=axis)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"exclude": "hidden"}, "the network has none that --prune.exclude leaves"),
        ({"include": "bias"}, "it goes without --prune.include"),
        ({"densities": "0.1"}, "at most 12 of 14 channels can be removed"),
    ],
)
def test_what_cannot_be_pruned_whole_is_refused(changes, why):
    usual = {} if "densities" in changes else {"rate": 0.5}
    prune = config.Prune(structure="filter", **usual, **changes)
    with pytest.raises(ConfigError, match=why):
        lth.build(replace(SMALL, prune=prune))


def test_tickets_are_trained_in_the_shapes_that_are_left(filters, tmp_path):
    """The same run, but for the order of sums; stored whole, and gone on with."""
    short = replace(SMALL, shrink=True, levels=1)
    run = lth.open_run(start(short, "narrow", tmp_path).path)
    assert run.content["id"] != filters.content["id"]
    first = run.ticket(1)
    run = lth.open_run(start(replace(short, levels=2), "narrow", tmp_path).path)
    assert_same(run.ticket(1).params, first.params)
    for level in (0, 1, 2):
        ours, theirs = run.ticket(level), filters.ticket(level)
        assert_same(ours.mask, theirs.mask)
        for a, b in zip(
            *map(jax.tree.leaves, (ours.params, theirs.params)), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
        pruned = masks.apply(ours.params, ours.mask)
        jax.tree.map(np.testing.assert_array_equal, pruned, ours.params)
    columns = ["replicate", "level", "split", "metric", "step"]
    tables = [r.table.set_index(columns)["value"].sort_index() for r in (run, filters)]
    np.testing.assert_allclose(*tables, rtol=1e-2, atol=1e-3)


def test_shapes_are_those_of_the_largest_network():
    _, found, tree, _ = network("mlp")
    mask = whole.covered(tree["params"], found)
    kept = [{"hidden_0": [2, 5]}, {"hidden_0": [4]}]
    two = [compress.clear({"params": mask}, found, lists)["params"] for lists in kept]
    lists = lottery.narrow.alike(jax.tree.map(lambda *m: np.stack(m), *two), found)
    assert [one["hidden_0"].tolist() for one in lists] == [[2, 5], [0, 4]]


def test_shrinking_is_of_whole_channels():
    with pytest.raises(ConfigError, match="--shrink is of --prune.structure filter"):
        lth.build(replace(SMALL, prune=config.Prune(), shrink=True))


def nested(arrays):
    """The tree of arrays whose names are the paths of its leaves."""
    tree = {}
    for path, leaf in arrays.items():
        *inner, last = path.split("/")
        at = tree
        for name in inner:
            at = at.setdefault(name, {})
        at[last] = leaf
    return tree


def test_a_ticket_is_written_without_its_dead_units(filters, tmp_path, capsys):
    """What is read is the smaller network, and fits no recipe of the larger one."""
    out = tmp_path / "small.npz"
    args = ["shrink", str(filters.path), "--level", "2", "--replicate", "1"]
    assert main.command([*args, "--out", str(out)]) == 0
    assert "times fewer" in capsys.readouterr().out
    arrays, card = compress.files.read(out.read_bytes())
    told = card["shrunk"]
    assert told["weights"][1] == sum(
        x.size for n, x in arrays.items() if n.startswith("params/")
    )
    assert told["difference"] <= 1e-5
    recipe, ticket = filters.recipe(), filters.ticket(2, replicate=1)
    x = next(recipe.objective.examples()).inputs[:8]
    params = nested(arrays)["params"]
    small = models.resizable(recipe.objective.apply)
    outputs = [
        apply(p, ticket.stats, x, False, None)[0]
        for apply, p in ((small, params), (recipe.objective.apply, ticket.params))
    ]
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-4)
    count = len(told["kept"]["hidden_0"])
    with pytest.raises(
        ValueError, match=rf"hidden_0/bias of shape \[{count}\]; .* \[8\]"
    ):
        lottery.begun_from(recipe, params, None)
    early = shipping.shrink(filters, 2, weights="early", out=out, multiple=4)
    assert early.shrunk.params["hidden_0"]["kernel"].shape[1] in (4, 8)
