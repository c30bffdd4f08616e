"""The loop over filters: exact choices; a sliced network learns as a masked one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lth
from lth import compress, lottery, masks, train
from lth.cli import main
from lth.cli import own as cli_own
from lth.criteria import channels
from lth.lab import filters as lab_filters
from lth.lab.build import filtering, names
from lth.lab.config import ConfigError
from lth.lottery import choosing, filters
from tests import own
from tests.test_channels import MODEL, X, Y, loss


@st.composite
def drawn_scores(draw):
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    number = st.sampled_from([-1.0, 0.0, 0.5, 2.0])  # ties are common
    return {
        f"s{i}": np.array(draw(st.lists(number, min_size=n, max_size=n)))
        for i, n in enumerate(sizes)
    }


@given(drawn_scores(), st.floats(0.01, 1), st.integers(0, 3))
def test_as_many_channels_stay_as_are_asked_for(scores, density, least):
    sizes = {name: len(s) for name, s in scores.items()}
    total = sum(sizes.values())
    count = max(1, round(density * total))
    floor = {name: min(least, n) for name, n in sizes.items()}
    if count < sum(floor.values()):
        with pytest.raises(ValueError, match=f"{sum(floor.values())} to {total} can"):
            choosing.over_all(scores, density, None, least)
        return
    kept = choosing.over_all(scores, density, None, least)
    assert sum(map(len, kept.values())) == count
    flat = [(-s, i, c) for i, v in enumerate(scores.values()) for c, s in enumerate(v)]
    for i, (name, index) in enumerate(kept.items()):
        assert len(index) >= floor[name]
        assert (np.diff(index) > 0).all()
        ours = sorted(row for row in flat if row[1] == i)
        # Within a space the highest stay; of equal ones the lower index.
        assert set(index) == {c for _, _, c in ours[: len(index)]}
    if not least:
        best = {(i, c) for _, i, c in sorted(flat)[:count]}
        assert best == {(i, c) for i, k in enumerate(kept.values()) for c in k}


def test_what_is_gone_stays_gone():
    scores = {"a": np.array([9.0, 8, 7, 6]), "b": np.array([5.0, 4])}
    alive = {"a": np.array([False, True, True, False]), "b": np.array([True, True])}
    kept = choosing.over_all(scores, 0.5, alive)
    assert {n: k.tolist() for n, k in kept.items()} == {"a": [1, 2], "b": [0]}
    with pytest.raises(ValueError, match=r"5 of 6 channels cannot stay.* 2 to 4 can"):
        choosing.over_all(scores, 5 / 6, alive)
    with pytest.raises(ValueError, match="the scores of b have NaN"):
        choosing.over_all({"b": np.array([np.nan, 1])}, 0.5)
    each = choosing.in_each(scores, 0.5)
    assert {n: k.tolist() for n, k in each.items()} == {"a": [0, 1], "b": [0]}
    assert len(choosing.in_each(scores, 0.01)["a"]) == 1


@pytest.fixture(scope="module")
def small():
    params, stats = MODEL.init(jax.random.key(2))
    state = train.TrainState(jnp.int32(0), params, stats, optax.sgd(0.1).init(params))
    return state, compress.find(MODEL.apply, params, stats, X)


def test_prices_by_hand(small):
    # A filter of the convolution: 16 places x 18 weights, and 16 x 4 that read it.
    state, spaces = small
    macs = {"conv/kernel": 16 * 18 * 3, "hidden/kernel": 48 * 4, "output/kernel": 12}
    found = choosing.costs(macs, state.params, spaces)
    assert found["conv"].tolist() == [16 * 18 + 16 * 4] * 3
    assert found["hidden"].tolist() == [48 + 3] * 4
    cheap = choosing.priced({"conv": np.ones(3)}, found, rate=1e4)
    np.testing.assert_allclose(cheap["conv"], 1 - 1e-2 * 352)


def descent(apply, state, mask=None, steps=20):
    """Plain gradient descent on one batch."""

    @jax.jit
    def trained(params):
        def one(params, _):
            def of(params):
                logits = apply(params, {}, X, False, None)[0]
                chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), Y[:, None], 1)
                return -jnp.mean(chosen)

            grads = jax.grad(of)(params)
            params = jax.tree.map(lambda w, g: w - 0.1 * g, params, grads)
            return (params if mask is None else masks.apply(params, mask)), None

        return jax.lax.scan(one, params, length=steps)[0]

    start = state.params if mask is None else masks.apply(state.params, mask)
    return state._replace(params=trained(start))


def test_a_sliced_network_learns_as_a_masked_one(small):
    state, spaces = small

    def score(apply, state, spaces):
        return channels.filter_l1(state.params, spaces)

    rounds = filters.pruned(
        MODEL.apply, state, [5 / 7, 3 / 7], inputs=X, score=score, train=descent
    )
    first, second = rounds
    assert sum(map(len, first.kept.values())) == 5
    assert sum(map(len, second.kept.values())) == 3
    for name, index in second.kept.items():
        assert set(index) <= set(first.kept[name])
    assert second.state.params["conv"]["kernel"].shape[-1] == len(second.kept["conv"])
    assert second.shrunk.difference <= 1e-5
    mask, masked = masks.ones(state.params), state
    for made in (first, second):
        mask = filters.covered(mask, spaces, made.kept)
        masked = descent(MODEL.apply, masked, mask)
    tree = {"params": masked.params}
    whole = compress.keep(tree, spaces, second.kept)["params"]
    for ours, theirs in zip(
        jax.tree.leaves(second.state.params), jax.tree.leaves(whole), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    with pytest.raises(ValueError, match="densities fall"):
        list(
            filters.pruned(
                MODEL.apply, state, [0.5, 0.9], inputs=X, score=score, train=descent
            )
        )


def test_masks_of_replicates_leave_nothing_of_a_channel(small):
    state, spaces = small
    both = jax.tree.map(lambda x: jnp.stack([x, x * 2]), state.params)
    mask = jax.tree.map(lambda m: jnp.stack([m, m]), masks.ones(state.params))
    failed = np.array([[-1, -1], [0, 5]])
    ticket = lottery.Ticket(0, mask, state._replace(params=both), {"failed": failed})

    def score(early, state, mask, keys):
        return jax.vmap(lambda p: channels.filter_l1(p, spaces))(state.params)

    found = filters.make_prune(score, spaces, least=2)(None, ticket, 4 / 7, None)
    for i in range(2):
        one = jax.tree.map(lambda m, i=i: np.asarray(m[i]), found)
        living = filters.alive(one, spaces)
        assert [int(a.sum()) for a in living.values()] == [2, 2]
        assert one["conv"]["bias"] is None
        dead = np.flatnonzero(~living["hidden"])
        assert not one["output"]["kernel"][dead].any()
        assert not one["hidden"]["kernel"][:, dead].any()
    # The one that failed has no scores: the lower indices stay.
    assert np.flatnonzero(living["hidden"]).tolist() == [0, 1]


def test_densities_fall_by_as_much_each_time():
    assert filtering.falling(0.4, 3) == pytest.approx((0.8, 0.6, 0.4))
    for wrong in ((0, 3), (0.5, 0), (1.5, 2)):
        with pytest.raises(ValueError, match="keep is a share"):
            filtering.falling(*wrong)


def test_scores_by_name_rank_every_channel(small):
    state, spaces = small

    def measure(params, stats, batch):
        return {"loss": jax.vmap(lambda x, y: loss(params, (x[None], y[None])))(*batch)}

    objective = lottery.Objective(MODEL.apply, None, measure, None, None, None)  # type: ignore[arg-type]
    chosen = ("taylor", "filter_l1", "random")

    @jax.jit
    def every(params, batches):
        args = objective, params, {}, spaces, batches, jax.random.key(0)
        return {name: names.CHANNELS[name](*args) for name in chosen}

    for name, scores in every(state.params, (X[None, :3], Y[None, :3])).items():
        assert {n: len(s) for n, s in scores.items()} == {"conv": 3, "hidden": 4}
        for values in scores.values() if name != "random" else ():
            assert np.linalg.norm(values) == pytest.approx(1, rel=1e-5)


def test_a_run_of_filters_is_a_run_like_any(tmp_path):
    score = names.CHANNELS["taylor"]
    recipe = filtering.filtered(own.recipe(), "taylor", score, (2 / 3, 1 / 3))
    run = lth.run(recipe, tmp_path / "mine")
    for level, left in ((1, 4), (2, 2)):
        mask = run.ticket(level).mask
        for i in range(2):
            kernel = mask["first"]["kernel"][i]
            alive = kernel.any(0)
            assert alive.sum() == left  # of six
            assert (kernel == alive[None]).all()
            assert (mask["last"]["kernel"][i] == alive[:, None]).all()
    with pytest.raises(ValueError, match="flops need"):
        filtering.filtered(own.recipe(), "taylor", score, (0.5,), flops=1.0)
    with pytest.raises(ValueError, match="scope is one of global, layer"):
        filtering.filtered(own.recipe(), "taylor", score, (0.5,), scope="all")


def test_a_run_remembers_its_function_wherever_lth_is_installed():
    assert cli_own.function(lab_filters.SOURCE).__name__ == "prune_filters"
    assert lab_filters.SOURCE == "lth.lab.filters:prune_filters"
    given = {"preset": "digits"}
    named = cli_own.folder(lab_filters.SOURCE, given, "")
    assert named == "filters-prune_filters-preset=digits"
    for nothing in ("lth.lab.none:f", "os:system", "lth.lab.filters.py:f"):
        with pytest.raises(ConfigError, match="there is no file"):
            cli_own.function(nothing)


def test_the_command_refuses_what_is_not_there(capsys):
    assert main.command(["prune-filters"]) == 2
    assert main.command(["prune-filters", "digit"]) == 2
    assert main.command(["prune-filters", "digits", "--criterion", "tailor"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "perhaps digits" in told
    assert "perhaps taylor" in told
