"""Sparsity during training: a mask that changes by a rule, as an Optax transformation.

    tx = dynamic.sparsify(optax.adam(1e-3), rules.rigl(0.1, end_step=3000))

The mask, its randomness and a record of every update are part of the optimizer's state.
So `train.make_train` needs no change, and neither does anybody else's loop: gradients
go in at the masked params, all of them, and updates come out that leave exactly 0 where
the mask prunes. Start from `masked(params, opt_state)`.

Updates are to reach the params as they come out, or what is pruned is not 0. Hence what
rescales or averages them goes inside: `sparsify(optax.chain(adam, scale), rule)`.

| around `sparsify`                                   | what happens               |
|-----------------------------------------------------|----------------------------|
| nothing; `inject_hyperparams`                       | exact zeros                |
| `chain`, `named_chain`, with `sparsify` last        | exact zeros; slots of what |
|                                                     | stands before see all      |
| `MultiSteps`, `apply_if_finite`                     | exact zeros; a step is one |
|                                                     | that they let through      |
| all else, such as a chain that goes on after it,    | `masked`, `state_of` and   |
| `optax.masked` and `partition`                      | `records` refuse           |

Steps are counted in those of the optimizer, from 1. Where the mask is to change at step
t, it is chosen by the weights before the t-th step and by that step's gradients, and
the step is taken under it. A change at step 0 is part of `init`. Rules are in `rules`.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lth import masks, train
from lth.masks import Mask, Params, refresh
from lth.train import optimizers


class Rule(NamedTuple):
    """Says when and how a mask changes."""

    start: Callable[[Params, Mask, jax.Array], Mask]  # (params, all ones, key)
    # (step, params, mask, gradients at all weights, key) -> mask
    update: Callable[[jax.Array, Params, Mask, Params, jax.Array], Mask]
    when: Callable[[jax.Array], jax.Array]  # step -> whether the mask changes there
    updates: int  # how often that is
    skips: bool = False  # whether the weights stay put at an update of the mask
    # step -> whether the optimizer starts afresh there, before it moves the weights
    resets: Callable[[jax.Array], jax.Array] | None = None


class Log(NamedTuple):
    """Holds what each update of the mask did, in arrays [updates]; leaves by leaf."""

    step: jax.Array  # int32, -1 where the update is still to come
    kept: Any  # int32
    pruned: Any  # int32: kept before, not after
    grown: Any  # int32: kept after, not before
    threshold: Any  # the smallest |w| of those that stayed


class SparseState(NamedTuple):
    """Holds the state of `sparsify`."""

    inner: Any
    mask: Mask
    step: jax.Array
    key: jax.Array  # uint32, the data of a PRNG key
    log: Log


def sparsify(
    tx: optax.GradientTransformation,
    rule: Rule,
    prunable: Callable[[str, jax.Array], bool] = masks.is_kernel,
    key: jax.Array | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Put `tx` under a mask that follows `rule`.

    What is pruned has gradient, update and slots of 0, whatever `tx` is; what is grown
    starts at 0 with slots of 0. What comes after it would change the moves that bring
    weights to 0: the module says what may stand around it.

    Args:
      tx: the optimizer, all of it.
      rule: when and how the mask changes (`rules`).
      prunable: as in `masks.ones`.
      key: for rules that draw at random: give each replicate its own.

    Returns:
      An optimizer of state `SparseState`. Its `update` needs the params, and raises
      ValueError without them.
    """
    seed = jax.random.key_data(jax.random.key(0) if key is None else key)
    tx = optimizers.with_extras(tx)

    def init(params):
        return _begin(tx, rule, prunable, params, seed)

    def afresh(inner, params):
        return optimizers.with_schedule(tx.init(params), inner)

    def update(updates, state, params=None, **extra):
        grads: Any = updates
        if params is None:
            raise ValueError("a rule needs params: tx.update(grads, state, params)")
        step, mask, log = state.step + 1, state.mask, state.log
        now = rule.when(step)

        def change(masks_and_log, given):
            old, _, log = masks_and_log
            params, grads, key = given
            new = rule.update(step, params, old, grads, _folded(key, step))
            both = jax.tree.map(jnp.logical_and, old, new)
            return new, both, _logged(log, step, params, old, new)

        # What is kept before and after is stored at each change. Worked out from both
        # masks wherever it is used, it took a tenth of every step.
        settled = mask
        if rule.updates:
            mask, settled, log = refresh.cond_any(
                now, change, (mask, settled, log), (params, grads, state.key)
            )
        inner = train.masked_slots(tx, state.inner, settled)
        if rule.resets:
            inner = refresh.cond_any(rule.resets(step), afresh, inner, params)
        moves, inner = tx.update(masks.apply(grads, settled), inner, params, **extra)
        if rule.skips:
            moves = jax.tree.map(lambda u: jnp.where(now, jnp.zeros_like(u), u), moves)
        moves = _leaving_zero(moves, params, settled)
        return moves, SparseState(inner, mask, step, state.key, log)

    return optax.GradientTransformationExtraArgs(init, update)


def _begin(tx, rule, prunable, params, seed) -> SparseState:
    if not jax.tree.leaves(params):  # Optax asks for the shape of the state
        log = Log(jnp.int32(0), *(params,) * 4)
        return SparseState(tx.init(params), params, jnp.int32(0), seed, log)
    ones = masks.ones(params, prunable)
    mask = rule.start(params, ones, _folded(seed, 0))
    mask = jax.tree.map(jnp.logical_and, mask, ones)
    counts = jax.tree.map(lambda m: jnp.zeros(rule.updates, jnp.int32), ones)
    sizes = jax.tree.map(lambda m: jnp.zeros(rule.updates, jnp.float32), ones)
    never = jnp.full(rule.updates, -1, jnp.int32)
    log = Log(never, counts, counts, counts, sizes)
    if rule.updates and rule.when(0):
        log = _logged(log, jnp.int32(0), params, ones, mask)
    return SparseState(tx.init(params), mask, jnp.int32(0), seed, log)


def _folded(seed: jax.Array, step: Any) -> jax.Array:
    return jax.random.fold_in(jax.random.wrap_key_data(seed), step)


def _leaving_zero(updates: Params, params: Params, settled: Mask) -> Params:
    """Updates that bring to exactly 0 what is pruned, and what is grown as well."""

    def leaf(u, p, keep):
        return u if keep is None else jnp.where(keep, u, -p)

    return jax.tree.map(leaf, updates, params, settled)


def _logged(log: Log, step: jax.Array, params: Params, old: Mask, new: Mask) -> Log:
    place = jnp.argmin(log.step)  # the first that is still -1

    def count(function):
        return jax.tree.map(
            lambda a, b: jnp.sum(function(a, b), dtype=jnp.int32), old, new
        )

    def smallest(w, a, b):
        return None if a is None else jnp.min(jnp.where(a & b, jnp.abs(w), jnp.inf))

    values = Log(
        step,
        count(lambda a, b: b),
        count(lambda a, b: a & ~b),
        count(lambda a, b: b & ~a),
        jax.tree.map(smallest, params, old, new),
    )
    return jax.tree.map(lambda all_, one: all_.at[place].set(one), log, values)


def state_of(opt_state: Any) -> SparseState:
    """Return the state of `sparsify` inside an optimizer's state.

    Raises ValueError unless there is exactly one, and nothing around it that may change
    its updates.
    """
    found = _sparse(opt_state)
    if len(found) != 1:
        raise ValueError(f"one sparsified optimizer is needed; there are {len(found)}")
    _check_outermost(opt_state)
    return found[0]


# States of optimizers that let updates through unchanged or not at all; beside them
# `MultiSteps`, whose inner state has another name.
GATES = (
    optax.ApplyIfFiniteState,
    optax.InjectHyperparamsState,
    optax.InjectStatefulHyperparamsState,
)


def _sparse(opt_state: Any) -> list[SparseState]:
    def known(x):
        return isinstance(x, SparseState)

    return [x for x in jax.tree.leaves(opt_state, is_leaf=known) if known(x)]


def _check_outermost(state: Any) -> None:
    """Refuse states in which `sparsify` has not the last word about updates."""
    while not isinstance(state, SparseState):
        if isinstance(state, optax.MultiStepsState):
            state = state.inner_opt_state
            continue
        if isinstance(state, GATES):
            state = state.inner_state
            continue
        what, after = f"what holds it ({type(state).__name__})", [state]
        if type(state) is tuple or isinstance(state, OrderedDict):  # optax.chain
            parts = list(state.values() if isinstance(state, OrderedDict) else state)
            place = max(i for i, part in enumerate(parts) if _sparse(part))
            state, after = parts[place], parts[place + 1 :]
            names = ", ".join(type(part).__name__ for part in after)
            what = f"what comes after it in its chain ({names})"
        if after:
            raise ValueError(
                f"sparsify has not the last word: {what} may change its updates, and "
                "what is pruned would not be 0; write sparsify(optax.chain(…), rule), "
                "with all of the optimizer inside"
            )


def masked(params: Params, opt_state: Any) -> Params:
    """Put the params under the mask of a sparsified optimizer, to start from.

    Of a Flax NNX model, `nnx.update(model, masked(nnx.state(model, nnx.Param),
    optimizer.opt_state))`. Raises ValueError where what stands around `sparsify` would
    undo the mask.
    """

    def absent(x):
        return x is None

    # `nnx.Optimizer` has its state in boxes of its own: the same leaves, as `params`.
    keep = jax.tree.leaves(state_of(opt_state).mask, is_leaf=absent)
    boxes = jax.tree.structure(params, is_leaf=absent)
    return masks.apply(params, jax.tree.unflatten(boxes, keep))


def records(opt_state: Any) -> list[dict[str, Any]]:
    """Return the updates of the mask so far: a row for each and each leaf.

    `step`, `path`, `density`, `kept`, `pruned`, `grown`, and `threshold`, the smallest
    |w| of those that stayed.
    """
    state = state_of(opt_state)
    sizes = [leaf.size for leaf in jax.tree.leaves(state.mask)]
    columns = {
        name: [np.asarray(x) for x in jax.tree.leaves(getattr(state.log, name))]
        for name in ("kept", "pruned", "grown", "threshold")
    }
    rows = []
    for i, step in enumerate(np.asarray(state.log.step).tolist()):
        for j, path in enumerate(masks.paths(state.mask)):
            if step < 0:
                continue
            values = {name: column[j][i].item() for name, column in columns.items()}
            density = values["kept"] / sizes[j]
            rows.append({"step": step, "path": path, "density": density, **values})
    return rows
