"""Layers of constant fan-in as two small dense arrays: what is read, and its weights.

Where every living output reads equally many inputs (SRigL, Lasby et al. 2024,
arXiv:2305.02299; `masks.structure.keep_within`), a kernel needs no sparse format:
values and indices of `[outputs, fan-in]`, and outputs that read nothing are rows less.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray


class Condensed(NamedTuple):
    """Holds a kernel `[in, out]` whose living outputs read equally many inputs."""

    values: jax.Array  # [living, fan-in]
    indices: jax.Array  # [living, fan-in] int32, of the inputs, rising
    living: jax.Array  # int32, which outputs read anything

    @property
    def nbytes(self) -> int:
        """Count the bytes of its arrays."""
        return self.values.nbytes + self.indices.nbytes + self.living.nbytes


def condense(kernel: Array, keep: Array) -> Condensed:
    """Condense a kernel `[in, out]` under its mask.

    Raises ValueError for a kernel that is no matrix, and for living outputs that do not
    all read as many inputs, with the least and the most.
    """
    w, places = np.asarray(kernel), np.asarray(keep).T
    if w.ndim != 2 or w.T.shape != places.shape:
        raise ValueError(
            f"kernel and mask are one matrix [in, out]; got {list(w.shape)} and "
            f"{list(np.shape(keep))}"
        )
    reads = places.sum(1)
    living = np.flatnonzero(reads)
    counts = reads[living]
    if len(living) and counts.min() < counts.max():
        raise ValueError(
            f"outputs read from {counts.min()} to {counts.max()} inputs: their fan-in "
            "is not constant"
        )
    fan_in = int(counts[0]) if len(living) else 0
    indices = np.nonzero(places)[1].reshape(len(living), fan_in)
    values = w.T[living[:, None], indices]
    places = (jnp.asarray(index, jnp.int32) for index in (indices, living))
    return Condensed(jnp.asarray(values), *places)


def product(layer: Condensed, x: Array) -> jax.Array:
    """Multiply inputs `[batch, in]` by a condensed kernel: `[batch, living]`.

    What the outputs that are left out would be is 0. Of one input each output gathers
    what it reads; of many, a round for each of the fan-in adds rows of theirs, which
    are as long as the batch: a gather of all would be larger than the kernel was.
    """
    x = jnp.asarray(x)
    if len(x) == 1:
        return jnp.sum(x[0, layer.indices] * layer.values, -1)[None]

    rows = x.T  # outside of the loop, which would turn it each time

    def add(total, read):
        weights, places = read
        return total + rows[places] * weights[:, None], None

    start = jnp.zeros((len(layer.living), len(x)), layer.values.dtype)
    return jax.lax.scan(add, start, (layer.values.T, layer.indices.T))[0].T
