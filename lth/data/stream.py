"""Batches as a function of (key, step): nothing to carry, nothing to restore.

The training examples form one endless stream in which epoch e is a permutation of all
of them that depends on (key, e) alone; batch t is positions t * batch_size onwards.
Each epoch visits each example once, and a batch may span two epochs. An example's place
is computed rather than looked up, so no epoch's order is ever sorted or stored.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lth.data.dataset import Dataset, pair

ROUNDS = 48  # three times the bits of MNIST's size; 16 already pass the tests we know
AUGMENT = np.uint32(2**32 - 1)  # folds into the key where epochs do: none gets so far


def make_sample(
    batch_size: int,
    examples: int,
    augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> Callable[..., Any]:
    """Make `sample(key, step, data)`: batch number `step` of `data`.

    `data` is a tree of [examples, ...]. With `augment(key, images) -> images`, it is a
    Dataset; what happens to the images of a batch then is a function of (key, step)
    too, and their order is the same as without. Steps times batch size must stay below
    2**32. Raises ValueError for a batch that is no part of the examples.
    """
    check_batch(batch_size, examples)

    def sample(key, step, data):
        index = batch_index(key, step, batch_size, examples)
        return augmented(augment, key, step, jax.tree.map(lambda x: x[index], data))

    return sample


def batch_index(
    key: jax.Array, step: jax.Array | int, batch_size: int, examples: int
) -> jax.Array:
    """Return which examples batch number `step` has.

    Args:
      key: of the order.
      step: [], from 0; step times batch size stays below 2**32.
      batch_size: from 1 to `examples`.
      examples: how many there are.

    Returns:
      uint32 [batch_size], in [0, examples).
    """
    start = jnp.asarray(step, jnp.uint32) * np.uint32(batch_size)
    position = start + jnp.arange(batch_size, dtype=jnp.uint32)
    return shuffled(key, position, examples)


def augmented(augment: Callable | None, key, step, batch: Dataset) -> Dataset:
    """Apply `augment` to the images of batch number `step`, if there is one.

    Args:
      augment: `augment(key, images) -> images`, or None.
      key: of the stream.
      step: [], of the batch.
      batch: a Dataset, or another pair of inputs and targets.

    Returns:
      The batch with other inputs.
    """
    if augment is None:
        return batch
    own = jax.random.fold_in(jax.random.fold_in(key, AUGMENT), step)
    batch = pair(batch)
    return batch._replace(inputs=augment(own, batch.inputs))


def check_batch(batch_size: int, examples: int) -> None:
    """Raise ValueError unless a batch is a part of the examples."""
    if not 0 < batch_size <= examples:
        raise ValueError(
            f"a batch has 1 to {examples} examples, all there are; got {batch_size}"
        )


def shuffled(key: jax.Array, position: jax.Array, examples: int) -> jax.Array:
    """Return the examples at consecutive stream positions [b], uint32.

    They span at most one epoch. The swap-or-not shuffle (Hoang, Morris & Rogaway 2012,
    arXiv:1208.1176): in each round a key-dependent pivot pairs every place with
    another, and a hash of the pair says whether the two swap. Each round is its own
    inverse, so the whole is a permutation of [0, examples) whatever the hash; its
    quality makes it a good one.
    """
    if examples == 1:
        return jnp.zeros_like(position)
    n = np.uint32(examples)
    first = position[0] // n
    later = position // n != first  # the places that belong to the epoch after
    epochs = jnp.stack([first, first + 1])
    pivots, salts = jax.vmap(lambda e: _schedule(jax.random.fold_in(key, e), n))(epochs)

    def mix_once(x, keys):
        pivot, salt = (jnp.where(later, k[1], k[0]) for k in keys)
        partner = jnp.where(x <= pivot, pivot - x, pivot + (n - x))
        swap = _mix(jnp.maximum(x, partner) ^ salt) >> 31
        return jnp.where(swap == 1, partner, x), None

    # A loop, not 48 copies: some versions of XLA take forever to compile those.
    return jax.lax.scan(mix_once, position % n, (pivots.T, salts.T))[0]


def _schedule(key: jax.Array, n: np.uint32) -> tuple[jax.Array, jax.Array]:
    """The pivots in [0, n) and the salts of all rounds, uint32 [ROUNDS] each."""
    one, two = jax.random.bits(key, (2,))
    rounds = np.arange(ROUNDS, dtype=np.uint32)
    pivots = _mix(_mix(one + rounds * np.uint32(0x9E3779B9)) ^ two) % n
    return pivots, _mix(two + rounds * np.uint32(0x85EBCA77) + np.uint32(1))


def _mix(x: jax.Array) -> jax.Array:
    """A bijection of 32 bits in which each input bit flips about half of the output's.

    Xorshifts and multiplications with the constants of MurmurHash3's finaliser.
    """
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
