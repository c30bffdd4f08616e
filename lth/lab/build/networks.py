"""From the names in a configuration to a network and an optimizer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import optax

from lth import models
from lth.lab import config
from lth.lab.config import parse
from lth.lab.config import Model


class Examples(NamedTuple):
    """What a network takes and gives."""

    shape: tuple[int, ...]  # of one example
    classes: int  # 1 for a number


def _family(module: Callable[..., nn.Module], **fields: Any) -> Callable[..., Any]:
    """What builds a family of networks from the fields of a configuration.

    `module` is given those among them that it has.
    """

    def build(m: Model, examples: Examples, dtype: Any) -> nn.Module:
        given = {
            "classes": examples.classes,
            "widths": m.widths,
            "width": m.width,
            "initialiser": m.initialiser,
            "norm_scale": m.norm_scale,
            "dtype": dtype,
            "remat": m.remat,
            "length": examples.shape[0],
        }
        known = module.__dataclass_fields__  # type: ignore[attr-defined]
        deep = {"depth": m.depth} if m.depth else {}
        return module(**{n: v for n, v in given.items() if n in known} | fields | deep)

    return build


NETWORKS = {
    "mlp": _family(models.MLP),
    "lenet5": _family(models.LeNet5),
    **{f"conv{n}": _family(models.Conv, depth=n) for n in (2, 4, 6, 8)},
    **{f"vgg{n}": _family(models.VGG, depth=n) for n in (11, 13, 16, 19)},
    **{f"resnet{n}": _family(models.ResNet, depth=n) for n in (20, 32, 44, 56, 110)},
    "wrn16_4": _family(models.WideResNet, depth=16, widen=4),
    "wrn22_2": _family(models.WideResNet, depth=22, widen=2),
    **{
        f"resnet{n}_imagenet": _family(models.ImageNetResNet, depth=n) for n in (18, 50)
    },
    "vit": _family(models.ViT),
    "transformer": _family(models.Transformer),
}


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
    """The optimizer of a training of `steps` steps, `epoch` of them to an epoch.

    `flag` is what errors call it.
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
