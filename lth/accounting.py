"""What a mask saves: parameters and multiplications, counted, of the whole network."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from lth import masks
from lth.masks import Mask, Params
from lth.models import Model


class Size(NamedTuple):
    """Numbers of weights of one network under a mask."""

    total: int  # all leaves, prunable or not
    prunable: int
    kept: int  # of the prunable

    @property
    def remaining(self) -> int:
        """Kept weights and those that no mask covers."""
        return self.total - self.prunable + self.kept

    @property
    def compression(self) -> float:
        """Total over remaining weights, of the whole network (Blalock et al. 2020)."""
        return self.total / self.remaining


class Work(NamedTuple):
    """Multiply-accumulates of one example, by the path of the kernel."""

    dense: dict[str, int]
    kept: dict[str, int]

    @property
    def speedup(self) -> float:
        """Dense over kept: the theoretical speed-up, were zeros free to skip."""
        return sum(self.dense.values()) / sum(self.kept.values())


def size(params: Params, mask: Mask) -> Size:
    """The weights of a network and those that its mask leaves."""
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Size(total, masks.size(mask), int(masks.count(mask)))


def work(
    model: Model,
    params: Params,
    stats: Any,
    shape: tuple[int, ...],
    mask: Mask,
    dtype: Any = np.float32,
) -> Work:
    """The multiply-accumulates of kernels for one example of `shape` and `dtype`.

    A kernel weight is used once at each position of the outputs, kh kw in out H W in
    all for a convolution. Norms, biases, attention's own products and what happens at
    padded edges are left out, as is usual. Nothing is computed, only shapes.

    Raises ValueError for a model that cannot tell what leaves its kernels.
    """
    if model.seen is None:
        raise ValueError("the model has no `seen`: its positions are not known")
    example = jax.ShapeDtypeStruct((1, *shape), dtype)
    _, outputs = jax.eval_shape(model.seen, params, stats, example)
    dense, kept = {}, {}

    def leaf(path, w, out, keep):
        if out is None:
            return
        positions = math.prod(out.shape[1:-1])
        dense[masks.name(path)] = w.size * positions
        count = w.size if keep is None else int(np.sum(keep))
        kept[masks.name(path)] = count * positions

    jax.tree_util.tree_map_with_path(leaf, params, outputs, mask)
    return Work(dense, kept)


def needed(total: int, prunable: int, compression: float) -> float:
    """The density that gives a compression ratio of the whole network.

    Raises ValueError where the weights that cannot be pruned are too many for it.
    """
    density = (total / compression - (total - prunable)) / prunable
    if not 0 < density <= 1:
        most = total / (total - prunable + 1)
        raise ValueError(
            f"compression lies in [1, {most:.4g}] where {total - prunable} of {total} "
            f"weights are not prunable; got {compression}"
        )
    return density
