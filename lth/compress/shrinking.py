"""Smaller networks: channels sliced off, with a proof that nothing else changed.

What is removed is a channel of a space, in all leaves where it is written and read, so
that the smaller network is the larger one with zeros in those places. It runs through
the same module, whose layers take their widths from the params (`models.resizable`).
Each shrink proves itself: by the outputs on inputs, and by the counts of weights and
multiplications that the spaces predict. Lists of what is kept are in the indices of the
whole network, so that any state of its training can be sliced by them (`sliced`).
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.errors
import jax
import numpy as np

from lth import models
from lth.compress import slices, spaces
from lth.compress.spaces import Space
from lth.masks import Mask, Params
from lth.models import axes

# Networks are run once or twice: to compile them well takes longer.
QUICK: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}
LIMIT = 1e-5  # of the largest output, or of 1 where all are smaller
FAILS = (
    *(TypeError, ValueError, AttributeError, LookupError, AssertionError),
    *(ZeroDivisionError, NotImplementedError, flax.errors.FlaxError),
)
Kept = Mapping[str, Any]  # the channels to keep, by the name of their space


class ShrinkError(ValueError):
    """Says that a network cannot be made smaller without becoming another one."""


class Count(NamedTuple):
    """Holds how large a network is."""

    params: int
    macs: int | None  # of one example, by weights; None where it cannot be counted


class Shrunk(NamedTuple):
    """Holds a smaller network, and the proof that it is the larger one."""

    params: Params
    stats: Any
    apply: Callable  # as in `models.Model`, of these params
    kept: dict[str, np.ndarray]  # indices in the whole network, by space
    difference: float  # of outputs, relative to the largest or to 1
    before: Count
    after: Count


def shrink(
    apply: Callable,
    params: Params,
    stats: Any,
    inputs: Any,
    kept: Kept,
    found: Sequence[Space] | None = None,
    *,
    multiple: int = 1,
    limit: float = LIMIT,
) -> Shrunk:
    """Slice channels off a network, and prove that this is what clearing them does.

    Args:
      apply: as in `models.Model`: of Linen or NNX modules, or a function that takes its
        widths from the shapes of its params.
      params, stats: of one network.
      inputs: a batch, on which both are compared; random ones will do.
      kept: the channels to keep, by the name of a space; others stay whole.
      found: the spaces of the network; by default they are found.
      multiple: round widths up to multiples of it, where a space has so many channels;
        the channels that stay for that reason are 0.
      limit: how far outputs may differ, relative to the largest, or to 1 if all are
        smaller. Products are float32 on any device.

    Returns:
      The network, with indices in `kept` as they were.

    Raises:
      ShrinkError: for a network that does not run in other widths, and for outputs that
        differ, with how much and by which spaces.
      ValueError: as `keep` does.
    """
    # In NumPy, slicing compiles nothing.
    tree = jax.device_get({"params": params, "stats": stats})
    if found is None:
        found = spaces.find(apply, params, stats, inputs)
    cleared = slices.clear(tree, found, kept)
    wide = widened(found, kept, multiple)
    return proved(apply, cleared, cleared, inputs, wide, found, limit=limit)


def proved(
    apply: Callable,
    whole: Any,
    cleared: Any,
    inputs: Any,
    kept: Kept,
    found: Sequence[Space],
    *,
    limit: float = LIMIT,
) -> Shrunk:
    """Slice a network to channels, and prove that it is another one, of whole width.

    Args:
      apply: as in `shrink`.
      whole: {"params": params, "stats": stats} of the network that it has to equal.
      cleared: the one that is sliced, such as the same with constants folded.
      inputs: a batch, on which both are compared.
      kept: the channels to keep, by the name of a space.
      found: the spaces of the network.
      limit: as in `shrink`.

    Returns:
      The smaller network.

    Raises:
      ShrinkError: as `shrink` does.
    """
    sized = models.resizable(apply)
    small = slices.keep(cleared, found, kept)
    outputs = _outputs(apply, whole, inputs), _outputs(sized, small, inputs)
    difference = _apart(*outputs)
    if not difference <= limit:
        raise ShrinkError(
            f"outputs of the shrunk network differ by {difference:.2g} of the largest, "
            f"more than {limit:g}{_culprits(sized, whole, inputs, kept, found, limit)}"
        )
    macs = [_macs(f, t, inputs) for f, t in ((apply, whole), (sized, small))]
    before, after = (_count(t, m) for t, m in zip((whole, small), macs, strict=True))
    expected = _predicted(whole, macs[0], kept, found)
    if after != expected:
        raise ShrinkError(f"spaces predict {expected}, and the network has {after}")
    exact = {name: np.unique(np.asarray(index, int)) for name, index in kept.items()}
    params, stats = small["params"], small["stats"]
    return Shrunk(params, stats, sized, exact, difference, before, after)


def widened(found: Sequence[Space], kept: Kept, multiple: int) -> dict[str, np.ndarray]:
    """Add channels to lists of kept ones until their number is a multiple.

    They are the first of those that are not kept. A space that has too few stays whole.
    Raises ValueError for a multiple below 1.
    """
    if multiple < 1:
        raise ValueError(f"widths are multiples of 1 or more; got {multiple}")
    sizes = {space.name: space.size for space in found}
    wide = {}
    for name, index in kept.items():
        chosen = np.unique(np.asarray(index, int))
        size = sizes.get(name, 0)  # `keep` refuses what is no space
        width = min(size, math.ceil(len(chosen) / multiple) * multiple)
        rest = np.setdiff1d(np.arange(size), chosen)
        more = rest[: max(0, width - len(chosen))]
        wide[name] = np.union1d(chosen, more).astype(int)
    return wide


def living(mask: Mask, found: Sequence[Space]) -> dict[str, np.ndarray]:
    """List the channels of which a mask keeps anything, by space.

    One that keeps nothing where it is written nor where it is read, in any leaf that
    the mask covers, is not listed. A space of which nothing lives keeps its first
    channel, for a network has no layer of none.
    """
    leaves = slices.by_path({"params": mask})
    covered = {path: np.asarray(leaf) for path, leaf in leaves.items()}
    kept = {}
    for space in found:
        alive = np.zeros(space.size, bool)
        for (path, axis), index in space.members.items():
            if path in covered:
                others = tuple(i for i in range(covered[path].ndim) if i != axis)
                lines = np.any(covered[path], axis=others)
                alive |= np.any(lines[index], axis=1)
        kept[space.name] = np.flatnonzero(alive) if alive.any() else np.zeros(1, int)
    return kept


def _count(tree: Any, macs: dict[int, int] | None) -> Count:
    total = sum(leaf.size for leaf in jax.tree.leaves(tree["params"]))
    return Count(total, None if macs is None else sum(macs.values()))


def _predicted(
    tree: Any, macs: dict[int, int] | None, kept: Kept, found: Sequence[Space]
) -> Count:
    """How large a network will be once it is sliced, from its spaces alone.

    A kernel is read as often as before at each of its weights.
    """
    shapes = slices.lengths({"params": tree["params"]}, _of_params(found), kept)
    old = [leaf.size for leaf in jax.tree.leaves(tree["params"])]
    new = [math.prod(shape) for shape in shapes.values()]
    if macs is None:
        return Count(sum(new), None)
    return Count(sum(new), sum(n // old[i] * new[i] for i, n in macs.items()))


def _of_params(found: Sequence[Space]) -> list[Space]:
    """The spaces without their members among stats."""

    def params(table: dict) -> dict:
        return {at: v for at, v in table.items() if at[0].startswith("params/")}

    return [s._replace(members=params(s.members)) for s in found]


def _macs(apply: Callable, tree: Any, inputs: Any) -> dict[int, int] | None:
    one = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), inputs
    )
    try:
        return axes.multiplied(apply, tree["params"], tree["stats"], one)[0]
    except ValueError:  # weights are read in a way that is not followed
        return None


def _outputs(apply: Callable, tree: Any, inputs: Any) -> Any:
    """What a network gives, with products in float32 whatever the device likes.

    Raises ShrinkError for a network that does not run as wide as the tree is.
    """
    with jax.default_matmul_precision("float32"):
        try:
            return _program(apply)(tree, inputs)
        except FAILS as error:
            why = str(error).strip().partition("\n")[0]
            raise ShrinkError(
                "the network does not run with channels sliced off: its widths are "
                f"written down elsewhere than in its params ({why})"
            ) from error


@functools.lru_cache(maxsize=8)  # networks of one shape share what is compiled
def _program(apply: Callable) -> Callable:
    def network(tree, inputs):
        return axes.evaluation(apply)(tree["params"], (tree["stats"], inputs))

    return jax.jit(network, compiler_options=QUICK)


def _apart(ours: Any, theirs: Any) -> float:
    """The largest difference of outputs, relative to the largest of ours, or to 1."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    found = 0.0
    for a, b in pairs:
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if a.shape != b.shape:
            return math.inf
        scale = max(1.0, np.abs(a).max(initial=0))
        # NaN counts as different: a network of NaN is no proof of anything.
        gap = float(np.abs(a - b).max(initial=0) / scale)
        found = max(found, math.inf if math.isnan(gap) else gap)
    return found


def _culprits(apply, whole, inputs, kept, found, limit) -> str:
    """Which spaces, sliced alone, make another network of the cleared one."""
    wrong = []
    for name, index in kept.items():
        one = {name: index}
        cleared = slices.clear(whole, found, one)
        small = slices.keep(whole, found, one)
        try:
            outputs = [_outputs(apply, tree, inputs) for tree in (cleared, small)]
        except ShrinkError:
            wrong.append(name)
            continue
        if not _apart(*outputs) <= limit:
            wrong.append(name)
    return f": by slicing {', '.join(wrong)}" if wrong else ""
