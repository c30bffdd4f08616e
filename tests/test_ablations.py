"""Branches with amounts: what each starts from, against sums written out."""

import shutil
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lth
from lth import lottery, masks, models
from lth.cli import main
from lth.lab import store
from lth.lottery import ablations, branches, early_bird, rewind, transfer
from lth.lottery import recipe as recipes
from lth.lottery.loop import Ticket
from lth.train import TrainState, init_state
from tests import own
from tests.conftest import assert_same
from tests.test_experiment import StopError, stop_after

KEY = jax.random.key(3)


@cache
def mine():
    return own.recipe(checkpoints=(3,), rewind_to=1)


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    return lth.run(mine(), tmp_path_factory.mktemp("runs") / "mine").path


@pytest.fixture
def run(trunk, tmp_path):
    return lth.open_run(shutil.copytree(trunk, tmp_path / "mine"), mine())


def ends(seed=0):
    """An early state and a ticket, of one network under Adam, with a norm."""
    rng = np.random.default_rng(seed)
    draw = lambda *s: jnp.asarray(rng.normal(size=s), jnp.float32)  # noqa: E731
    tx = optax.adam(optax.linear_schedule(0.1, 0.0, 10))

    def network():
        return {
            "a": {"kernel": draw(30, 40), "bias": draw(40)},
            "norm": {"scale": draw(40), "bias": draw(40)},
        }

    early = init_state(
        lambda key: (network(), {"mean": draw(40)}), tx, jax.random.key(0)
    )
    late = init_state(
        lambda key: (network(), {"mean": draw(40)}), tx, jax.random.key(0)
    )
    mask = {
        "a": {"kernel": jnp.asarray(rng.uniform(size=(30, 40)) < 0.4), "bias": None},
        "norm": {"scale": None, "bias": None},
    }
    params = masks.apply(late.params, mask)
    late = late._replace(step=jnp.int32(9), params=params)
    return early, Ticket(1, mask, late, {})


def test_noise_is_as_large_as_it_says():
    early, ticket = ends()
    keep = np.asarray(ticket.mask["a"]["kernel"])
    w, late = (np.asarray(s.params["a"]["kernel"]) for s in (early, ticket.state))
    for scale in (0.0, 0.5, 2.0):
        state, mask = ablations.noisy(scale).start(early, ticket, KEY)
        moved = np.asarray(state.params["a"]["kernel"])
        assert (moved[~keep] == 0).all()
        far = np.linalg.norm((moved - w)[keep])
        np.testing.assert_allclose(
            far, scale * np.linalg.norm((late - w)[keep]), rtol=1e-5
        )
        assert_same(mask, ticket.mask)
        assert_same(state.params["norm"], early.params["norm"])
    state, _ = ablations.noisy(0.3, "weights").start(early, ticket, KEY)
    noise = (np.asarray(state.params["a"]["kernel"]) - w)[keep] / w[keep].std()
    assert abs(noise.std() - 0.3) < 0.03
    assert abs(noise.mean()) < 0.05
    for odd in ({"scale": -1}, {"scale": 1, "relative": "up"}):
        with pytest.raises(ValueError, match="at least 0|'travelled' or 'weights'"):
            ablations.noisy(**odd)


def test_norms_of_one_end_stand_on_weights_of_the_other():
    early, ticket = ends()
    late = ticket.state
    for chosen, weights, norms in ((True, early, late), (False, late, early)):
        state, _ = ablations.norms_swapped(chosen).start(early, ticket, KEY)
        assert_same(state.params["norm"], norms.params["norm"])
        assert_same(state.stats, norms.stats)
        assert_same(state.params["a"], masks.apply(weights.params, ticket.mask)["a"])
        assert_same(state.opt_state, early.opt_state)
    none = early._replace(params={"a": early.params["a"]})
    with pytest.raises(ValueError, match="no normalisation"):
        ablations.norms_swapped(True).start(none, ticket, KEY)
    by = ablations.norms_swapped(True, lambda path, leaf: path == "a/bias")
    state, _ = by.start(early, ticket, KEY)
    assert_same(state.params["a"]["bias"], late.params["a"]["bias"])


def test_modes_of_retraining_start_at_one_step_from_one_training():
    early, ticket = ends()
    for name in ("weights", "learning_rate", "finetune", "weights_low_rate"):
        mode = getattr(rewind, name)
        state, _ = ablations.retrained(mode, name).start(early, ticket, KEY)
        assert_same(state, mode(early, ticket.state))
        assert int(state.step) == int(early.step)
    state, _ = ablations.continued(rewind.finetune).start(early, ticket, KEY)
    assert_same(state.params, ticket.state.params)
    source = early._replace(step=jnp.int32(5), params=ticket.state.params)
    state, _ = ablations.rewound_to("step_5").start(
        early, ticket, KEY, {"step_5": source}
    )
    assert_same(state.params, source.params)
    assert int(state.step) == int(early.step)


def test_more_and_fewer_steps():
    recipe = mine()
    stops = {0.5: (6, 7), 1.0: (6, 12), 2.0: (6, 12, 18, 23), 0.01: (2,)}
    for share, wanted in stops.items():
        changed = ablations.lasting(share).changed
        assert changed is not None
        assert changed(recipe).stops == wanted
    with pytest.raises(ValueError, match="above 0"):
        ablations.lasting(0)


def test_mask_distance_and_where_masks_settle():
    def mask(*bits):
        return {
            "a": jnp.array(bits[:3], bool),
            "b": None,
            "c": jnp.array(bits[3:], bool),
        }

    one, two = mask(1, 0, 1, 1, 0), mask(1, 1, 1, 0, 0)
    assert float(early_bird.distance(one, two)) == pytest.approx(2 / 5)
    assert early_bird.found_at([one, two, two, two], window=2, close=0.1) == 3
    assert early_bird.found_at([one, two, one, two], window=2, close=0.1) is None
    assert early_bird.found_at([one, one], window=2) is None
    rng = np.random.default_rng(0)
    many = [rng.uniform(size=10**6) < 0.5 for _ in range(2)]
    wanted = np.mean(many[0] != many[1])
    found = early_bird.distance(
        {"a": jnp.asarray(many[0])}, {"a": jnp.asarray(many[1])}
    )
    assert float(found) == pytest.approx(wanted, rel=1e-6)


def test_every_branch_by_name_trains_keeps_counts_and_leaves_the_trunk(run):
    before = own.hashes(run.path)
    asked = {
        "order": {"order": 2},
        "order-order=1": {"at": "3it"},
        "rewound_to": {"at": "3"},
        "retrain": {"mode": "finetune"},
        "noise": {"scale": 0.5},
        "steps": {"share": 0.6},
        "early_bird": {"at": "step_3"},
        "random_mask": {},
        "continued": {},
    }
    for name, amounts in asked.items():
        run.branch(name.partition("-")[0], levels=(2,), **amounts)
    assert own.hashes(run.path, but=("branches",)) == before
    called = [
        *("continued", "early_bird-at=step_3", "noise-scale=0.5", "order-at=3it"),
        *("order-order=2", "random_mask", "retrain-mode=finetune", "rewound_to-at=3"),
        "steps-share=0.6",
    ]
    assert sorted(run.variants[1:]) == called
    ticket = run.ticket(2)
    kept = jax.vmap(masks.count)(ticket.mask).tolist()
    layers = jax.vmap(masks.densities)(ticket.mask)
    for name in called:
        branch = run.ticket(2, name)
        assert jax.vmap(masks.count)(branch.mask).tolist() == kept
        dead = jax.tree.map(
            lambda w, m: np.abs(w[~m]).max(), branch.params, branch.mask
        )
        assert max(jax.tree.leaves(dead)) == 0
        assert branch.step.tolist() == [8 if "share" in name else 12] * 2
    assert_same(jax.vmap(masks.densities)(run.ticket(2, "random_mask").mask), layers)
    settings = store.read_branch(store.branches(run.path)["noise-scale=0.5"])[
        "settings"
    ]
    assert settings == {"scale": 0.5, "relative": "travelled"}
    # Chosen at once, from the weights of step 3, by the run's own criterion.
    recipe, early = mine(), run.early
    states = {"step_3": run.checkpoint(3)}
    grown = jax.tree.map(
        lambda a, b: np.abs(b) - np.abs(a), early.params, states["step_3"].params
    )
    for r in range(2):
        one = jax.tree.map(lambda x, r=r: jnp.asarray(x[r]), grown)
        ones = jax.tree.map(lambda m, r=r: jnp.ones_like(m[r]), recipe.mask)
        wanted = masks.keep_top(one, ones, 0.3)
        found = jax.tree.map(
            lambda m, r=r: m[r], run.ticket(2, "early_bird-at=step_3").mask
        )
        assert_same(found, wanted)


def test_a_branch_with_amounts_goes_on_to_the_same_bits(run, trunk, tmp_path):
    whole = lth.open_run(shutil.copytree(trunk, tmp_path / "whole" / "mine"), mine())
    for name, amounts in (("noise", {"scale": 0.5}), ("steps", {"share": 2.0})):
        whole.branch(name, levels=(1, 2), **amounts)
        with pytest.raises(StopError):
            run.branch(name, levels=(1, 2), watch=stop_after(2), **amounts)
        run.branch(name, levels=(1, 2), **amounts)
    assert store.contents(run.path) == store.contents(whole.path)


def other_classes(outputs: int):
    """The same inputs, with another number of classes."""
    narrow = own.model()

    def init(key):
        params, stats = narrow.init(key)
        first, last = params["first"]["kernel"], params["last"]["kernel"]
        return {
            "first": {"kernel": first},
            "last": {"kernel": last[:, :outputs]},
        }, stats

    model = models.Model(init, narrow.apply)

    def errors(params, stats, batch):
        outs, _ = narrow.apply(params, stats, batch["points"], True, None)
        wanted = jax.nn.one_hot(batch["largest"] % outputs, outputs)
        right = jnp.argmax(outs, -1) == batch["largest"] % outputs
        loss = jnp.mean(jnp.square(outs - wanted), -1)
        return {"loss": loss, "accuracy": right.astype(jnp.float32)}

    def loss(params, stats, batch, key):
        means = jax.tree.map(jnp.mean, errors(params, stats, batch))
        return means["loss"], (stats, means)

    return own.recipe(
        model=model, loss=loss, measure=errors, splits=own.splits(7), rewind_to=1
    )


def test_a_ticket_is_carried_to_other_data_under_a_new_head(run):
    before = own.hashes(run.path)
    moved = transfer.transferred(lambda: other_classes(2), "two classes", head="new")
    run.branch(moved, levels=(2,), name="two")
    assert own.hashes(run.path, but=("branches",)) == before
    branch, ticket = run.ticket(2, "two"), run.ticket(2)
    assert branch.params["last"]["kernel"].shape == (2, 6, 2)
    assert branch.mask["last"]["kernel"].all()
    assert_same(branch.mask["first"], ticket.mask["first"])
    assert branch.step.tolist() == [12, 12]
    same = transfer.transferred(lambda: other_classes(2), "two classes")
    with pytest.raises(ValueError, match=r"new head.*last/kernel is \[6, 3\] here and"):
        run.branch(same, levels=(2,), name="same")
    wide = transfer.transferred(lambda: own.recipe(width=9), "wide", head="new")
    with pytest.raises(ValueError, match="differ beside their heads: last/kernel"):
        run.branch(wide, levels=(2,), name="wide")
    with pytest.raises(ValueError, match="one of early, late, none"):
        transfer.transferred(mine, "odd", weights="all")


@pytest.mark.parametrize("weights", ["early", "late", "none"])
def test_what_is_carried_beside_the_mask(weights):
    recipe = mine()
    early = recipe.init(recipes.keys((0,), recipes.INIT))
    one = lambda tree: jax.tree.map(lambda x: x[0], tree)  # noqa: E731
    late = one(early)._replace(params=jax.tree.map(lambda w: w[0] + 1, early.params))
    mask = {
        "first": {"kernel": jnp.eye(4, 6, dtype=bool)},
        "last": {"kernel": jnp.ones((6, 3), bool)},
    }
    moved = transfer.transferred(mine, "same", weights=weights)
    state, found = moved.start(one(early), Ticket(1, mask, late, {}), KEY)
    assert_same(found, mask)
    drawn = one(recipe.init(KEY[None])).params
    source = {"early": one(early).params, "late": late.params, "none": drawn}[weights]
    assert_same(state.params, masks.apply(source, mask))


def test_odd_names_and_amounts_are_refused(run, capsys):
    for what, amounts, said in (
        ("noise", {"size": 1}, "amounts of the branch noise are scale, relative; got"),
        ("nois", {}, "branches by name are .*noise.*; got 'nois'"),
        (
            "order",
            {"at": "soon"},
            "at is a step such as 37it, init or early; got 'soon'",
        ),
        ("transfer", {}, "functions of your own is transferred by"),
        (branches.rewound(), {"scale": 1}, "of your own has its amounts"),
        (branches.rewound().start, {}, "needs early, ticket.*give lottery.Branch"),
    ):
        with pytest.raises(ValueError, match=said):
            run.branch(what, levels=(1,), **amounts)
    with pytest.raises(store.StoreError, match="needs the state step_9 .* has init"):
        run.branch("order", levels=(1,), at="9it")
    assert run.variants == ["ticket"]
    assert main.command(["branch", str(run.path), "noise", "--scal", "3"]) == 2
    with pytest.raises(ValueError, match="levels stored of .* are 0, 1, 2; got 5"):
        run.measure("densities", levels=(5,))


def test_children_of_a_dense_state_begin_where_it_was_stored(run):
    seen: list[TrainState] = []
    branch = branches.reordered(1, at="step_3")

    def start(early, ticket, key, states):
        state, mask = branch.start(early, ticket, key, states)
        return state, mask

    run.branch(branch._replace(start=start), levels=(0,), name="child")
    recipe = mine()
    state = recipe.init(recipes.keys(recipe.replicates, recipes.INIT))
    order = recipes.keys(recipe.replicates, recipes.TRAIN)
    at = lottery.advanced(recipe, state, 3, order)
    late, _ = lottery.fit(recipe, at, recipe.mask, order=1)
    assert_same(run.ticket(0, "child").params, late.params)
    assert not seen
