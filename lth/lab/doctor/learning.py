"""Whether gradients, steps and whole trainings are right, and the same twice."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lth import data, masks, models, train
from lth.lab import config
from lth.lab.build import networks
from lth.lab.doctor import restated
from lth.lab.doctor.arithmetic import HIGHEST
from lth.lab.doctor.check import (
    Check,
    Difference,
    difference,
    judged,
    tree_difference,
)
from lth.models import convolution

ALLOWED = 1e-4  # of a gradient, or of its layer's median one
NUDGE = 1e-7  # of a weight, in double precision: its gradient has some 8 digits then
CLASSES = 5
NETWORKS = {  # ours, NumPy's, and the shape of an example
    "an MLP": (models.MLP((17, 11), CLASSES), restated.mlp, (9, 7, 1)),
    "a convolutional network": (
        models.Conv(2, CLASSES, width=1 / 16),
        restated.conv,
        (9, 11, 3),
    ),
}


def gradients(
    make_loss: Callable = train.classification, grad: Callable = jax.grad
) -> Check:
    """Compare the gradient of every weight of two networks with central differences."""
    found, weights = [], 0
    for name, (module, right, shape) in NETWORKS.items():
        model = models.from_linen(module, shape)
        rng = np.random.default_rng(4)
        batch = data.Dataset(
            rng.standard_normal((4, *shape)).astype(np.float32),
            rng.integers(0, CLASSES, 4).astype(np.int32),
        )
        params = _drawn(rng, jax.eval_shape(model.init, jax.random.key(0))[0])
        loss, _ = make_loss(model.apply)

        def value(params, loss=loss, batch=batch):
            return loss(params, {}, batch, jax.random.key(0))[0]

        with jax.default_matmul_precision(HIGHEST):
            ours = jax.jit(value)(params), jax.jit(grad(value))(params)
        expected, slopes = _differences(right, params, batch)
        found.append(difference(f"the loss of {name}", ours[0], expected, 1e-5))
        for path, mine in zip(
            masks.paths(params), jax.tree.leaves(ours[1]), strict=True
        ):
            what = f"the gradient of {name}, {path}"
            found.append(tree_difference(what, [mine], [slopes[path]], ALLOWED))
        weights += sum(x.size for x in jax.tree.leaves(params))
    return judged("gradients", found, f"of {weights} weights, by central differences")


def _drawn(rng: np.random.Generator, like: Any) -> Any:
    """Weights of the shapes of `like`, as large as keeps activations near 1."""

    def leaf(x):
        scale = np.sqrt(2 / np.prod(x.shape[:-1])) if len(x.shape) > 1 else 0.1
        return (scale * rng.standard_normal(x.shape)).astype(np.float32)

    return jax.tree.map(leaf, like)


def _differences(right: Callable, params: Any, batch: Any) -> tuple[float, dict]:
    """The loss in double precision, and its slope along every weight, by path."""
    wide = jax.tree.map(lambda w: np.asarray(w, np.float64), params)
    inputs = np.asarray(batch.inputs, np.float64)

    def loss():
        return restated.cross_entropy(right(wide, inputs), batch.targets)

    slopes = {}
    for path, w in zip(masks.paths(wide), jax.tree.leaves(wide), strict=True):
        slopes[path] = np.zeros(w.shape)
        for at in np.ndindex(*w.shape):
            here, around = w[at], []
            for side in (NUDGE, -NUDGE):
                w[at] = here + side
                around.append(loss())
            w[at] = here
            slopes[path][at] = (around[0] - around[1]) / (2 * NUDGE)
    return loss(), slopes


# Window, strides and pads: of 21 images of 33 x 31 with 16 channels, which is three
# blocks of patches.
CONVOLUTIONS = (
    ((3, 3), (1, 1), ((1, 1), (1, 1))),
    ((3, 3), (2, 2), ((1, 1), (1, 1))),
    ((4, 2), (2, 1), ((0, 2), (3, 1))),
)


def convolutions(convolve: Callable = convolution.convolve) -> Check:
    """Values and both gradients of the convolution that models are made of."""
    rng, found = np.random.default_rng(5), []
    x = rng.standard_normal((21, 33, 31, 16)).astype(np.float32)
    for window, strides, pads in CONVOLUTIONS:
        kernel = rng.standard_normal((*window, 16, 9)).astype(np.float32)
        (y,) = restated.convolution(x, kernel, strides, pads)
        weight = rng.standard_normal(y.shape).astype(np.float32)
        right = restated.convolution(x, kernel, strides, pads, weight)

        def ours(x, kernel, weight, strides=strides, pads=pads):
            def outputs(x, kernel):
                numbers = convolution.LAYOUT
                return convolve(x, kernel, strides, pads, dimension_numbers=numbers)

            y, back = jax.vjp(outputs, x, kernel)
            return y, *back(weight)

        with jax.default_matmul_precision(HIGHEST):
            results = jax.jit(ours)(x, kernel, weight)
        for what, mine, other in zip(
            ("values", "gradient for images", "gradient for the kernel"),
            results,
            right,
            strict=True,
        ):
            told = f"{what} of a {window[0]}x{window[1]} window at strides {strides}"
            found.append(tree_difference(told, [mine], [other], ALLOWED))
    return judged("convolution", found, f"{len(found)} values and gradients")


OPTIMIZERS = {
    "adam": restated.Step("adam", 0.01),
    "adam with decay": restated.Step("adam", 0.01, weight_decay=0.1),
    "sgd": restated.Step("sgd", 0.01),
    "sgd with momentum": restated.Step("sgd", 0.01, momentum=0.9),
    "sgd with Nesterov's momentum": restated.Step("sgd", 0.01, 0.9, True, 0.1),
}
STEPS = 3


def optimizers(
    make_train: Callable = train.make_train,
    named: Mapping[str, restated.Step] = OPTIMIZERS,
) -> Check:
    """Masked steps of each optimizer; what is pruned, and its slots, are exactly 0."""
    rng = np.random.default_rng(6)
    w, slope = (rng.standard_normal((1009, 991)).astype(np.float32) for _ in range(2))
    slope += 2 * np.sign(
        slope
    )  # far from 0, where Adam divides one rounding by another
    keep = rng.random(w.shape) < 0.3
    found = []
    for name, step in named.items():
        tx = networks.optimizer(config.Optimizer(**step._asdict()), 1, STEPS)
        state = _stepped(make_train, tx, w, slope, keep)

        def gradient(w):
            return slope + 0.1 * w

        right = restated.stepped(step, w * keep, gradient, keep, STEPS)
        ours = np.asarray(state.params["kernel"])
        what = f"{STEPS} steps of {name}"
        found.append(tree_difference(what, [ours], [right], 1e-5))
        slots = [x for x in jax.tree.leaves(state.opt_state) if x.shape == w.shape]
        dead = [np.asarray(x)[~keep] for x in (ours, *slots)]
        alive = sum(int((x != 0).sum()) for x in dead)
        found.append(difference(f"pruned weights and slots of {name} not 0", alive, 0))
    return judged("optimizers", found, f"{', '.join(named)}; what is pruned is 0")


def _stepped(make_train, tx, w, slope, keep) -> train.TrainState:
    """The state after some steps down a paraboloid that can be written down."""

    def loss(params, stats, batch, key):
        w = params["kernel"]
        value = jnp.sum(batch * w + 0.05 * jnp.square(w))
        return value, (stats, {"loss": value})

    run = make_train(loss, lambda key, step, data: data, tx)
    params = {"kernel": jnp.asarray(w)}
    early = train.TrainState(jnp.int32(0), params, {}, tx.init(params))
    state, _ = jax.jit(run)(early, {"kernel": keep}, slope, jax.random.key(0), STEPS)
    return state


def repeats(make_train: Callable = train.make_train) -> Check:
    """A training gives the same bits twice, and 13 + 27 of its steps are 40."""
    rng = np.random.default_rng(7)
    images = rng.integers(0, 256, (500, 12, 12, 3), dtype=np.uint8)
    examples = data.Dataset(images, rng.integers(0, 10, 500).astype(np.int32))
    model = models.from_linen(models.Conv(2, width=1 / 8), (12, 12, 3))
    loss, _ = train.classification(models.standardized(model, 0, 255).apply)
    tx = optax.adam(1e-3)
    step = jax.jit(make_train(loss, data.make_sample(40, len(images)), tx))
    params = _drawn(rng, jax.eval_shape(model.init, jax.random.key(0))[0])
    early = train.TrainState(jnp.int32(0), params, {}, jax.jit(tx.init)(params))
    mask = jax.tree.map(
        lambda keep: None if keep is None else rng.random(keep.shape) < 0.5,
        masks.ones(early.params),
    )
    sums = train.no_sums({"loss": jnp.float32(0), "accuracy": jnp.float32(0)})

    def run(*parts):
        at = early, sums
        for n in parts:
            at = step(at[0], mask, examples, jax.random.key(1), n, at[1])
        return at

    whole = run(40)
    found = [
        _bits("a second training of 40 steps", run(40), whole),
        _bits("13 + 27 steps in place of 40", run(13, 27), whole),
        difference("steps whose loss was not finite", _failed(whole[1]), 0),
    ]
    hashed = hashlib.sha256()
    for leaf in jax.tree.leaves(whole[0].params):
        hashed.update(np.asarray(leaf).tobytes())
    bits = hashed.hexdigest()[:8]
    about = f"40 steps of a convolutional network twice, and as 13 + 27 (bits {bits})"
    return judged("repeats", found, about)


def _failed(sums: Any) -> int:
    return int(sums["diverged"] != train.NEVER or not np.isfinite(sums["loss"]))


def _bits(what: str, ours: Any, right: Any) -> Difference:
    """How many numbers of two trees differ, if it be in the last bit."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(right), strict=True)
    bytes_of = [[np.asarray(x).reshape(-1).view(np.uint8) for x in p] for p in pairs]
    other = sum(int((a != b).any()) for a, b in bytes_of)
    return difference(f"arrays with other bits after {what}", other, 0)
