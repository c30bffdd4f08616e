"""The axes of a whole computation: equation by equation, into calls and loops.

A jaxpr can be shared between calls, so that what its variables stand for belongs to the
call.
"""

from collections.abc import Callable, Sequence
from typing import Any

from lth.compress import factors, moves, products, values
from lth.compress.factors import Factor
from lth.compress.values import Notes, Value
from lth.models import axes, views

Rule = Callable[[Any, list[Value], Notes], list[Value]]

# One number out for each in, at the same place.
ELEMENTWISE = views.ELEMENTWISE | frozenset(
    "tan sinh cosh asin acos atan asinh acosh atanh erfc erf_inv lgamma digamma".split()
)
CUMULATIVE = ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "rev")
REDUCTIONS = tuple(
    "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor "
    "argmax argmin".split()
)
WINDOWS = ("reduce_window_sum", "reduce_window_max", "reduce_window_min")


def follow(
    jaxpr: Any, consts: Sequence, given: Sequence[Value], notes: Notes
) -> list[Value]:
    """Describe the results of a jaxpr.

    Args:
      jaxpr: the computation, open.
      consts: the arrays that it closes over.
      given: describes its arguments. Their factors are joined and frozen on the way.
      notes: what is found of weights is added to them.

    Returns:
      One `Value` for each result.
    """
    env = dict(zip(jaxpr.constvars, map(values.constant, consts), strict=True))
    env |= zip(jaxpr.invars, given, strict=True)

    def value(var):
        return env[var] if axes.is_var(var) else values.constant(var.val)

    for i in sorted(axes.living(jaxpr)):
        eqn = jaxpr.eqns[i]
        outs = _step(eqn, [value(var) for var in eqn.invars], notes)
        env.update(zip(eqn.outvars, outs, strict=True))
    return [value(var) for var in jaxpr.outvars]


def _step(eqn: Any, operands: list[Value], notes: Notes) -> list[Value]:
    name = eqn.primitive.name
    if name in views.SAME:
        return operands
    if name in axes.CALLS:
        return _inside(axes.inside(eqn), operands, notes)
    if name in ELEMENTWISE:
        return [values.merged(operands, eqn.outvars[0].aval.shape, notes)]
    if name in RULES:
        return RULES[name](eqn, operands, notes)
    return values.refused(eqn, operands)


def _inside(jaxpr: Any, operands: Sequence[Value], notes: Notes) -> list[Value]:
    return follow(views.opened(jaxpr), getattr(jaxpr, "consts", ()), operands, notes)


def _scan(eqn: Any, operands: list[Value], notes: Notes) -> list[Value]:
    """One round stands for all: channels are the same in each."""
    p = eqn.params
    first, last = axes.scanned(p)
    if not any(value.data for value in operands):
        return values.refused(eqn, operands, "of weights alone")
    for value in operands[last:]:
        factors.freeze(value.axes[0], "scanned over")
    xs = [v._replace(axes=v.axes[1:], origins=v.origins[1:]) for v in operands[last:]]
    carry = [_carried(value, notes) for value in operands[first:last]]
    outs = _inside(p["jaxpr"], [*operands[:first], *carry, *xs], notes)
    after = _closed(carry, outs[: len(carry)], notes)
    stacked = [_stacked(v, p["length"]) for v in outs[len(carry) :]]
    return [*after, *stacked]


def _while(eqn: Any, operands: list[Value], notes: Notes) -> list[Value]:
    p = eqn.params
    tests, consts = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    if not any(value.data for value in operands):
        return values.refused(eqn, operands, "of weights alone")
    carry = [_carried(value, notes) for value in operands[consts:]]
    _inside(p["cond_jaxpr"], [*operands[:tests], *carry], notes)
    outs = _inside(p["body_jaxpr"], [*operands[tests:consts], *carry], notes)
    return _closed(carry, outs, notes)


def _cond(eqn: Any, operands: list[Value], notes: Notes) -> list[Value]:
    """Which branch is taken does not matter, so that what they give is tied."""
    branches = [_inside(b, operands[1:], notes) for b in eqn.params["branches"]]
    outs = []
    for each in zip(*branches, strict=True):
        one = values.merged(each, [f.size for f in each[0].axes], notes)
        data = one.data or operands[0].data
        outs.append(one._replace(data=data, origins=() if data else one.origins))
    return outs


def _carried(value: Value, notes: Notes) -> Value:
    """What a loop carries: it starts as a value, and depends on inputs later on."""
    fresh = Value(tuple(Factor(f.size) for f in value.axes), True)
    return values.merged([fresh, value], [f.size for f in value.axes], notes)


def _closed(carry: list[Value], outs: list[Value], notes: Notes) -> list[Value]:
    """What a loop leaves, tied to what it carries."""
    return [
        values.merged([a, b], [f.size for f in a.axes], notes)
        for a, b in zip(carry, outs, strict=True)
    ]


def _stacked(value: Value, length: int) -> Value:
    origins = value.origins and (values.NONE, *value.origins)
    return Value(
        (factors.fixed(length, "scanned over"), *value.axes), value.data, origins
    )


RULES: dict[str, Rule] = {
    **dict.fromkeys(views.RESHAPES, moves.reshape),
    **dict.fromkeys(CUMULATIVE, moves.cumulate),
    **dict.fromkeys(REDUCTIONS, moves.reduce),
    **dict.fromkeys(WINDOWS, moves.window),
    "transpose": moves.transpose,
    "broadcast_in_dim": moves.broadcast,
    "concatenate": moves.concatenate,
    "pad": moves.pad,
    "slice": moves.cut,
    "split": moves.split,
    "dynamic_slice": moves.dynamic_slice,
    "iota": moves.count,
    "dot_general": products.dot,
    "conv_general_dilated": products.conv,
    "convolve": products.conv,  # of `models.convolution`
    "gather": products.gather,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
