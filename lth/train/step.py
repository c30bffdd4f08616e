"""Training: one step, and many of them in one compiled loop.

Everything that varies between the trainings of an experiment (state, mask, data, key,
number of steps) is an argument, so one compiled program serves every level, density and
way of rewinding.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lth import masks
from lth.train import optimizers

NEVER = np.int32(2**31 - 1)  # as a step: has not happened
Stats = Any  # a tree: batch-norm averages and other state that gradients do not train
Loss = Callable[..., tuple[jax.Array, tuple[Stats, dict[str, jax.Array]]]]
Metrics = dict[str, Any]


class TrainState(NamedTuple):
    """Holds all that training changes.

    Masks are not in it: training never changes them.
    """

    step: jax.Array  # [], int32: batches seen since initialisation
    params: masks.Params
    stats: Stats
    opt_state: Any


def init_state(
    init: Callable[[jax.Array], tuple[masks.Params, Stats]],
    tx: optax.GradientTransformation,
    key: jax.Array,
) -> TrainState:
    """Draw a network by `init(key) -> (params, stats)`, at step 0."""
    params, stats = init(key)
    return TrainState(jnp.int32(0), params, stats, tx.init(params))


def make_train(loss: Loss, sample: Callable, tx: optax.GradientTransformation):
    """Make `train(state, mask, data, key, n, sums=None) -> (state, sums)`: `n` steps.

    They are one loop.

    A step draws its batch from (key, step), takes the gradient at the masked params,
    masks it, and masks params and optimizer slots after the update, so that what is
    pruned is exactly 0 under any optimizer. One that asks for them is given the batch's
    `value`, its masked `grad`, and `value_fn(params)`, the loss of the same batch at
    other params, masked too. A schedule that stands ahead of the step stays where it is
    (`rewind.finetune` puts it there).

    `sums` holds the sum over the steps of each metric of `loss`, and under `diverged`
    the first step whose loss was not finite, or `NEVER`. Given the sums of the steps
    before, it goes on adding to them: 13 steps and 27 are 40, also in their last bit.
    Jit it, and the loop is compiled; do so after `vmap` for replicates. It may be given
    its `state` to donate: `fit` hands it a copy first, so that what is rewound to stays
    whole. Where an optimizer cannot be trained so, it raises ValueError, by name, when
    it is first called.
    """
    # The slots are masked where the next step reads them, not where this one writes
    # them: the same values, but XLA then updates them in place (a masked Adam step took
    # 1.17 times an unmasked one otherwise, and 1.01 times so).
    tx = optimizers.with_extras(tx)

    def train(state, mask, data, key, n, sums=None):
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
        if sums is None:
            (_, (_, metrics)), _ = jax.eval_shape(
                lambda s: gradient(s, drawn(s)), state
            )
            sums = no_sums(metrics)
        sums = dict(sums)
        carry = (state, sums, sums.pop("diverged"))
        state, sums, diverged = jax.lax.fori_loop(0, n, step, carry)
        return mask_slots(tx, state, mask), {**sums, "diverged": diverged}

    return train


def no_sums(metrics: Metrics, replicates: tuple[int, ...] = ()) -> Metrics:
    """Return the sums over no step, of metrics that have such shapes."""
    zeros = jax.tree.map(lambda m: jnp.zeros((*replicates, *m.shape), m.dtype), metrics)
    return {**zeros, "diverged": jnp.full(replicates, NEVER)}


def add_sums(one: Metrics, other: Metrics) -> Metrics:
    """Add the sums of two stretches of training up to those of the whole."""
    sums = {name: one[name] + other[name] for name in one if name != "diverged"}
    return {**sums, "diverged": jnp.minimum(one["diverged"], other["diverged"])}


def mask_slots(
    tx: optax.GradientTransformation, state: TrainState, mask: masks.Mask
) -> TrainState:
    """Put exactly 0 into the slots in `state` of every pruned weight."""
    return state._replace(opt_state=masked_slots(tx, state.opt_state, mask))


def masked_slots(
    tx: optax.GradientTransformation, opt_state: Any, mask: masks.Mask
) -> Any:
    """Put exactly 0 into an optimizer's slots of every pruned weight."""
    return optimizers.masked_slots(opt_state, mask)
