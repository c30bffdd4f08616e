"""Arrays inside a network's computation, by the factors of their axes.

A value is known by the factor along each axis, by whether it depends on the inputs, and
by the leaves that stand behind its axes if it does not. Where weights meet inputs is
noted, and in which role: a matrix product `reads` along what it sums over and `makes`
what it keeps; along axes on which products lie side by side (groups, experts) a channel
`passes`; and a bias, a scale or an average lies `beside` it.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lth.compress import factors
from lth.compress.factors import Factor

Role = Literal["reads", "makes", "passes", "beside"]
Origins = frozenset[tuple[str, int]]  # axes of leaves
NONE: Origins = frozenset()


class Value(NamedTuple):
    """Describes an array inside a network's computation."""

    axes: tuple[Factor, ...]
    data: bool = False  # it depends on the inputs
    origins: tuple[Origins, ...] = ()  # behind each axis; not of what depends on inputs


class Notes(NamedTuple):
    """Collects, while a network is followed, how weights meet inputs and each other."""

    roles: list[tuple[Role, Origins, Factor]]
    products: list[tuple[Origins, Origins, Factor]]  # of weights with weights

    def add(self, role: Role, value: Value, axis: int) -> None:
        """Note the role of an axis of a value, if weights stand behind it."""
        if behind(value, axis):
            self.roles.append((role, behind(value, axis), value.axes[axis]))


def behind(value: Value, axis: int) -> Origins:
    """Return the axes of leaves behind an axis of a value."""
    return value.origins[axis] if value.origins else NONE


def constant(array: Any) -> Value:
    """Describe an array that depends on nothing.

    Along axes on which it is all alike it binds nobody.
    """
    kind = getattr(array, "dtype", float)
    if isinstance(array, Tracer) or jnp.issubdtype(kind, jax.dtypes.extended):
        return unknown(array.shape, False, "constant")
    values, axes = np.asarray(array), []
    for axis, size in enumerate(values.shape):
        alike = size < 2 or bool(np.all(values == values.take([0], axis)))
        axes.append(
            Factor(size, free=True) if alike else factors.fixed(size, "constant")
        )
    return Value(tuple(axes))


def unknown(shape: Sequence[int], data: bool, why: str) -> Value:
    """Describe an array of which nothing is known."""
    return Value(tuple(factors.fixed(n, why) for n in shape), data)


def refused(eqn: Any, values: Sequence[Value], why: str = "") -> list[Value]:
    """Freeze all that an equation meets, and say which it was."""
    why = f"{eqn.primitive.name} {why or 'has no rule'}"
    for value in values:
        for f in value.axes:
            factors.freeze(f, why)
    data = any(value.data for value in values)
    return [unknown(var.aval.shape, data, why) for var in eqn.outvars]


def merged(values: Sequence[Value], shape: Sequence[int], notes: Notes) -> Value:
    """Describe what is computed place by place of several arrays."""
    whole = [value for value in values if len(value.axes) == len(shape)]
    data = any(value.data for value in values)
    axes, origins = [], []
    for axis, size in enumerate(shape):
        f = Factor(size, free=True)
        for value in whole:
            f = factors.join(f, value.axes[axis])
            if data and value.axes[axis].size == size:
                notes.add("beside", value, axis)
        axes.append(f)
        origins.append(NONE.union(*(behind(value, axis) for value in whole)))
    return Value(tuple(axes), data, () if data else tuple(origins))


def picked(value: Value, order: Sequence[int | None], shape: Sequence[int]) -> Value:
    """Describe an array whose axes are some of a value's, or (None) all alike."""
    axes, origins = [], []
    for axis, size in zip(order, shape, strict=True):
        if axis is None or value.axes[axis].size != size:
            axes.append(Factor(size, free=True))
            origins.append(NONE)
        else:
            axes.append(value.axes[axis])
            origins.append(behind(value, axis))
    return Value(tuple(axes), value.data, tuple(origins) if value.origins else ())


def touched(
    value: Value, shape: Sequence[int], along: Iterable[int], why: str
) -> Value:
    """Freeze the axes along which a value was computed, and describe the result.

    Args:
      value: what it was.
      shape: what it became.
      along: which axes, in either.
      why: the reason, such as a primitive.

    Returns:
      The value, the other axes as they were.
    """
    axes = list(value.axes)
    for axis in along:
        factors.freeze(axes[axis], why)
        axes[axis] = factors.fixed(shape[axis], why)
    return value._replace(axes=tuple(axes))
