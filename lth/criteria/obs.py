"""Optimal brain surgery: what a weight costs when the others may make up for it.

Layer by layer: for a dense layer the loss is the squared change of its outputs,
‖X(W - W')‖², whose Hessian is H = XᵀX for every output alike and is known exactly
(Hassibi & Stork 1993; layer-wise: Dong et al. 2017, arXiv:1705.07565). Kernels are
[in, out], inputs X [n, in].
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lth import masks
from lth.masks import Density, Mask, Params, topk


def hessian(inputs: jax.Array, damp: float = 0.0) -> jax.Array:
    """Returns XᵀX [in, in], with `damp` times the mean of its diagonal added to that.

    Damping is needed where inputs are constant or depend on each other; SparseGPT's is
    0.01.
    """
    x = jnp.reshape(inputs, (-1, inputs.shape[-1]))
    product = jnp.matmul(x.T, x, precision="highest")
    more = damp * jnp.mean(jnp.diagonal(product))
    return product + more * jnp.eye(len(product), dtype=product.dtype)


def saliency(kernel: jax.Array, inverse: jax.Array) -> jax.Array:
    """Scores w² / 2[H⁻¹]_qq for each weight of the kernel (Hassibi & Stork 1993)."""
    return jnp.square(kernel) / (2 * jnp.diagonal(inverse)[:, None])


@partial(jax.jit, static_argnames="count")
def delete(
    kernel: jax.Array, hessian: jax.Array, alive: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """Deletes `count` weights of each output, the least salient first, and makes up.

    After each deletion the weights that stay move by -(w_q / [H⁻¹]_qq) H⁻¹ e_q and the
    inverse loses its row and column q, so the next is chosen and made up for exactly.
    The cost is `count` * in² for each output; `sparse_gpt` is for wide layers. Weights
    of inputs that are always 0 go first.

    Args:
      kernel: [in, out].
      hessian: [in, in], as of `hessian`.
      alive: [in, out], bool: the weights that are there.
      count: a Python int, 0 <= count < in.

    Returns:
      The kernel, and what of `alive` stays.

    Raises:
      ValueError: for a `count` that leaves nothing.
    """
    if not 0 <= count < len(kernel):
        raise ValueError(
            f"of {len(kernel)} inputs 0 to {len(kernel) - 1} are deleted; got {count}"
        )
    kernel, hessian = _without_constant_zeros(kernel, hessian)
    inverse = jnp.linalg.inv(hessian)

    def output(args):
        w, alive = args

        def drop(_, carry):
            w, alive, inverse = carry
            diagonal = jnp.where(alive, jnp.diagonal(inverse), 1)
            q = jnp.argmin(jnp.where(alive, jnp.square(w) / diagonal, jnp.inf))
            column = inverse[:, q] / diagonal[q]
            inverse = inverse - jnp.outer(column, inverse[q])
            w = jnp.where(alive, w - w[q] * column, 0).at[q].set(0)
            return w, alive.at[q].set(False), inverse

        w, alive, start = _without_dead(w, alive, inverse)
        return jax.lax.fori_loop(0, count, drop, (w, alive, start))[:2]

    w, alive = jax.lax.map(output, (kernel.T, alive.T))
    return w.T, alive.T


def _without_constant_zeros(kernel: jax.Array, hessian: jax.Array):
    """Kernel and Hessian where inputs that are always 0 weigh nothing, and invert."""
    idle = jnp.diagonal(hessian) == 0
    hessian = hessian + jnp.diag(idle.astype(hessian.dtype))
    return jnp.where(idle[:, None], 0, kernel), hessian


def _without_dead(w: jax.Array, alive: jax.Array, inverse: jax.Array) -> Any:
    """The inverse of H among the alive; the dead, already 0, take no part."""

    def remove(q, inverse):
        pivot = jnp.where(alive[q], 1, inverse[q, q])
        gone = inverse - jnp.outer(inverse[:, q], inverse[q]) / pivot
        return jnp.where(alive[q], inverse, gone)

    inverse = jax.lax.cond(
        jnp.all(alive),
        lambda inverse: inverse,
        lambda inverse: jax.lax.fori_loop(0, len(w), remove, inverse),
        inverse,
    )
    return jnp.where(alive, w, 0), alive, inverse


@partial(jax.jit, static_argnames=("density", "block"))
def sparse_gpt(
    kernel: jax.Array, hessian: jax.Array, density: float, block: int = 128
) -> tuple[jax.Array, jax.Array]:
    """Prunes one kernel by SparseGPT (Frantar & Alistarh 2023, arXiv:2301.00774).

    Inputs are gone through in order. Those of a block choose their weights together
    over all outputs by w² / [H⁻¹]_qq, H of the inputs from q on; each deletion is made
    up for by the inputs after it, with one inverse for all outputs.

    Args:
      kernel: [in, out].
      hessian: [in, in], as of `hessian`.
      density: a Python number in (0, 1].
      block: inputs in a block.

    Returns:
      The kernel and its mask, which keeps exactly `round(density * size)` weights.

    Raises:
      ValueError: for a density outside (0, 1].
    """
    size, outputs = kernel.shape
    kernel, hessian = _without_constant_zeros(kernel, hessian)
    # Row q, from q on, of the upper factor: a column of the inverse of the rest of H.
    upper = jnp.linalg.cholesky(jnp.linalg.inv(hessian), upper=True)
    parts, total = [], 0
    for start in range(0, size, block):
        rows = slice(start, min(start + block, size))
        here = topk.round_count(density, rows.stop * outputs) - total
        total += here
        pivots = jnp.diagonal(upper)[rows, None]
        scores = jnp.square(kernel[rows] / pivots)
        (keep,), _, _ = topk.top([scores], [jnp.ones(scores.shape, bool)], here)
        kernel = _sweep(kernel, upper, keep, rows)
        parts.append(keep)
    return kernel, jnp.concatenate(parts)


def _sweep(kernel, upper, keep, rows):
    """Delete what a block does not keep, input by input, the later ones making up."""
    later = jnp.arange(len(kernel))

    def drop(i, kernel):
        q = rows.start + i
        error = jnp.where(keep[i], 0, kernel[q]) / upper[q, q]
        change = jnp.outer(jnp.where(later > q, upper[q], 0), error)
        return (kernel - change).at[q].set(jnp.where(keep[i], kernel[q], 0))

    return jax.lax.fori_loop(0, rows.stop - rows.start, drop, kernel)


def prune(
    params: Params, inputs: Any, mask: Mask, density: Density, damp: float = 0.01
) -> tuple[Params, Mask]:
    """Prunes every prunable layer by `sparse_gpt`, from the inputs it has now.

    All layers see the inputs of the network as it was.

    Args:
      params: the weights.
      inputs: as in `criteria.wanda`.
      mask: what is prunable, nothing of it pruned yet.
      density: of each layer, a Python number in (0, 1].
      damp: as in `hessian`.

    Returns:
      The params, whose kept weights have moved, and their mask.

    Raises:
      ValueError: with the path, for a prunable leaf that is not a kernel [in, out], for
        a mask that has already pruned, and for inputs that depend on each other so far
        that no inverse is found with `damp`.
    """

    def leaf(path, w, x, keep):
        if keep is None:
            return w, None
        if w.ndim != 2 or x is None:
            raise ValueError(
                f"surgery is for dense kernels [in, out]; {masks.name(path)} is "
                f"{w.shape}: leave it out of the mask"
            )
        if not jnp.all(keep):
            raise ValueError(
                f"{masks.name(path)} is pruned already; `delete` goes on from a mask"
            )
        new, kept = sparse_gpt(w, hessian(x, damp), density)
        if not (jnp.all(jnp.isfinite(new)) and jnp.any(kept)):
            raise ValueError(
                f"the inputs of {masks.name(path)} depend on each other so far that no "
                f"inverse was found with damp {damp}; raise it"
            )
        return new, kept

    pairs = jax.tree_util.tree_map_with_path(leaf, params, inputs, mask)
    is_pair = lambda x: isinstance(x, tuple)  # noqa: E731
    new, kept = (
        jax.tree.map(lambda pair, i=i: pair[i], pairs, is_leaf=is_pair) for i in (0, 1)
    )
    return new, kept
