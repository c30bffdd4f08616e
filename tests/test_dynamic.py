"""Masks that change in training: exact counts, zeros that are zero, one program."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from lth import dynamic, masks, models
from lth.dynamic import rules
from lth.masks import allocation, refresh, schedules, structure
from tests.conftest import assert_same, make_problem, normal, plain_mlp

STEPS = 40


def prunable(path, leaf):
    return leaf.ndim == 2


RULES = {
    "gradual": lambda: rules.gradual(
        schedules.polynomial(0.2, 0.8, 5, 33, 3, 4), STEPS
    ),
    "gradual blocks": lambda: rules.gradual(
        schedules.polynomial(0.0, 0.7, 5, 30, 3, 5),
        STEPS,
        keep=lambda s, m, d: structure.keep_top(s, m, d, unit=structure.block((1, 2))),
    ),
    "static": lambda: rules.static(0.3),
    "set": lambda: rules.sparse_evolution(0.4, begin_step=3, end_step=30, frequency=3),
    "rigl": lambda: rules.rigl(0.4, begin_step=3, end_step=30, frequency=3),
    "rigl without regrowth": lambda: rules.rigl(
        0.4, begin_step=3, end_step=30, frequency=3, regrow=False
    ),
    "ac_dc": lambda: rules.ac_dc(0.25, phase=4, warmup=6, steps=STEPS),
}
DENSITIES = {"static": 0.3, "ac_dc": 0.25, "gradual": 0.2}


def lively(sizes=(3, 8, 6, 3)):
    """A network none of whose layers is dead from the start."""
    model = plain_mlp(sizes)

    def init(key):
        params, stats = model.init(key)
        return {k: w + 0.5 if w.ndim == 1 else w for k, w in params.items()}, stats

    return models.Model(init, model.apply)


def steps_of(rule, tx=None, count=STEPS):
    """The states of a training, after each step, through make_train."""
    tx = dynamic.sparsify(tx or optax.adam(1e-2), rule, prunable)
    problem = make_problem(lively(), tx)
    params = dynamic.masked(problem.early.params, problem.early.opt_state)
    states = [problem.early._replace(params=params)]
    nothing = masks.unmasked(params)
    for _ in range(count):
        state, _ = problem.train(states[-1], nothing, 1)
        states.append(state)
    return problem, states


@functools.cache
def trained_by(name):
    """A rule, its problem and the states of the training."""
    rule = RULES[name]()
    return rule, *steps_of(rule)


@pytest.fixture(scope="module", params=RULES)
def trained(request):
    return request.param, *trained_by(request.param)


def of(state):
    return dynamic.state_of(state.opt_state)


def pruned(tree, mask):
    return np.concatenate(
        [
            np.asarray(w)[~np.asarray(m)]
            for w, m in zip(jax.tree.leaves(tree), jax.tree.leaves(mask), strict=True)
        ]
    )


def kernels(params):
    return {k: np.asarray(w) for k, w in params.items() if w.ndim == 2}


def kernel_masks(state):
    return {k: np.asarray(m) for k, m in of(state).mask.items() if m is not None}


def test_every_layer_learns(trained):
    _, _, _, states = trained
    for k, start in kernels(states[0].params).items():
        assert (states[2].params[k] != start).any()


def test_what_is_pruned_is_zero_at_every_step(trained):
    _, _, _, states = trained
    for state in states:
        assert not pruned(kernels(state.params), kernel_masks(state)).any()


def test_slots_of_what_is_pruned_are_zero_and_of_what_is_grown_start_at_zero(trained):
    _, _, _, states = trained
    for before, after in itertools.pairwise(states):
        old, new = kernel_masks(before), kernel_masks(after)
        settled = jax.tree.map(np.logical_and, old, new)
        slots = jax.tree.leaves(of(after).inner, is_leaf=_adam)
        (adam,) = (s for s in slots if _adam(s))
        for moments in (adam.mu, adam.nu):
            assert not pruned(kernels(moments), settled).any()


def _adam(x):
    return isinstance(x, optax.ScaleByAdamState)


def test_grown_weights_start_at_zero(trained):
    _, _, _, states = trained
    for before, after in itertools.pairwise(states):
        for k, new in kernel_masks(after).items():
            grown = new & ~kernel_masks(before)[k]
            assert not np.any(np.where(grown, after.params[k], 0))


def test_masks_change_at_the_rule_s_steps_and_nowhere_else(trained):
    _, rule, _, states = trained
    for step, (before, after) in enumerate(itertools.pairwise(states), 1):
        if not rule.when(jnp.int32(step)):
            assert_same(of(before).mask, of(after).mask)


def test_the_whole_is_one_program_and_any_split_of_it_the_same(trained):
    _, _, problem, states = trained
    traces = len(problem.traces)
    whole, _ = problem.train(states[0], masks.unmasked(states[0].params), STEPS)
    assert_same(whole.params, states[-1].params)
    assert_same(whole.opt_state, states[-1].opt_state)
    assert len(problem.traces) == traces == 1


def test_the_record_is_what_happened(trained):
    _, rule, _, states = trained
    found = dynamic.records(states[-1].opt_state)
    steps = sorted({row["step"] for row in found})
    assert steps == [t for t in range(1, STEPS + 1) if rule.when(jnp.int32(t))]
    assert len(steps) == rule.updates - bool(rule.when(jnp.int32(0)))
    for row in found:
        old = kernel_masks(states[row["step"] - 1])[row["path"]]
        new = kernel_masks(states[row["step"]])[row["path"]]
        assert row["kept"] == new.sum()
        assert row["density"] == float(new.sum()) / new.size
        assert row["pruned"] == (old & ~new).sum()
        assert row["grown"] == (new & ~old).sum()


def test_gradual_pruning_has_the_exact_density_after_every_update():
    schedule = schedules.polynomial(0.2, 0.8, 5, 33, 3, 4)
    *_, states = trained_by("gradual")
    total = 3 * 8 + 8 * 6 + 6 * 3
    for step, state in enumerate(states):
        wanted = schedules.in_force(schedule, step)
        assert int(masks.count(of(state).mask)) == round(wanted * total)
    ends = [kernel_masks(s) for s in states]
    for before, after in itertools.pairwise(ends):
        assert all(not (after[k] & ~before[k]).any() for k in after)


def test_gradual_pruning_against_numpy():
    schedule = schedules.polynomial(0.0, 0.5, 2, 6, 3, 2)
    tx = dynamic.sparsify(optax.sgd(0.1), rules.gradual(schedule, 8), lambda p, w: True)
    target = np.array([0.9, -0.5, 0.2, 0.05, -1.0, 0.3], np.float32)
    params = {"w": jnp.array([0.1, 0.4, -0.3, 0.2, 0.05, -0.6])}
    w, keep = np.array(params["w"], np.float64), np.ones(6, bool)
    state, update = tx.init(params), jax.jit(tx.update)
    for step in range(1, 9):
        grads = {"w": params["w"] - target}
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        if step in (2, 4, 6):
            progress = (step - 2) / 4
            kept = round(6 * (0.5 + 0.5 * (1 - progress) ** 3))
            order = sorted(np.flatnonzero(keep), key=lambda i: (-abs(w[i]), i))
            keep = np.isin(np.arange(6), order[:kept])
        w = np.where(keep, w - 0.1 * (w - target), 0)
        np.testing.assert_allclose(params["w"], w, rtol=1e-5, atol=1e-7)


def test_a_schedule_by_path_prunes_each_layer_in_its_time():
    params = plain_mlp((3, 8, 6, 3)).init(jax.random.key(0))[0]
    ones = masks.ones(params, prunable)
    schedule = schedules.by_path(
        ones,
        schedules.constant(0.5, 10, 20, 5),
        {"w0": schedules.polynomial(0.0, 0.75, 0, 8, 1, 4)},
    )
    _, states = steps_of(rules.gradual(schedule, 25), count=25)
    counts = [[int(m.sum()) for m in kernel_masks(s).values()] for s in states]
    assert counts[0] == [24, 48, 18]
    assert counts[4] == [round(24 * 0.625), 48, 18]
    assert counts[8] == counts[9] == [6, 48, 18]
    assert counts[10] == counts[25] == [6, 24, 9]


@pytest.mark.parametrize("name", ["set", "rigl", "rigl without regrowth"])
def test_drop_and_grow_keep_the_count_of_every_layer(name):
    *_, states = trained_by(name)
    start = {k: int(m.sum()) for k, m in kernel_masks(states[0]).items()}
    assert start == {"w0": round(0.4 * 24), "w1": round(0.4 * 48), "w2": 7}
    for state in states:
        assert {k: int(m.sum()) for k, m in kernel_masks(state).items()} == start
    assert any(row["grown"] for row in dynamic.records(states[-1].opt_state))


def one_layer(rule, weights, grads, mask=None):
    """One update at step 1 of a rule on a single leaf, and the new mask."""
    tx = dynamic.sparsify(optax.sgd(0.1), rule, lambda p, w: True)
    params = {"w": jnp.asarray(weights, jnp.float32)}
    state = tx.init(params)
    mask = {"w": jnp.asarray(mask)}
    state = state._replace(mask=mask)
    params = masks.apply(params, mask)
    grads = {"w": jnp.asarray(grads, jnp.float32)}
    updates, state = jax.jit(tx.update)(grads, state, params)
    return optax.apply_updates(params, updates)["w"], state.mask["w"]


def rigl_at_once(**options):
    times = {"begin_step": 1, "end_step": 10, "frequency": 1}
    return rules.rigl(0.5, drop=rules.constant_drop(0.5), **times, **options)


def test_rigl_by_hand():
    # Kept: 4, 1, 3, 2 of six; half are dropped (1 and 2), and as many grown by |g|.
    weights = [4.0, 1.0, 0.0, 3.0, 2.0, 0.0]
    mask = [True, True, False, True, True, False]
    grads = [0.0, -9.0, 5.0, 0.0, 1.0, -6.0]
    new, kept = one_layer(rigl_at_once(), weights, grads, mask)
    # The just-dropped 1 has the largest gradient: it is grown again, at its value.
    assert kept.tolist() == [True, True, False, True, False, True]
    assert new.tolist() == [4.0, 1.0, 0.0, 3.0, 0.0, 0.0]  # and nothing has moved
    new, kept = one_layer(rigl_at_once(regrow=False), weights, grads, mask)
    assert kept.tolist() == [True, False, True, True, False, True]
    assert new.tolist() == [4.0, 0.0, 0.0, 3.0, 0.0, 0.0]


def test_rigl_without_regrowth_stays_exact_where_little_is_free():
    # Five of six are kept, half (two) are dropped, and only one place is free.
    weights, mask = [5.0, 4, 3, 2, 1, 0], [True] * 5 + [False]
    grads = [0.0] * 6
    _, kept = one_layer(rigl_at_once(regrow=False), weights, grads, mask)
    assert kept.sum() == 5


def test_weights_move_at_an_update_of_evolution_and_not_of_rigl():
    weights, mask = [4.0, 3.0, 0.0, 0.0], [True, True, False, False]
    times = {"begin_step": 1, "end_step": 10, "frequency": 1}
    rule = rules.sparse_evolution(0.5, drop=rules.constant_drop(0.0), **times)
    new, kept = one_layer(rule, weights, [10.0, 0, 0, 0], mask)
    assert kept.tolist() == mask
    assert new.tolist() == [3.0, 3.0, 0.0, 0.0]


def test_drop_fractions():
    cosine = rules.cosine_drop(0.3, begin_step=100, end_step=300)
    values = [float(cosine(jnp.int32(t))) for t in (100, 200, 300, 400)]
    np.testing.assert_allclose(values, [0.3, 0.15, 0, 0], atol=1e-7)
    power = rules.power_drop(0.4, end_step=100, power=2)
    values = [float(power(jnp.int32(t))) for t in (0, 50, 100)]
    np.testing.assert_allclose(values, [0.4, 0.1, 0], atol=1e-7)


def test_static_masks_follow_an_allocation():
    params = plain_mlp((3, 8, 6, 3)).init(jax.random.key(0))[0]
    ones = masks.ones(params, prunable)
    density = allocation.erdos_renyi(ones, 0.4)
    _, states = steps_of(rules.static(density), count=2)
    assert int(masks.count(of(states[-1]).mask)) == round(0.4 * 90)
    other = dynamic.sparsify(
        optax.sgd(0.1), rules.static(density), prunable, jax.random.key(7)
    ).init(params)
    assert masks.overlap(other.mask, of(states[0]).mask) < 0.9


def test_ac_dc_ends_sparse_and_lets_weights_return():
    _, states = steps_of(rules.ac_dc(0.6, phase=8, warmup=6, steps=STEPS))
    counts = [int(masks.count(of(s).mask)) for s in states]
    sparse = round(0.6 * 90)
    wanted = [90] * 6 + [sparse] * 8 + [90] * 8 + [sparse] * 8 + [90] * 8
    assert counts == [*wanted, *[sparse] * 3]  # the last phase is a sparse one


def test_in_a_dense_phase_of_ac_dc_a_pruned_weight_can_overtake():
    rule = rules.ac_dc(0.5, phase=3, warmup=1, steps=10)
    tx = dynamic.sparsify(optax.sgd(0.5), rule, lambda path, leaf: True)
    params, target = {"w": jnp.array([9.0, 0.1])}, jnp.array([0.5, 3.0])
    state, kept, update = tx.init(params), [], jax.jit(tx.update)
    for _ in range(10):
        grads = {"w": params["w"] - target}
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        kept.append(state.mask["w"].tolist())
    one, both, other = [True, False], [True, True], [False, True]
    assert kept[:4] == [one, one, one, both]
    assert kept[4:] == [both, both, *[other] * 4]
    assert float(params["w"][0]) == 0


def buffers(rule, tx, count):
    """The momentum of a kept weight after each step under a gradient of 1."""
    tx = dynamic.sparsify(tx, rule, lambda path, leaf: leaf.ndim == 2)
    params = {"w": jnp.array([[9.0, 0.5]]), "b": jnp.ones(1)}
    state, found, update = tx.init(params), [], jax.jit(tx.update)
    ones = jax.tree.map(jnp.ones_like, params)
    for _ in range(count):
        updates, state = update(ones, state, params)
        params = optax.apply_updates(params, updates)
        (trace,) = (
            x for x in jax.tree.leaves(state.inner, is_leaf=_trace) if _trace(x)
        )
        found.append(trace.trace)
    return found, state


def _trace(x):
    return isinstance(x, optax.TraceState)


def test_momentum_starts_afresh_when_ac_dc_decompresses():
    times = {"phase": 5, "warmup": 5, "steps": 20}  # sparse from 5, dense from 10
    sgd = optax.sgd(1e-3, momentum=0.9)
    for options, wanted in (({}, 1.0), ({"reset_momentum": False}, 6.513215599)):
        found, _ = buffers(rules.ac_dc(0.5, **times, **options), sgd, 15)
        kept = [float(trace["w"][0, 0]) for trace in found]
        without = [(1 - 0.9**n) / 0.1 for n in range(1, 16)]
        np.testing.assert_allclose(kept[:9], without[:9], rtol=1e-6)
        assert kept[9] == pytest.approx(wanted, rel=1e-6)
        assert kept[14] == pytest.approx(10 * (1 - 0.9**5) + 0.9**5 * wanted, rel=1e-6)
        assert found[9]["b"].tolist() == [kept[9]]  # that of a bias as well
        # What was pruned has no momentum at 10 either way, and from 11 on its own.
        assert [float(t["w"][0, 1]) for t in found[9:11]] == [0.0, 1.0]


def test_schedules_go_on_when_momentum_starts_afresh():
    rule = rules.ac_dc(0.5, phase=5, warmup=5, steps=20)
    tx = optax.chain(optax.trace(0.9), optax.scale_by_schedule(lambda t: 0.1 / (1 + t)))
    found, state = buffers(rule, tx, 12)
    assert int(state.inner[1].count) == 12
    assert found[9]["w"].tolist() == [[1.0, 0.0]]


def test_replicates_draw_masks_of_their_own():
    model, tx = plain_mlp((3, 8, 6, 3)), optax.sgd(0.1)

    def start(key):
        params, _ = model.init(jax.random.key(0))
        return dynamic.sparsify(tx, rules.static(0.3), prunable, key).init(params)

    found = jax.jit(jax.vmap(start))(jax.random.split(jax.random.key(0), 3)).mask
    each = sum(round(0.3 * n) for n in (24, 48, 18))
    assert jax.vmap(masks.count)(found).tolist() == [each] * 3
    assert len({np.asarray(found["w1"][i]).tobytes() for i in range(3)}) == 3


def test_what_cannot_be_is_refused():
    params = {"w": jnp.ones((2, 2))}
    tx = dynamic.sparsify(optax.sgd(0.1), rules.static(0.5), prunable)
    state = tx.init(params)
    with pytest.raises(ValueError, match="a rule needs params"):
        tx.update(params, state)
    with pytest.raises(ValueError, match="one sparsified optimizer is needed; there"):
        dynamic.state_of(optax.sgd(0.1).init(params))
    with pytest.raises(
        ValueError, match="updates run from begin_step to before end_step"
    ):
        rules.rigl(0.5, begin_step=10, end_step=5)
    with pytest.raises(ValueError, match="a warmup of 0 < 9 < 5"):
        rules.ac_dc(0.5, phase=2, warmup=9, steps=5)


def test_a_schedule_that_cannot_finish_is_refused():
    with pytest.raises(ValueError, match="sparsity 28.9%"):
        rules.gradual(schedules.polynomial(0.0, 0.75, 1000, 5000), 1600)


def test_an_update_at_step_0_is_recorded():
    schedule = schedules.constant(0.5, 0, 20, 10)
    params = {"w": jnp.arange(8.0).reshape(2, 4)}
    tx = dynamic.sparsify(optax.sgd(0.1), rules.gradual(schedule, 20), prunable)
    (row,) = dynamic.records(tx.init(params))
    assert (row["step"], row["kept"], row["pruned"]) == (0, 4, 4)
    assert row["threshold"] == 4


def test_replicates_choose_together_and_each_as_it_would_alone():
    rule = rules.rigl(0.5, begin_step=2, end_step=9, frequency=3)
    updates_at = []

    def update(step, *args):
        jax.debug.callback(lambda step: updates_at.append(int(step)), step)
        return rule.update(step, *args)

    tx = dynamic.sparsify(optax.sgd(0.1), rule._replace(update=update), prunable)
    start = params = {"w": normal(jax.random.key(0), (3, 4, 5))}
    grads = {"w": normal(jax.random.key(1), (3, 4, 5))}
    states = jax.jit(jax.vmap(tx.init))(params)
    together, one, alone = jax.jit(jax.vmap(tx.update)), jax.jit(tx.update), []
    for _ in range(4):
        updates, states = together(grads, states, params)
        params = optax.apply_updates(params, updates)
    # Under vmap a plain condition becomes a choice: both sides at every step.
    jax.effects_barrier()
    assert updates_at == [2, 2, 2]
    for i in range(3):
        p = {"w": start["w"][i]}
        g = {"w": grads["w"][i]}
        state = tx.init(p)
        for _ in range(4):
            updates, state = one(g, state, p)
            p = optax.apply_updates(p, updates)
        alone.append((p, state.mask))
    for i, (p, mask) in enumerate(alone):
        np.testing.assert_allclose(params["w"][i], p["w"], rtol=1e-6)
        assert (states.mask["w"][i] == mask["w"]).all()


def test_replicates_out_of_step_change_each_in_its_time():
    def doubled(now, value):
        return refresh.cond_any(now, jnp.add, value, value)

    found = jax.vmap(doubled)(jnp.array([True, False, True]), jnp.arange(1, 4))
    assert found.tolist() == [2, 2, 6]


def test_optimizers_that_ask_for_more_get_it():
    inner = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1))
    tx = dynamic.sparsify(inner, rules.static(0.5), prunable)
    params = {"w": jnp.ones((2, 2))}
    updates, _ = tx.update(params, tx.init(params), params, value=jnp.float32(1))
    assert updates["w"].shape == (2, 2)


def trained_inside(around, count=12):
    """Params, mask and state after steps of what is `around` a sparsified Adam."""
    rule = rules.rigl(0.5, begin_step=2, end_step=9, frequency=3)
    tx = around(dynamic.sparsify(optax.adam(0.1), rule, prunable))
    params = {"w": normal(jax.random.key(0), (6, 5)), "b": jnp.ones(5)}
    state = tx.init(params)
    params = dynamic.masked(params, state)
    step = jax.jit(tx.update)
    for i in range(count):
        noise = normal(jax.random.key(i), (6, 5))
        grads = {"w": params["w"] + noise, "b": params["b"]}
        updates, state = step(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def injected(tx):
    def factory(rate):
        return optax.chain(optax.scale(rate), tx)

    return optax.inject_hyperparams(factory)(rate=0.5)


@pytest.mark.parametrize(
    ("around", "steps"),
    [
        (lambda tx: tx, 12),
        (lambda tx: optax.chain(optax.clip_by_global_norm(1.0), tx), 12),
        (lambda tx: optax.chain(optax.chain(tx)), 12),
        (lambda tx: optax.named_chain(("z", optax.identity()), ("a", tx)), 12),
        (lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(), 6),
        (lambda tx: optax.apply_if_finite(tx, 3), 12),
        (injected, 12),
        (lambda tx: optax.apply_if_finite(optax.MultiSteps(tx, 3), 3), 4),
    ],
    ids=["none", "chain", "chains", "named", "steps", "finite", "injected", "both"],
)
def test_what_lets_updates_through_leaves_exact_zeros(around, steps):
    params, state = trained_inside(around)
    found = dynamic.state_of(state)
    assert int(found.step) == steps
    assert int(masks.count(found.mask)) == 15
    assert not pruned({"w": params["w"]}, {"w": found.mask["w"]}).any()
    assert {row["step"] for row in dynamic.records(state)} == {2, 5, 8} & {
        *range(steps)
    }


def test_a_step_that_is_not_finite_changes_nothing_under_apply_if_finite():
    tx = optax.apply_if_finite(
        dynamic.sparsify(optax.adam(0.1), rules.static(0.5), prunable), 3
    )
    params = {"w": jnp.ones((2, 2))}
    state = tx.init(params)
    params = dynamic.masked(params, state)
    updates, after = tx.update({"w": jnp.full((2, 2), jnp.nan)}, state, params)
    assert not updates["w"].any()
    assert_same(dynamic.state_of(after), dynamic.state_of(state))


@pytest.mark.parametrize(
    ("around", "what"),
    [
        (
            lambda tx: optax.chain(tx, optax.scale(0.5)),
            r"comes after it in its chain \((ScaleState|EmptyState)\)",
        ),
        (lambda tx: optax.chain(tx, optax.ema(0.9)), r"its chain \(EmaState\)"),
        (
            lambda tx: optax.MultiSteps(optax.chain(tx, optax.trace(0.9)), 2),
            r"its chain \(TraceState\)",
        ),
        (
            lambda tx: optax.named_chain(("z", tx), ("a", optax.ema(0.9))),
            r"its chain \(EmaState\)",
        ),
        (lambda tx: optax.masked(tx, {"w": True, "b": False}), r"\(MaskedState\)"),
        (
            lambda tx: optax.partition({"x": tx}, {"w": "x", "b": "x"}),
            r"\(PartitionState\)",
        ),
    ],
    ids=["scale", "ema", "inside steps", "named", "masked", "partition"],
)
def test_what_may_change_updates_is_refused_from_the_start(around, what):
    with pytest.raises(ValueError, match=what) as caught:
        trained_inside(around)
    assert "what is pruned would not be 0" in str(caught.value)


def test_what_is_refused_would_not_be_zero():
    rule = rules.sparse_evolution(0.5, begin_step=2, end_step=9, frequency=3)
    sparse = dynamic.sparsify(optax.adam(0.1), rule, prunable)
    tx = optax.chain(sparse, optax.scale(0.5))
    params = {"w": normal(jax.random.key(0), (6, 5))}
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(3):
        updates, state = update(params, state, params)
        params = optax.apply_updates(params, updates)
    assert pruned(params, state[0].mask).any()
    for read in (
        dynamic.state_of,
        dynamic.records,
        lambda s: dynamic.masked(params, s),
    ):
        with pytest.raises(ValueError, match="sparsify has not the last word"):
            read(state)
