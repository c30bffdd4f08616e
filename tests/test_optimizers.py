"""Every optimizer of Optax under masks and rewinding: right, or refused by name.

`python -m tests.test_optimizers` prints the table of optimizers and guarantees.
"""

import functools
import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from optax import contrib

from lth import dynamic, masks, train
from lth.dynamic import rules
from lth.lottery import rewind
from lth.train import optimizers
from tests.conftest import QUICK, assert_same, normal

EARLY, LATE = 4, 20  # the rewind point and the end of training


def rate(step):
    return 0.04 * 0.8**step


def labels(params):
    return traverse_util.path_aware_map(
        lambda path, _: "bias" if path[-1] == "b" else "kernel", params
    )


def adversary():
    return optax.chain(contrib.normalize(), optax.sgd(0.05))


# From a schedule to an optimizer that follows it.
ALIASES = {
    "adabelief": optax.adabelief,
    "adadelta": optax.adadelta,
    "adafactor": lambda r: optax.adafactor(r, min_dim_size_to_factor=2),
    "adagrad": optax.adagrad,
    "adam": optax.adam,
    "adamax": optax.adamax,
    "adamaxw": optax.adamaxw,
    "adamw": optax.adamw,
    "adan": optax.adan,
    "amsgrad": optax.amsgrad,
    "fromage": lambda r: optax.fromage(0.01),
    "lamb": optax.lamb,
    "lars": optax.lars,
    "lbfgs": lambda r: optax.lbfgs(
        linesearch=optax.scale_by_zoom_linesearch(max_linesearch_steps=5)
    ),
    "lion": optax.lion,
    "noisy_sgd": lambda r: optax.noisy_sgd(r, key=0),
    "novograd": optax.novograd,
    "optimistic_adam": lambda r: optax.optimistic_adam(0.01),
    "optimistic_adam_v2": optax.optimistic_adam_v2,
    "optimistic_gradient_descent": optax.optimistic_gradient_descent,
    "polyak_sgd": lambda r: optax.polyak_sgd(0.1, r),
    "radam": optax.radam,
    "rmsprop": lambda r: optax.rmsprop(r, initial_scale=1.0, momentum=0.5),
    "rprop": lambda r: optax.rprop(0.01),
    "sgd": lambda r: optax.sgd(r, momentum=0.9, nesterov=True),
    "sign_sgd": optax.sign_sgd,
    "signum": optax.signum,
    "sm3": lambda r: optax.sm3(0.01),
    "yogi": optax.yogi,
}
CONTRIB = {
    "acprop": contrib.acprop,
    "ademamix": contrib.ademamix,
    "adopt": contrib.adopt,
    "cocob": contrib.cocob,
    "dadapt_adamw": lambda r: contrib.dadapt_adamw(r, estim_lr0=0.1),
    "differentially_private_aggregate": lambda r: optax.chain(
        contrib.differentially_private_aggregate(1.0, 0.1, 0), optax.sgd(r)
    ),
    "dog": lambda r: contrib.dog(lambda t: 25 * r(t), ("distance", 0.1)),
    "dowg": contrib.dowg,
    "dpsgd": lambda r: contrib.dpsgd(r, 1.0, 0.1, 0),
    "galore": lambda r: contrib.galore(r, rank=2),
    "madgrad": contrib.madgrad,
    "mechanize": lambda r: contrib.mechanize(optax.sgd(r)),
    "momo": contrib.momo,
    "momo_adam": contrib.momo_adam,
    "muon": contrib.muon,
    "normalize": lambda r: optax.chain(contrib.normalize(), optax.sgd(r)),
    "prodigy": lambda r: contrib.prodigy(r, estim_lr0=0.1),
    "reduce_on_plateau": lambda r: optax.chain(
        optax.adam(r), contrib.reduce_on_plateau(patience=1, rtol=0.1)
    ),
    "sam": lambda r: contrib.sam(optax.sgd(r, momentum=0.9), adversary()),
    "schedule_free": lambda r: contrib.schedule_free(optax.sgd(r), r),
    "schedule_free_adamw": lambda r: contrib.schedule_free_adamw(0.02, 8),
    "schedule_free_sgd": lambda r: contrib.schedule_free_sgd(0.02, 8),
    "simplified_ademamix": contrib.simplified_ademamix,
    "sophia": contrib.sophia,
    "split_real_and_imaginary": lambda r: contrib.split_real_and_imaginary(
        optax.adam(r)
    ),
}
WRAPPED = {
    "add_noise": lambda r: optax.chain(optax.add_noise(0.1, 0.5, 1), optax.adam(r)),
    "apply_every": lambda r: optax.chain(optax.adam(r), optax.apply_every(3)),
    "apply_if_finite": lambda r: optax.apply_if_finite(optax.adam(r), 3),
    "backtracking": lambda r: optax.chain(
        optax.sgd(r), optax.scale_by_backtracking_linesearch(5)
    ),
    "chain": lambda r: optax.chain(
        optax.clip_by_global_norm(1.0), optax.add_decayed_weights(0.1), optax.adam(r)
    ),
    "decay schedule": lambda r: optax.adamw(0.01, weight_decay=r),
    "distance over gradients": lambda r: optax.chain(
        optax.scale_by_distance_over_gradients(0.1), optax.scale_by_learning_rate(r)
    ),
    "ema": lambda r: optax.chain(optax.ema(0.9), optax.scale_by_learning_rate(r)),
    "flatten": lambda r: optax.flatten(optax.adam(r)),
    "inject_hyperparams": lambda r: optax.inject_hyperparams(optax.adam)(r),
    "lbfgs memories": lambda r: optax.lbfgs(
        lambda t: 40 * r(t), memory_size=3, linesearch=None
    ),
    "lookahead": lambda r: optax.lookahead(optax.adam(r), 5, 0.5),
    "masked": lambda r: optax.masked(optax.adam(r), {"dense": True, "head": True}),
    "MultiSteps": lambda r: optax.MultiSteps(optax.adam(r), 3),
    "MultiSteps of sam's kind": lambda r: optax.MultiSteps(
        optax.chain(optax.adam(r), contrib.reduce_on_plateau(patience=9)), 3
    ).gradient_transformation(),
    "named_chain": lambda r: optax.named_chain(
        ("moments", optax.scale_by_adam()), ("rate", optax.scale_by_learning_rate(r))
    ),
    "partition": lambda r: optax.partition(
        {"kernel": optax.adam(r), "bias": optax.sgd(r)}, labels
    ),
    "sam, opaque": lambda r: contrib.sam(optax.sgd(r), adversary(), opaque_mode=True),
    "sometimes": lambda r: optax.conditionally_transform(
        optax.adam(r), lambda step, **extra: step % 2 == 0
    ),
    "sparsify": lambda r: dynamic.sparsify(
        optax.partition({"kernel": optax.adam(r), "bias": optax.sgd(r)}, labels),
        rules.static(1.0),
        lambda path, leaf: leaf.ndim > 1,
    ),
}
ALL = ALIASES | CONTRIB | WRAPPED
# Functions of optax.contrib that are no optimizers but parts of those above.
PARTS = {"hutchinson_estimator_diag_hessian", "schedule_free_eval_params"}

REFUSED = {  # and by what sentence
    "differentially_private_aggregate": "ask for a gradient of each example",
    "dpsgd": "ask for a gradient of each example",
    "flatten": "as under optax.flatten",
    "lookahead": "optax.lookahead trains pairs of params",
}
REWINDING_REFUSED = {
    "cocob": "optax.contrib.cocob",
    "dadapt_adamw": "optax.contrib.dadapt_adamw",
    "distance over gradients": "optax.scale_by_distance_over_gradients",
    "dog": "optax.contrib.dog",
    "dowg": "optax.contrib.dowg",
    "mechanize": "optax.contrib.mechanize",
    "momo": "optax.contrib.momo cannot be rewound",
    "momo_adam": "optax.contrib.momo_adam",
    "prodigy": "optax.contrib.prodigy",
    "rprop": "optax.rprop",
}
FINETUNING_REFUSED = {
    "sam": "optax.contrib.sam moves at some",
    "sometimes": "optax.conditionally_transform moves at some",
}
# One count is of the schedule and of more: both wait, as at the last step.
ONE_COUNT = ("dadapt_adamw", "madgrad", "momo", "momo_adam", "prodigy")
# Rates of their own, and none to be rewound.
CONSTANT = ("fromage", "lbfgs", "optimistic_adam", "rprop", "sm3")


# Where a place is more than the step a schedule is read at: set by hand.
PLACED = (
    "add_noise",
    "ademamix",
    "backtracking",
    "lbfgs",
    "madgrad",
    "noisy_sgd",
    "reduce_on_plateau",
    "schedule_free_adamw",
    "schedule_free_sgd",
)
FIELDS = {
    optax.AddNoiseState: ("count",),
    contrib.MadgradState: ("count",),
    contrib.ReduceLROnPlateauState: contrib.ReduceLROnPlateauState._fields,
    optax.ScaleByBacktrackingLinesearchState: ("learning_rate",),
    optax.ScaleByZoomLinesearchState: ("learning_rate",),
    optax.ScaleByScheduleState: ("count",),
}


# Those without slots for each weight.
NO_SLOTS = (
    "adafactor",
    "backtracking",
    "fromage",
    "galore",
    "noisy_sgd",
    "normalize",
    "polyak_sgd",
    "sam, opaque",
    "schedule_free",
    "sign_sgd",
)


class Run(NamedTuple):
    train: object  # (state, n, shift=0, fixed=-1) -> state, under the mask
    dense: train.TrainState
    early: train.TrainState
    late: train.TrainState
    steps: list  # the states of the sparse training after each step


def loss(params, stats, batch, key):
    hidden = jnp.tanh(batch @ params["dense"]["w"] + params["dense"]["b"][None])
    value = jnp.mean((hidden @ params["head"]["w"] - jnp.sin(batch[:, :2])) ** 2)
    return value, (stats, {"loss": value})


def sample(key, step, data):
    return normal(jax.random.fold_in(key, step), (8, 3)) + data


def drawn():
    one, two = jax.random.split(jax.random.key(3))
    return {
        "dense": {
            "w": normal(one, (3, 4)),
            "b": jnp.full(4, 0.1, jnp.float32),
        },
        "head": {"w": normal(two, (4, 2))},
    }


MASK = {
    "dense": {"w": jnp.arange(12).reshape(3, 4) % 3 > 0, "b": None},
    "head": {"w": jnp.arange(8).reshape(4, 2) % 2 > 0},
}


def program(make):
    """One program for any schedule: moved by `shift`, or always at step `fixed`."""

    @functools.partial(jax.jit, compiler_options=QUICK)
    def trained(state, mask, n, shift, fixed):
        def schedule(step):
            return rate(jnp.where(fixed < 0, step + shift, fixed))

        step = train.make_train(loss, sample, make(schedule))
        return step(state, mask, jnp.zeros(()), jax.random.key(5), n)

    def call(state, n, shift=0, fixed=-1, mask=MASK):
        with jax.numpy_rank_promotion("allow"):  # one of Optax's relies on it
            return trained(state, mask, n, shift, fixed)[0]

    return call


RUNS = {}


def strong(leaf):
    """A leaf of a type that training keeps, for which the program is compiled once."""
    return leaf.astype(leaf.dtype) if getattr(leaf, "weak_type", False) else leaf


def run_of(name) -> Run:
    if name not in RUNS:
        call, tx = program(ALL[name]), ALL[name](rate)
        params = drawn()
        opt_state = jax.tree.map(strong, tx.init(params))
        start = train.TrainState(jnp.int32(0), params, {}, opt_state)
        every = jax.tree.map(lambda m: m | True, MASK)
        dense = call(start, 3, mask=every)
        steps = [call(dense, 1)]
        for _ in range(LATE - 4):
            steps.append(call(steps[-1], 1))
        RUNS[name] = Run(call, dense, steps[0], steps[-1], steps)
    return RUNS[name]


def slots(opt_state):
    """The slots of both kernels by their paths: [(slot, its mask)]."""
    pairs = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state):
        where = jax.tree_util.keystr(path)
        for layer in ("dense", "head"):
            keep = MASK[layer]["w"]
            tail = jnp.shape(leaf)[-2:]
            if where.endswith(f"['{layer}']['w']") and tail == keep.shape:
                pairs.append((np.asarray(leaf), np.asarray(keep)))
    return pairs


def assert_dead(state):
    for layer in ("dense", "head"):
        w, keep = state.params[layer]["w"], MASK[layer]["w"]
        assert not np.any(np.asarray(w)[~np.asarray(keep)])
        assert np.isfinite(w).all()
    for slot, keep in slots(state.opt_state):
        if slot.dtype != bool:  # sparsify's mask
            assert not slot[..., ~keep].any()


def close(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def differ(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return any(np.abs(a - b).max() > 1e-6 for a, b in pairs)


def dead_stays_dead(name):
    run = run_of(name)
    assert any(slot[..., ~keep].any() for slot, keep in slots(run.dense.opt_state)) or (
        name in NO_SLOTS
    )
    for state in run.steps:
        assert_dead(state)
    assert differ(run.early.params, run.late.params)


def rewinding(name):
    run = run_of(name)
    state = rewind.learning_rate(run.early, run.late)
    reference, moved = run.late._replace(step=run.early.step), 0
    if name in PLACED:
        opt_state = placed(reference.opt_state, run.early.opt_state)
        reference = reference._replace(opt_state=opt_state)
    else:  # the late state with all its counts, under a schedule that is moved
        moved = applied(name, EARLY) - applied(name)
    n = every(name)
    wanted, found = run.train(reference, n, moved), run.train(state, n)
    close(found.params, wanted.params)
    assert_dead(found)
    if name not in CONSTANT:
        unmoved = run.train(run.late._replace(step=run.early.step), n)
        assert differ(unmoved.params, wanted.params)


def placed(late, early):
    if isinstance(late, contrib.ScheduleFreeState):
        base = placed(late.base_optimizer_state, early.base_optimizer_state)
        return late._replace(step_count=early.step_count, base_optimizer_state=base)

    def swap(a, b):
        names = FIELDS.get(type(a), ())
        return a._replace(**{k: getattr(b, k) for k in names}) if names else a

    return jax.tree.map(swap, late, early, is_leaf=lambda x: type(x) in FIELDS)


def every(name):
    """How many steps an optimizer takes for one update."""
    return 3 if "MultiSteps" in name else 2 if name in ("sam", "sometimes") else 1


def finetuning(name):
    run = run_of(name)
    state = rewind.finetune(run.early, run.late)
    n = 1 if name in ONE_COUNT else LATE - EARLY
    if "MultiSteps" in name:  # an accumulation is under way: one update more
        n -= 3
    reference = run.late._replace(step=run.early.step)
    if name in ONE_COUNT:
        reference = reference._replace(opt_state=one_less(reference.opt_state))
    fixed = applied(name) - 1
    close(run.train(state, n).params, run.train(reference, n, fixed=fixed).params)


def one_less(opt_state):
    if type(opt_state) is tuple:  # a chain, whose method `count` is Python's
        return tuple(one_less(part) for part in opt_state)
    fields = getattr(opt_state, "_fields", ())
    return (
        opt_state._replace(count=opt_state.count - 1)
        if "count" in fields
        else (opt_state)
    )


def applied(name, step=LATE):
    """How many updates an optimizer has made at a step."""
    return step // every(name)


@pytest.mark.parametrize("name", [n for n in ALL if n not in REFUSED])
def test_dead_stays_dead(name):
    dead_stays_dead(name)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_under_a_mask_is_refused_by_name(name):
    with pytest.raises(ValueError, match=REFUSED[name]):
        run_of(name)


@pytest.mark.parametrize(
    "name", [n for n in ALL if n not in REFUSED | REWINDING_REFUSED]
)
def test_learning_rate_rewinding_is_the_early_rate_with_the_late_moments(name):
    rewinding(name)


@pytest.mark.parametrize("name", REWINDING_REFUSED)
def test_what_has_no_rate_apart_from_its_moments_is_refused_by_name(name):
    run = run_of(name)
    with pytest.raises(ValueError, match=REWINDING_REFUSED[name]):
        rewind.learning_rate(run.early, run.late)
    with pytest.raises(ValueError, match=REWINDING_REFUSED[name]):
        rewind.weights_low_rate(run.early, run.late)


@pytest.mark.parametrize(
    "name", [n for n in ALL if n not in REFUSED | FINETUNING_REFUSED]
)
def test_finetuning_is_at_the_last_rate_that_trained(name):
    finetuning(name)


@pytest.mark.parametrize("name", FINETUNING_REFUSED)
def test_a_schedule_that_moves_seldom_cannot_be_held(name):
    run = run_of(name)
    for mode in (rewind.finetune, rewind.weights_low_rate):
        with pytest.raises(ValueError, match=FINETUNING_REFUSED[name]):
            mode(run.early, run.late)


def test_the_table_has_every_optimizer_of_optax():
    def public(module, home):
        functions = inspect.getmembers(module, inspect.isfunction)
        return {n for n, f in functions if f.__module__ == home and n[0] != "_"}

    assert public(optax, optax.adam.__module__) == set(ALIASES)
    names = {n for n, _ in inspect.getmembers(contrib, inspect.isfunction)}
    names = {n for n in names if not n.startswith("scale_by_")} - PARTS
    assert names == set(CONTRIB)


def test_the_states_known_by_name_are_those_of_this_optax():
    names = set()
    for name in [n for n in ALL if n not in REFUSED]:
        tx = ALL[name](rate)
        state = jax.eval_shape(tx.init, drawn())
        names |= {n for _, n in _types(state)}
    missing = optimizers.KNOWN - names - {"InjectHyperparamsState"}
    assert missing <= {"ConditionallyMaskState"}


def _types(state):
    found = []

    def note(x):
        found.append((0, type(x).__name__))
        return False

    jax.tree.map(lambda x: x, state, is_leaf=note)
    return found


def cosine_run(tx):
    call = jax.jit(train.make_train(loss, sample, tx), compiler_options=QUICK)
    every = jax.tree.map(lambda m: m | True, MASK)
    params = drawn()
    early = train.TrainState(jnp.int32(0), params, {}, tx.init(params))

    def trained(state, n):
        return call(state, every, jnp.zeros(()), jax.random.key(5), n)[0]

    return early, trained


def test_after_a_cosine_finetuning_is_at_the_rate_of_its_last_step():
    tx = optax.inject_hyperparams(optax.sgd)(optax.cosine_decay_schedule(0.1, 10))
    early, trained = cosine_run(tx)
    late = trained(early, 10)
    for mode in (rewind.finetune, rewind.weights_low_rate):
        state = mode(early, late)
        for _ in range(10):
            moved = trained(state, 1)
            assert differ(moved.params, state.params)
            state = moved
            assert float(state.opt_state.hyperparams["learning_rate"]) == (
                pytest.approx(0.1 * 0.5 * (1 + np.cos(np.pi * 0.9)), rel=1e-5)
            )  # 0.00245
    again = rewind.finetune(early, state)  # of the next level
    assert int(again.opt_state.hyperparams_states["learning_rate"].count) == 9


def test_a_fall_on_a_plateau_is_rewound():
    tx = optax.chain(optax.sgd(0.1), contrib.reduce_on_plateau(patience=1))
    params = {"w": jnp.ones(2)}
    early = late = tx.init(params)
    for _ in range(6):
        _, late = tx.update(params, late, params, value=jnp.float32(1))
    assert float(late[1].scale) < 1e-4
    steps = train.TrainState(jnp.int32(0), params, {}, early)
    state = rewind.learning_rate(steps, steps._replace(opt_state=late))
    updates, _ = tx.update(params, state.opt_state, params, value=jnp.float32(1))
    np.testing.assert_allclose(updates["w"], -0.1, rtol=1e-6)


def test_a_schedule_of_weight_decay_is_rewound():
    tx = optax.adamw(0.1, weight_decay=lambda step: jnp.where(step < 3, 0.5, 0.0))
    params = {"w": jnp.ones(2)}
    early = late = tx.init(params)
    for _ in range(12):
        _, late = tx.update({"w": jnp.ones(2)}, late, params)
    back = rewind.with_schedule(late, early)
    ones = {"w": jnp.ones(2)}
    decayed, _ = tx.update(ones, back, params)
    plain, _ = tx.update(ones, late, params)
    np.testing.assert_allclose(decayed["w"] - plain["w"], -0.05, rtol=1e-4)
    assert int(back[0].count) == 12  # Adam's own


def test_schedules_are_set_where_so_many_steps_leave_them():
    """Moments stay fresh: what trains on from weights alone begins so."""
    tx = optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(lambda n: -1 / n))
    params = {"w": jnp.ones(2)}
    fresh = late = tx.init(params)
    for _ in range(5):
        _, late = tx.update(params, late, params)
    ahead = optimizers.at_step(fresh, 5)
    assert int(ahead[1].count) == int(late[1].count) == 5
    assert_same(ahead[0], fresh[0])
    assert_same(optimizers.at_step(fresh, 0), fresh)
    with pytest.raises(ValueError, match="ProdigyState stands after 5 steps is not"):
        optimizers.at_step(ALL["prodigy"](rate).init(params), 5)


def test_at_step_0_a_fresh_start_is_one_of_its_place():
    run = run_of("prodigy")
    tx, params = ALL["prodigy"](rate), drawn()
    start = train.TrainState(jnp.int32(0), params, {}, tx.init(params))
    state = rewind.make_fresh_moments(rewind.weights, tx)(start, run.late)
    assert_same(state.opt_state, start.opt_state)
    with pytest.raises(ValueError, match=r"optax\.contrib\.prodigy"):
        rewind.make_fresh_moments(rewind.weights, tx)(run.early, run.late)


def test_what_an_optimizer_is_given_is_of_the_batch_and_under_the_mask():
    seen = []

    def update(grads, state, params, *, value, grad, value_fn):
        other = jax.tree.map(lambda p: p + 1, params)  # what is pruned too
        moved = [value_fn(params), value_fn(other)]
        jax.debug.callback(lambda *x: seen.append(x), value, grad, params, *moved)
        return jax.tree.map(jnp.zeros_like, grads), state

    tx = optax.GradientTransformationExtraArgs(lambda p: optax.EmptyState(), update)
    step = jax.jit(train.make_train(loss, sample, tx), compiler_options=QUICK)
    start = train.TrainState(jnp.int32(2), drawn(), {}, optax.EmptyState())
    step(start, MASK, jnp.zeros(()), jax.random.key(5), 1)
    jax.effects_barrier()
    ((value, grad, params, here, there),) = seen
    batch = sample(jax.random.split(jax.random.key(5))[0], 2, 0.0)
    wanted, gradient = jax.value_and_grad(lambda p: loss(p, {}, batch, None)[0])(params)
    other = masks.apply(jax.tree.map(lambda p: p + 1, params), MASK)
    np.testing.assert_allclose([value, here], wanted, rtol=1e-6)
    np.testing.assert_allclose(there, loss(other, {}, batch, None)[0], rtol=1e-6)
    close(grad, masks.apply(gradient, MASK))


def verdict(check, name, refused):
    if name in REFUSED or name in refused:
        return "refused"
    try:
        check(name)
    except AssertionError:
        return "WRONG"
    return "right"


def slotted(name):
    if name in NO_SLOTS:
        return "n.a."
    return "refused" if name in REFUSED else "right"


if __name__ == "__main__":
    print(f"{'optimizer':34}{'dead':9}{'slots':9}{'rewound':9}{'fine-tuned':9}")
    for name in ALL:
        dead = verdict(dead_stays_dead, name, ())
        slot = slotted(name) if dead != "WRONG" else dead
        back = verdict(rewinding, name, REWINDING_REFUSED)
        tuned = verdict(finetuning, name, FINETUNING_REFUSED)
        print(f"{name:34}{dead:9}{slot:9}{back:9}{tuned:9}", flush=True)
