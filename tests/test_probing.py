"""Probes by name: each against what it stands for, and the trunk stays as it was."""

import shutil
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import lth
from lth import analysis, masks
from lth.analysis import graph, overlap
from lth.lab import probes, runner, store
from lth.lab.build import probing
from lth.lottery import branches, transfer
from lth.lottery import recipe as recipes
from tests import own
from tests.conftest import assert_same


@cache
def mine():
    return own.recipe()


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    run = lth.run(mine(), tmp_path_factory.mktemp("runs") / "mine")
    run.branch("order", levels=(0, 1, 2))
    return run.path


@pytest.fixture
def run(trunk, tmp_path):
    return lth.open_run(shutil.copytree(trunk, tmp_path / "mine"), mine())


PROBED = [
    *("barrier", "overlap", "signs", "distance", "paths", "densities"),
    *("degrees", "sharpness", "spectrum", "gradient", "forgetting"),
]


def values(table, metric, level):
    rows = table[(table["metric"] == metric) & (table["level"] == level)]
    return rows.sort_values("replicate")["value"].to_numpy()


def states(run, *places):
    found = []
    for variant, level in places:
        ticket = run.ticket(level, variant)
        found.append((ticket.params, ticket.stats))
    return found


@pytest.mark.parametrize("to", ["before", "order", "order,ticket"])
@pytest.mark.parametrize("ends", ["mean", "line"])
def test_a_barrier_is_that_of_networks_mixed_by_hand(run, to, ends):
    table = run.measure("barrier", to=to, ends=ends, points=5)
    assert set(table["level"]) == ({1, 2} if to == "before" else {0, 1, 2})
    pair = {
        "before": (("ticket", 1), ("ticket", 2)),
        "order": (("ticket", 2), ("order", 2)),
        "order,ticket": (("order", 2), ("ticket", 2)),
    }[to]
    a, b = (run.ticket(level, variant).params for variant, level in pair)
    start = mine().init(jax.vmap(jax.random.key)(np.arange(2)))
    errors = []
    for share in np.linspace(0, 1, 5):
        mixed = jax.tree.map(lambda x, y, s=share: (1 - s) * x + s * y, a, b)
        params = jax.tree.map(np.float32, mixed)
        found = mine().measures["test"](start._replace(params=params))
        errors.append(1 - np.asarray(found["accuracy"], np.float64))
    wanted = analysis.barrier(errors, ends)
    np.testing.assert_allclose(values(table, "accuracy", 2), wanted, atol=1e-6)
    np.testing.assert_allclose(
        values(table, "accuracy_middle", 2), 1 - errors[2], atol=1e-6
    )


def test_probes_leave_every_file_of_the_trunk_and_its_branches_as_it_was(run):
    before = own.hashes(run.path)
    for name in PROBED:
        first = run.measure(name)
        assert first.equals(run.measure(name))
    assert own.hashes(run.path, but=("probes",)) == before


def test_overlaps_with_what_there_is(run, trunk):
    one, two = (
        [run.ticket(2, v, replicate=r).mask for r in (0, 1)]
        for v in ("ticket", "order")
    )
    table = run.measure("overlap", to="replicates")
    wanted = overlap.overlap(one[0], one[1])
    for metric in overlap.Overlap._fields:
        found = values(table, metric, 2)
        np.testing.assert_allclose(found, [getattr(wanted, metric)] * 2)
    assert (values(run.measure("overlap", to="order"), "jaccard", 2) == 1).all()
    assert_same(one, two)
    other = run.measure("overlap", to="ticket", run=str(trunk), level=1)
    wanted = overlap.overlap(one[1], run.ticket(1, replicate=1).mask)
    np.testing.assert_allclose(values(other, "jaccard", 2)[1], wanted.jaccard)
    inside = values(run.measure("overlap"), "jaccard", 2)
    np.testing.assert_allclose(inside, [0.31 / 0.6] * 2, rtol=0.1)


def test_signs_ways_and_paths(run):
    early, late, before = run.early, run.ticket(2), run.ticket(1)
    signs, far = run.measure("signs"), run.measure("distance")
    for r in (0, 1):
        own_mask = [np.asarray(m[r]) for m in jax.tree.leaves(late.mask)]
        gone = [
            np.asarray(m[r]) & ~k
            for m, k in zip(jax.tree.leaves(before.mask), own_mask, strict=True)
        ]
        start, end, mid = (
            [np.asarray(w[r]) for w in jax.tree.leaves(p)]
            for p in (early.params, late.params, before.params)
        )
        turned = sum(
            int((np.sign(a) != np.sign(b))[m].sum())
            for a, b, m in zip(start, end, own_mask, strict=True)
        )
        kept = sum(int(m.sum()) for m in own_mask)
        assert values(signs, "flipped", 2)[r] == pytest.approx(turned / kept)
        for metric, chosen in (("kept", own_mask), ("pruned", gone)):
            squares = np.concatenate(
                [(b - a)[m] ** 2 for a, b, m in zip(start, mid, chosen, strict=True)]
            )
            assert values(far, metric, 2)[r] == pytest.approx(
                np.sqrt(squares.mean()), rel=1e-5
            )
    assert not len(values(far, "kept", 0))
    table = run.measure("paths")
    state = mine().init(jax.vmap(jax.random.key)(np.arange(2)))
    spaces = probing.spaces_of(mine(), state)
    assert [space.size for space in spaces] == [6]
    mask = run.ticket(2, replicate=0).mask
    params = run.ticket(2, replicate=0).params
    wanted = graph.effective_density(spaces, params, mask)
    assert values(table, "effective", 2)[0] == pytest.approx(wanted)
    assert values(table, "effective", 0).tolist() == [1, 1]
    assert wanted <= float(masks.density(mask)) + 1e-9
    table, (space,) = run.measure("degrees", levels=(2,)), spaces
    makes, reads = mask["first"]["kernel"].sum(0), mask["last"]["kernel"].sum(1)
    for name, each in (("inputs", makes), ("outputs", reads)):
        assert values(table, f"{space.name}/{name}", 2)[0] == each.mean()
        assert values(table, f"{space.name}/{name}/least", 2)[0] == each.min()


def test_what_is_not_there_is_refused(run):
    for name, amounts, said in (
        ("barrier", {"to": "nobody"}, "holds no branch nobody; it holds order"),
        (
            "barrier",
            {"split": "train"},
            "split is one of validation, test; got 'train'",
        ),
        ("barrier", {"points": 1}, "at least 2; got 1"),
        ("barrier", {"odd": 3}, "amounts of the probe barrier are to, points, batches"),
        ("overlap", {"to": "ticket", "run": str(run.path), "level": 9}, "level_09"),
        ("overlap", {"to": "replicates", "run": str(run.path)}, "no other run is read"),
        ("overlap", {"to": "ticket", "run": run}, "the directory of a run, its path"),
    ):
        with pytest.raises((ValueError, store.StoreError), match=said):
            run.measure(name, **amounts)
    run.branch("noise", levels=(1,))
    with pytest.raises(
        ValueError, match="noise has no ticket of level 2 in .*; it has 1"
    ):
        run.measure("barrier", to="noise", levels=(2,))
    bare = mine()._replace(objective=None)
    with pytest.raises(ValueError, match=r"needs recipe.objective"):
        lth.open_run(run.path, bare).measure("paths")
    wide = lth.run(own.recipe(width=7, replicates=1), run.path.parent / "wide")
    with pytest.raises(ValueError, match="no replicate 1"):
        run.measure("overlap", to="ticket", run=str(wide.path))
    one = lth.open_run(wide.path, own.recipe(width=7, replicates=1))
    with pytest.raises(ValueError, match="one replicate has no others"):
        one.measure("overlap", to="replicates")
    with pytest.raises(ValueError, match=r"first/kernel is \[4, 6\] in .*, \[4, 7\] h"):
        one.measure("overlap", to="ticket", run=str(run.path))


def test_curvature_and_gradients_at_the_rewind_point(run):
    """Against the whole Hessian, of the loss over the same batches."""
    recipe = mine()
    objective = recipe.objective
    assert objective is not None
    sharp = run.measure("sharpness", batches=3, steps=30, count=2)
    slope = run.measure("gradient", batches=3)
    wide = run.measure("spectrum", batches=3, steps=30, draws=64, zero=0.1)
    order = recipes.keys(recipe.replicates, recipes.TRAIN)
    batches = objective.batches(order, 3)
    for r in (0, 1):
        mask = run.ticket(2, replicate=r).mask
        start = jax.tree.map(lambda x, r=r: jnp.asarray(x[r]), run.early.params)
        start = masks.apply(start, mask)
        flat, back = ravel_pytree(start)
        kept = np.flatnonzero(ravel_pytree(mask)[0])

        def loss(w, i, r=r, back=back):
            batch = jax.tree.map(lambda x: x[r, i], batches)
            return objective.loss(back(w), {}, batch, order[r])[0]

        whole = np.mean([jax.hessian(loss)(flat, i) for i in range(3)], 0)
        tops = np.linalg.eigvalsh(whole[np.ix_(kept, kept)])[::-1]
        for i in (0, 1):
            found = values(sharp, f"top_{i + 1}", 2)[r]
            assert found == pytest.approx(tops[i], rel=1e-3)
        spread = {name: values(wide, name, 2)[r] for name in set(wide["metric"])}
        assert spread["top"] == pytest.approx(tops[0], rel=1e-3)
        assert spread["bottom"] == pytest.approx(tops[-1], rel=1e-3, abs=1e-4)
        size = float(
            np.abs(tops).max()
        )  # random starts tell means to one in twenty or so
        assert spread["mean"] == pytest.approx(tops.mean(), abs=0.05 * size)
        assert spread["deviation"] == pytest.approx(tops.std(), abs=0.05 * size)
        shares = [np.mean(tops > 0.1 * size), np.mean(tops < -0.1 * size)]
        assert [spread["positive"], spread["negative"]] == pytest.approx(
            shares, abs=0.1
        )
        assert spread["flat"] == pytest.approx(1 - sum(shares), abs=0.2)
        each = np.stack([jax.grad(loss)(flat, i)[kept] for i in range(3)])
        norm = np.linalg.norm(each.mean(0))
        assert values(slope, "norm", 2)[r] == pytest.approx(norm, rel=1e-4)
    with pytest.raises(ValueError, match="EL2N is of data with inputs and targets"):
        run.measure("el2n")
    with pytest.raises(ValueError, match=r"zero is a share in \[0, 1\); got 1"):
        run.measure("spectrum", zero=1)


def test_what_levels_forget_is_counted_example_by_example(run):
    """Restated: the networks and the data are plain arrays."""
    table, data = run.measure("forgetting"), own.splits()["train"]
    for r in (0, 1):
        right = []
        for level in run.levels:
            w = run.ticket(level, replicate=r).params
            hidden = np.maximum(data["points"] @ w["first"]["kernel"], 0)
            answers = (hidden @ w["last"]["kernel"]).argmax(1)
            right.append(answers == data["largest"])
            past = np.array(right)
            lost = (past[:-1] & ~past[1:]).sum(0)
            lost = np.where(past.any(0), lost, len(past))
            assert values(table, "count", level)[r] == pytest.approx(lost.mean())
            if level:
                gone = np.mean(past[-2] & ~past[-1])
                assert values(table, "forgotten", level)[r] == pytest.approx(gone)
                new = np.mean(~past[-2] & past[-1])
                assert values(table, "learned", level)[r] == pytest.approx(new)
    assert set(table.loc[table["level"] == 0, "metric"]) == {"count"}
    assert table["value"].max() > 0


def moved(by: float = 1.0):
    """Start tickets elsewhere."""
    one = branches.rewound()

    def start(early, ticket, key):
        state, mask = one.start(early, ticket, key)
        params = jax.tree.map(lambda w: w + by, state.params)
        return state._replace(params=masks.apply(params, mask)), mask

    return one._replace(start=start, title="moved")


def test_a_branch_is_measured_from_where_it_began(run):
    recipe = mine()._replace(offers={**mine().offers, "moved": moved})
    run = lth.open_run(run.path, recipe)
    run.branch("moved", levels=(1,), by=2.0)
    before = own.hashes(run.path, but=("branches",))
    table = run.measure("distance", of="moved-by=2.0")
    assert own.hashes(run.path, but=("branches",)) == before
    assert set(table["variant"]) == {"moved-by=2.0"}
    assert set(table["level"]) == {1}
    ticket = run.ticket(1, "moved-by=2.0")
    for r in (0, 1):
        squares = 0
        for layer in ("first", "last"):
            late = ticket.params[layer]["kernel"][r]
            kept = ticket.mask[layer]["kernel"][r]
            first = (run.early.params[layer]["kernel"][r] + 2) * kept
            squares += ((late - first) ** 2).sum()
        assert values(table, "l2", 1)[r] == pytest.approx(squares**0.5, rel=1e-5)
    again = lth.open_run(run.path, mine()._replace(branches={"moved-by=2.0": None}))
    assert again.measure("distance", of="moved-by=2.0").equals(table)  # it is kept
    assert run.measure("signs", of="order")["variant"].unique() == ["order"]
    bare = lth.open_run(run.path, mine())
    with pytest.raises(ValueError, match="put it into the branches of the recipe"):
        bare.measure("signs", of="moved-by=2.0")
    with pytest.raises(ValueError, match="no branch odd; it holds order, moved-by=2.0"):
        run.measure("signs", of="odd")
    with pytest.raises(ValueError, match="levels stored of .*moved.* are 1; got 2"):
        run.measure("signs", of="moved-by=2.0", levels=(2,))


def test_recovery_is_that_of_networks_masked_by_hand(run):
    table = run.measure("recovery")
    start = mine().init(jax.vmap(jax.random.key)(np.arange(2)))

    def tested(params):
        found = mine().measures["test"](start._replace(params=params))
        return np.asarray(found["accuracy"])

    assert set(table["level"]) == {1, 2}
    for level in (1, 2):
        before, ticket = run.ticket(level - 1), run.ticket(level)
        cut = jax.vmap(masks.apply)(before.params, ticket.mask)
        expected = {"before": before.params, "pruned": cut, "retrained": ticket.params}
        for stage, params in expected.items():
            found = values(table, f"accuracy_{stage}", level)
            np.testing.assert_allclose(found, tested(params), rtol=1e-6)
    with pytest.raises(ValueError, match="split is one of"):
        run.measure("recovery", split="tests")


def test_what_is_shrunk_is_the_same_network(run):
    table = run.measure("shrunk", levels=(2,), batch=3, seconds=0.01)
    assert (values(table, "apart", 2) <= 1e-5).all()
    assert (values(table, "fewer_params", 2) >= 1).all()
    assert (values(table, "ms", 2) > 0).all()


def test_before_is_the_level_before_of_the_same_branch(run):
    """Restated: where the branch began, at that level, and what came of it."""
    run.branch("noise", levels=(1, 2))
    after, before = run.ticket(2, "noise"), run.ticket(1, "noise")
    table, flips = run.measure("distance", of="noise"), run.measure("signs", of="noise")
    recipe = run._with(run.recipe(), "noise")
    _, start, _ = runner.begun(recipe, run.path, "noise", 1)
    for r in (0, 1):
        kept, pruned, turned = [], [], []
        for layer in ("first", "last"):
            first, middle, last = (
                x.params[layer]["kernel"][r] for x in (start, before, after)
            )
            old, new = (x.mask[layer]["kernel"][r] for x in (before, after))
            kept += list((middle - first)[new])
            pruned += list((middle - first)[old & ~new])
            turned += list(np.sign(middle[new]) != np.sign(last[new]))
        for metric, ways in (("kept", kept), ("pruned", pruned)):
            found = values(table, metric, 2)[r]
            assert found == pytest.approx(np.mean(np.square(ways)) ** 0.5, rel=1e-5)
        found = values(flips, "flipped_since_before", 2)[r]
        assert found == pytest.approx(np.mean(turned))
    assert not len(values(table, "kept", 1))  # the branch began at this level
    for probe in ("barrier", "overlap", "recovery"):
        assert set(run.measure(probe, of="noise")["level"]) == {2}


def test_without_levels_those_are_measured_that_both_have(run):
    run.branch("noise", levels=(2,))
    assert set(run.measure("barrier", to="noise")["level"]) == {2}
    run.branch("noise", levels=(1,))
    assert set(run.measure("barrier", to="noise")["level"]) == {1, 2}
    with pytest.raises(ValueError, match="no ticket of level 0 .*say which levels"):
        run.measure("barrier", to="noise", levels=(0, 1))


def test_no_barrier_lies_between_networks_of_other_data(run):
    def there():
        return own.recipe()

    other = transfer.transferred(there, "other, same head")
    run.branch(other, levels=(1, 2))
    run.branch(other._replace(title="again"), levels=(2,))
    name = "other, same head"
    recipe = mine()._replace(branches={name: other, "again": other})
    run = lth.open_run(run.path, recipe)
    refused = "not trained on the same data"
    for of, to in (
        ("ticket", name),
        (name, "ticket"),
        ("ticket", f"order,{name}"),
        (name, "again"),  # nothing says that their data are the same
    ):
        with pytest.raises(ValueError, match=refused):
            run.measure("barrier", of=of, to=to, levels=(2,))
    assert set(run.measure("barrier", of=name)["level"]) == {2}
    assert (values(run.measure("overlap", to=name), "jaccard", 2) == 1).all()
    two = probing._names(f"{name},ticket", probes.Stored(recipe, run.path, "ticket", 1))
    assert two == [name, "ticket"]  # names may hold commas
