"""What becomes of axes when numbers are moved, cut, laid together or reduced."""

import math
from collections.abc import Sequence
from typing import Any

from lth.compress import factors, values
from lth.compress.factors import Factor
from lth.compress.values import Notes, Value


def reshape(eqn: Any, operands: list[Value], notes: Notes) -> list[Value]:
    """Group the axes that hold the same numbers, and cut them anew."""
    value, old, new = operands[0], eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    turned = eqn.params.get("dimensions") if eqn.primitive.name == "reshape" else None
    if turned is not None or 0 in old:
        return values.refused(eqn, operands, "turns axes or holds nothing")
    axes, origins = [Factor(n, free=True) for n in new], [values.NONE] * len(new)
    for was, now in _groups(old, new):
        sources = [value.axes[i] for i in was]
        sizes = [new[i] for i in now]
        parts = [sources] if len(now) == 1 else factors.divided(sources, sizes)
        if parts is None:
            for f in sources:
                factors.freeze(f, "reshape cuts it in ways that do not fit")
            parts = [[factors.fixed(n, "reshape")] for n in sizes]
        for i, part in zip(now, parts, strict=True):
            axes[i] = factors.product(part)
            origins[i] = values.NONE.union(*(values.behind(value, j) for j in was))
    return [Value(tuple(axes), value.data, tuple(origins) if value.origins else ())]


def _groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list, list]]:
    """Runs of axes longer than 1 that hold the same numbers before and after."""
    before = [i for i, n in enumerate(old) if n != 1]
    after = [i for i, n in enumerate(new) if n != 1]
    groups = []
    while before and after:
        was, now = [before.pop(0)], [after.pop(0)]
        while (a := math.prod(old[i] for i in was)) != (
            b := math.prod(new[i] for i in now)
        ):
            if a < b:
                was.append(before.pop(0))
            else:
                now.append(after.pop(0))
        groups.append((was, now))
    return groups


def transpose(eqn: Any, operands: list[Value], notes: Notes) -> list[Value]:
    """Put axes in another order."""
    return [
        values.picked(operands[0], eqn.params["permutation"], eqn.outvars[0].aval.shape)
    ]


def broadcast(eqn: Any, operands: list[Value], notes: Notes) -> list[Value]:
    """Spread numbers along new axes, on which they are all alike."""
    shape = eqn.outvars[0].aval.shape
    at = {int(to): i for i, to in enumerate(eqn.params["broadcast_dimensions"])}
    return [values.picked(operands[0], [at.get(i) for i in range(len(shape))], shape)]


def reduce(eqn: Any, operands: list[Value], notes: Notes) -> list[Value]:
    """Freeze the axes summed over or the like: means, norms and softmax mix them."""
    gone = [int(axis) for axis in eqn.params["axes"]]
    for axis in gone:
        factors.freeze(operands[0].axes[axis], eqn.primitive.name)
    left = [i for i in range(len(operands[0].axes)) if i not in gone]
    return [values.picked(operands[0], left, eqn.outvars[0].aval.shape)]


def cumulate(eqn: Any, operands: list[Value], notes: Notes) -> list[Value]:
    """Freeze the axes that are summed along or turned around."""
    name, p = eqn.primitive.name, eqn.params
    axes = p["dimensions"] if "dimensions" in p else (p["axis"],)
    shape = eqn.outvars[0].aval.shape
    return [values.touched(operands[0], shape, axes, name)]


def concatenate(eqn: Any, operands: list[Value], notes: Notes) -> list[Value]:
    """Lay axes end to end; along the others it is as if they were added."""
    along, shape = eqn.params["dimension"], eqn.outvars[0].aval.shape
    ends = [value.axes[along] for value in operands]
    found = values.merged(
        [_without(v, along) for v in operands], _less(shape, along), notes
    )
    axes = (*found.axes[:along], factors.chain(ends), *found.axes[along:])
    for value in operands if found.data else []:
        notes.add("beside", value, along)
    origins = values.NONE.union(*(values.behind(value, along) for value in operands))
    own = found.origins
    return [
        found._replace(axes=axes, origins=own and (*own[:along], origins, *own[along:]))
    ]


def _less(items: Sequence, at: int) -> tuple:
    return (*items[:at], *items[at + 1 :])


def _without(value: Value, axis: int) -> Value:
    return value._replace(
        axes=_less(value.axes, axis), origins=_less(value.origins, axis)
    )


def pad(eqn: Any, operands: list[Value], notes: Notes) -> list[Value]:
    """Lay an axis between edges on which numbers are all alike."""
    value, axes = operands[0], list(operands[0].axes)
    for i, (low, high, inner) in enumerate(eqn.params["padding_config"]):
        if inner or low < 0 or high < 0:
            factors.freeze(axes[i], "pad")
            axes[i] = factors.fixed(eqn.outvars[0].aval.shape[i], "pad")
        elif low or high:
            edges = Factor(int(low), free=True), Factor(int(high), free=True)
            axes[i] = factors.chain((edges[0], axes[i], edges[1]))
    return [value._replace(axes=tuple(axes))]


def cut(eqn: Any, operands: list[Value], notes: Notes) -> list[Value]:
    """Take a run out of an axis: what lies around it is cut off."""
    p, old = eqn.params, eqn.invars[0].aval.shape
    steps = p["strides"] or (1,) * len(old)
    axes = list(operands[0].axes)
    bounds = zip(p["start_indices"], p["limit_indices"], steps, strict=True)
    for i, (start, stop, by) in enumerate(bounds):
        if by != 1:
            factors.freeze(axes[i], "slice skips places")
            axes[i] = factors.fixed(eqn.outvars[0].aval.shape[i], "slice")
        elif stop - start < old[i]:
            axes[i] = _runs(axes[i], (start, stop - start, old[i] - stop))[1]
    return [operands[0]._replace(axes=tuple(axes))]


def split(eqn: Any, operands: list[Value], notes: Notes) -> list[Value]:
    """Take all runs of an axis."""
    axis, value = eqn.params["axis"], operands[0]
    parts = _runs(value.axes[axis], eqn.params["sizes"])
    return [
        value._replace(axes=(*value.axes[:axis], part, *value.axes[axis + 1 :]))
        for part in parts
    ]


def _runs(f: Factor, sizes: Sequence[int]) -> list[Factor]:
    """The parts of an axis that is cut into runs."""
    if f.free:
        return [Factor(n, free=True) for n in sizes]
    groups = factors.segmented([f], [int(n) for n in sizes])
    if groups is None:
        factors.freeze(f, "slice cuts it in ways that do not fit")
        return [factors.fixed(n, "slice") for n in sizes]
    return [factors.chain(group) for group in groups]


def window(eqn: Any, operands: list[Value], notes: Notes) -> list[Value]:
    """Freeze what windows slide along, as of pooling, unless they hold one place."""
    p, name = eqn.params, eqn.primitive.name
    n = len(operands[0].axes)
    trivial = zip(
        p["window_dimensions"],
        p["window_strides"],
        p["padding"],
        p.get("base_dilation") or (1,) * n,
        strict=True,
    )
    along = [i for i, w in enumerate(trivial) if w[:2] != (1, 1) or any(w[2])]
    along += [i for i, d in enumerate(p.get("base_dilation") or ()) if d != 1]
    shape = eqn.outvars[0].aval.shape
    return [values.touched(operands[0], shape, along, name)]


def dynamic_slice(eqn: Any, operands: list[Value], notes: Notes) -> list[Value]:
    """Freeze the axes of which a part is taken that is not known."""
    old, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    along = [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    data = any(value.data for value in operands)
    found = values.touched(operands[0], new, along, "dynamic_slice")
    return [found] if found.data == data else values.refused(eqn, operands)


def count(eqn: Any, operands: list[Value], notes: Notes) -> list[Value]:
    """Number an axis, which tells its places apart."""
    shape, along = eqn.outvars[0].aval.shape, eqn.params["dimension"]
    axes = [
        factors.fixed(n, "iota") if i == along else Factor(n, free=True)
        for i, n in enumerate(shape)
    ]
    return [Value(tuple(axes))]
