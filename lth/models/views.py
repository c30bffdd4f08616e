"""What an array inside a network's computation is to its weights.

A leaf is followed by its factors: each is (stride, size) in the leaf written row by
row, so that splitting and joining axes needs no table. An array that shows the leaf has
some of them along each of its axes, none along an axis of copies or of length 1.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from lth.models import convolution

Factor = tuple[int, int]  # stride and size in the flattened leaf
Factors = tuple[Factor, ...]

# One number out for each in, at the same place.
ELEMENTWISE = frozenset(
    "abs neg sign exp exp2 log log1p expm1 tanh sin cos sqrt rsqrt cbrt square "
    "integer_pow logistic erf floor ceil round is_finite not convert_element_type copy "
    "copy_p reduce_precision stop_gradient sharding_constraint add add_any sub mul div "
    "max min pow select_n clamp and or xor eq ne lt le gt ge nextafter rem atan2 real "
    "imag".split()
)
BESIDE = ELEMENTWISE | {"concatenate", "dynamic_update_slice"}
# What `models.convolution` leaves unsaid of its plain convolutions.
PLAIN = {
    "dimension_numbers": lax.conv_dimension_numbers(
        (1, 1, 1, 1), (1, 1, 1, 1), convolution.LAYOUT
    ),
    "feature_group_count": 1,
    "batch_group_count": 1,
    "lhs_dilation": (1, 1),
}
SAME = ("optimization_barrier", "device_put")
RESHAPES = ("reshape", "squeeze", "expand_dims")


class Weight(NamedTuple):
    """Stands for an array that shows a leaf, its numbers perhaps scaled or masked."""

    leaf: int
    axes: tuple[Factors, ...]  # along each axis of the array
    loops: tuple[Factors, ...] = ()  # which part a round of each loop around it sees
    turned: frozenset[Factor] = frozenset()  # counted from the other end
    mixed: frozenset[int] = frozenset()  # leaves that went into its numbers


class Joined(NamedTuple):
    """Stands for weights side by side along one axis, with their lengths there."""

    axis: int
    parts: tuple[tuple[Weight, int], ...]


class Derived(NamedTuple):
    """Stands for numbers computed from weights alone, in a way that is not followed."""

    leaves: frozenset[int]


class Flow(NamedTuple):
    """Stands for an array that depends on the inputs.

    What depends on nothing is None.
    """

    source: Any = None  # the variable of which it is a part, by strides
    scaled: tuple[Weight, ...] = ()  # that it was just multiplied by, place by place


class Read(NamedTuple):
    """Describes a product with a leaf, or a look-up in it.

    The other side is an array that depends on the inputs.
    """

    leaf: int
    roles: tuple[Factors, ...]  # along each axis of the array, loops first: what meets
    contracted: frozenset[Factor]  # what is summed over
    beside: frozenset[Factor]  # along which kernels lie side by side
    macs: int  # multiply-accumulates, 0 for a look-up
    by_place: bool = (
        False  # the array holds places along its last role, as in a look-up
    )
    part: tuple[int, int, int] | None = None  # (axis, start, size) of the array


class Outcome(NamedTuple):
    """Says what an equation makes of its operands."""

    outs: tuple[Any, ...]
    operand: int = 0  # the one that `reads` are of
    reads: tuple[Read, ...] = ()
    lost: dict[int, str] = {}  # noqa: RUF012 (never written to)
    other: int = 0


def factors(shape: tuple[int, ...]) -> tuple[Factors, ...]:
    """Return the factors of a leaf of that shape, for each axis."""
    return tuple(
        ((stride, size),) if size > 1 else ()
        for stride, size in zip(strides(shape), shape, strict=True)
    )


def strides(shape: tuple[int, ...]) -> list[int]:
    """Return how far apart neighbours along each axis lie in a leaf, row by row."""
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def spread(values: Any, met: Factors, shape: tuple[int, ...]) -> Any:
    """Spread numbers with an axis for each of these factors over a leaf of that shape.

    Along what is no factor they are alike.
    """
    order = sorted(range(len(met)), key=lambda i: -met[i][0])
    fine, short, rest = [], [], math.prod(shape)
    for stride, size in (met[i] for i in order):
        fine += [rest // (stride * size), size]
        short += [1, size]
        rest = stride
    values = values.transpose(order).reshape(*short, 1)
    return jnp.broadcast_to(values, (*fine, rest)).reshape(shape)


def step(eqn: Any, seen: list, times: int) -> Outcome:
    """Return the views of an equation's results, and what it reads.

    The equation is done `times` times.
    """
    name = eqn.primitive.name
    if name in SAME:
        return Outcome(tuple(seen))
    held = [v for v in seen if isinstance(v, Weight | Joined | Derived)]
    if not any(isinstance(v, Flow) for v in seen):
        out = _followed(eqn, seen) if held else None
        return Outcome((out,) * len(eqn.outvars))
    outs = (Flow(),) * len(eqn.outvars)
    plain = name == "convolve" and not eqn.params["mapped"]  # `models.convolution`
    if name in ("dot_general", "conv_general_dilated") or plain:
        return _product(eqn, seen, times)
    if name == "gather" and isinstance(seen[0], Weight):
        return _look_up(eqn, seen[0])
    if name == "slice" and max(eqn.params["strides"] or (1,)) > 1:
        return Outcome((Flow(seen[0].source or eqn.invars[0]),))
    if name == "mul":
        return Outcome((Flow(scaled=tuple(v for v in held if isinstance(v, Weight))),))
    if name == "convert_element_type":
        return Outcome((Flow(scaled=seen[0].scaled),))
    if name == "reduce_sum":
        summed = [
            w
            for w in seen[0].scaled
            if any(w.axes[axis] for axis in eqn.params["axes"])
        ]
        why = "is multiplied and summed, not in a matrix product"
        return Outcome(outs, lost=_lost(summed, why))
    why = f"meets inputs in {name}"
    return Outcome(outs, lost={} if name in BESIDE else _lost(held, why))


def entered(view: Any, sliced: bool) -> Any:
    """Return the view of an operand inside a loop.

    `sliced` says whether the loop goes along its first axis.
    """
    if isinstance(view, Flow):
        return Flow()
    if isinstance(view, Weight):
        gone, axes = (view.axes[0], view.axes[1:]) if sliced else ((), view.axes)
        return view._replace(axes=axes, loops=(*view.loops, gone))
    if isinstance(view, Joined):
        return Derived(_leaves(view))
    return view


def left(view: Any, stacked: bool) -> Any:
    """Return the view of a loop's result outside of it."""
    if isinstance(view, Weight):
        if stacked or view.loops[-1]:
            return Derived(_leaves(view))
        return view._replace(loops=view.loops[:-1])
    return Flow() if isinstance(view, Flow) else view


def joined(one: Any, other: Any) -> Any:
    """Return the view of what is either of two."""
    if isinstance(one, Flow) or isinstance(other, Flow):
        return Flow()
    if one == other:
        return one
    return Derived(_leaves(one) | _leaves(other))


def opened(jaxpr: Any) -> Any:
    """Return a jaxpr without what it closes over."""
    return getattr(jaxpr, "jaxpr", jaxpr)


def _leaves(view: Any) -> frozenset[int]:
    if isinstance(view, Weight):
        return view.mixed | {view.leaf}
    if isinstance(view, Joined):
        return frozenset().union(*(_leaves(part) for part, _ in view.parts))
    return view.leaves if isinstance(view, Derived) else frozenset()


def _flat(axes: Any) -> list[Factor]:
    return [factor for axis in axes for factor in axis]


def _lost(held: list, why: str) -> dict[int, str]:
    return {leaf: why for view in held for leaf in _leaves(view)}


def _followed(eqn: Any, seen: list) -> Any:
    """The view of what is computed from weights alone."""
    name, first, p = eqn.primitive.name, seen[0], eqn.params
    shape = eqn.outvars[0].aval.shape
    if name in ELEMENTWISE:
        found = _merged(eqn, seen)
    elif name == "concatenate" and all(isinstance(v, Weight) for v in seen):
        sizes = [var.aval.shape[p["dimension"]] for var in eqn.invars]
        found = Joined(p["dimension"], tuple(zip(seen, sizes, strict=True)))
    elif isinstance(first, Weight):
        old = eqn.invars[0].aval.shape
        found = _moved(name, p, first, old, shape)
    else:
        found = None
    everything = frozenset().union(*map(_leaves, seen))
    return Derived(everything) if found is None else found


def _moved(name: str, p: dict, w: Weight, old: tuple, new: tuple) -> Weight | None:
    """The weight after an operation that moves its numbers."""
    if name == "transpose":
        return w._replace(axes=tuple(w.axes[i] for i in p["permutation"]))
    if name in RESHAPES:
        return _reshaped(w, old, new)
    if name == "broadcast_in_dim":
        axes = dict(zip(p["broadcast_dimensions"], w.axes, strict=True))
        return w._replace(axes=tuple(axes.get(i, ()) for i in range(len(new))))
    if name == "rev":
        turned = {f for axis in p["dimensions"] for f in w.axes[axis]}
        return w._replace(turned=w.turned ^ turned)
    return w if name == "slice" and old == new else None


def _merged(eqn: Any, seen: list) -> Any:
    """The weight that numbers computed place by place belong to.

    That is the one which is no copy along any axis; the others are scales, masks or
    shifts of it.
    """
    held = [v for v in seen if v is not None]
    if isinstance(held[0], Joined) and len(held) == 1:
        return held[0]
    shape = eqn.outvars[0].aval.shape

    def complete(w):
        along = zip(w.axes, shape, strict=False)
        return len(w.axes) == len(shape) and all(f or n == 1 for f, n in along)

    weights = [(v, complete(v)) for v in seen if isinstance(v, Weight)]
    whole = [w for w, is_whole in weights if is_whole] or [w for w, _ in weights]
    if not whole or any(w[:4] != whole[0][:4] for w in whole):
        return None
    first = whole[0]
    partial = [w for w, _ in weights if w[:4] != first[:4]]
    if any(w.leaf == first.leaf for w in partial):
        return None
    mixed = frozenset().union(
        *(_leaves(v) for v in held if not isinstance(v, Weight)),
        *(w.mixed for w, _ in weights),
    )
    return first._replace(mixed=mixed - {first.leaf})


def _reshaped(w: Weight, old: tuple, new: tuple) -> Weight | None:
    """The weight in another shape, its factors split where the shape asks for it."""
    if any(not f and n > 1 for f, n in zip(w.axes, old, strict=True)):
        return None  # copies
    if w.turned:
        return None
    queue = [f for axis in w.axes for f in axis]
    axes = []
    for n in new:
        taken: Factors = ()
        while (missing := n // math.prod(size for _, size in taken)) > 1:
            if not queue:
                return None
            stride, size = queue.pop(0)
            if missing % size == 0:
                taken += ((stride, size),)
            elif size % missing == 0:
                rest = size // missing
                taken += ((stride * rest, missing),)
                queue.insert(0, (stride, rest))
            else:
                return None
        axes.append(taken)
    return w._replace(axes=tuple(axes))


def _product(eqn: Any, seen: list, times: int) -> Outcome:
    """A matrix product or convolution, at least one side of which depends on inputs."""
    side = next((i for i, v in enumerate(seen) if not isinstance(v, Flow)), None)
    dot = eqn.primitive.name == "dot_general"
    macs = times * (_dot_macs(eqn) if dot else _conv_macs(eqn))
    outs = (Flow(),)
    if side is None or seen[side] is None:
        return Outcome(outs, other=macs)
    found, why = seen[side], "is changed in a way that is not followed"
    if isinstance(found, Derived):
        return Outcome(outs, lost=_lost([found], why))
    parts = found.parts if isinstance(found, Joined) else ((found, 1),)
    reads, start = [], 0
    total = sum(size for _, size in parts)
    for weight, size in parts:
        cut = (found.axis, start, size) if isinstance(found, Joined) else None
        read = _dot(eqn, side, weight, cut) if dot else _conv(eqn, side, weight, cut)
        if read is None or any(f in weight.turned for r in read.roles for f in r):
            return Outcome(outs, lost=_lost([found], why))
        reads.append(read._replace(macs=macs * size // total))
        start += size
    parts_of_it = "has a part in the numbers of another kernel"
    lost = dict.fromkeys((m for w, _ in parts for m in w.mixed), parts_of_it)
    return Outcome(outs, 1 - side, tuple(reads), lost)


def _dot(eqn: Any, side: int, w: Weight, cut: Any) -> Read | None:
    """What a matrix product with a weight on that side reads."""
    contract, batch = eqn.params["dimension_numbers"]
    roles: list[Factors] = [()] * eqn.invars[1 - side].aval.ndim
    part, contracted, beside = None, [], _flat(w.loops)
    for pair, summed in ((contract, True), (batch, False)):
        for x, own in zip(pair[1 - side], pair[side], strict=True):
            roles[x] = w.axes[own]
            if cut and cut[0] == own:
                part = (len(w.loops) + x, *cut[1:])
            (contracted if summed else beside).extend(w.axes[own])
            if summed and not w.axes[own] and eqn.invars[side].aval.shape[own] > 1:
                return None  # a sum over copies
    met = frozenset(contracted), frozenset(beside)
    return Read(w.leaf, (*w.loops, *roles), *met, 0, part=part)


def _conv(eqn: Any, side: int, w: Weight, cut: Any) -> Read | None:
    """What a convolution with the weight for a kernel reads."""
    p, kernel = PLAIN | eqn.params, eqn.invars[1].aval.shape
    lhs, rhs = p["dimension_numbers"].lhs_spec, p["dimension_numbers"].rhs_spec
    groups, out = p["feature_group_count"], rhs[0]
    if side != 1 or cut or p["batch_group_count"] != 1:
        return None
    roles: list[Factors] = [()] * len(lhs)
    roles[lhs[1]] = w.axes[rhs[1]]
    if groups > 1:
        split = (*kernel[:out], groups, kernel[out] // groups, *kernel[out + 1 :])
        finer = _reshaped(w._replace(turned=frozenset()), kernel, split)
        if finer is None:
            return None
        roles[lhs[1]] = (*finer.axes[out], *w.axes[rhs[1]])
    met = frozenset(_flat(w.axes[i] for i in rhs[1:])), frozenset(_flat(w.loops))
    return Read(w.leaf, (*w.loops, *roles), *met, 0)


def _dot_macs(eqn: Any) -> int:
    (summed, _), _ = eqn.params["dimension_numbers"]
    lengths = [eqn.invars[0].aval.shape[axis] for axis in summed]
    return eqn.outvars[0].aval.size * math.prod(lengths)


def _conv_macs(eqn: Any) -> int:
    """Every weight once at each output, padded edges too.

    Where a stride spreads the inputs out, it meets each of those once instead.
    """
    p = PLAIN | eqn.params
    spec = p["dimension_numbers"]
    x, kernel, y = (v.aval for v in (*eqn.invars, *eqn.outvars))
    places = [
        x.shape[i] if spread > 1 else y.shape[o]
        for i, o, spread in zip(
            spec.lhs_spec[2:], spec.out_spec[2:], p["lhs_dilation"], strict=True
        )
    ]
    return x.shape[spec.lhs_spec[0]] * math.prod(places) * kernel.size


def _look_up(eqn: Any, w: Weight) -> Outcome:
    """Whole rows taken by an index, or anything else that gathers."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape = eqn.invars[0].aval.shape
    axis = numbers.start_index_map[0] if numbers.start_index_map else 0
    whole = [1 if i == axis else n for i, n in enumerate(shape)]
    plain = (
        numbers.start_index_map == numbers.collapsed_slice_dims == (axis,)
        and not numbers.operand_batching_dims
        and list(sizes) == whole
        and not w.turned
    )
    if not plain:
        return Outcome((Flow(),), lost=_lost([w], "meets inputs in gather"))
    places: list[Factors] = [()] * (eqn.invars[1].aval.ndim - 1)
    roles = (*w.loops, *places, w.axes[axis])
    lost = dict.fromkeys(w.mixed, "has a part in the numbers of another kernel")
    met = frozenset(w.axes[axis]), frozenset(_flat(w.loops))
    read = Read(w.leaf, roles, *met, 0, by_place=True)
    return Outcome((Flow(),), 1, (read,), lost)
