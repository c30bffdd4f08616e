"""Matching: which unit of one network does the work of which unit of another.

The channels of a network can be permuted without changing what it computes, so that two
networks may differ by little more than an order. `match` finds an order by weights,
`match_activations` by what units say to the same inputs, and `permuted` brings a state,
or a mask found for it, into that order: a mask so fits another initialisation (Adnan et
al. 2025, arXiv:2505.05143).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from lth import compress, masks
from lth.compress import Space
from lth.masks import Mask, Params
from lth.models import taps, views

At = tuple[str, int]  # the path of a leaf, and which of its axes
Orders = dict[str, np.ndarray]  # by space: which channel comes to each place
Arrays = dict[str, np.ndarray]  # by path


def match(spaces: Sequence[Space], params: Params, others: Params) -> Orders:
    """Find orders in which the weights of one network lie close to those of another.

    The sum of products of weights that come to lie on each other is raised one space at
    a time, which is a linear assignment, until none raises it: weight matching,
    algorithm 1 of Ainsworth et al. (2023, arXiv:2209.04836). There is no promise that
    it is the highest. Theirs starts from the order that is; this starts with a pass
    from the inputs on, each space by the weights whose other axes are in place, if that
    is better: a network is then recognised in any order. Spaces are visited as they
    come, not at random.

    Args:
      spaces: of both networks, in the order of the computation, from `compress.find`.
      params: of the network that stays.
      others: of the network to be permuted.

    Returns:
      An order for each space, for `permuted`: channel `order[i]` of the other network
      fits channel i.

    Raises:
      ValueError: for leaves that differ in shape, and weights that are not finite.
    """
    return _best(spaces, arrays(params), arrays(others))


def match_activations(
    spaces: Sequence[Space], ours: Mapping[At, Any], theirs: Mapping[At, Any]
) -> Orders:
    """Find orders in which the units of two networks are most correlated.

    The sum of correlations over samples of the units that are read at each place
    (activation matching of Ainsworth et al. 2023, after Li et al. 2016). A unit without
    variance is correlated with none. Spaces that cross, such as heads and their width,
    depend on each other, and may end in orders that are not the best.

    Args:
      spaces: of both networks.
      ours: `activations` of the network that stays.
      theirs: of the network to be permuted, on the same inputs.

    Returns:
      An order for each space, as of `match`.

    Raises:
      ValueError: for activations that differ in shape or are not finite.
    """
    readers = []
    for space in spaces:
        seen = {_label(at): at for at in space.members if at in ours}
        members = {(label, 1): space.members[at] for label, at in seen.items()}
        readers.append(space._replace(members=members))
    standard = [
        {_label(at): _standardised(values) for at, values in each.items()}
        for each in (ours, theirs)
    ]
    return _best(readers, *standard)


def activations(
    spaces: Sequence[Space], apply: Callable, params: Params, stats: Any, inputs: Any
) -> dict[At, np.ndarray]:
    """Collect what the kernels that read the channels of spaces are given.

    Args:
      spaces: of the network.
      apply: as in `models.Model`.
      params, stats: of the network.
      inputs: a batch of them.

    Returns:
      Values [samples, places along the axis], by the members of spaces that read them;
      images have a sample for each pixel.

    Raises:
      ValueError: for a space of which nothing can be seen.
    """
    entered, _ = taps.intermediates(apply, params, stats, inputs)
    leaves, structure = jax.tree.flatten(params)
    paths = masks.paths({"params": params})
    entries = structure.flatten_up_to(entered)
    by_path = dict(zip(paths, zip(leaves, entries, strict=True), strict=True))
    found = {}
    for space in spaces:
        seen = [
            (at, values)
            for at in space.having("reads")
            if (values := _along(*by_path[at[0]], at[1])) is not None
        ]
        if not seen:
            raise ValueError(f"nothing is seen of what is read of {space.name}")
        found |= seen
    return found


def permuted(
    spaces: Sequence[Space],
    orders: Mapping[str, Any],
    params: Params = None,
    stats: Any = None,
    mask: Mask = None,
) -> tuple[Params, Any, Mask]:
    """Bring a network, or a mask found for it, into other orders of its channels.

    Args:
      spaces: of the network.
      orders: of some or all spaces, by name, such as `match` finds.
      params, stats, mask: of the network, those that are wanted.

    Returns:
      (params, stats, mask), each None where it was not given.

    Raises:
      ValueError: for a name that no space has, and for what is no permutation.
    """
    by_name = {space.name: space for space in spaces}
    if unknown := [name for name in orders if name not in by_name]:
        raise ValueError(f"there is no space {unknown[0]!r}; there are {[*by_name]}")
    trees = [{"params": params}, {"stats": stats}, {"params": mask}]
    for name, order in orders.items():
        for i, tree in enumerate(trees):
            space = _restricted(by_name[name], masks.paths(tree))
            trees[i] = compress.permute(tree, space, order)
    return trees[0]["params"], trees[1]["stats"], trees[2]["params"]


def arrays(params: Params) -> Arrays:
    """Return the weights of a network by path, as `descend` takes them."""
    leaves = jax.tree_util.tree_leaves_with_path({"params": params})
    return {masks.name(path): np.asarray(leaf, float) for path, leaf in leaves}


def descend(
    spaces: Sequence[Space], ours: Arrays, theirs: Arrays
) -> Iterator[tuple[Orders, float]]:
    """Yield the orders of `match` one after the other, as they get better.

    Each comes with the sum of products that it gives. Raises ValueError for arrays that
    differ in shape or are not finite.
    """
    _check(ours, theirs)
    spaces = [_restricted(space, ours) for space in spaces]
    none = {space.name: np.arange(space.size) for space in spaces}
    start = _forward(spaces, ours, theirs)
    orders, value = max(
        [
            (none, _value(ours, theirs)),
            (start, _value(ours, _put(spaces, start, theirs))),
        ],
        key=lambda pair: pair[1],
    )
    theirs = _put(spaces, orders, theirs)
    yield orders, value
    least = 1e-9 * (1 + sum(float(np.sum(np.square(a))) for a in ours.values()))
    better = True
    while better:
        better = False
        for space in spaces:
            order = _assignment(_products(space, space.members, ours, theirs))
            moved = compress.permute(theirs, space, order)
            # Not the assignment's gain: a recurrent kernel moves along both axes.
            after = _value(ours, moved)
            if after > value + least:
                better, theirs, value = True, moved, after
                orders = orders | {space.name: orders[space.name][order]}
                yield orders, value


def _best(spaces: Sequence[Space], ours: Arrays, theirs: Arrays) -> Orders:
    *_, (orders, _) = descend(spaces, ours, theirs)
    return orders


def _forward(spaces: Sequence[Space], ours: Arrays, theirs: Arrays) -> Orders:
    """One pass in the order of the computation, by what is in place already."""
    settled: set[str] = set()
    orders = {}
    for space in spaces:
        waiting = {
            at[0]
            for other in spaces
            if other.name not in settled | {space.name}
            for at in other.members
        }
        twice = [path for path, _ in space.members]
        usable = {
            at: index
            for at, index in space.members.items()
            if at[0] not in waiting and twice.count(at[0]) == 1
        }
        order = np.arange(space.size)
        if usable:
            order = _assignment(_products(space, usable, ours, theirs))
            theirs = compress.permute(theirs, space, order)
            settled.add(space.name)
        orders[space.name] = order
    return orders


def _products(space: Space, members: Mapping, ours: Arrays, theirs: Arrays):
    """Sums of products of all that belongs to unit i here and to unit j there."""
    total = np.zeros((space.size, space.size))
    for (path, axis), index in members.items():
        a, b = (
            np.take(x[path], index.ravel(), axis).swapaxes(0, axis)
            for x in (ours, theirs)
        )
        total += a.reshape(space.size, -1) @ b.reshape(space.size, -1).T
    return total


def _assignment(products: np.ndarray) -> np.ndarray:
    from scipy import optimize  # only here: it takes a while to import

    return optimize.linear_sum_assignment(products, maximize=True)[1]


def _put(spaces: Sequence[Space], orders: Orders, tree: Arrays) -> Arrays:
    for space in spaces:
        tree = compress.permute(tree, space, orders[space.name])
    return tree


def _value(ours: Arrays, theirs: Arrays) -> float:
    return sum(float(np.vdot(a, theirs[path])) for path, a in ours.items())


def _restricted(space: Space, paths: Iterable[str]) -> Space:
    """The space as far as its leaves are at hand."""
    known = set(paths)
    members = {at: index for at, index in space.members.items() if at[0] in known}
    return space._replace(members=members)


def _check(ours: Arrays, theirs: Arrays) -> None:
    for path, a in ours.items():
        b = theirs.get(path)
        if b is None or a.shape != b.shape:
            other = "is missing" if b is None else f"{list(b.shape)}"
            raise ValueError(
                f"{path} is {list(a.shape)} in one network; other: {other}"
            )
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise ValueError(f"{path} holds values that are not finite")


def _label(at: At) -> str:
    return f"{at[0]} along {at[1]}"


def _standardised(values: Any) -> np.ndarray:
    """Columns of mean 0 and length 1, or 0 where nothing varies."""
    centred = np.asarray(values, float)
    centred = centred - centred.mean(0)
    length = np.sqrt(np.square(centred).sum(0))
    # Rounding leaves something of a column that is constant.
    varies = length > 1e-6 * np.abs(values).max(initial=0)
    return np.where(varies, centred / np.where(varies, length, 1), 0)


def _along(leaf: Any, entry: Any, axis: int) -> np.ndarray | None:
    """What enters a leaf along an axis of it [samples, n], if it was seen."""
    n = leaf.shape[axis]
    if isinstance(entry, jax.Array) and axis == leaf.ndim - 2:
        return np.asarray(entry).reshape(-1, n)
    whole = views.factors(leaf.shape)[axis]
    for one in entry if isinstance(entry, tuple) else ():
        if not one.index and len(whole) == 1 and whole[0] in one.factors:
            at = one.values.ndim - len(one.factors) + one.factors.index(whole[0])
            return np.moveaxis(np.asarray(one.values), at, -1).reshape(-1, n)
    return None
