"""What a run is made of.

A `Recipe` holds functions and numbers: no name from a command line, no file. Its arrays
lead with the axis of replicates, which `Recipe.each` adds to a function of one. What is
trained by it is in `trainings`.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lth import masks
from lth.lottery.branches import Branch
from lth.lottery.loop import Ticket
from lth.train import Keep, Loss, Metrics, TrainState

# What a replicate's randomness is for; each folds into the replicate's key.
INIT, TRAIN, PRUNE, REINIT, SHUFFLE, LEARN, SHUFFLE_GLOBAL, DYNAMIC = range(8)
STREAMS = {"reinit": REINIT, "shuffle": SHUFFLE, "shuffle_global": SHUFFLE_GLOBAL}
LAST_REPLICATE = 2**31 - 1

Keys = jax.Array  # typed PRNG keys [r], one of each replicate
Watch = Callable[[TrainState, Metrics], None]


def mapped(function: Callable) -> Callable:
    """Make `function` of one replicate one of all, compiled.

    Every argument leads with the replicate; numbers that do not, such as the level of a
    ticket, are given to each.
    """
    program = jax.jit(jax.vmap(function))
    return lambda *args: program(*given_to_each(args))


def given_to_each(args: Sequence[Any]) -> tuple[Any, ...]:
    """Arguments that all lead with the replicate: single numbers are repeated."""
    sizes = [len(x) for x in jax.tree.leaves(args) if np.ndim(x)]

    def leaf(x):
        return x if np.ndim(x) else np.full(sizes[0], x)

    return tuple(jax.tree.map(leaf, tuple(args)))


class Objective(NamedTuple):
    """Holds what the networks of a recipe learn, for what looks into them.

    `apply`, `loss` and `measure` are of one network, as in `lab.make_recipe`; the
    others of as many as their states and keys lead with, `[k, …]`.
    """

    # (params, stats, inputs, train, key) -> (outputs, stats)
    apply: Callable
    # (params, stats, batch, key) -> (value, (stats, metrics)), in training
    loss: Loss
    # (params, stats, batch) -> each metric for each example, in evaluation
    measure: Callable
    # (keys [k], n) -> the first n batches [k, n, …] of the orders those keys name
    batches: Callable[[Keys, int], Any]
    # (state [k, …], keys [k], n) -> with averages of batch norm of n such batches
    reestimate: Callable[[TrainState, Keys, int], TrainState]
    # () -> the training examples, part after part, in the order they are held in
    examples: Callable[[], Iterator[Any]]


class Training(NamedTuple):
    """Holds a training before its first step."""

    level: int  # of the ticket that it makes, or hangs off
    state: TrainState  # of all replicates, for each of `orders`: [k, …]
    mask: masks.Mask
    orders: tuple[int, ...]  # name those of the data; 0 is that of the trunk


class Recipe(NamedTuple):
    """Holds what a run is made of. Arrays lead with the replicate axis r.

    Change any field with `_replace`. `train` takes the keys that name the order of the
    data, rather than knowing them, so that a recipe of some replicates is one of others
    too (`only`), and trainings of one state in several orders share a device.
    """

    replicates: tuple[int, ...]
    init: Callable[[Keys], TrainState]
    mask: masks.Mask  # all ones [r, ...]
    # (state, mask, n, keys [r]) -> n steps on the batches those keys stand for, and
    # sums of metrics; with a `piece` also (…, sums): added to those
    train: Callable[..., tuple[TrainState, Metrics]]
    measures: Mapping[str, Callable[[TrainState], Metrics]]  # by split
    stops: tuple[int, ...]  # steps to measure at; the last ends the training
    rewind_to: int
    checkpoints: Mapping[str, int]  # name -> step of the dense training
    densities: tuple[masks.Density, ...]  # of levels 1, 2, …
    # (early, ticket, density, keys [r]) -> mask, or `Pruned` where weights move too
    prune: Callable[[TrainState, Ticket, masks.Density, Keys], Any]
    # (early, late, keys [r]) -> where to start
    rewind: Callable[[TrainState, TrainState, Keys], TrainState]
    first: "First | None" = None  # level 0; None: `trained_dense`
    branches: Mapping[str, Branch] = {}
    # What makes branches by name; the arguments are amounts, such as a scale of noise.
    offers: Mapping[str, Callable[..., Branch]] = {}
    each: Callable[[Callable], Callable] = cache(mapped)  # of one replicate -> of all
    # What tells its data and batches from others: digests, by name.
    stamp: Mapping[str, str] = {}
    # () -> multiply-accumulates of one example, by the path of the weights
    work: Callable[[], Mapping[str, int]] = dict
    # What is learned, where that is known; probes that need it say so.
    objective: Objective | None = None
    # Between stops a training may be cut after so many steps; 0: it may not.
    piece: int = 0
    # Where a training is kept while it is under way; a laboratory says so.
    keep: Keep | None = None
    # How a network is trained, dense ones too; None: `train` once (`averaging`).
    trained: "Trained | None" = None


# (recipe, watch) -> the ticket of level 0, and trees to store beside it, by name
First = Callable[[Recipe, Watch], tuple[Ticket, dict[str, Any]]]
# (recipe, training, watch) -> the trained state [k, …] and its curves
Trained = Callable[[Recipe, Training, Watch], tuple[TrainState, Metrics]]


def keys(replicates: Sequence[int], stream: int, level: int = 0) -> Keys:
    """Return a key [r] per replicate for one purpose at one level.

    They come from the numbers alone. Of the stream `TRAIN`, `level` is the order of the
    data: 0 is that of the trunk.
    """
    return _keys(np.asarray(replicates), np.uint32(stream), level)


@jax.jit
def _keys(replicates, stream, level):
    def one(replicate):
        key = jax.random.fold_in(jax.random.key(replicate), stream)
        return jax.random.fold_in(key, level)

    return jax.vmap(one)(replicates)


def stream(branch: str) -> int:
    """Return the stream of a branch's randomness: a fixed hash of its name.

    Three names keep the numbers they had before branches had names of their own.
    """
    if branch in STREAMS:
        return STREAMS[branch]
    drawn = hashlib.sha256(branch.encode()).digest()[:4]
    return int.from_bytes(drawn, "big") | 2**31  # above the streams that are numbered


def only(recipe: Recipe, replicates: Sequence[int]) -> Recipe:
    """Return the recipe of these replicates in place of its own."""
    count = len(replicates)

    def ones(m):
        return jnp.ones((count, *m.shape[1:]), bool)

    mask = jax.tree.map(ones, recipe.mask)
    return recipe._replace(replicates=tuple(replicates), mask=mask)


def drawn(recipe: Recipe) -> TrainState:
    """Return the initial state of all replicates."""
    return recipe.init(keys(recipe.replicates, INIT))


def shapes(recipe: Recipe) -> TrainState:
    """Return the shapes of a state of all replicates; nothing is computed."""
    return jax.eval_shape(recipe.init, keys(recipe.replicates, INIT))


def check(recipe: Recipe) -> None:
    """Refuse a recipe whose parts do not fit each other, before anything is trained.

    Raises:
      ValueError, which names the field, what it holds and what is allowed.
    """
    r, stops = recipe.replicates, recipe.stops
    good = all(isinstance(n, int) and 0 <= n <= LAST_REPLICATE for n in r)
    rising = all(a < b for a, b in itertools.pairwise((0, *stops)))
    late = {n: s for n, s in recipe.checkpoints.items() if not 0 <= s <= max(stops)}
    for fits, field, allowed in (
        (r and good and len(set(r)) == len(r), "replicates", "different in [0, 2**31)"),
        (stops and rising, "stops", "rising steps, the first at least 1"),
        (
            0 <= recipe.rewind_to < max(stops, default=1),
            "rewind_to",
            f"before the last of `stops`, {max(stops, default=1)}",
        ),
        (not late, "checkpoints", f"steps up to {max(stops, default=1)}"),
        (bool(recipe.measures), "measures", "functions of a state, by split"),
        (recipe.piece >= 0, "piece", "steps, or 0"),
    ):
        if not fits:
            value = getattr(recipe, field)
            raise ValueError(f"recipe.{field} is {allowed}; got {value!r}")
    for name in recipe.branches:
        check_name(name)
    like = shapes(recipe)
    if not isinstance(like, TrainState):
        raise ValueError(f"recipe.init returns a TrainState; got {type(like).__name__}")
    check_like(recipe.mask, like.params, "recipe.mask")
    _check_densities(recipe)


def check_name(name: str, what: str = "branch") -> None:
    """Refuse a name of a branch, or of a probe, that cannot be that of a folder.

    Raises:
      ValueError.
    """
    if not name or not name.isprintable() or set(name) & set("/\\") or name[0] in ". ":
        raise ValueError(
            f"the name of a {what} is of printable characters, begins with none of "
            f"'. ', and has no / and no \\; got {name!r}"
        )
    if name == "ticket":
        raise ValueError(f"a {what} cannot be called 'ticket': the trunk is")


def _check_densities(recipe: Recipe) -> None:
    sizes = [leaf[0].size for leaf in jax.tree.leaves(recipe.mask)]
    before = sum(sizes)
    for level, density in enumerate(recipe.densities, 1):
        values = np.asarray(jax.tree.leaves(density), float)
        if not np.all((values > 0) & (values <= 1)):
            raise ValueError(
                "recipe.densities are fractions of the weights, in (0, 1]; got "
                f"{density!r} at level {level}"
            )
        shares = np.broadcast_to(values, len(sizes)) if len(values) == 1 else values
        kept = float(np.dot(shares, sizes)) if len(shares) == len(sizes) else before
        if kept > before:
            raise ValueError(
                f"recipe.densities fall; got {density!r} at level {level}, more than "
                "at the level before it"
            )
        before = kept


def check_like(mask: Any, params: Any, what: str) -> None:
    """Refuse a mask that is not of the structure and shapes of the params.

    Raises ValueError, which begins with `what` and names the leaf.
    """

    def differs(w: Any, m: Any) -> str | None:
        if m is None or w.shape == m.shape:
            return None
        return f"{m.shape} against {w.shape}"

    try:
        wrong = jax.tree.map(differs, params, mask)
    except ValueError as error:
        raise ValueError(
            f"{what} has not the structure of the params: {error}"
        ) from None
    for path, shapes in jax.tree_util.tree_leaves_with_path(wrong):
        at = jax.tree_util.keystr(path, simple=True, separator="/")
        raise ValueError(
            f"{what} does not fit the params at {at}: {shapes}, replicates in front"
        )


def fingerprint(recipe: Recipe) -> dict[str, Any]:
    """Return what tells a recipe from another, as JSON holds it.

    These are the shapes and types of the state and the mask, the steps, the rewind
    point, the densities, and `recipe.stamp`. Replicates, levels, branches and
    checkpoints are no part of it: they may be added to a stored run.
    """
    like = jax.eval_shape(recipe.init, keys(recipe.replicates[:1], INIT))

    def name(path):
        return jax.tree_util.keystr(path, simple=True, separator="/")

    return {
        "state": {
            name(path): f"{leaf.dtype}{list(leaf.shape[1:])}"
            for path, leaf in jax.tree_util.tree_leaves_with_path(like)
        },
        "prunable": masks.paths(recipe.mask),
        "stops": list(recipe.stops),
        "rewind_to": recipe.rewind_to,
        "densities": [
            np.asarray(jax.tree.leaves(density), float).tolist()
            for density in recipe.densities
        ],
        **recipe.stamp,
    }
