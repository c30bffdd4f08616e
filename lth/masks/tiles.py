"""Leaves cut into tiles: boxes of weights that start at index 0.

Only the last along an axis may be cut off by the edge of the leaf.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Shape = tuple[int, ...]


@functools.partial(jax.jit, static_argnums=1, inline=True)  # one program, not four
def split(leaf: jax.Array, sizes: Shape) -> jax.Array:
    """Cut a leaf into tiles [units along each axis, weights in a unit].

    Past the edge there are zeros.
    """
    padding = [(0, -n % size) for n, size in zip(leaf.shape, sizes, strict=True)]
    grid = units(leaf.shape, sizes)
    split = [n for pair in zip(grid, sizes, strict=True) for n in pair]
    order = [*range(0, 2 * leaf.ndim, 2), *range(1, 2 * leaf.ndim, 2)]
    boxes = jnp.pad(leaf, padding).reshape(split).transpose(order)
    return boxes.reshape(*grid, math.prod(sizes))


@functools.partial(jax.jit, static_argnums=(1, 2), inline=True)
def join(tiles: jax.Array, sizes: Shape, shape: Shape) -> jax.Array:
    """Put together the leaf of which `split` made tiles."""
    grid, rank = tiles.shape[:-1], len(shape)
    order = [axis for i in range(rank) for axis in (i, rank + i)]
    boxes = tiles.reshape(*grid, *sizes).transpose(order)
    padded = boxes.reshape([n * size for n, size in zip(grid, sizes, strict=True)])
    return padded[tuple(slice(n) for n in shape)]


def count(leaf: np.ndarray, sizes: Shape) -> np.ndarray:
    """Count the weights of each tile that are true."""
    counts = leaf.astype(np.int32)
    for axis, size in enumerate(sizes):
        starts = np.arange(0, leaf.shape[axis], size)
        counts = np.add.reduceat(counts, starts, axis)
    return counts


def units(shape: Shape, sizes: Shape) -> Shape:
    """Count the tiles along each axis of a leaf."""
    return tuple(-(-n // size) for n, size in zip(shape, sizes, strict=True))


def lengths(shape: Shape, sizes: Shape, dtype: Any = np.int32) -> np.ndarray:
    """Count the weights in each unit.

    The array is 1 long along an axis where all units are alike.
    """
    sides = [
        np.minimum(size, n - np.arange(0, n, size if n % size else n))
        for n, size in zip(shape, sizes, strict=True)
    ]
    return functools.reduce(np.multiply.outer, sides).astype(dtype)
