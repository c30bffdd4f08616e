"""Training: one step, many steps in one compiled loop, and a curve of measurements.

Everything that varies between the trainings of an experiment (state, mask, data, key,
number of steps) is an argument, so one compiled program serves every level, density and
way of rewinding.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lth import masks, optimizers

NEVER = np.int32(2**31 - 1)  # as a step: has not happened

Stats = Any  # a tree: batch-norm averages and other state that gradients do not train
Loss = Callable[..., tuple[jax.Array, tuple[Stats, dict[str, jax.Array]]]]
Metrics = dict[str, Any]


class TrainState(NamedTuple):
    """All that training changes. Masks are not in it: training never changes them."""

    step: jax.Array  # [], int32: batches seen since initialisation
    params: masks.Params
    stats: Stats
    opt_state: Any


def init_state(
    init: Callable[[jax.Array], tuple[masks.Params, Stats]],
    tx: optax.GradientTransformation,
    key: jax.Array,
) -> TrainState:
    """A network freshly drawn by `init(key) -> (params, stats)`, at step 0."""
    params, stats = init(key)
    return TrainState(jnp.int32(0), params, stats, tx.init(params))


def classification(apply: Callable) -> tuple[Loss, Callable]:
    """What is minimised and what is measured when `apply` gives logits of classes.

    Returns `loss(params, stats, batch, key) -> (value, (stats, metrics))`, the mean
    softmax cross-entropy in nats, and `measure(params, stats, batch)`, the loss and
    accuracy of each example. An example with several labels, such as a text and its
    next characters, counts as their mean.
    """

    def score(logits, label):
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        accuracy = (logits.argmax(-1) == label) * jnp.float32(1)
        return {"loss": loss, "accuracy": accuracy}

    return _supervised(apply, score)


def regression(apply: Callable, mean: float, deviation: float) -> tuple[Loss, Callable]:
    """What is minimised and what is measured when `apply` gives one number.

    The number predicts (label - mean) / deviation, where those are of the training
    labels. The loss is the mean squared error in these units, and `r2` is 1 - loss: the
    share of the labels' variance that is explained (of a validation or test set, with
    the variance of the training set).
    """

    def score(prediction, label):
        target = (label - np.float32(mean)) / np.float32(deviation)
        error = jnp.square(prediction.reshape(label.shape) - target)
        return {"loss": error, "r2": 1 - error}

    return _supervised(apply, score)


def _supervised(apply: Callable, score: Callable) -> tuple[Loss, Callable]:
    """Loss and measure from `score(outputs, label)`, metrics with examples in front."""

    def loss(params, stats, batch, key):
        outputs, stats = apply(params, stats, batch.image, True, key)
        metrics = jax.tree.map(jnp.mean, score(outputs, batch.label))
        return metrics["loss"], (stats, metrics)

    def measure(params, stats, batch):
        outputs, _ = apply(params, stats, batch.image, False, None)
        values = score(outputs, batch.label)
        return jax.tree.map(lambda v: v.reshape(len(v), -1).mean(-1), values)

    return loss, measure


def make_train(loss: Loss, sample: Callable, tx: optax.GradientTransformation):
    """`train(state, mask, data, key, n) -> (state, sums)`: `n` steps, one compiled
    loop.

    A step draws its batch from (key, step), takes the gradient at the masked params,
    masks it, and masks params and optimizer slots after the update, so that what is
    pruned is exactly 0 under any optimizer. One that asks for them is given the batch's
    `value`, its masked `grad`, and `value_fn(params)`, the loss of the same batch at
    other params, masked too. A schedule that stands ahead of the step stays where it is
    (`rewind.finetune` puts it there).

    `sums` holds the sum over the steps of each metric of `loss`, and under `diverged`
    the first step whose loss was not finite, or `NEVER`. Jit it, after `vmap` for
    replicates. It may be given its `state` to donate: `fit` hands it a copy first, so
    that what is rewound to stays whole. Where an optimizer cannot be trained so, it
    raises ValueError, by name, when it is first called.
    """
    # The slots are masked where the next step reads them, not where this one writes
    # them: the same values, but XLA then updates them in place (a masked Adam step took
    # 1.17 times an unmasked one otherwise, and 1.01 times so).
    tx = optimizers.with_extras(tx)

    def train(state, mask, data, key, n):
        order, noise = jax.random.split(key)

        def drawn(state):
            batch = sample(order, state.step, data)
            return batch, jax.random.fold_in(noise, state.step)

        def gradient(state, drawn):
            value = jax.value_and_grad(loss, has_aux=True)
            return value(state.params, state.stats, *drawn)

        def step(_, carry):
            state, sums, diverged = carry
            state = mask_slots(tx, state, mask)
            batch = drawn(state)
            (value, (stats, metrics)), grads = gradient(state, batch)
            grads = masks.apply(grads, mask)

            def value_fn(params):
                return loss(masks.apply(params, mask), state.stats, *batch)[0]

            extras = optimizers.extras(state.opt_state, value, grads, value_fn)
            updates, opt_state = tx.update(
                grads, state.opt_state, state.params, **extras
            )
            opt_state = optimizers.waiting(opt_state, state.opt_state, state.step)
            params = optax.apply_updates(state.params, updates)
            bad = jnp.where(jnp.isfinite(value), NEVER, state.step)
            params = masks.apply(params, mask)
            state = TrainState(state.step + 1, params, stats, opt_state)
            sums = jax.tree.map(jnp.add, sums, metrics)
            return state, sums, jnp.minimum(diverged, bad)

        optimizers.check(state.opt_state, state.params)
        state = state._replace(params=masks.apply(state.params, mask))
        (_, (_, metrics)), _ = jax.eval_shape(lambda s: gradient(s, drawn(s)), state)
        sums = jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), metrics)
        state, sums, diverged = jax.lax.fori_loop(0, n, step, (state, sums, NEVER))
        return mask_slots(tx, state, mask), {**sums, "diverged": diverged}

    return train


def add_sums(one: Metrics, other: Metrics) -> Metrics:
    """The sums of two stretches of training as those of the whole."""
    sums = {name: one[name] + other[name] for name in one if name != "diverged"}
    return {**sums, "diverged": jnp.minimum(one["diverged"], other["diverged"])}


def mask_slots(
    tx: optax.GradientTransformation, state: TrainState, mask: masks.Mask
) -> TrainState:
    """`state` with exactly 0 in the optimizer's slots of every pruned weight."""
    return state._replace(opt_state=masked_slots(tx, state.opt_state, mask))


def masked_slots(
    tx: optax.GradientTransformation, opt_state: Any, mask: masks.Mask
) -> Any:
    """An optimizer's state with exactly 0 in the slots of every pruned weight."""
    return optimizers.masked_slots(opt_state, mask)


def reestimate(
    apply: Callable,
    sample: Callable,
    state: TrainState,
    data: Any,
    key: jax.Array,
    n: int,
) -> TrainState:
    """`state` with its batch-norm averages taken anew, over `n` batches.

    Forward passes in training mode and nothing else: averages made before weights were
    pruned, rewound or averaged do not fit them (NNCF's batch-norm adaptation). They are
    running averages, so `n` is to be several times what they remember.
    """

    def one(stats, step):
        batch = sample(key, step, data)
        return apply(state.params, stats, batch.image, True, key)[1], None

    return state._replace(stats=jax.lax.scan(one, state.stats, jnp.arange(n))[0])


def make_evaluate(measure: Callable, chunk: int = 1000):
    """`evaluate(params, stats, data) -> metrics`: means over all of `data`, chunk-wise.

    `measure(params, stats, batch)` gives each metric per example. The last chunk is
    filled up with examples that do not count.
    """

    def evaluate(params, stats, data):
        examples = jax.tree.leaves(data)[0].shape[0]
        size = min(chunk, examples)
        starts = jnp.arange(0, examples, size)

        def part(sums, start):
            index = start + jnp.arange(size)
            batch = jax.tree.map(lambda x: x[jnp.minimum(index, examples - 1)], data)
            values = measure(params, stats, batch)
            count = index < examples
            new = jax.tree.map(lambda v: jnp.sum(jnp.where(count, v, 0)), values)
            return jax.tree.map(jnp.add, sums, new), None

        batch = jax.tree.map(lambda x: x[:size], data)
        like = jax.eval_shape(measure, params, stats, batch)
        zeros = jax.tree.map(lambda v: jnp.zeros((), v.dtype), like)
        sums, _ = jax.lax.scan(part, zeros, starts)
        return jax.tree.map(lambda s: s / examples, sums)

    return evaluate


@jax.jit
def copied(state: TrainState) -> TrainState:
    """A state of its own memory, which training may use up."""
    return jax.tree.map(jnp.copy, state)


def weighted_mean(found: list[tuple[Metrics, int]]) -> Metrics:
    """The means over parts of a data set, each with its size, as those of the whole."""
    if len(found) == 1:
        return found[0][0]
    count = sum(n for _, n in found)
    return jax.tree.map(
        lambda *each: sum(
            v * (n / count) for v, (_, n) in zip(each, found, strict=True)
        ),
        *(values for values, _ in found),
    )


def fit(
    state: TrainState,
    mask: masks.Mask,
    *,
    train: Callable[[TrainState, masks.Mask, int], tuple[TrainState, Metrics]],
    measures: Mapping[str, Callable[[TrainState], Metrics]],
    stops: Iterable[int],
    watch: Callable[[TrainState, Metrics], None] = lambda state, record: None,
) -> tuple[TrainState, Metrics]:
    """Train to the last of `stops` and measure at each of them.

    `train(state, mask, n)` trains n steps, and may use up the state it is given: the
    first is a copy of `state`, which stays whole. `measures` maps a split to what
    measures a state on it; `watch(state, record)` sees each record as it is made, and
    the state for as long. Stops at or before the step of `state` are passed over, and
    there must be one after it.

    Returns the trained state and the curves: `step` and `<split>_<metric>`, the last
    axis of each one entry per stop (`train_…` is the mean over the steps since the
    last), and `diverged`, the first step whose loss was not finite, or `NEVER`. Under
    replicates every array has their axis in front.
    """
    at = int(np.ravel(state.step)[0])  # replicates are always at the same step
    records = []
    if max(stops := list(stops), default=at) <= at:
        raise ValueError(f"the last stop must lie beyond step {at}; got {stops}")
    state = copied(state)
    for stop in sorted({stop for stop in stops if stop > at}):
        state, sums = train(state, mask, stop - at)
        diverged = np.asarray(sums.pop("diverged"))
        record = {"step": np.asarray(state.step), "diverged": diverged}
        record |= {f"train_{k}": np.asarray(v) / (stop - at) for k, v in sums.items()}
        for split, measure in measures.items():
            values = measure(state).items()
            record |= {f"{split}_{k}": np.asarray(v) for k, v in values}
        records.append(record)
        at = stop
        watch(state, record)
    curves = {k: np.stack([r[k] for r in records], -1) for k in records[0]}
    return state, {**curves, "diverged": curves["diverged"].min(-1)}
