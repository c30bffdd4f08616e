"""What meets each kernel of a network: its values, and gates to put on them.

A network's jaxpr is done equation by equation as it stands, and the operands that meet
weights (`axes.Plan`) are kept on the way. Flax's own interceptors would give a module's
arguments, but not through `nn.remat`, `nn.scan` or `nn.jit`, nor of plain functions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lth.models import axes, views
from lth.models.axes import Plan
from lth.models.views import Factors, Read


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["values"],
    meta_fields=["factors", "index"],
)
@dataclass(frozen=True)
class Inputs:
    """Holds what meets a leaf along other axes than the one before the last.

    `values` [..., a, b, …] end with an axis for each of `factors`, which say along what
    of the leaf they lie: (stride, size) in the leaf written row by row, as
    `views.factors(shape)` has them for whole axes. With `index`, `values` [...] are
    places along the last factor instead: what meets the leaf is 1 there and else 0.
    """

    values: jax.Array
    factors: Factors
    index: bool = False


@jax.tree_util.register_static
@dataclass(frozen=True)
class Unseen:
    """Stands in the place of inputs that could not be seen, and says why."""

    why: str


def intermediates(
    apply: Callable, params: Any, stats: Any, inputs: Any
) -> tuple[Any, Any]:
    """Find what enters and what leaves each kernel of a model with that `apply`.

    `functools.partial(intermediates, apply)` is its `Model.intermediates`.

    Args:
      apply: As in `Model`.
      params: The weights, or anything of their structure.
      stats: Of the model.
      inputs: A batch of them.

    Returns:
      Two trees like `params`; `Model` says what they hold.
    """
    rest = stats, inputs
    closed, plan = axes.trace(axes.evaluation(apply), params, rest, (False, True))
    leaves, structure = jax.tree.flatten(params)
    values = jax.tree.leaves((params, rest))
    _, found = evaluate(closed.jaxpr, closed.consts, values, plan)
    met: list[list] = [[] for _ in leaves]
    for at, read in sites(plan):
        met[read.leaf].append((read, *found[at]))
    why = {read.leaf: reason for read, reason in plan.hidden} | plan.lost
    ins = [
        Unseen(why[i]) if i in why and w.ndim > 1 else _entry(w.shape, met[i])
        for i, w in enumerate(leaves)
    ]
    outs = [
        reads[0][2] if len(reads) == 1 and not reads[0][0].part else None
        for reads in met
    ]
    return structure.unflatten(ins), structure.unflatten(outs)


def sites(plan: Plan, at: tuple = ()) -> list[tuple[tuple, Read]]:
    """List every read with the place of its operand, as `evaluate` calls it."""
    found = []
    for i in sorted({*plan.sites, *plan.inner}):
        for site in plan.sites.get(i, ()):
            found += [((*at, i, site.operand), read) for read in site.reads]
        if i in plan.inner:
            found += sites(plan.inner[i], (*at, i))
    return found


def evaluate(
    jaxpr: Any,
    consts: Any,
    args: Any,
    plan: Plan,
    gates: dict[tuple, jax.Array] | None = None,
    at: tuple = (),
) -> tuple[list, dict[tuple, tuple[jax.Array, ...]]]:
    """Do a jaxpr, and keep what its sites hold and give.

    Args:
      jaxpr, consts: what to do.
      args: its arguments, flat.
      plan: of this jaxpr.
      gates: by the place of a site, what its operand is multiplied by; of the shape
        that is found there, with a leading axis for each loop around it. Others stay
        as they are.
      at: the place of this jaxpr in the whole.

    Returns:
      The results, and by the place of each site (what meets weights there, the product,
      the operand itself, which is less where a stride skips).

    Raises:
      ValueError: for a gate inside a function with a gradient of its own that reads its
        input more than once.
    """
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    found = {}
    live = axes.living(jaxpr)
    for i, eqn in enumerate(jaxpr.eqns):
        if i not in live:
            continue
        values = [env[v] if axes.is_var(v) else v.val for v in eqn.invars]
        if i in plan.inner:
            inner = _loop if eqn.primitive.name == "scan" else _call
            outs, more = inner(eqn, values, plan.inner[i], gates, (*at, i))
            found |= more
        else:
            here = plan.sites.get(i, ())
            outs = _done(eqn, here, values, gates, (*at, i))
            for site in here:
                x = env[site.var]
                x = x[..., 0] if site.reads[0].by_place else x
                operand = eqn.invars[site.operand]
                own = env[operand] if axes.is_var(operand) else operand.val
                found[*at, i, site.operand] = x, outs[site.result], own
        env.update(zip(eqn.outvars, outs, strict=True))
    return [env[v] if axes.is_var(v) else v.val for v in jaxpr.outvars], found


def _done(eqn: Any, here: tuple, values: list, gates: dict | None, at: tuple) -> list:
    """An equation's results, with a gate on each operand that meets weights."""
    scale = None
    for site in here:
        gate = gates.get((*at, site.operand)) if gates is not None else None
        if gate is None:
            continue
        if site.reads[0].by_place:  # the row that is taken is what the 1 is worth
            rows = eqn.params["dimension_numbers"].offset_dims
            scale = jnp.expand_dims(gate, rows)
        else:
            values[site.operand] = values[site.operand] * gate
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    with eqn.ctx.manager:
        outs = eqn.primitive.bind(*functions, *values, **params)
    outs = outs if eqn.primitive.multiple_results else [outs]
    return outs if scale is None else [out * scale for out in outs]


def _call(eqn: Any, values: list, plan: Plan, gates: dict | None, at: tuple):
    if gates is not None and eqn.primitive.name.startswith("custom_vjp"):
        raise ValueError(
            "an input that a function with a gradient of its own reads more than once "
            f"takes no gate: {eqn.params.get('name', eqn.primitive.name)}"
        )
    inside = axes.inside(eqn)
    consts = getattr(inside, "consts", ())
    return evaluate(views.opened(inside), consts, values, plan, gates, at)


def _loop(eqn: Any, values: list, plan: Plan, gates: dict | None, at: tuple):
    """A scan whose rounds hand out what they found."""
    p = eqn.params
    first, last = axes.scanned(p)
    carried = last - first
    consts = getattr(p["jaxpr"], "consts", ())
    own = gates and {k: v for k, v in gates.items() if k[: len(at)] == at}

    def body(carry, part):
        xs, gates = part
        args = [*values[:first], *carry, *xs]
        jaxpr = views.opened(p["jaxpr"])
        outs, found = evaluate(jaxpr, consts, args, plan, gates, at)
        return outs[:carried], (outs[carried:], found)

    how = {name: p[name] for name in ("length", "reverse", "unroll")}
    over = values[last:], own
    carry, (ys, found) = jax.lax.scan(body, values[first:last], over, **how)
    return [*carry, *ys], found


def _entry(shape: tuple[int, ...], met: list) -> Any:
    """What a leaf of that shape reads, all calls together.

    That is an array [..., in] for a kernel that reads along the axis before the last
    and nothing else, and else a tuple of `Inputs`.
    """
    if not met:
        return None
    usual = views.factors(shape)[-2] if len(shape) > 1 else None
    groups: dict[tuple, list] = {}
    for read, x, *_ in met:
        one = arranged(read, x)
        groups.setdefault((one.factors, one.index), []).append(one.values)
    found = []
    for (factors, index), each in groups.items():
        if len(each) > 1:
            ends = () if index else tuple(size for _, size in factors)
            each = [jnp.concatenate([x.reshape(-1, *ends) for x in each])]
        if factors == usual == () and not index and each[0].shape[-1:] != (1,):
            each = [each[0][..., None]]  # of one input
        found.append(Inputs(each[0], factors, index))
    alone = len(found) == 1 and not found[0].index and found[0].factors == usual
    return found[0].values if alone else tuple(found)


def arranged(read: Read, x: jax.Array) -> Inputs:
    """Put an operand's rows in front, and an axis for each factor that it meets."""
    roles = read.roles[:-1] if read.by_place else read.roles
    if read.part:
        axis, start, size = read.part
        x = jax.lax.slice_in_dim(x, start, start + size, axis=axis)
    order = sorted(range(x.ndim), key=lambda axis: bool(roles[axis]))
    x = x if order == list(range(x.ndim)) else jnp.transpose(x, order)
    factors = tuple(f for role in roles for f in role)
    rows = sum(not role for role in roles)
    split = (*x.shape[:rows], *(size for _, size in factors))
    x = x if x.shape == split else x.reshape(split)
    return Inputs(x, arranged_factors(read), read.by_place)


def arranged_factors(read: Read) -> Factors:
    """Return the factors that a read meets, in the order of `arranged`."""
    return tuple(f for role in read.roles for f in role)
