"""The masks of an OpenLTH run, checked: what a ladder of levels must be."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lth.data.errors import DataError
from lth.lab.openlth import files

Tensors = Mapping[str, np.ndarray]


def prunable(tensors: Tensors) -> list[str]:
    """Return the tensors that OpenLTH prunes: the weights of its layers."""
    return [
        name
        for name, tensor in tensors.items()
        if name.endswith(".weight") and tensor.ndim >= 2
    ]


def ladder(
    path: Path, count: int, tensors: Tensors, ignored: tuple[str, ...]
) -> list[Tensors]:
    """Read the masks of all levels of a replicate.

    Args:
      path: The folder of the replicate.
      count: How many levels there are.
      tensors: Its initial weights.
      ignored: Those that are never pruned.

    Returns:
      A mask of every prunable tensor, of each level.

    Raises:
      DataError: for masks of other tensors or shapes, of which one keeps what the one
        before it had pruned, or that prune what is never pruned.
    """
    shapes = {name: tensors[name].shape for name in prunable(tensors)}
    found: list[Tensors] = []
    for level in range(count):
        mask = files.read_mask(path, level)
        if mask is None:  # of the dense network, which may have none
            mask = {name: np.ones(shape, bool) for name, shape in shapes.items()}
        where = path / f"level_{level}" / "main" / "mask.pth"
        if {name: m.shape for name, m in mask.items()} != shapes:
            raise DataError(
                f"{where}: it has masks of {_told(mask)}, the weights to prune are "
                f"{_told({n: tensors[n] for n in shapes})}"
            )
        whole = shapes if level == 0 else ignored
        for name, keep in mask.items():
            if name in whole and not keep.all():
                never = "is never pruned" if level else "is whole at level 0"
                raise DataError(f"{where}: {name} {never}, and this mask prunes it")
            if found and (keep > found[-1][name]).any():
                raise DataError(
                    f"{where}: it keeps weights of {name} that level {level - 1} pruned"
                )
        found.append(mask)
    return found


def check_start(
    path: Path, level: int, start: Tensors, early: Tensors, mask: Tensors
) -> None:
    """Refuse a level that does not begin with the weights of the rewind point.

    Args:
      path: The folder of the replicate.
      level: Which.
      start: The weights that its training began with.
      early: Those of the rewind point.
      mask: That of the level.

    Raises:
      DataError: which names the tensor.
    """
    for name, value in early.items():
        keep = mask.get(name, np.ones((), bool)).astype(value.dtype)
        if name not in start or start[name].shape != value.shape:
            raise DataError(f"{path}: level {level} begins without {name}")
        if not np.array_equal(start[name] * keep, value * keep):
            raise DataError(
                f"{path}: {name} of level {level} does not begin where level 0 did: "
                "OpenLTH rewinds every level to the same weights"
            )


def _told(tensors: Tensors) -> str:
    return ", ".join(f"{name} {list(t.shape)}" for name, t in tensors.items())
