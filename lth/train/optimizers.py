"""What Optax's optimizers hold: slots for each weight, and places in a schedule.

A slot is recognised by its place: a part of the state that has the tree of the params
holds one entry for each of them. Where a learning-rate schedule stands is known by the
type of the state, in the tables below. A state of your own is taken for moments, so
hold its schedule in one of Optax's states (`optax.scale_by_schedule`).
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lth import masks

# States of Optax by the names of their types: some are not exported, and not every
# version has all. The names of fields that say where a schedule stands, and of rates
# that follow the loss.
RATES = {
    "ScaleByScheduleState": ("count",),
    "WeightDecaySchedule": ("count",),
    "WrappedScheduleState": ("count",),
    "InjectHyperparamsState": ("count", "hyperparams"),
    "InjectStatefulHyperparamsState": ("count", "hyperparams", "hyperparams_states"),
    "ReduceLROnPlateauState": (
        "scale",
        "best_value",
        "plateau_count",
        "cooldown_count",
        "count",
        "avg_value",
    ),
    "ScheduleFreeState": ("step_count",),
    "MadgradState": ("count",),
    "ScaleByAdemamixState": ("count_m2",),
    "AddNoiseState": ("count",),
    "ConditionallyTransformState": ("step",),
    "ConditionallyMaskState": ("step",),
    "ScaleByBacktrackingLinesearchState": ("learning_rate",),
    "ScaleByZoomLinesearchState": ("learning_rate",),
}
# How many steps are accumulated belongs to the batches, which any rewinding replays.
BATCHES = {"MultiStepsState": ("gradient_step",)}
# Counts that a learning rate is read at, and what they are before the first step.
COUNTS = {
    "ScaleByScheduleState": ("count", 0),
    "WeightDecaySchedule": ("count", 0),
    "WrappedScheduleState": ("count", 0),
    "ScheduleFreeState": ("step_count", 1),
    "MadgradState": ("count", 0),
    "MomoState": ("count", 0),
    "MomoAdamState": ("count", 0),
    "ProdigyState": ("count", 0),
    "DAdaptAdamWState": ("count", 0),
}
_MIXED = "one count places its schedule and its moments"
_FOUND = "it finds its step sizes itself, and holds them with its moments"
# Optimizers whose schedule or step size cannot be set apart from their moments.
ONE_PIECE = {
    "MomoState": ("optax.contrib.momo", _MIXED),
    "MomoAdamState": ("optax.contrib.momo_adam", _MIXED),
    "ProdigyState": ("optax.contrib.prodigy", _FOUND),
    "DAdaptAdamWState": ("optax.contrib.dadapt_adamw", _FOUND),
    "DoGState": ("optax.contrib.dog", _FOUND),
    "DoWGState": ("optax.contrib.dowg", _FOUND),
    "COCOBState": ("optax.contrib.cocob", _FOUND),
    "MechanicState": ("optax.contrib.mechanize", _FOUND),
    "ScaleByRpropState": ("optax.rprop", _FOUND),
    "ScaleByDistanceOverGradientsState": (
        "optax.scale_by_distance_over_gradients",
        _FOUND,
    ),
}
# Within these, a schedule moves at some of the steps only.
SELDOM = {
    "ConditionallyTransformState": "optax.conditionally_transform",
    "ConditionallyMaskState": "optax.conditionally_mask",
    "SAMState": "optax.contrib.sam",
}
REFUSED = {
    "LookaheadState": "optax.lookahead trains pairs of params, fast and slow: take its "
    "fast optimizer, or optax.contrib.schedule_free, which averages too",
    "DifferentiallyPrivateAggregateState": "optax.contrib.dpsgd and "
    "differentially_private_aggregate ask for a gradient of each example, and here "
    "there is one of the batch: take optax.noisy_sgd",
}
KNOWN = {*RATES, *BATCHES, *COUNTS, *ONE_PIECE, *SELDOM}


def with_extras(tx: Any) -> optax.GradientTransformationExtraArgs:
    """Let `tx` be given more than gradients, which it may leave unread."""
    # `optax.MultiSteps` passes on what it is given, but its type does not say so.
    accumulated = isinstance(getattr(tx.update, "__self__", None), optax.MultiSteps)
    if accumulated:
        return optax.GradientTransformationExtraArgs(tx.init, tx.update)
    return optax.with_extra_args_support(tx)


def extras(
    opt_state: Any, value: jax.Array, grads: Any, value_fn: Callable
) -> dict[str, Any]:
    """Return what Optax's optimizers ask for beyond gradients, by name.

    Few are content with what others ask for, so the state says which are there.

    Args:
      opt_state: of the optimizer.
      value: [], the loss of the batch.
      grads: its masked gradient, a tree like the params.
      value_fn: `value_fn(params)` is the loss of the same batch at other params.

    Returns:
      The keyword arguments of `tx.update`.
    """
    if _nodes(opt_state, ("SAMState",)):
        return {"grad_fn": lambda params, step: jax.grad(value_fn)(params)}
    given = {"value": value, "grad": grads, "value_fn": value_fn}
    # Sophia's estimate of the curvature calls it by another name.
    return given | ({"obj_fn": value_fn} if _nodes(opt_state, ("SophiaState",)) else {})


def check(opt_state: Any, params: masks.Params) -> None:
    """Refuse by name an optimizer that cannot be trained under a mask.

    Raises ValueError with the reason and what to take instead.
    """
    for path, state in _nodes(opt_state, REFUSED):
        raise ValueError(f"{REFUSED[_name(state)]} (opt_state{path})")
    leaves = jax.tree.leaves(params)
    total = sum(jnp.size(leaf) for leaf in leaves)

    def like(node):
        return _like(node, params)

    for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state, is_leaf=like):
        flat = len(leaves) > 1 and not like(leaf) and jnp.shape(leaf) == (total,)
        if flat and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            raise ValueError(
                f"opt_state{jax.tree_util.keystr(path)} holds the slots of all "
                f"{total} params in one vector, as under optax.flatten, where those "
                "of pruned weights cannot be found: take the optimizer without it"
            )


def masked_slots(opt_state: Any, mask: masks.Mask) -> Any:
    """Put exactly 0 into an optimizer's slots of every pruned weight.

    Slots that are stacked, as in the memories of L-BFGS, lead with one more axis.
    """

    def slot(value, keep):
        if _empty(value) or keep is None or jnp.issubdtype(value.dtype, jnp.integer):
            return value  # left out by `optax.masked`, not prunable, a count or a key
        shape = jnp.shape(value)
        if shape == (*shape[:1], *keep.shape):
            keep = keep[None]
        elif shape != keep.shape:
            return value  # no slot per weight (factored moments)
        return jnp.where(keep, value, jnp.zeros_like(value))

    def part(node):
        if not _like(node, mask):
            return node
        return jax.tree.map(slot, node, mask, is_leaf=_empty)

    return jax.tree.map(part, opt_state, is_leaf=lambda node: _like(node, mask))


def _empty(value: Any) -> bool:
    # `optax.masked` and `optax.partition` leave leaves out.
    return value is None or isinstance(value, optax.MaskedNode)


def _like(node: Any, tree: Any) -> bool:
    """Whether a node of a state holds an entry for each leaf of `tree`.

    A leaf is an array, `None`, or left out, and then may stand for all below it.
    """
    leaves, structure = jax.tree.flatten(node, is_leaf=_empty)
    try:
        parts = structure.flatten_up_to(tree)
    except (TypeError, ValueError):
        return False
    pairs = zip(leaves, parts, strict=True)
    return all(_empty(a) or b is None or hasattr(b, "shape") for a, b in pairs)


def taken(
    opt_state: Any,
    source: Any,
    fields: Mapping[str, tuple[str, ...]],
    one_piece: Mapping[str, tuple[str, str]] = ONE_PIECE,
) -> Any:
    """Return `opt_state` with the `fields` of `source`, and nothing else of it.

    Args:
      opt_state: a state of an optimizer.
      source: another one of the same optimizer.
      fields: from the name of a state's type to the names of its fields, as in `RATES`.
      one_piece: from the name of a state's type to the optimizer it belongs to and the
        reason to refuse it.

    Returns:
      A state like `opt_state`.

    Raises:
      ValueError: by name, for an optimizer of `one_piece`, whose schedule cannot be set
        apart from its moments.
    """

    def take(mine, theirs, clock):
        if _name(mine) in one_piece:
            name, why = one_piece[_name(mine)]
            raise ValueError(
                f"the learning rate of {name} cannot be rewound alone: {why}. "
                "rewind.weights rewinds all of it, and rewind.finetune nothing"
            )
        names = fields.get(_name(mine), ())
        return mine._replace(**{name: getattr(theirs, name) for name in names})

    return _walk(take, opt_state, source, None)


def with_schedule(opt_state: Any, source: Any) -> Any:
    """Return `opt_state` with the schedule positions of `source`: see `rewind`."""
    return taken(opt_state, source, RATES | BATCHES)


def at_step(opt_state: Any, step: int) -> Any:
    """Set the schedules of a fresh `opt_state` where they stand after `step` steps.

    Moments stay as they are. Raises ValueError, by name, for a schedule that moves at
    some of the steps only, or cannot be set apart from moments.
    """

    def ahead(mine, _, clock):
        opaque = _name(mine) == "SAMState" and mine.cache is None
        if _name(mine) in ONE_PIECE or (_name(mine) in SELDOM and not opaque):
            raise ValueError(
                f"where {_name(mine)} stands after {step} steps is not known without "
                "its moments"
            )
        if _name(mine) not in COUNTS:
            return mine
        name, first = COUNTS[_name(mine)]
        return mine._replace(**{name: jnp.full_like(getattr(mine, name), first + step)})

    return _walk(ahead, opt_state, opt_state, None)


def stepped_back(opt_state: Any) -> Any:
    """Set the schedules of `opt_state` where the last step found them, not left them.

    Under `waiting` they stay there. Raises ValueError, by name, for a schedule that
    moves at some of the steps only, which cannot be made to wait.
    """

    def back(mine, _, clock):
        opaque = _name(mine) == "SAMState" and mine.cache is None
        if _name(mine) in SELDOM and not opaque and _nodes(mine, COUNTS):
            raise ValueError(
                f"a schedule inside {SELDOM[_name(mine)]} moves at some of the "
                "steps only and cannot be held at the last rate that trained: put the "
                "schedule outside it, as optax.scale_by_schedule in a chain"
            )
        if _name(mine) not in COUNTS:
            return mine
        name, first = COUNTS[_name(mine)]
        return mine._replace(**{name: jnp.maximum(getattr(mine, name) - 1, first)})

    return _walk(back, opt_state, opt_state, None)


def waiting(opt_state: Any, before: Any, step: jax.Array) -> Any:
    """Keep schedules that stood ahead of `step` as they were `before` it.

    All else is that of `opt_state`. Trained from the start, a schedule is never ahead:
    only after `stepped_back`, in a state that is put back to an earlier step.
    """

    def wait(mine, old, clock):
        if _name(mine) not in COUNTS:
            return mine
        name, first = COUNTS[_name(mine)]
        was, now = getattr(old, name), getattr(mine, name)
        return mine._replace(**{name: jnp.where(was > clock + first, was, now)})

    return _walk(wait, opt_state, before, step)


def _walk(change: Callable, mine: Any, theirs: Any, clock: Any) -> Any:
    """`mine` with `change(node, its like in theirs, clock)` for each known node."""

    def node(mine, theirs):
        if _name(mine) not in KNOWN:
            return mine
        within = clock
        if clock is not None and _name(mine) == "MultiStepsState":
            within = theirs.gradient_step  # there a schedule counts these
        pairs = (
            (name, getattr(mine, name), getattr(theirs, name)) for name in mine._fields
        )
        inner = {name: _walk(change, a, b, within) for name, a, b in pairs}
        return change(mine._replace(**inner), theirs, clock)

    return jax.tree.map(node, mine, theirs, is_leaf=lambda x: _name(x) in KNOWN)


def _nodes(opt_state: Any, names: Collection[str]) -> list[tuple[str, Any]]:
    """The parts of a state with types of these names, outermost alone, and paths."""
    found = jax.tree_util.tree_leaves_with_path(
        opt_state, is_leaf=lambda x: _name(x) in names
    )
    return [(jax.tree_util.keystr(path), x) for path, x in found if _name(x) in names]


def _name(state: Any) -> str:
    """The name of a state's type, if it is one of Optax's."""
    kind = type(state)
    return kind.__name__ if kind.__module__.startswith("optax.") else ""
