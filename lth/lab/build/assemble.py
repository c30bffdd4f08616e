"""From the configuration of an experiment to the functions and arrays it is made of."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lth import masks, train
from lth.lab import devices
from lth.lab.build import learners, networks, ranking, targets, tasks
from lth.lab.config import parse, validate
from lth.lab.devices import memory
from lth.lab.config import ConfigError, Experiment
from lth.train import TrainState

# What a replicate's randomness is for; each folds into the replicate's key.
INIT, TRAIN, PRUNE, REINIT, SHUFFLE, LEARN, SHUFFLE_GLOBAL = range(7)


class Learner(NamedTuple):
    """How the masks of an experiment are learned; all lead with the replicate."""

    init: Callable[[jax.Array], TrainState]  # keys [r] -> states that hold scores
    train: Callable[[TrainState, masks.Mask, int], Any]
    measures: dict[str, Callable[[TrainState], Any]]
    # (states, keys [r]) -> masks, params and stats of the ordinary network
    found: Callable[[TrainState, jax.Array], tuple[masks.Mask, Any, Any]]


class Parts(NamedTuple):
    """What an experiment is made of; states and masks lead with the replicate."""

    init: Callable[[jax.Array], TrainState]  # keys [r] -> states
    tx: optax.GradientTransformation
    train: Callable[[TrainState, masks.Mask, int], Any]
    # (params where the training began, state, mask, keys [r]) -> scores
    scores: Callable[[masks.Params, TrainState, masks.Mask, jax.Array], masks.Scores]
    keep: Callable[[masks.Scores, masks.Mask, masks.Density], masks.Mask]  # of one
    measures: dict[str, Callable[[TrainState], Any]]
    data: str  # a digest of the arrays
    examples: networks.Examples
    mask: masks.Mask  # all ones
    densities: list[masks.Density]  # of levels 1, 2, …
    steps: int
    rewind_to: int
    stops: list[int]  # where to measure
    checkpoints: dict[str, int]  # name -> step of the dense training
    replicates: list[int]
    learner: Learner | None  # of what learns its masks


def keys(replicates: list[int], stream: int, level: int = 0) -> jax.Array:
    """A key [r] per replicate for one purpose at one level, from the numbers alone."""
    return _keys(np.asarray(replicates), stream, level)


@jax.jit
def _keys(replicates, stream, level):
    def one(replicate):
        key = jax.random.fold_in(jax.random.key(replicate), stream)
        return jax.random.fold_in(key, level)

    return jax.vmap(one)(replicates)


def build(
    e: Experiment, data_dir: str | Path | None = None, over: str = "replicates"
) -> Parts:
    """Read the data and make the functions of an experiment.

    With several devices, `over` says what is spread over them: replicates, or each
    batch. Raises ConfigError for what cannot be run, before anything is compiled, and
    DataError for data that is missing or damaged.
    """
    validate.check(e)
    plan = devices.plan(e.replicates, over)
    if over == "batch" and e.batch_size % plan.mesh.size:
        raise ConfigError(
            f"--batch-size is a multiple of the {plan.mesh.size} devices it is spread "
            f"over; got {e.batch_size}"
        )
    task = tasks.load(e, data_dir, partial(devices.share, plan))
    epoch = math.ceil(task.size / e.batch_size)
    steps, rewind_to, stops, checkpoints = _times(e, epoch)
    tx = networks.optimizer(e.optimizer, epoch, steps)
    init = partial(train.init_state, task.model.init, tx)
    try:
        like = jax.eval_shape(init, jax.random.key(0))
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ConfigError(
            f"--model.name {e.model.name} does not fit examples of shape "
            f"{task.examples.shape}, --data.name {e.data.name}: {error}"
        ) from error
    _check_memory(e, plan, like)
    try:
        mask = targets.prunable(e, like.params)
        levels = targets.densities(e, mask)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"--prune: {error}") from None
    replicates = [e.first_replicate + i for i in range(e.replicates)]
    step, measures = _programs(task, tx, plan, keys(replicates, TRAIN))
    scores = _scores(e, task, plan)
    return Parts(
        init=jax.jit(jax.vmap(init)),
        tx=tx,
        train=step,
        scores=scores,
        keep=ranking.make_keep(e),
        measures=measures,
        data=task.digest,
        examples=task.examples,
        mask=jax.tree.map(lambda m: jnp.ones((e.replicates, *m.shape), bool), mask),
        densities=levels,
        steps=steps,
        rewind_to=rewind_to,
        stops=stops,
        checkpoints=checkpoints,
        replicates=replicates,
        learner=_learner(e, task, plan, mask, epoch, steps, replicates),
    )


def _learner(e, task, plan, mask, epoch, steps, replicates) -> Learner | None:
    if e.learn.method == "none":
        return None
    learned = learners.learner(e, task.model, mask, steps)
    tx = learners.optimizer(e, epoch, steps)
    init = partial(train.init_state, learned.model.init, tx)
    _check_memory(e, plan, jax.eval_shape(init, jax.random.key(0)))
    step, measures = _programs(
        learners.learned_task(e, task, learned), tx, plan, keys(replicates, LEARN)
    )

    def found(state, key):
        mask = learned.choose(state.params, state.stats, key)
        weights = learned.weights(state.params, state.stats, mask)
        return mask, weights, state.stats.inner

    def density(state):
        mask = learned.choose(state.params, state.stats, jax.random.key(0))
        return {"density": masks.density(mask)}

    return Learner(
        init=jax.jit(jax.vmap(init)),
        train=step,
        measures={**measures, "mask": jax.jit(jax.vmap(density))},
        found=jax.jit(jax.vmap(found)),
    )


def _programs(task: tasks.Task, tx, plan: devices.Plan, order: jax.Array):
    """What is compiled: `train(state, mask, n)`, and what measures a state by split."""
    sample = devices.split_batch(plan, task.sample)
    step = devices.spread(
        plan,
        train.make_train(task.loss, sample, tx),
        (0, 0, None, 0, None),
        donate=True,
    )
    # What a chunk of images becomes inside a network fits a CPU's cache so.
    chunk = 250 if jax.default_backend() == "cpu" else 1000
    measure = train.make_evaluate(task.measure, chunk)
    evaluate = devices.spread(plan, measure, (0, 0, None))

    def trained(state, mask, n):
        at, totals = int(np.ravel(state.step)[0]), None
        for block, length in task.blocks(order[0], at, at + n):
            state, sums = step(state, mask, block, order, np.int32(length))
            totals = sums if totals is None else train.add_sums(totals, sums)
        return state, totals

    def measured(split, state):
        found = []
        for part in task.parts[split]():
            values = evaluate(state.params, state.stats, part)
            found.append((values, len(part.targets)))
        return train.weighted_mean(found)

    return trained, {name: partial(measured, name) for name in task.parts}


def _scores(e: Experiment, task: tasks.Task, plan: devices.Plan) -> Callable:
    """`scores(initial, state, mask, keys)` of all replicates."""
    program = devices.spread(plan, ranking.make_scores(e, task), (0, 0, 0, 0, None))

    def scores(initial, state, mask, keys):
        block, _ = next(task.blocks(keys[0], 0, e.prune.batches))
        with ranking.precision(e):
            return program(initial, state, mask, keys, block)

    return scores


def _check_memory(e: Experiment, plan: devices.Plan, like: TrainState) -> None:
    """Refuse a network whose weights alone fill the memory of a device."""

    def size(tree):
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

    # A device holds the early state, the last ticket's and the one in training, of all
    # replicates (see `devices`), and the gradients of those it trains.
    trained = e.replicates
    if plan.over == "replicates":
        trained = math.ceil(e.replicates / plan.mesh.size)
    memory.check_bytes(
        3 * e.replicates * size(like) + trained * size(like.params),
        f"training {e.model.name} ({e.replicates} replicates)",
    )


def _times(e: Experiment, epoch: int) -> tuple[int, int, list[int], dict[str, int]]:
    """Steps: in all, of the rewind point, of measurements and checkpoints; checked."""
    steps = parse.parse_steps(e.steps, epoch, "--steps")
    every = parse.parse_steps(e.eval_every, epoch, "--eval-every")
    to = parse.parse_steps(e.rewind.to, epoch, "--rewind.to")
    if steps < 1:
        raise ConfigError(f"--steps is at least 1it; got {e.steps}")
    if steps * e.batch_size >= 2**32:
        raise ConfigError(
            f"--steps times --batch-size stays below 2**32; got {steps} x "
            f"{e.batch_size}"
        )
    if every < 1:
        raise ConfigError(f"--eval-every is at least 1it; got {e.eval_every}")
    if to >= steps:
        raise ConfigError(
            f"--rewind.to {e.rewind.to} (step {to}) is not before the end of training, "
            f"--steps {e.steps} (step {steps}): nothing would be left to retrain"
        )
    for flag, optimizer in (
        ("--optimizer.milestones", e.optimizer),
        ("--learn.optimizer.milestones", e.learn.optimizer),
    ):
        for item in parse.split_list(optimizer.milestones):
            if parse.parse_steps(item, epoch, flag) >= steps:
                raise ConfigError(
                    f"{flag} {item} is not before the end of training, --steps "
                    f"{e.steps} (step {steps})"
                )
    listed = {
        parse.parse_steps(item, epoch, "--checkpoint-at")
        for item in parse.split_list(e.checkpoint_at)
    }
    if max(listed, default=0) > steps:
        raise ConfigError(
            f"--checkpoint-at {max(listed)} is beyond the end of training, "
            f"--steps {e.steps} (step {steps})"
        )
    checkpoints = {f"step_{step}": step for step in sorted(listed)}
    stops = [*range(every, steps, every), steps]
    return steps, to, stops, {"init": 0, **checkpoints, "early": to}
