"""From the names in a configuration to a network and an optimizer."""

from typing import Any

import jax.numpy as jnp
import optax

from lth import models
from lth.lab import config
from lth.lab.build.names import NETWORKS, Examples
from lth.lab.config import Model, parse


def network(m: Model, examples: Examples) -> models.Model:
    """The untrained network of a configuration; it takes inputs ready for use.

    Raises ConfigError where it does not fit the examples.
    """
    module = NETWORKS[m.name](m, examples, jnp.dtype(m.compute))
    dtype = jnp.int32 if m.name == "transformer" else jnp.float32
    return models.from_linen(module, examples.shape, dtype)


def optimizer(
    o: config.Optimizer, epoch: int, steps: int, flag: str = "--optimizer"
) -> optax.GradientTransformation:
    """Make the optimizer of a training.

    Args:
      o: Its name and numbers.
      epoch: How many steps go to an epoch.
      steps: How many the training takes.
      flag: What errors call it.

    Returns:
      The optimizer.
    """
    rate = _schedule(o, epoch, steps, flag)
    if o.name == "adam":
        return (
            optax.adamw(rate, weight_decay=o.weight_decay)
            if o.weight_decay
            else optax.adam(rate)
        )
    decay = [optax.add_decayed_weights(o.weight_decay)] if o.weight_decay else []
    momentum = optax.sgd(rate, momentum=o.momentum or None, nesterov=o.nesterov)
    return optax.chain(*decay, momentum)


def _schedule(o: config.Optimizer, epoch: int, steps: int, flag: str) -> Any:
    """The learning rate: a number, or a function of the step."""
    warmup = parse.parse_steps(o.warmup, epoch, f"{flag}.warmup")
    drops = [
        parse.parse_steps(item, epoch, f"{flag}.milestones")
        for item in parse.split_list(o.milestones)
    ]

    def schedule(step):
        passed = sum(jnp.int32(step >= at) for at in drops)
        ramp = jnp.minimum(1, step / warmup) if warmup else 1
        rate = o.learning_rate * o.drop**passed * ramp
        if not o.cosine:
            return rate
        left = max(steps - warmup, 1)
        progress = jnp.clip((step - warmup) / left, 0, 1)
        return rate * 0.5 * (1 + jnp.cos(jnp.pi * progress))

    return schedule if warmup or drops or o.cosine else o.learning_rate
