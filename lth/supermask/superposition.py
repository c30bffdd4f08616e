"""Many tasks in one frozen network, a mask each: which task do these inputs belong to?

Supermasks in Superposition (Wortsman et al. 2020, arXiv:2006.14769). Masks learned for
t tasks over the same frozen weights are stacked, a tree of arrays [t, ...]. The network
is run under a convex combination of them, with coefficients `alphas` [t]; a mask that
knows the inputs makes the output sure of itself, so the task is where the entropy of
the output falls fastest.

`network(params, inputs)` gives logits [b, classes] throughout. A batch of inputs is
taken to be of one task.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lth import masks
from lth.masks import Mask, Params

Network = Callable[[Params, jax.Array], jax.Array]


def mixed(weights: Params, stacked: Mask, alphas: jax.Array) -> Params:
    """Put weights under a combination of masks: w times the sum of alpha_i mask_i.

    Leaves without a mask stay as they are. With one alpha 1 and the others 0 these are
    exactly the weights of that task. Raises ValueError for no masks, masks that are not
    [t, ...] over their weights, and alphas that are not [t].
    """
    tasks = _count(weights, stacked)
    if jnp.shape(alphas) != (tasks,):
        raise ValueError(
            f"{tasks} masks take alphas of shape ({tasks},); got {jnp.shape(alphas)}"
        )

    def leaf(w, m):
        return w if m is None else w * jnp.tensordot(alphas, m.astype(w.dtype), 1)

    return jax.tree.map(leaf, weights, stacked)


def entropy(logits: jax.Array) -> jax.Array:
    """Return the mean entropy of the softmax of logits [b, classes], in nats."""
    logs = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.sum(jnp.exp(logs) * logs, -1))


def gradient(
    network: Network,
    weights: Params,
    stacked: Mask,
    *,
    alphas: jax.Array,
    inputs: jax.Array,
) -> jax.Array:
    """Return the derivative of the output's entropy for each alpha.

    Args:
      network: `network(params, inputs)` gives logits [b, classes].
      weights: frozen, the same for all tasks.
      stacked: the masks, a tree of arrays [t, ...].
      alphas: [t], at which the derivative is taken.
      inputs: [b, ...], a batch of one task.

    Returns:
      [t].

    Raises:
      ValueError: as `mixed` does.
    """

    def uncertainty(alphas):
        return entropy(network(mixed(weights, stacked, alphas), inputs))

    return jax.grad(uncertainty)(alphas)


@functools.partial(jax.jit, static_argnums=0)
def one_shot(
    network: Network, weights: Params, stacked: Mask, inputs: jax.Array
) -> jax.Array:
    """Find the task of a batch: the one whose alpha lowers the entropy most.

    The paper's One-Shot: a single gradient, where all alphas are 1/t.

    Args:
      network, weights, stacked, inputs: as in `gradient`.

    Returns:
      The number of the task, [], int32.

    Raises:
      ValueError: as `mixed` does.
    """
    tasks = _count(weights, stacked)
    alphas = jnp.full(tasks, 1 / tasks, jnp.float32)
    slopes = gradient(network, weights, stacked, alphas=alphas, inputs=inputs)
    return jnp.argmin(slopes).astype(jnp.int32)


@functools.partial(jax.jit, static_argnums=0)
def binary(
    network: Network, weights: Params, stacked: Mask, inputs: jax.Array
) -> jax.Array:
    """Find the task of a batch: what is left when the worse half leaves, repeatedly.

    The paper's Binary: from alphas 1/t, the half of the tasks with the lower gradients
    stays, with equal alphas, and the next gradient is taken there. With an odd number
    the larger half stays; of equal gradients the lower index: ⌈log2 t⌉ steps.

    Args:
      network, weights, stacked, inputs: as in `gradient`.

    Returns:
      The number of the task, [], int32.

    Raises:
      ValueError: as `mixed` does.
    """
    tasks = _count(weights, stacked)

    def halve(alphas, left):
        slopes = gradient(network, weights, stacked, alphas=alphas, inputs=inputs)
        order = jnp.argsort(jnp.where(alphas > 0, slopes, jnp.inf))
        stays = jnp.zeros(tasks, bool).at[order].set(jnp.arange(tasks) < left)
        return jnp.where(stays, 1 / left, 0), None

    start = jnp.full(tasks, 1 / tasks, jnp.float32)
    left = jnp.array(_halves(tasks), jnp.float32)
    return jnp.argmax(jax.lax.scan(halve, start, left)[0]).astype(jnp.int32)


def _halves(count: int) -> list[int]:
    """How many are left after each halving, down to one."""
    found = []
    while count > 1:
        count = (count + 1) // 2
        found.append(count)
    return found


def _count(weights: Params, stacked: Mask) -> int:
    """The number of tasks in masks that fit the weights."""
    counts = {}

    def leaf(path, w, m):
        if m is None:
            return
        if m.ndim != w.ndim + 1 or m.shape[1:] != w.shape:
            raise ValueError(
                f"the masks of {masks.name(path)}, of shape {w.shape}, are stacked "
                f"with the task in front; got {m.shape}"
            )
        counts[masks.name(path)] = m.shape[0]

    jax.tree_util.tree_map_with_path(leaf, weights, stacked)
    if len(set(counts.values())) > 1:
        raise ValueError(f"every leaf has a mask for each task; there are {counts}")
    if not any(counts.values()):
        raise ValueError("no masks: a superposition is of one task or more")
    return next(iter(counts.values()))
