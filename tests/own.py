"""A recipe whose every part is a plain function, small enough to run in seconds."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lth
from lth import models

INPUTS, OUTPUTS = 4, 3


def model(width: int = 6) -> models.Model:
    def init(key):
        one, two = jax.random.split(key)
        first = jax.random.normal(one, (INPUTS * width,)).reshape(INPUTS, width)
        last = jax.random.normal(two, (width * OUTPUTS,)).reshape(width, OUTPUTS)
        return {"first": {"kernel": first * 0.5}, "last": {"kernel": last * 0.5}}, {}

    def apply(params, stats, inputs, train, key):
        hidden = jax.nn.relu(inputs @ params["first"]["kernel"])
        return hidden @ params["last"]["kernel"], stats

    return models.Model(init, apply)


def splits(seed: int = 0, train: int = 48) -> dict:
    """Trees that are no Dataset: the largest of three inputs is to be found."""
    rng = np.random.default_rng(seed)

    def part(count):
        points = rng.normal(size=(count, INPUTS)).astype(np.float32)
        return {"points": points, "largest": points[:, :OUTPUTS].argmax(1)}

    return {"train": part(train), "validation": part(16), "test": part(16)}


def objective(network: models.Model):
    """A loss and a measure of one's own: squares, of the batches above."""

    def errors(params, stats, batch):
        outputs, _ = network.apply(params, stats, batch["points"], True, None)
        wanted = jax.nn.one_hot(batch["largest"], OUTPUTS)
        right = jnp.argmax(outputs, -1) == batch["largest"]
        loss = jnp.mean(jnp.square(outputs - wanted), -1)
        return {"loss": loss, "accuracy": right.astype(jnp.float32)}

    def loss(params, stats, batch, key):
        means = jax.tree.map(jnp.mean, errors(params, stats, batch))
        return means["loss"], (stats, means)

    return loss, errors


def grown(early, late, mask, key):
    """A criterion of one's own: weights stay that grew."""

    def leaf(a, b):
        return jnp.abs(b) - jnp.abs(a)

    return jax.tree.map(leaf, early.params, late.params)


def halfway(early, late):
    """A rewinding of one's own."""
    params = jax.tree.map(lambda a, b: (a + b) / 2, early.params, late.params)
    return early._replace(params=params)


def recipe(width: int = 6, **changes):
    network = model(width)
    loss, measure = objective(network)
    parts = {
        "model": network,
        "tx": optax.adam(0.02),
        "loss": loss,
        "measure": measure,
        "splits": splits(),
        "batch_size": 8,
        "steps": 12,
        "densities": (0.6, 0.3),
        "replicates": 2,
        "eval_every": 6,
        "criterion": grown,
        "rewind": halfway,
    }
    return lth.make_recipe(**{**parts, **changes})


def hashes(path, but: tuple[str, ...] = ()) -> dict[str, str]:
    """A digest of every file of a run, but locks, reports and some folders."""
    found = {}
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path)
        own = file.name in ("lock", "report.html") or set(name.parts) & set(but)
        if file.is_file() and not own:
            found[str(name)] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found
