"""Pictures of masks: which inputs and which weights are kept."""

import math
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from lth import masks

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def kept(mask: masks.Mask, path: str, ax: "Axes") -> "Axes":
    """Draw the places that a mask keeps in one leaf, black; rows are inputs.

    Axes before the last two of a leaf are laid out under each other. A frame for each
    level shows how the mask thins.
    """
    leaf = _leaf(mask, path)
    ax.imshow(
        leaf.reshape(-1, leaf.shape[-1]), cmap="gray_r", vmin=0, vmax=1, aspect="auto"
    )
    ax.set(xlabel="output", ylabel="input", title=f"{leaf.mean():.1%} kept")
    return ax


def inputs(mask: masks.Mask, path: str, shape: tuple[int, int], ax: "Axes") -> "Axes":
    """Draw how many weights each input pixel keeps: what a ticket looks at.

    The colour scale begins at 0 weights.

    Args:
      mask: of one network.
      path: of the mask's leaf [pixels, units].
      shape: of the picture, (rows, columns), which pixels fill row by row.
      ax: to draw on.

    Returns:
      `ax`.

    Raises:
      ValueError: for a path that the mask lacks, and a leaf of other pixels.
    """
    leaf = _leaf(mask, path)
    if leaf.ndim != 2 or len(leaf) != math.prod(shape):
        raise ValueError(
            f"for a picture of {shape}, {path} is [{math.prod(shape)}, units]; got "
            f"{leaf.shape}. Of stacked replicates choose one, such as "
            "run.ticket(level, replicate=0).mask"
        )
    count = leaf.sum(axis=1).reshape(shape)
    image = ax.imshow(count, cmap="magma", vmin=0)
    ax.set(xticks=[], yticks=[])
    assert ax.figure is not None
    ax.figure.colorbar(image, ax=ax, shrink=0.8, label="weights kept")
    return ax


def _leaf(mask: masks.Mask, path: str) -> Any:
    leaves = jax.tree_util.tree_leaves_with_path(mask)
    found = {masks.name(p): leaf for p, leaf in leaves}
    if path not in found:
        raise ValueError(f"the mask has no leaf {path!r}; it has {', '.join(found)}")
    return np.asarray(found[path])
