"""Sparsity in somebody else's training loop: Linen, NNX and Equinox.

`dynamic.sparsify` is an Optax transformation, so a loop that has an optimizer has all
that a rule needs. Two things are the caller's: start from the masked params, and say
what is prunable where leaves have other names than Linen's.

    python experiments/any_loop.py [--steps 300]

Each of the three trains a small network on scikit-learn's digits with RigL at density
0.2, in the way its library's documentation shows. Needs no data; Equinox is left out
where it is not installed. About half a minute on two cores.

What it gave (jax 0.10.2; test accuracy after 300 steps of batch 64, density):

    Linen    95.8 %  0.200
    NNX      95.0 %  0.200
    Equinox  94.4 %  0.200
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from lth import data, dynamic, masks
from lth.dynamic import rules

DENSITY = 0.2


@dataclass(frozen=True)
class Flags:
    """How long to train."""

    steps: int = 300


def rule(steps: int) -> dynamic.Rule:
    return rules.rigl(DENSITY, begin_step=20, end_step=steps * 3 // 4, frequency=20)


def batches(steps: int, size: int = 64):
    """Pixels in [0, 1] and labels, drawn with replacement."""
    learned = data.load("digits", None, validation=180, split_seed=0).train
    images = learned.inputs.reshape(len(learned.targets), -1) / np.float32(16)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        picked = rng.integers(0, len(images), size)
        yield images[picked], learned.targets[picked]


def held_out():
    test = data.load("digits", None, validation=180, split_seed=0).test
    return test.inputs.reshape(len(test.targets), -1) / np.float32(16), test.targets


def cross_entropy(logits, labels):
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()


def with_linen(steps: int):
    """Params are a tree of `kernel` and `bias`, as the default has it."""
    model = linen.Sequential([linen.Dense(100), linen.relu, linen.Dense(10)])
    tx = dynamic.sparsify(optax.adam(3e-3), rule(steps))
    params = model.init(jax.random.key(0), jnp.zeros((1, 64)))
    opt_state = tx.init(params)
    params = dynamic.masked(params, opt_state)

    @jax.jit
    def step(params, opt_state, x, y):
        grads = jax.grad(lambda p: cross_entropy(model.apply(p, x), y))(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for x, y in batches(steps):
        params, opt_state = step(params, opt_state, x, y)
    return lambda x: model.apply(params, x), opt_state


def with_nnx(steps: int):
    """The state of the module is the tree, split off from what is not trained."""
    from flax import nnx

    rngs = nnx.Rngs(0)
    model = nnx.Sequential(
        nnx.Linear(64, 100, rngs=rngs), nnx.relu, nnx.Linear(100, 10, rngs=rngs)
    )
    graph, state = nnx.split(model, nnx.Param)
    tx = dynamic.sparsify(optax.adam(3e-3), rule(steps))
    params = nnx.to_pure_dict(state)
    opt_state = tx.init(params)
    params = dynamic.masked(params, opt_state)

    def outputs(params, x):
        new = jax.tree.map(lambda leaf: leaf, state)
        nnx.replace_by_pure_dict(new, params)
        return nnx.merge(graph, new)(x)

    @jax.jit
    def step(params, opt_state, x, y):
        grads = jax.grad(lambda p: cross_entropy(outputs(p, x), y))(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for x, y in batches(steps):
        params, opt_state = step(params, opt_state, x, y)
    return lambda x: outputs(params, x), opt_state


def with_equinox(steps: int):
    """The module is the tree; its matrices are called `weight`."""
    import equinox

    model = equinox.nn.MLP(64, 10, 100, 1, key=jax.random.key(0))
    params, static = equinox.partition(model, equinox.is_inexact_array)
    tx = dynamic.sparsify(
        optax.adam(3e-3),
        rule(steps),
        lambda path, leaf: path.endswith("weight") and leaf.ndim == 2,
    )
    opt_state = tx.init(params)
    params = dynamic.masked(params, opt_state)

    def outputs(params, x):
        return jax.vmap(equinox.combine(params, static))(x)

    @equinox.filter_jit
    def step(params, opt_state, x, y):
        grads = jax.grad(lambda p: cross_entropy(outputs(p, x), y))(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return equinox.apply_updates(params, updates), opt_state

    for x, y in batches(steps):
        params, opt_state = step(params, opt_state, x, y)
    return lambda x: outputs(params, x), opt_state


LOOPS: dict[str, Callable] = {"Linen": with_linen, "NNX": with_nnx}
if importlib.util.find_spec("equinox"):
    LOOPS["Equinox"] = with_equinox


def main() -> None:
    flags = tyro.cli(Flags)
    x, y = held_out()
    for name, loop in LOOPS.items():
        outputs, opt_state = loop(flags.steps)
        accuracy = float(jnp.mean(outputs(x).argmax(-1) == y))
        density = float(masks.density(dynamic.state_of(opt_state).mask))
        print(f"{name:8} {100 * accuracy:.1f} %  {density:.3f}")


if __name__ == "__main__":
    main()
