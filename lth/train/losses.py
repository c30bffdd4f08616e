"""What is minimised and what is measured, from a network's outputs and targets."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lth import data
from lth.train.step import Loss


def classification(apply: Callable) -> tuple[Loss, Callable]:
    """Make the loss and the measure of an `apply` that gives logits of classes.

    Batches are pairs of inputs and targets, such as a `data.Dataset`.

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
    """Make the loss and the measure of an `apply` that gives one number.

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
        inputs, targets = data.pair(batch)
        outputs, stats = apply(params, stats, inputs, True, key)
        metrics = jax.tree.map(jnp.mean, score(outputs, targets))
        return metrics["loss"], (stats, metrics)

    def measure(params, stats, batch):
        inputs, targets = data.pair(batch)
        outputs, _ = apply(params, stats, inputs, False, None)
        values = score(outputs, targets)
        return jax.tree.map(lambda v: v.reshape(len(v), -1).mean(-1), values)

    return loss, measure
