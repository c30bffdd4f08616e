"""What the masks of a run keep of its first layer, as a picture."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np

from lth import masks
from lth.lab.stored import Run

MOST = 4096  # places of a picture: more would fill the page's two megabytes


class First(NamedTuple):
    """Holds the kept share or number of the first layer's weights, by level."""

    title: str
    path: str  # of the leaf
    kept: dict[int, np.ndarray]  # [rows, columns], mean over replicates
    what: str
    row: str
    column: str
    aspect: Literal["equal", "auto"]  # of a place


def first(run: Run, levels: Sequence[int]) -> First | None:
    """Return what some levels keep of the first layer that has weights to prune.

    Inputs that make a square picture are counted, how many weights each keeps; of other
    layers each weight has its place, rows being inputs. Of functions of one's own it is
    the first layer by name, and called by it. None for what is too big.
    """
    kept: dict[int, np.ndarray] = {}
    path, order = "", run.content.get("work") or {}  # in the order of the network
    for level in levels:
        leaves = jax.tree_util.tree_leaves_with_path(run.ticket(level).mask)
        found = {masks.name(where): leaf for where, leaf in leaves}
        path = next((name for name in order if name in found), next(iter(found), ""))
        if not path or np.ndim(found[path]) < 3:
            return None
        kept[level] = np.asarray(found[path], np.float32).mean(0)
    if not kept:
        return None
    title = "Masks of the first layer" if path in order else f"Masks of {path}"
    rows = math.prod(next(iter(kept.values())).shape[:-1])
    for channels in (1, 3):
        side = math.isqrt(rows // channels)
        flat = next(iter(kept.values())).ndim == 2
        if flat and channels * side * side == rows and side >= 4 and side**2 <= MOST:
            shape = (side, side, channels)
            counts = {
                level: share.sum(-1).reshape(shape).sum(-1)
                for level, share in kept.items()
            }
            said = "weights kept of each pixel"
            return First(title, path, counts, said, "row", "column", "equal")
    flat = {level: share.reshape(rows, -1) for level, share in kept.items()}
    if next(iter(flat.values())).size > MOST:
        return None
    said = "share of replicates that keep it"
    return First(title, path, flat, said, "input", "output", "auto")
