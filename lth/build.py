"""From the configuration of an experiment to the functions and arrays it is made of."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lth import (
    allocation,
    checkpoint,
    config,
    data,
    masks,
    models,
    schedules,
    select,
    train,
)
from lth.config import ConfigError, Experiment
from lth.train import TrainState

# What a replicate's randomness is for; each folds into the replicate's key.
INIT, TRAIN, PRUNE, REINIT, SHUFFLE = range(5)


class Parts(NamedTuple):
    """What an experiment is made of; states and masks lead with the replicate."""

    init: Callable[[jax.Array], TrainState]  # keys [r] -> states
    tx: optax.GradientTransformation
    train: Callable[[TrainState, masks.Mask, int], Any]
    measures: dict[str, Callable[[TrainState], Any]]
    data: str  # a digest of the arrays
    mask: masks.Mask  # all ones
    densities: list[masks.Density]  # of levels 1, 2, …
    steps: int
    rewind_to: int
    stops: list[int]  # where to measure
    checkpoints: dict[str, int]  # name -> step of the dense training
    replicates: list[int]


def keys(replicates: list[int], stream: int, level: int = 0) -> jax.Array:
    """A key [r] per replicate for one purpose at one level, from the numbers alone."""

    def one(replicate):
        key = jax.random.fold_in(jax.random.key(replicate), stream)
        return jax.random.fold_in(key, level)

    return jax.vmap(one)(jnp.asarray(replicates))


def network(e: Experiment) -> models.Model:
    """The untrained model of an experiment; it takes inputs as floats."""
    source = data.SOURCES[e.data.name]
    module = models.MLP(e.model.widths, source.classes, e.model.initialiser)
    return models.from_linen(module, source.shape)


def optimizer(e: Experiment, epoch: int) -> optax.GradientTransformation:
    """The optimizer of an experiment, with `epoch` steps to an epoch."""
    o = e.optimizer
    warmup = config.parse_steps(o.warmup, epoch, "--optimizer.warmup")
    drops = [
        config.parse_steps(item, epoch, "--optimizer.milestones")
        for item in config.split_list(o.milestones)
    ]

    def schedule(step):
        passed = sum(jnp.int32(step >= at) for at in drops)
        return o.learning_rate * o.drop**passed * jnp.minimum(1, step / max(warmup, 1))

    rate = schedule if warmup or drops else o.learning_rate
    if o.name == "adam":
        return (
            optax.adamw(rate, weight_decay=o.weight_decay)
            if o.weight_decay
            else optax.adam(rate)
        )
    decay = [optax.add_decayed_weights(o.weight_decay)] if o.weight_decay else []
    return optax.chain(*decay, optax.sgd(rate, momentum=o.momentum or None))


def prunable(e: Experiment, params: masks.Params) -> masks.Mask:
    """The all-ones mask over what the experiment prunes."""
    chosen = {p for p, w in _leaves(params) if masks.is_kernel(p, w)}
    if e.prune.include:
        chosen |= set(masks.matching(e.prune.include, params))
    if e.prune.exclude:
        chosen -= set(masks.matching(e.prune.exclude, params))
    return masks.ones(params, lambda path, _: path in chosen)


def _leaves(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [(masks.name(path), leaf) for path, leaf in leaves]


def densities(e: Experiment, mask: masks.Mask) -> list[masks.Density]:
    """The density of each level, or the tree of densities by layer.

    Raises ConfigError for a level that would keep as many weights as the one before it.
    """
    rates = config.parse_rates(e.prune.rates)
    keep: Any = 1 - e.prune.rate
    if rates:
        kept = {pattern: 1 - rate for pattern, rate in rates.items()}
        keep = allocation.by_path(mask, keep, kept)
    levels = schedules.geometric(keep, e.levels)
    sizes = [leaf.size for leaf in jax.tree.leaves(mask)]
    if e.prune.scope == "global":
        sizes = [sum(sizes)]
    before = sum(sizes)
    for level, density in enumerate(levels, 1):
        given = jax.tree.leaves(density) if rates else [density] * len(sizes)
        kept = sum(map(select.round_count, given, sizes))
        if kept == before:
            raise ConfigError(
                f"--levels is at most {level - 1}: level {level} would keep "
                f"{kept} of {masks.size(mask)} weights like the level before it"
            )
        before = kept
    return levels


def build(e: Experiment, data_dir: str | Path | None = None) -> Parts:
    """Read the data and make the functions of an experiment.

    Raises ConfigError for what cannot be run, before anything is compiled, and
    DataError for data that is missing or damaged.
    """
    config.check(e)
    splits = data.load(e.data.name, data_dir, e.data.validation, e.data.split_seed)
    examples = len(splits.train.label)
    if e.batch_size > examples:
        raise ConfigError(
            f"--batch-size is at most the {examples} training examples; "
            f"got {e.batch_size}"
        )
    epoch = math.ceil(examples / e.batch_size)
    steps, rewind_to, stops, checkpoints = _times(e, epoch)
    tx, model = optimizer(e, epoch), _on_pixels(e, splits)
    replicates = [e.first_replicate + i for i in range(e.replicates)]
    like = jax.eval_shape(partial(train.init_state, model.init, tx), jax.random.key(0))
    try:
        mask = prunable(e, like.params)
        levels = densities(e, mask)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"--prune: {error}") from None
    step, measures = _programs(e, model, tx, splits, keys(replicates, TRAIN))
    return Parts(
        init=jax.jit(jax.vmap(partial(train.init_state, model.init, tx))),
        tx=tx,
        train=step,
        measures=measures,
        data=checkpoint.digest(splits),
        mask=jax.tree.map(lambda m: jnp.ones((e.replicates, *m.shape), bool), mask),
        densities=levels,
        steps=steps,
        rewind_to=rewind_to,
        stops=stops,
        checkpoints=checkpoints,
        replicates=replicates,
    )


def _programs(e, model, tx, splits, order):
    """What is compiled: `train(state, mask, n)`, and what measures a state by split."""
    loss, measure = train.classification(model.apply)
    sample = data.make_sample(e.batch_size, len(splits.train.label))
    chunk = 2 if jax.default_backend() == "cpu" else None
    step = jax.jit(train.together(train.make_train(loss, sample, tx), chunk))
    evaluate = jax.jit(jax.vmap(train.make_evaluate(measure), (0, 0, None)))
    splits = jax.device_put(splits)

    def measured(split):
        return lambda state: evaluate(state.params, state.stats, split)

    return (
        lambda state, mask, n: step(state, mask, splits.train, order, n),
        {"validation": measured(splits.validation), "test": measured(splits.test)},
    )


def _on_pixels(e: Experiment, splits: data.Splits) -> models.Model:
    pixels = splits.train.image
    if e.data.pixels == "unit":
        return models.standardized(network(e), 0.0, float(pixels.max()))
    return models.standardized(network(e), float(pixels.mean()), float(pixels.std()))


def _times(e: Experiment, epoch: int) -> tuple[int, int, list[int], dict[str, int]]:
    """Steps: in all, of the rewind point, of measurements and checkpoints; checked."""
    steps = config.parse_steps(e.steps, epoch, "--steps")
    every = config.parse_steps(e.eval_every, epoch, "--eval-every")
    to = config.parse_steps(e.rewind.to, epoch, "--rewind.to")
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
    for item in config.split_list(e.optimizer.milestones):
        if config.parse_steps(item, epoch, "--optimizer.milestones") >= steps:
            raise ConfigError(
                f"--optimizer.milestones {item} is not before the end of training, "
                f"--steps {e.steps} (step {steps})"
            )
    listed = {
        config.parse_steps(item, epoch, "--checkpoint-at")
        for item in config.split_list(e.checkpoint_at)
    }
    if max(listed, default=0) > steps:
        raise ConfigError(
            f"--checkpoint-at {max(listed)} is beyond the end of training, "
            f"--steps {e.steps} (step {steps})"
        )
    checkpoints = {f"step_{step}": step for step in sorted(listed)}
    stops = [*range(every, steps, every), steps]
    return steps, to, stops, {"init": 0, **checkpoints, "early": to}
