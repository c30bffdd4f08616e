"""A run whose every part is one's own: model, data, loss, criterion, rewinding, branch.

    lth run experiments/own_model.py:recipe
    lth run experiments/own_model.py:recipe --levels 6 --replicates 4   # adds to it
    lth branch own_model-recipe signs --levels 2,4

It learns which of two spirals a point lies on. Kill it, and the first line goes on to
the same bits. The functions here are of one replicate; `lth.open_run` reads the run.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import lth
from lth import lottery, masks, models


class Net(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(2, width, rngs=rngs)
        self.deep = nnx.Linear(width, width, rngs=rngs)
        self.output = nnx.Linear(width, 1, rngs=rngs)

    def __call__(self, x):
        return self.output(nnx.relu(self.deep(nnx.relu(self.hidden(x)))))[:, 0]


def spirals(count: int, seed: int) -> dict[str, np.ndarray]:
    rng, side = np.random.default_rng(seed), np.arange(count) % 2
    turn = 3 * np.sqrt(rng.uniform(size=count))
    angle = np.pi * turn + np.pi * side
    x = np.stack([turn * np.cos(angle), turn * np.sin(angle)], -1) / 3
    noisy = x + rng.normal(0, 0.08, x.shape)
    return {"x": noisy.astype(np.float32), "side": side.astype(np.float32)}


def criterion(early, late, mask, key):  # grew in size: kept
    return jax.tree.map(lambda a, b: jnp.abs(b) - jnp.abs(a), early.params, late.params)


def rewind(early, late):  # half way back
    half = jax.tree.map(lambda a, b: (a + b) / 2, early.params, late.params)
    return early._replace(params=half)


def signs(early, ticket, key):  # of the early weights, all of one size by layer
    constant = lottery.starts.signed_constant(early.params, ticket.mask)
    return early._replace(params=masks.apply(constant, ticket.mask)), ticket.mask


def recipe(levels: int = 4, replicates: int = 2, width: int = 32) -> lth.lottery.Recipe:
    model = models.from_nnx(lambda rngs: Net(width, rngs))

    def score(params, stats, batch):
        outputs, stats = model.apply(params, stats, batch["x"], True, None)
        loss = optax.sigmoid_binary_cross_entropy(outputs, batch["side"])
        right = (outputs > 0) == (batch["side"] > 0.5)
        return {"loss": loss, "accuracy": right * jnp.float32(1)}, stats

    def loss(params, stats, batch, key):
        values, stats = score(params, stats, batch)
        return values["loss"].mean(), (stats, jax.tree.map(jnp.mean, values))

    return lth.make_recipe(
        model,
        optax.adam(3e-3),
        loss,
        lambda params, stats, batch: score(params, stats, batch)[0],
        {n: spirals(c, s) for n, c, s in SPLITS},
        batch_size=64,
        steps=1500,
        densities=masks.schedules.geometric(0.7, levels),
        replicates=replicates,
        criterion=criterion,
        rewind=rewind,
        branches={"signs": lottery.Branch(signs, "signs of the early weights")},
    )


SPLITS = [("train", 2000, 0), ("validation", 500, 1), ("test", 500, 2)]
