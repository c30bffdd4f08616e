"""What a mask saves: parameters and multiplications, counted, of the whole network."""

from typing import Any, NamedTuple

import jax
import numpy as np

from lth import masks
from lth.masks import Mask, Params
from lth.models import Model, axes


class Size(NamedTuple):
    """Holds numbers of weights of one network under a mask."""

    total: int  # all leaves, prunable or not
    prunable: int
    kept: int  # of the prunable

    @property
    def remaining(self) -> int:
        """Count kept weights and those that no mask covers."""
        return self.total - self.prunable + self.kept

    @property
    def compression(self) -> float:
        """Divide total by remaining weights, of the whole network.

        This is the compression ratio of Blalock et al. (2020).
        """
        return self.total / self.remaining


class Work(NamedTuple):
    """Holds multiply-accumulates of one example, by the path of the weights read."""

    dense: dict[str, int]
    kept: dict[str, int]
    other: int = 0  # of products that read no weight, such as attention's own

    @property
    def speedup(self) -> float:
        """Divide dense by kept: the theoretical speed-up, were zeros free to skip.

        `other` products are in neither.
        """
        return sum(self.dense.values()) / sum(self.kept.values())


def size(params: Params, mask: Mask) -> Size:
    """Count the weights of a network and those that its mask leaves."""
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
    """Count the multiply-accumulates of one example of `shape` and `dtype`.

    Every matrix product and convolution that evaluating the network does is counted, in
    loops of a fixed length as often as they go round, of the branches of a condition
    the one with the most, and belongs to the weights that it reads: those of a layer
    that is called twice have both. What happens at padded edges is counted, as is
    usual; where a stride spreads inputs out, the zeros between them are not. Products
    of two activations are `other`. Norms, biases, look-ups and what else multiplies
    place by place is left out. Nothing is computed, only shapes.

    Args:
      model: its `apply` is asked.
      params, stats: of the model, or their shapes.
      shape: of one example, without the batch.
      mask: a mask of `params`; where it is None, all weights are kept.
      dtype: of the inputs.

    Returns:
      The numbers, dense and kept.

    Raises:
      ValueError: with their paths, for weights that meet inputs in a way that cannot be
        counted, such as a loop whose length depends on values.
    """
    example = jax.ShapeDtypeStruct((1, *shape), dtype)
    total, other = axes.multiplied(model.apply, params, stats, example)
    dense, kept = {}, {}
    masked = jax.tree.leaves(mask, is_leaf=lambda keep: keep is None)
    named = jax.tree_util.tree_leaves_with_path(params)
    for i, ((path, w), keep) in enumerate(zip(named, masked, strict=True)):
        if i in total:  # every weight of a leaf is used equally often
            dense[masks.name(path)] = total[i]
            count = w.size if keep is None else int(np.sum(keep))
            kept[masks.name(path)] = total[i] // w.size * count
    return Work(dense, kept, other)


def needed(total: int, prunable: int, compression: float) -> float:
    """Return the density that gives a compression ratio of the whole network.

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
