"""Many tasks over the images of one data set: MNIST permuted, in pairs and in halves.

Of permuted images and pairs of digits, a network reads its inputs as the task that its
statistics name does, so that one compiled program serves all tasks, and a loss takes
the labels of that task.
"""

from collections import namedtuple
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from lth import data, models, train

# Beside its weights: in which order each task reads pixels, and which is learned.
Own = namedtuple("Own", "pixels task")


def mine(x: jax.Array, task: jax.Array) -> jax.Array:
    """Return what a task has of [n, tasks, ...], or of [n, 1, ...] that all share."""
    return x[:, jnp.minimum(task, x.shape[1] - 1)]


def examples(data_dir, pairs: bool) -> data.Splits:
    """Read MNIST, [n, 1, 784]; of pairs of digits an example has one of each, five."""

    def of(part):
        label = part.targets
        places = [np.flatnonzero(label // 2 == i) for i in range(5)]
        places = places if pairs else [np.arange(len(label))]
        table = np.stack([p[: min(map(len, places))] for p in places], 1)
        targets = label[table] % 2 if pairs else label[table]
        inputs = part.inputs.reshape(-1, 784)[table]
        return data.Dataset(jnp.asarray(inputs), jnp.asarray(targets))

    return data.Splits(*map(of, data.load("mnist", data_dir, 5000, 0)))


def network(outputs: int, tasks: int, pairs: bool, initialiser: str) -> models.Model:
    """Make a network that reads images as the task of its stats does."""
    module = models.MLP(classes=outputs, initialiser=initialiser)
    inner = models.standardized(models.from_linen(module, (784,)), 33.3, 78.6)

    def init(key):
        keys = jax.random.split(jax.random.fold_in(key, 1), tasks)
        orders = jax.vmap(lambda k: jax.random.permutation(k, 784))(keys)
        pixels = jnp.tile(jnp.arange(784), (tasks, 1)) if pairs else orders
        return inner.init(key)[0], Own(pixels, jnp.int32(0))

    def apply(params, own, inputs, train, key):
        image = mine(inputs, own.task)[:, own.pixels[own.task]]
        return inner.apply(params, {}, image, train, key)[0], own

    return models.Model(init, apply)


def after(stats) -> Own:
    """Return what the next task reads by, of the statistics of a model or a learner."""
    own = getattr(stats, "inner", stats)
    return own._replace(task=own.task + 1)


def classification(apply, count: int | None = None) -> tuple:
    """Return loss and measure of a task; of so many, also their mean so far."""
    loss, measure = (partial(labelled, of) for of in train.classification(apply))
    return loss, partial(seen, measure, count) if count else measure


def batches(part: data.Dataset, size: int, most: int) -> data.Dataset:
    """Cut examples into batches, [batches, size, ...], of as many as `most`."""
    n = min(len(part.targets) // size, most)
    cut = [x[: n * size].reshape(n, size, *x.shape[1:]) for x in part]
    return data.Dataset(*cut)


def labelled(of, params, stats, batch, *key):
    """Call a loss or measure with the labels of the task that its stats are of."""
    task = getattr(stats, "inner", stats).task
    return of(params, stats, batch._replace(targets=mine(batch.targets, task)), *key)


def seen(measure, tasks: int, params, own: Own, batch) -> dict[str, jax.Array]:
    """Measure also the tasks so far, in the mean."""
    every = jnp.arange(tasks)
    hits = jax.lax.map(
        lambda task: measure(params, own._replace(task=task), batch)["accuracy"], every
    )
    share = (every <= own.task) / (own.task + 1)
    return {**measure(params, own, batch), "seen": jnp.tensordot(share, hits, 1)}


@lru_cache(maxsize=2)
def five(data_dir, first: int) -> data.Splits:
    """Read five digits of MNIST; of the first five 10 000 to learn from."""
    every, chosen = data.load("mnist", data_dir, 5000, 0), range(first, first + 5)
    part = data.Splits(*(data.only_classes(each, chosen) for each in every))
    return part if first else part._replace(train=data.subsample(part.train, 10_000, 0))


def few_of_each(part: data.Dataset, few: int, batch_size: int):
    """Make batches of a few examples, as many of each class; the key chooses which."""
    target = np.asarray(part.targets)
    counts = np.bincount(target)
    size, classes = int(counts.min()), len(counts)
    listed = jnp.stack([np.flatnonzero(target == c)[:size] for c in range(classes)])
    batch = data.make_sample(batch_size, few * classes)

    def sample(key, step, whole):
        keys, first = jax.random.split(key, classes), jnp.arange(few, dtype=jnp.uint32)
        own = jax.vmap(lambda k, of: of[data.shuffled(k, first, size)])(keys, listed)
        places = batch(key, step, own.ravel())
        return jax.tree.map(lambda x: x[places], whole)

    return sample
