"""A symmetric matrix, of which only products are known, as a small tridiagonal one.

Vectors are trees of arrays; the matrix is a function of them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lth import masks
from lth.masks import Mask, Params

MatVec = Callable[[Params], Params]  # of a symmetric matrix: v -> H v
ROW = 1024  # numbers that are summed up before their sums are


class Lanczos(NamedTuple):
    """Holds a symmetric matrix as its first Krylov vectors see it: tridiagonal.

    Where `done` is less than m, the vectors so far span all that the start leads to,
    and what follows is 0.
    """

    diagonal: jax.Array  # [m]
    off: jax.Array  # [m]: to the next vector, the last to one that is not there
    vectors: jax.Array  # [m, size], orthonormal rows, trees laid flat
    done: jax.Array  # [], how many there are


def direction(like: Params, key: jax.Array, mask: Mask | None = None) -> Params:
    """Draw a normal vector of the space that a mask leaves: no direction is preferred.

    `like` is a tree of arrays or of their shapes. The vector is in float32, or as wide
    as the leaf.
    """
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        jax.random.normal(k, (w.size,), jnp.promote_types(w.dtype, jnp.float32))
        for k, w in zip(keys, leaves, strict=True)
    ]
    shaped = [v.reshape(w.shape) for v, w in zip(drawn, leaves, strict=True)]
    tree = jax.tree.unflatten(structure, shaped)
    return tree if mask is None else masks.apply(tree, mask)


def lanczos(matvec: MatVec, start: Params, steps: int) -> Lanczos:
    """Make a symmetric matrix tridiagonal on the Krylov space of a start.

    Each new vector is made orthogonal to all before, twice: else those eigenvalues that
    are found early are found again and again. It keeps `steps` vectors in memory.

    Args:
      matvec: From a tree like `start` to one.
      start: Of any length but 0; of a Hessian under a mask, 0 where the mask prunes.
      steps: At least 1; more than the matrix has distinct eigenvalues lead nowhere.

    Returns:
      The two diagonals and the vectors.

    Raises:
      ValueError: for fewer steps.
    """
    if steps < 1:
        raise ValueError(f"steps are at least 1; got {steps}")
    first, unravel = ravel_pytree(start)
    size = first.size
    first = jnp.pad(first, (0, -size % ROW))
    first = first / jnp.sqrt(_dot(first, first))
    tiny = 8 * jnp.finfo(first.dtype).eps

    def step(carry, number):
        vectors, vector, alive, largest = carry
        vectors = vectors.at[number].set(vector)
        image = ravel_pytree(matvec(unravel(vector[:size])))[0].astype(vector.dtype)
        image = jnp.where(alive, jnp.pad(image, (0, -size % ROW)), 0)
        at = _dot(image, vector)
        for _ in range(2):  # what the first time leaves is rounding, the second's less
            image = image - _sum(_dot(vectors, image[None]), vectors)
        length = jnp.sqrt(_dot(image, image))
        largest = jnp.maximum(largest, jnp.abs(at) + length)
        # Below it a vector is rounding alone, and might be any of those before.
        goes_on = alive & (length > tiny * largest)
        length = jnp.where(goes_on, length, 0)
        image = jnp.where(goes_on, image / jnp.where(goes_on, length, 1), 0)
        return (vectors, image, goes_on, largest), (at, length, alive)

    vectors = jnp.zeros((steps, first.size), first.dtype)
    carry = vectors, first, jnp.bool_(True), jnp.zeros((), first.dtype)
    (vectors, *_), found = jax.lax.scan(step, carry, jnp.arange(steps))
    diagonal, off, alive = found
    return Lanczos(diagonal, off, vectors[:, :size], jnp.sum(alive))


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Products over the last axis, in sums of sums.

    A vector that is nearly one large number would lose a million small ones in a single
    sum, and with them its being orthogonal to the others.
    """
    rows = (a * b).reshape(*a.shape[:-1], -1, ROW)
    return jnp.sum(jnp.sum(rows, -1), -1)


def _sum(weights: jax.Array, vectors: jax.Array) -> jax.Array:
    # A GPU's shorter products would not do either.
    return jnp.dot(weights, vectors, precision=jax.lax.Precision.HIGHEST)


def ritz(found: Lanczos, rest: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the eigenvalues, rising, and the vectors of the tridiagonal matrix.

    What is not there counts as an eigenvalue `rest`.
    """
    there = jnp.arange(len(found.diagonal)) < found.done
    diagonal = jnp.where(there, found.diagonal, rest)
    off = found.off[:-1]
    return jnp.linalg.eigh(jnp.diag(diagonal) + jnp.diag(off, 1) + jnp.diag(off, -1))
