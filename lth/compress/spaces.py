"""Axis spaces: which axes of which leaves live, die and move together.

The channels of a hidden layer are written by a kernel, its bias, a normalisation and
its averages, and read by the kernels after it; a residual sum ties those of several
layers. All of that is found in the jaxpr of a network's `apply` in evaluation, as
git-re-basin's permutation specifications have it by hand (Ainsworth et al. 2023,
arXiv:2209.04836), and what is not understood is frozen: it is in no space.

Paths of leaves are those of the tree {"params": params, "stats": stats}, as
`masks.paths` gives them.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from lth import masks
from lth.compress import factors, walk
from lth.compress.factors import Factor
from lth.compress.values import Notes, Role, Value
from lth.models import axes

At = tuple[str, int]  # the path of a leaf, and which of its axes


class Space(NamedTuple):
    """Holds channels that live, die and move together.

    Channel c lies at the places `members[path, axis][c]` along that axis of that leaf.
    There are several of them where a flattened map or a head repeats a channel. An axis
    `reads` channels, as the inputs of a kernel do; or it writes them: the outputs of a
    kernel, which it `makes`, and what lies `beside` a channel, such as its bias, scale
    and averages. Along an axis on which products lie side by side, as of a depthwise
    convolution, a channel `passes`: it is read and written. A leaf of several uses has
    several roles.
    """

    name: str  # of the layer that makes it first
    size: int
    members: dict[At, np.ndarray]  # places [size, times] along an axis
    roles: dict[At, frozenset[Role]]

    def having(self, *roles: Role) -> list[At]:
        """List the members that have one of these roles."""
        return [at for at, own in self.roles.items() if own & {*roles}]

    @property
    def written(self) -> list[At]:
        """List the members whose places produce the channel."""
        return self.having("makes", "passes", "beside")

    @property
    def read(self) -> list[At]:
        """List the members whose places take the channel in."""
        return self.having("reads", "passes")


class Followed(NamedTuple):
    """Says what a network does with the axes of its leaves."""

    leaves: dict[str, Value]
    notes: Notes


def find(apply: Callable, params: Any, stats: Any, inputs: Any) -> tuple[Space, ...]:
    """Find the spaces of a network, in the order of its computation.

    Nothing is computed. The axes of inputs and outputs are frozen, as is all that takes
    part in an operation without a rule. A channel alone (size 1) is no space, nor is
    what nothing makes or nothing reads.

    Args:
      apply: as in `models.Model`; evaluation mode is followed.
      params, stats, inputs: arrays, or shapes with dtypes; inputs lead with the batch.

    Returns:
      The spaces. Those of one axis can cross (heads and their width) or lie end to end.
    """
    found = _followed(apply, params, stats, inputs)
    roles = _roles(found)
    order = {path: i for i, path in enumerate(dict.fromkeys(_met(found.notes)))}
    classes: dict[Factor, dict[At, np.ndarray]] = {}
    for at, f in _axes(found):
        for leaf, index in factors.places(f):
            if not leaf.why and not leaf.free and leaf.size > 1:
                own = classes.setdefault(leaf, {})
                own[at] = np.hstack([own[at], index]) if at in own else index
    spaces: dict[str, Space] = {}
    for leaf, members in classes.items():
        own = {at: frozenset(roles.get((at, leaf), ())) for at in members}
        makers = [at for at in members if own[at] & {"makes", "passes"}]
        first = min(makers, key=lambda at: order[at[0]])[0]
        name = _free(first.removeprefix("params/"), spaces)
        spaces[name] = Space(name, leaf.size, members, own)
    return tuple(sorted(spaces.values(), key=lambda s: _place(s, order)))


def frozen(apply: Callable, params: Any, stats: Any, inputs: Any) -> dict[At, str]:
    """Say which axes, or parts of axes, of which leaves are in no space, and why.

    Args:
      apply, params, stats, inputs: as in `find`.

    Returns:
      The reasons by (path, axis), often the primitive that mixes channels or has no
      rule. Axes of length 1 are left out.
    """
    reasons = {}
    for at, f in _axes(_followed(apply, params, stats, inputs)):
        why = dict.fromkeys(leaf.why for leaf in factors.leaves(f) if leaf.why)
        if why:
            reasons[at] = ", ".join(why)
    return reasons


def _followed(apply: Callable, params: Any, stats: Any, inputs: Any) -> Followed:
    """The leaves with the factors of their axes, once the network is followed."""
    closed = jax.make_jaxpr(axes.evaluation(apply))(params, (stats, inputs))
    weights = {"params": params, "stats": stats}
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
        name = masks.name(path)
        shape = enumerate(leaf.shape)
        origins = tuple(frozenset({(name, axis)}) for axis, _ in shape)
        leaves[name] = Value(tuple(map(Factor, leaf.shape)), False, origins)
    given = [
        Value(tuple(factors.fixed(n, "inputs") for n in leaf.shape), True)
        for leaf in jax.tree.leaves(inputs)
    ]
    found = Followed(leaves, Notes([], []))
    everything = [*leaves.values(), *given]
    for out in walk.follow(closed.jaxpr, closed.consts, everything, found.notes):
        for f in out.axes:
            factors.freeze(f, "outputs")
    _finish(found)
    return found


def _finish(found: Followed) -> None:
    """Freeze what cannot be told apart, what nothing makes, and what nothing reads."""
    for _, f in _axes(found):
        for leaf in factors.repeated(f):
            factors.freeze(leaf, "meets itself along one axis")
    roles = _roles(found)
    does: dict[Factor, set] = {}
    for (_, leaf), own in roles.items():
        does.setdefault(leaf, set()).update(own)
    for _, f in _axes(found):
        for leaf in factors.leaves(f):
            own = does.get(leaf, set())
            if not own & {"makes", "passes"}:
                factors.freeze(leaf, "nothing makes it")
            elif not own & {"reads", "passes"}:
                factors.freeze(leaf, "nothing reads it")


def _roles(found: Followed) -> dict[tuple[At, Factor], set[Role]]:
    """What each axis of a leaf does with each class of channels along it.

    Of a product of two weights, one makes what the other reads: the one that meets the
    inputs first reads them.
    """
    roles: dict[tuple[At, Factor], set[Role]] = {}
    own = {at: set(factors.leaves(f)) for at, f in _axes(found)}

    def add(role, origins, f):
        for at in origins:
            for leaf in own.get(at, set()).intersection(factors.leaves(f)):
                roles.setdefault((at, leaf), set()).add(role)

    for role, origins, f in found.notes.roles:
        add(role, origins, f)
    readers = {
        path
        for role, origins, _ in found.notes.roles
        for path, _ in origins
        if role == "reads"
    }
    for ours, theirs, f in found.notes.products:
        paths, others = {path for path, _ in ours}, {path for path, _ in theirs}
        turned = not paths & readers and bool(others & readers)
        add("reads" if turned else "makes", ours, f)
        add("makes" if turned else "reads", theirs, f)
        readers |= paths | others
    return roles


def _axes(found: Followed) -> Iterator[tuple[At, Factor]]:
    for path, value in found.leaves.items():
        for axis, f in enumerate(value.axes):
            if f.size > 1:
                yield (path, axis), f


def _met(notes: Notes) -> Iterator[str]:
    """The paths of leaves in the order in which the computation meets them."""
    for _, origins, _ in notes.roles:
        yield from (path for path, _ in sorted(origins))
    for ours, theirs, _ in notes.products:
        yield from (path for path, _ in sorted(ours | theirs))


def _place(space: Space, order: dict[str, int]) -> tuple[int, int]:
    """Where a space is made first; of several along one axis, the slowest first."""
    makers = space.having("makes", "passes")
    path, axis = min(makers, key=lambda at: order[at[0]])
    return order[path], int(space.members[path, axis][0, 0])


def _free(path: str, taken: dict) -> str:
    """The name of a layer, with a number where several spaces are made there."""
    name = path.rpartition("/")[0] or path
    names = [name, *(f"{name}#{i}" for i in range(2, len(taken) + 2))]
    return next(n for n in names if n not in taken)
