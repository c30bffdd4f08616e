"""Which axes of each kernel meet the inputs of a network, read off its computation.

What a network computes is a jaxpr, whatever library wrote it down. The weights are
followed through it, through casts, transpositions, reshapes, masks and calls, to the
matrix products, convolutions and look-ups that read them. Names and classes of modules
say less: attention, recurrent cells, loops over layers, rematerialised blocks and plain
functions reach the same few operations.

Nothing is guessed. A weight that takes part in what is not understood is `lost`, with
the reason, and whoever needs its inputs refuses it by its path.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from lth.models import views
from lth.models.views import Flow, Read, Weight

CALLS = {  # an equation of these is the jaxpr in it
    *("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint", "remat"),
    *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_lin"),
}


class Site(NamedTuple):
    """Marks an operand of an equation that meets weights there."""

    operand: int  # which one
    var: Any  # the variable that holds it, without what a stride skips
    reads: tuple[Read, ...]  # several where kernels were joined to one
    result: int = 0  # which of the equation's results is the product


class Plan(NamedTuple):
    """Says what a jaxpr does with the weights."""

    sites: dict[int, tuple[Site, ...]]  # by the equation's place
    inner: dict[int, "Plan"]  # of equations that hold a jaxpr with sites
    hidden: tuple[tuple[Read, str], ...]  # whose values cannot be had, and why
    lost: dict[int, str]  # leaf -> what it meets that is not understood
    other: int  # multiplications of products that read no weight
    outs: tuple[Any, ...]  # views of the results

    def reads(self) -> list[Read]:
        """Return all reads but the hidden, in the order of the computation."""
        own = {
            i: [r for s in sites for r in s.reads] for i, sites in self.sites.items()
        }
        own |= {i: plan.reads() for i, plan in self.inner.items()}
        return [read for i in sorted(own) for read in own[i]]


class Axes(NamedTuple):
    """Holds the axes of a kernel; those in neither hold kernels side by side."""

    inputs: tuple[int, ...]  # summed over: what an output reads
    outputs: tuple[int, ...]


def contracted(apply: Callable, params: Any, stats: Any, inputs: Any) -> Any:
    """Find the axes along which each leaf meets its inputs, and those of its outputs.

    A convolution sums over its window and its input channels, a look-up over the rows.
    Where reads disagree, as of an embedding that is attended to as well, the first
    product's are given. An axis of length 1 can stand on either side. Nothing is
    computed.

    Args:
      apply: as in `models.Model`.
      params, stats, inputs: arrays, or shapes with dtypes; inputs lead with the batch.

    Returns:
      A tree like params: the `Axes` of each leaf, `None` where no product reads it.

    Raises:
      ValueError: for a leaf with two or more axes that meets inputs in a way that is
        not understood, with its path.
    """
    plan = trace(evaluation(apply), params, (stats, inputs), (False, True))[1]
    named, structure = jax.tree_util.tree_flatten_with_path(params)
    refuse(plan, params)
    found: dict[int, Axes] = {}
    reads = [*plan.reads(), *(read for read, _ in plan.hidden)]
    for read in sorted(reads, key=lambda read: read.by_place):
        found.setdefault(read.leaf, _axes(read, named[read.leaf][1].shape))
    return structure.unflatten([found.get(i) for i in range(len(named))])


def evaluation(apply: Callable) -> Callable:
    """Restrict `apply` to outputs in evaluation, a function of params and the rest."""
    return lambda params, rest: apply(params, *rest, False, None)[0]


def multiplied(
    apply: Callable, params: Any, stats: Any, inputs: Any
) -> tuple[dict[int, int], int]:
    """Count the multiply-accumulates of evaluating a network, by the weights read.

    Args:
      apply: as in `models.Model`.
      params, stats, inputs: arrays, or shapes with dtypes; inputs lead with the batch.

    Returns:
      The numbers by the place of a leaf among those of params, look-ups left out; and
      the number of products that read no weight, such as attention's own.

    Raises:
      ValueError: with their paths, for weights that meet inputs in a way that cannot be
        counted.
    """
    plan = trace(evaluation(apply), params, (stats, inputs), (False, True))[1]
    refuse(plan, params)
    found: dict[int, int] = {}
    for read in (*plan.reads(), *(read for read, _ in plan.hidden)):
        if not read.by_place:
            found[read.leaf] = found.get(read.leaf, 0) + read.macs
    return found, plan.other


def refuse(plan: Plan, params: Any) -> None:
    """Raise ValueError with the paths of the matrices that a plan has lost."""
    named = jax.tree_util.tree_leaves_with_path(params)
    wrong = [
        f"{jax.tree_util.keystr(named[i][0], simple=True, separator='/')} {why}"
        for i, why in sorted(plan.lost.items())
        if named[i][1].ndim > 1
    ]
    if wrong:
        raise ValueError(f"how inputs meet a kernel is not known: {', '.join(wrong)}")


def trace(function: Callable, params: Any, rest: tuple, flows: tuple[bool, ...]):
    """Trace `function(params, rest)` and plan what it does with the weights.

    Args:
      function: of two arguments.
      params: a tree of arrays or shapes with dtypes.
      rest: a tuple of such trees.
      flows: for each part of `rest`, whether it holds inputs, or numbers that are the
        same for all.

    Returns:
      The closed jaxpr, and its `Plan`.
    """
    closed = jax.make_jaxpr(function)(params, rest)
    found: list[Any] = [
        Weight(i, views.factors(leaf.shape))
        for i, leaf in enumerate(jax.tree.leaves(params))
    ]
    for part, flow in zip(rest, flows, strict=True):
        found += [Flow() if flow else None] * len(jax.tree.leaves(part))
    return closed, plan(closed.jaxpr, found)


def plan(jaxpr: Any, given: list[Any], times: int = 1) -> Plan:
    """Say what a jaxpr does with arguments of these views, run `times` times."""
    env = dict(zip(jaxpr.invars, given, strict=True))
    sites, inner, hidden = {}, {}, []
    lost: dict[int, str] = {}
    other, live = 0, living(jaxpr)
    for i, eqn in enumerate(jaxpr.eqns):
        if i not in live:
            continue
        seen = [_view(env, var) for var in eqn.invars]
        if eqn.primitive.name in CALLS:
            below = plan(views.opened(inside(eqn)), seen, times)
            lifted = _lifted(eqn, below, env)
            if lifted is not None:
                sites[i] = lifted
        elif eqn.primitive.name in ("scan", "while", "cond"):
            below = {"scan": _scan, "while": _while, "cond": _cond}[eqn.primitive.name](
                eqn, seen, times
            )
            lifted = None
        else:
            outcome = views.step(eqn, seen, times)
            if outcome.reads:
                var = eqn.invars[outcome.operand]
                source = seen[outcome.operand].source or var
                sites[i] = (Site(outcome.operand, source, outcome.reads),)
            below = Plan({}, {}, (), outcome.lost, outcome.other, outcome.outs)
            lifted = None
        if lifted is None and (below.sites or below.inner):
            inner[i] = below
        hidden += below.hidden
        lost |= below.lost
        other += below.other
        env.update(zip(eqn.outvars, below.outs, strict=True))
    outs = tuple(_view(env, var) for var in jaxpr.outvars)
    return Plan(sites, inner, tuple(hidden), lost, other, outs)


def living(jaxpr: Any) -> set[int]:
    """Return the places of the equations that results depend on."""
    needed, live = set(filter(is_var, jaxpr.outvars)), set()
    for i, eqn in reversed(list(enumerate(jaxpr.eqns))):
        if eqn.effects or needed.intersection(eqn.outvars):
            live.add(i)
            needed.update(filter(is_var, eqn.invars))
    return live


def inside(eqn: Any) -> Any:
    """Return the jaxpr of a call, open or closed."""
    names = ("jaxpr", "call_jaxpr", "fun_jaxpr")
    return next(eqn.params[n] for n in names if n in eqn.params)


def _lifted(eqn: Any, below: Plan, env: dict) -> tuple[Site, ...] | None:
    """The sites of a call as those of its own operands, or None.

    The call is then done as it stands, with the gradient that it may define. An operand
    that is also used otherwise in there would not do.
    """
    jaxpr = views.opened(inside(eqn))
    if below.inner or not below.sites:
        return None
    uses = [v for e in jaxpr.eqns for v in e.invars] + list(jaxpr.outvars)
    found = []
    for i, sites in sorted(below.sites.items()):
        for site in sites:
            var = jaxpr.eqns[i].invars[site.operand]
            out = jaxpr.eqns[i].outvars[site.result]
            alone = sum(use is var for use in uses) == 1 and var in jaxpr.invars
            direct = site.var is var and out in jaxpr.outvars
            if not (alone and direct) or site.reads[0].by_place:
                return None
            operand = jaxpr.invars.index(var)
            outer = eqn.invars[operand]
            source = env[outer].source if isinstance(env.get(outer), Flow) else None
            result = jaxpr.outvars.index(out)
            found.append(Site(operand, source or outer, site.reads, result))
    return tuple(found)


def _scan(eqn: Any, seen: list, times: int) -> Plan:
    """Of one round, many times: what is scanned over has lost its leading axis."""
    p = eqn.params
    first, last = scanned(p)
    round_ = [views.entered(v, sliced=False) for v in seen[:first]]
    carry = [views.entered(v, sliced=False) for v in seen[first:last]]
    xs = [views.entered(v, sliced=True) for v in seen[last:]]

    def body(carry):
        return plan(
            views.opened(p["jaxpr"]), [*round_, *carry, *xs], times * p["length"]
        )

    found = _settled(body, carry)
    outs = [views.left(v, i >= len(carry)) for i, v in enumerate(found.outs)]
    return found._replace(outs=tuple(outs))


def scanned(p: dict) -> tuple[int, int]:
    """Say where the operands of a scan begin to be carried, and to be scanned over."""
    if "num_consts" in p:
        return p["num_consts"], p["num_consts"] + p["num_carry"]
    consts, carry, _ = map(len, p["ft_in"].unpack())  # of newer releases
    return consts, consts + carry


def _settled(body: Callable, carry: list) -> Plan:
    """The plan of a loop's body once the views of what it carries stay the same."""
    while True:
        found = body(carry)
        after = [
            views.joined(a, b)
            for a, b in zip(carry, found.outs[: len(carry)], strict=True)
        ]
        if after == carry:
            break
        carry = after
    return found._replace(outs=(*carry, *found.outs[len(carry) :]))


def _while(eqn: Any, seen: list, times: int) -> Plan:
    """Of a loop whose length is not known: nothing in it can be counted or seen."""
    p = eqn.params
    tests, consts = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]

    def body(carry):
        return plan(views.opened(p["body_jaxpr"]), [*seen[tests:consts], *carry], times)

    found = _settled(body, list(seen[consts:]))
    why = "is read in a loop whose length depends on values"
    lost = found.lost | {read.leaf: why for read in found.reads()}
    return Plan({}, {}, (), lost, found.other, found.outs)


def _cond(eqn: Any, seen: list, times: int) -> Plan:
    """Of branches: the most that one of them multiplies is counted, nothing seen."""
    plans = [plan(views.opened(b), seen[1:], times) for b in eqn.params["branches"]]
    outs = plans[0].outs
    for other in plans[1:]:
        outs = [views.joined(a, b) for a, b in zip(outs, other.outs, strict=True)]
    if isinstance(seen[0], Flow):
        outs = [Flow()] * len(outs)
    most = max(plans, key=lambda p: sum(read.macs for read in p.reads()) + p.other)
    lost = {leaf: why for p in plans for leaf, why in p.lost.items()}
    counted = {read.leaf for read in most.reads()}
    why = "is read in one branch of a condition"
    for p in plans:
        lost |= {r.leaf: why for r in p.reads() if r.leaf not in counted}
    hidden = [*most.hidden, *((read, why) for read in most.reads())]
    return Plan({}, {}, tuple(hidden), lost, most.other, tuple(outs))


def _view(env: dict, var: Any) -> Any:
    return env.get(var) if is_var(var) else None


def is_var(var: Any) -> bool:
    """Say whether it is a variable, and not a number written into the jaxpr."""
    return not hasattr(var, "val")  # else it is a literal


def _axes(read: Read, shape: tuple[int, ...]) -> Axes:
    """The axes of a leaf that a read sums over, and those it keeps."""
    met = read.contracted | read.beside
    inputs, outputs = [], []
    for axis, (stride, length) in enumerate(
        zip(views.strides(shape), shape, strict=True)
    ):
        own = {f for f in met if stride <= f[0] < stride * length}
        if length == 1:
            later = any(n > 1 for n in shape[axis + 1 :])
            (inputs if later else outputs).append(axis)
        elif math.prod(size for _, size in own) < length:
            outputs.append(axis)
        elif own & read.contracted:
            inputs.append(axis)
    return Axes(tuple(inputs), tuple(outputs))
