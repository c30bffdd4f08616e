"""A network's weights as a few named arrays: whole or sparse, float or int8.

Of a leaf under the path P such arrays hold, by what they are stored as::

    whole            P, zeros where nothing is kept
    sparse           P.bits, a bit a place, row by row, the first one highest
                     P.values, those kept, in that order; P.shape
    whole, int8      P, and P.scale: the leaf is P * P.scale
    sparse, int8     P.bits, P.values, P.shape and P.scale

so that whoever reads them needs NumPy and nothing of `lth`::

    bits = np.unpackbits(a[f"{P}.bits"], count=math.prod(a[f"{P}.shape"]))
    leaf = np.zeros(a[f"{P}.shape"], np.float32)
    leaf[bits.astype(bool).reshape(leaf.shape)] = a[f"{P}.values"] * a[f"{P}.scale"]

Leaves that no mask covers (biases, norms, averages) are whole and as they are. Paths
are those of the tree {"params": params, "stats": stats}.
"""

import lzma
import math
import zlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lth import masks
from lth.compress import packing
from lth.compress.packing import Kind
from lth.masks import Mask, Params

Form = Literal["dense", "sparse"]
Arrays = dict[str, np.ndarray]
PARTS = ("bits", "values", "shape", "scale")


class Sizes(NamedTuple):
    """Counts the bytes of one network's numbers in several forms, names left out."""

    raw: int  # every leaf whole and as it is in memory
    stored: int  # the arrays
    zlib: int  # the arrays, deflated
    lzma: int
    floor: float  # of what the mask covers, as `packing.floor`; all else raw


def stored(
    params: Params,
    stats: Any,
    mask: Mask,
    form: Form = "dense",
    kind: Kind = "float32",
) -> Arrays:
    """Turn a network into arrays by name, as a file holds them.

    Pruned places are 0 whatever `params` has there. Types that NumPy lacks, such as
    bfloat16, become float32, which holds their every value. With int8 a leaf has one
    scale, its largest weight over 127. Sparse, a kept weight that is rounded to 0 is
    still kept, for the bits say so; whole, it is rounded away from 0, lest a zero be
    taken for a pruned weight.

    Args:
      params, stats: of one network.
      mask: of its params; leaves where it is None are stored whole.
      form: `dense` or `sparse`, of the leaves that the mask covers.
      kind: `float32`, which leaves numbers as they are, or `int8`.

    Returns:
      The arrays.

    Raises:
      ValueError: for int8 of weights that are not finite, with the path of the leaf;
        for leaves that are no numbers, such as keys; and for a path that could be
        taken for a part of another.
    """
    found: Arrays = {}

    def leaf(path, value, keep):
        name = masks.name(path)
        if name.rpartition(".")[2] in PARTS:
            raise ValueError(f"a leaf cannot be called {name}: it reads as a part")
        whole = _plain(name, value)
        if keep is None:
            found[name] = whole
            return
        keep = np.asarray(keep)
        scale = None
        if kind == "int8":
            if not np.all(np.isfinite(whole[keep])):
                raise ValueError(f"{name} holds weights that are not finite: no int8")
            whole, scale = packing.quantised(np.where(keep, whole, 0))
            found[f"{name}.scale"] = np.array(scale)
        if form == "sparse":
            found[f"{name}.bits"] = np.packbits(keep)
            found[f"{name}.values"] = whole[keep]
            found[f"{name}.shape"] = np.array(keep.shape, np.int64)
            return
        if scale is not None:
            away = np.sign(np.asarray(value, np.float32)).astype(np.int8)
            whole = np.where(whole == 0, away, whole)
        found[name] = np.where(keep, whole, np.zeros((), whole.dtype))

    tree = {"params": params, "stats": stats}
    none = jax.tree.map(lambda _: None, stats)
    jax.tree_util.tree_map_with_path(leaf, tree, {"params": mask, "stats": none})
    return dict(sorted(found.items()))


def restored(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Return the leaves by path, whole: what `stored` was given.

    Raises ValueError, with the path, for arrays that do not fit each other in number,
    type or size. Nothing is made that is larger than 8 places a byte of the bits.
    """
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        path, _, part = name.rpartition(".")
        whole = part not in PARTS
        parts.setdefault(name if whole else path, {})["" if whole else part] = array
    return {path: _leaf(path, given) for path, given in parts.items()}


def kept(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Return the masks that sparse arrays hold, by the paths of their leaves.

    Raises ValueError as `restored` does.
    """
    found = {}
    for name in arrays:
        path, _, part = name.rpartition(".")
        if part == "bits":
            given = {p: arrays[n] for p in PARTS if (n := f"{path}.{p}") in arrays}
            found[path] = _places(path, given)
    return found


def errors(arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Bound, by path, how far a weight that became an int8 is off: from its scale.

    It is half a step of the leaf where bits lie beside the values, and a whole one
    where kept weights are rounded away from 0; float32 adds a rounding to that.
    """
    return {
        path: float(array) * (0.5 if f"{path}.bits" in arrays else 1.0)
        for name, array in arrays.items()
        for path, _, part in [name.rpartition(".")]
        if part == "scale"
    }


def sizes(arrays: Mapping[str, np.ndarray], mask: Mask) -> Sizes:
    """Measure the arrays of a network in bytes, beside the least that they could take.

    The floor spends on each value that is kept the bits of the stored type; what a code
    of the values comes to may lie below it (`packing.floor`).
    """
    payload = b"".join(array.tobytes() for array in arrays.values())
    whole = restored(arrays)
    keeps = {
        f"params/{masks.name(path)}": np.asarray(keep)
        for path, keep in jax.tree_util.tree_leaves_with_path(mask)
    }
    count = sum(keep.size for keep in keeps.values())
    rest = sum(x.nbytes for path, x in whole.items() if path not in keeps)
    int8 = any(name.endswith(".scale") for name in arrays)
    bits = 8 if int8 else 8 * max((whole[path].itemsize for path in keeps), default=4)
    share = sum(int(keep.sum()) for keep in keeps.values()) / max(count, 1)
    return Sizes(
        raw=sum(x.nbytes for x in whole.values()),
        stored=len(payload),
        zlib=len(zlib.compress(payload, packing.LEVEL)),
        lzma=len(lzma.compress(payload)),
        floor=packing.floor(count, share, bits) + rest,
    )


def _plain(name: str, value: Any) -> np.ndarray:
    """A leaf as an array of its own, of a type that NumPy knows itself."""
    if jnp.issubdtype(getattr(value, "dtype", float), jax.dtypes.extended):
        raise ValueError(f"{name} holds {value.dtype}, which is no number")
    array = np.array(value, order="C")
    if array.dtype.kind == "V":  # as those of ml_dtypes are to NumPy
        array = array.astype(np.float32)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} holds {array.dtype}, which is no number")
    return array


def _leaf(path: str, given: Mapping[str, np.ndarray]) -> np.ndarray:
    known = {*given}
    if known - {"scale"} not in ({""}, {"bits", "values", "shape"}):
        raise ValueError(f"{path} has the parts {sorted(known)}, which are no leaf")
    values = given[""] if "" in given else given["values"]
    if "scale" in given:
        scale = given["scale"]
        if values.dtype != np.int8 or scale.dtype != np.float32 or scale.shape:
            raise ValueError(f"{path} has a scale, but is not of int8 and float32")
        if not (np.isfinite(scale) and scale > 0):
            raise ValueError(f"{path} has the scale {scale}, which is not above 0")
        values = values * scale
    if "" in given:
        return values
    places = _places(path, given)
    leaf = np.zeros(places.shape, values.dtype)
    leaf[places] = values
    return leaf


def _places(path: str, given: Mapping[str, np.ndarray]) -> np.ndarray:
    """The mask of a leaf from its bits, once they fit its shape and values."""
    if missing := {"bits", "values", "shape"} - {*given}:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}")
    bits, values, shape = given["bits"], given["values"], given["shape"]
    if shape.dtype != np.int64 or shape.ndim != 1 or len(shape) > 32:
        raise ValueError(f"{path} has no shape, but {shape.dtype}{list(shape.shape)}")
    sides = tuple(map(int, shape))
    size = math.prod(sides)
    if bits.dtype != np.uint8 or bits.ndim != 1 or len(bits) != -(-size // 8):
        raise ValueError(
            f"{path} of shape {list(sides)} has {bits.size} bytes of {bits.dtype} for "
            f"its places, not {-(-size // 8)} of uint8"
        )
    if min(sides, default=0) < 0:
        raise ValueError(f"{path} has the shape {list(sides)}")
    flat = np.unpackbits(bits)
    if values.ndim != 1 or int(flat.sum()) != len(values) or flat[size:].any():
        raise ValueError(
            f"{path} keeps {int(flat[:size].sum())} places and holds values of shape "
            f"{list(values.shape)}"
        )
    return flat[:size].astype(bool).reshape(sides)
