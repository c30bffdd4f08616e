"""Axes as products and sums of factors, joined where a computation ties them.

An axis of an array is a factor: whole, or a product of finer ones, written row by row
(heads x width), or a sum of them, end to end (a concatenation). Equations join factors:
those of one class live, die and move together. Where an equation cuts an axis, its
factor is refined, and so are all that were joined with it.

What is not understood is frozen, with the reason; nothing is ever undone.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(eq=False)
class Factor:
    """Stands for an axis or a part of it; the `root` of its class speaks for all."""

    size: int
    free: bool = False  # numbers are alike along it, whatever the other axes hold
    why: str = ""  # it is frozen, if any
    kind: Literal["", "product", "sum"] = ""
    parts: tuple["Factor", ...] = ()
    up: "Factor | None" = None


def root(f: Factor) -> Factor:
    """Return the factor that speaks for the class of `f`."""
    while f.up is not None:
        f = f.up
    return f


def fixed(size: int, why: str) -> Factor:
    """Make a frozen factor."""
    return Factor(size, why=why)


def product(factors: Iterable[Factor]) -> Factor:
    """Make one axis of several, the last of which runs fastest."""
    parts = _flat([root(f) for f in factors if f.size > 1], "product")
    return parts[0] if len(parts) == 1 else _composed("product", parts)


def chain(factors: Iterable[Factor]) -> Factor:
    """Make one axis of several laid end to end."""
    parts = _flat([root(f) for f in factors if f.size], "sum")
    return parts[0] if len(parts) == 1 else _composed("sum", parts)


def leaves(f: Factor) -> list[Factor]:
    """Return the classes that a factor is made of, in order."""
    f = root(f)
    return [leaf for part in f.parts for leaf in leaves(part)] if f.kind else [f]


def freeze(f: Factor, why: str) -> None:
    """Mark all that a factor is made of as not to be touched; the first reason stays.

    Numbers that are alike along a factor bind nobody.
    """
    for leaf in leaves(f):
        if not leaf.free:
            leaf.why = leaf.why or why


def reason(f: Factor) -> str:
    """Say why a factor is frozen if all of it is, and else ''."""
    found = leaves(f)
    return found[0].why if all(leaf.why for leaf in found) else ""


def join(a: Factor, b: Factor) -> Factor:
    """Tie two axes of one length, and return the axis of what is computed from both.

    An axis of length 1 is spread along the other, and so is what is alike along it.
    Axes that are cut in ways that do not fit are frozen.
    """
    a, b = root(a), root(b)
    if a is b or a.size == 1 or a.free:
        return b
    if b.size == 1 or b.free:
        return a
    if why := reason(a) or reason(b):
        freeze(a, why)
        freeze(b, why)
        return a
    if not (a.kind or b.kind):
        b.up = a
        return a
    cut = divided if "product" in (a.kind, b.kind) else segmented
    kind = "product" if cut is divided else "sum"
    ours, theirs = _flat([a], kind), _flat([b], kind)
    pairs = _matched(ours, theirs, cut)
    if pairs is None:
        for f in (a, b):
            freeze(f, "is cut in ways that do not fit")
        return a
    joined = [join(x, y) for x, y in pairs]
    return product(joined) if kind == "product" else chain(joined)


def divided(
    factors: Sequence[Factor], sizes: Sequence[int]
) -> list[list[Factor]] | None:
    """Part a product of factors into products of these sizes, or return None.

    Factors are refined where a border falls inside of them.
    """
    queue = _flat([root(f) for f in factors if f.size > 1], "product")
    groups = []
    for n in sizes:
        group: list[Factor] = []
        while n > 1:
            if not queue:
                return None
            f = queue.pop(0)
            if n % f.size == 0:
                n //= f.size
            elif f.size % n == 0 and (pair := _cut(f, n, f.size // n, "product")):
                f, n = pair[0], 1
                queue[:0] = _flat([pair[1]], "product")
            else:
                return None
            group.append(f)
        groups.append(group)
    return groups


def segmented(
    factors: Sequence[Factor], sizes: Sequence[int]
) -> list[list[Factor]] | None:
    """Part factors that lie end to end into runs of these sizes, or return None."""
    queue = _flat([root(f) for f in factors], "sum")
    groups = []
    for n in sizes:
        group: list[Factor] = []
        while n:
            f = queue.pop(0)
            if f.size > n:
                pair = _cut(f, n, f.size - n, "sum")
                if pair is None:
                    return None
                f = pair[0]
                queue.insert(0, pair[1])
            n -= f.size
            group.append(f)
        groups.append(group)
    return groups


def places(f: Factor) -> list[tuple[Factor, np.ndarray]]:
    """Find where each class lies along an axis: indices [size, times].

    A class that lies in several places of a sum is listed once for each.
    """
    f = root(f)
    if not f.kind:
        return [(f, np.arange(f.size)[:, None])]
    found, start = [], 0
    for i, part in enumerate(f.parts):
        if f.kind == "sum":
            found += [(leaf, index + start) for leaf, index in places(part)]
            start += part.size
        else:
            stride = math.prod(other.size for other in f.parts[i + 1 :])
            outer = np.arange(math.prod(other.size for other in f.parts[:i]))
            beside = outer[:, None] * (stride * part.size) + np.arange(stride)
            for leaf, index in places(part):
                spread = index[:, :, None] * stride + beside.ravel()
                # Sorted, it has the order of the axis, whatever the nesting.
                found.append((leaf, np.sort(spread.reshape(leaf.size, -1))))
    return found


def repeated(f: Factor) -> list[Factor]:
    """List the classes that meet themselves in a product: an axis of pairs i, i."""
    f = root(f)
    inner = [leaf for part in f.parts for leaf in repeated(part)]
    if f.kind != "product":
        return inner
    each = [{id(leaf): leaf for leaf in leaves(part)} for part in f.parts]
    seen: dict[int, Factor] = {}
    for part in each:
        inner += [leaf for key, leaf in part.items() if key in seen]
        seen |= part
    return inner


def _composed(kind: Literal["product", "sum"], parts: Sequence[Factor]) -> Factor:
    combine = math.prod if kind == "product" else sum
    alike = bool(parts) and kind == "product" and all(f.free for f in parts)
    size = combine(f.size for f in parts)
    if alike or not parts:
        return Factor(size, free=True)
    return Factor(size, kind=kind, parts=tuple(parts))


def _flat(factors: Sequence[Factor], kind: str) -> list[Factor]:
    """The factors with those of that kind replaced by their parts."""
    found = []
    for f in map(root, factors):
        found += _flat(f.parts, kind) if f.kind == kind else [f]
    return found


def _cut(f: Factor, first: int, rest: int, kind: Literal["product", "sum"]):
    """Refine a whole factor into two; None where it is refined in another way."""
    why = reason(f)
    if f.kind and not why:
        return None
    pair = Factor(first, f.free, why), Factor(rest, f.free, why)
    if not f.kind and not f.free:
        f.kind, f.parts = kind, pair
    return pair


def _matched(ours: list, theirs: list, cut) -> list[tuple[Factor, Factor]] | None:
    """Pairs of one size out of two lists of factors, refined where need be."""
    groups = cut(ours, [f.size for f in theirs])
    if groups is None:
        return None
    pairs = []
    for group, whole in zip(groups, theirs, strict=True):
        finer = cut([whole], [f.size for f in group])
        if finer is None or any(len(part) != 1 for part in finer):
            return None
        pairs += [(f, part[0]) for f, part in zip(group, finer, strict=True)]
    return pairs
