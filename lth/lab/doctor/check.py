"""What a check says, and how numbers are compared with the right ones."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

Status = Literal["ok", "warning", "FAILED"]


class Check(NamedTuple):
    """What was looked at, how it is, and the fact that was measured."""

    name: str
    status: Status
    told: str


class Difference(NamedTuple):
    """How far a result is from the right one."""

    error: float  # the largest, in units of the scale; infinite if not comparable
    tolerance: float
    told: str  # what is wrong, if it is

    @property
    def wrong(self) -> bool:
        """Return whether it is larger than is right."""
        return not self.error <= self.tolerance  # NaN is wrong


def difference(
    what: str, ours: Any, right: Any, tolerance: float = 0.0, scale: Any = None
) -> Difference:
    """Compare numbers, one by one.

    Args:
      what: How to call them.
      ours: An array.
      right: The array it should be, best in double precision.
      tolerance: How far a number may be off; 0 asks for the very number.
      scale: The unit of that, such as the sum of the sizes of what was added up: an
        array like `right`, or a number. By default the largest size in `right`.

    Returns:
      The difference; it names the first number that is wrong.
    """
    found = np.asarray(ours).astype(np.float64)
    right = np.asarray(right, np.float64)
    if found.shape != right.shape:
        told = f"{what} has the shape {found.shape}, not {right.shape}"
        return Difference(np.inf, tolerance, told)
    if scale is None:
        finite = np.abs(right)[np.isfinite(right)]
        scale = finite.max(initial=0.0)
    unit = np.broadcast_to(np.maximum(scale, np.finfo(np.float32).tiny), right.shape)
    with np.errstate(invalid="ignore"):
        off = np.where(found == right, 0.0, np.abs(found - right) / unit)
    off = np.where(np.isnan(off), np.inf, off)
    error = float(off.max(initial=0.0))
    if error <= tolerance:
        return Difference(error, tolerance, "")
    bad = off > tolerance
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    where = f" at {list(first)}" if first else ""
    told = (
        f"{what}: {bad.sum()} of {bad.size} wrong, the first{where} is "
        f"{found[first]:.8g}, not {right[first]:.8g}"
    )
    return Difference(error, tolerance, told)


def tree_difference(
    what: str, ours: Any, right: Any, tolerance: float = 0.0
) -> Difference:
    """Compare two trees leaf by leaf, each number in units of its own size.

    The unit of a small one is the median size of its leaf, for it may be the sum of
    large ones.

    Args:
      what: How to call them.
      ours: A tree of arrays.
      right: The tree it should be, best in double precision.
      tolerance: How far a number may be off, in its unit; 0 asks for the very number.

    Returns:
      The largest difference.
    """
    leaves, expected = jax.tree.leaves(ours), jax.tree.leaves(right)
    if len(leaves) != len(expected):
        told = f"{what} has {len(leaves)} arrays, not {len(expected)}"
        return Difference(np.inf, tolerance, told)
    found = [
        difference(what, a, b, tolerance, _units(b))
        for a, b in zip(leaves, expected, strict=True)
    ]
    return max(found, key=lambda d: d.error)


def _units(right: Any) -> np.ndarray:
    size = np.abs(np.asarray(right, np.float64))
    plain = size[np.isfinite(size) & (size > 0)]
    return np.maximum(size, np.median(plain) if plain.size else 0.0)


def judged(name: str, differences: Sequence[Difference], about: str) -> Check:
    """The verdict on numbers: the first that is wrong, or how near all of them are."""
    wrong = [d for d in differences if d.wrong]
    if wrong:
        more = f"; and {len(wrong) - 1} more of {len(differences)}" * (len(wrong) > 1)
        return Check(name, "FAILED", wrong[0].told + more)
    near = [d for d in differences if d.tolerance]
    if not near:
        return Check(name, "ok", f"{about}: exact")
    worst = max(near, key=lambda d: d.error / d.tolerance)
    told = f"{about}: off by at most {worst.error:.1e}, {worst.tolerance:.0e} allowed"
    return Check(name, "ok", told)
