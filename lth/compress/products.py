"""What becomes of axes in products: matrix products, convolutions, look-ups."""

from typing import Any

from lth.compress import factors, values
from lth.compress.factors import Factor
from lth.compress.values import Notes, Role, Value
from lth.models import views


def dot(eqn: Any, operands: list[Value], notes: Notes) -> list[Value]:
    """Tie the axes that a matrix product sums over, and those it goes along."""
    summed, batch = eqn.params["dimension_numbers"]
    lhs, rhs = operands
    data = lhs.data or rhs.data
    for i, j in zip(*summed, strict=True):
        _contract(lhs, i, rhs, j, notes)
    axes, origins = [], []
    for i, j in zip(*batch, strict=True):
        axes.append(factors.join(lhs.axes[i], rhs.axes[j]))
        origins.append(values.behind(lhs, i) | values.behind(rhs, j))
        if data:
            notes.add(_along(rhs.axes[j]), lhs, i)
            notes.add(_along(lhs.axes[i]), rhs, j)
    for value, met, beside in ((lhs, summed[0], batch[0]), (rhs, summed[1], batch[1])):
        for axis in range(len(value.axes)):
            if axis not in (*met, *beside):
                axes.append(value.axes[axis])
                origins.append(values.behind(value, axis))
                if data:
                    notes.add("makes", value, axis)
    return [Value(tuple(axes), data, () if data else tuple(origins))]


def _along(met: Factor) -> Role:
    """What weights do along an axis on which products lie side by side.

    They make channels of what is alike along it, such as inputs for every expert.
    """
    return "makes" if all(f.free for f in factors.leaves(met)) else "passes"


def _contract(lhs: Value, i: int, rhs: Value, j: int, notes: Notes) -> None:
    """Two axes that are summed over together."""
    ours, theirs = values.behind(lhs, i), values.behind(rhs, j)
    if lhs.data and rhs.data:
        # Such as queries by keys: no weight reads there that could be cleared.
        for f in (lhs.axes[i], rhs.axes[j]):
            factors.freeze(f, "dot_general of two arrays that depend on the inputs")
    elif (lhs.data and not theirs) or (rhs.data and not ours):
        for f in (lhs.axes[i], rhs.axes[j]):
            factors.freeze(f, "dot_general with a constant")
    f = factors.join(lhs.axes[i], rhs.axes[j])
    if ours and theirs:
        notes.products.append((ours, theirs, f))
    else:
        notes.add("reads", lhs, i)
        notes.add("reads", rhs, j)


def conv(eqn: Any, operands: list[Value], notes: Notes) -> list[Value]:
    """Tie channels to a kernel; the places along which its window slides are frozen."""
    p, (x, kernel) = views.PLAIN | eqn.params, operands
    if p.get("mapped") or p["batch_group_count"] != 1 or kernel.data or not x.data:
        return values.refused(
            eqn, operands, "is no convolution of inputs with a kernel"
        )
    spec, shape = p["dimension_numbers"], eqn.outvars[0].aval.shape
    (batch, channel, *window), (out, into, *size) = spec.lhs_spec, spec.rhs_spec
    for f in [x.axes[i] for i in window] + [kernel.axes[i] for i in size]:
        factors.freeze(f, "convolved along")
    notes.add("reads", kernel, into)
    channels, made = [x.axes[channel]], kernel.axes[out]
    if (groups := p["feature_group_count"]) == 1:
        notes.add("makes", kernel, out)
    else:
        inner = x.axes[channel].size // groups
        theirs = factors.divided(channels, (groups, inner))
        ours = factors.divided([made], (groups, made.size // groups))
        if theirs is None or ours is None:
            return values.refused(eqn, operands, "has groups that do not fit")
        (groups_in, channels), (own, rest) = theirs, ours
        origins = (values.behind(kernel, out),)
        along = _along(factors.product(groups_in))
        notes.add(along, Value((factors.product(own),), False, origins), 0)
        notes.add("makes", Value((factors.product(rest),), False, origins), 0)
        tied = factors.join(factors.product(groups_in), factors.product(own))
        made = factors.product([tied, *rest])
    if not any(kernel.origins):
        for f in channels:
            factors.freeze(f, f"{eqn.primitive.name} with a constant")
    factors.join(factors.product(channels), kernel.axes[into])
    axes = [factors.fixed(n, "convolved along") for n in shape]
    axes[spec.out_spec[0]], axes[spec.out_spec[1]] = x.axes[batch], made
    return [Value(tuple(axes), True)]


def gather(eqn: Any, operands: list[Value], notes: Notes) -> list[Value]:
    """Take whole rows by an index, as of an embedding, or refuse."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    (table, index), shape = operands, eqn.invars[0].aval.shape
    out = eqn.outvars[0].aval.shape
    axes = numbers.start_index_map
    whole = all(n == (1 if i in axes else shape[i]) for i, n in enumerate(sizes))
    plain = whole and numbers.collapsed_slice_dims == axes
    if not plain or numbers.operand_batching_dims:
        return values.refused(eqn, operands)
    data = table.data or index.data
    for axis in axes:
        factors.freeze(table.axes[axis], "gather")
        notes.add("reads", table, axis)
    kept = iter([i for i in range(len(shape)) if i not in axes])
    places = iter(index.axes[:-1])
    found, origins = [], []
    for i in range(len(out)):
        axis = next(kept) if i in numbers.offset_dims else None
        found.append(next(places) if axis is None else table.axes[axis])
        origins.append(values.NONE if axis is None else values.behind(table, axis))
        if axis is not None and data:
            notes.add("makes", table, axis)
    return [Value(tuple(found), data, () if data else tuple(origins))]
