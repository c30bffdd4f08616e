"""Probes by name: each function makes one, and its parameters are its amounts.

A probe is `(recipe, early, ticket, stored) -> {metric: numbers [r]}`; of what lies
beside the ticket, `stored` loads others of the same run (`lth.lab.probes.Stored`).
"Before" is the level before of what is measured, the tickets or a branch.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from lth import analysis, compress, masks
from lth.analysis import graph, overlap
from lth.lab import store
from lth.lottery import Recipe, Ticket
from lth.lottery import recipe as recipes
from lth.train import TrainState

Numbers = dict[str, Any]  # by metric, [r]
Probe = Callable[..., Numbers]


def densities() -> Probe:
    """Measure the density of each layer."""

    def probe(recipe, early, ticket):
        return jax.vmap(masks.densities)(ticket.mask)

    return probe


def distance() -> Probe:
    """Measure how far kept weights went, and those that the next mask prunes.

    `l2` is the distance of the kept weights from the early ones, in L2. `kept` and
    `pruned` are root mean squares of the change of one weight in the training of the
    level before: of the weights that this level's mask keeps, and of those it prunes.
    """
    far = jax.jit(jax.vmap(_far))
    between = jax.jit(jax.vmap(overlap.travelled))

    def probe(recipe, early, ticket, stored):
        found = {"l2": far(early.params, ticket.state.params, ticket.mask)}
        if earlier := stored.before():
            start, before = earlier
            gone = jax.tree.map(lambda a, b: a & ~b, before.mask, ticket.mask)
            ways = start.params, before.state.params
            found["kept"] = between(*ways, ticket.mask)
            found["pruned"] = between(*ways, gone)
        return found

    return probe


def _far(early, late, mask):
    moved = jax.tree.map(lambda a, b: a - b, late, masks.apply(early, mask))
    return jax.numpy.sqrt(sum((x**2).sum() for x in jax.tree.leaves(moved)))


def barrier(
    to: str = "before",
    points: int = 11,
    batches: int = 0,
    split: str = "test",
    ends: Literal["mean", "line"] = "mean",
) -> Probe:
    """Measure the barrier between a ticket and another network of its run.

    Args:
      to: The other: the ticket of the level `before`, or a branch by its name; of two
        branches with a comma between them, theirs.
      points: On the line, ends among them.
      batches: After how many the averages of batch norm are taken anew; 0 keeps them.
      split: On which the networks are measured.
      ends: What is taken from the worst error: the `mean` of the ends (Frankle et al.
        2020), or the `line` between them (Entezari et al. 2022).

    Returns:
      The probe: by metric the barrier, and the value at the middle.
    """

    def probe(recipe, early, ticket, stored):
        states = _ends(to, ticket, stored)
        if states is None:
            return {}
        if split not in recipe.measures:
            raise ValueError(
                f"split is one of {', '.join(recipe.measures)}; got {split!r}"
            )
        settle = _settling(recipe, batches) if batches else None
        measure = recipe.measures[split]
        curves = analysis.paths(measure, states, points=points, settle=settle)
        heights = analysis.barriers(curves, ends)
        middle = {f"{n}_middle": v[0, points // 2] for n, v in curves.items()}
        return {name: v[0] for name, v in heights.items()} | middle

    return probe


def _ends(to: str, ticket: Ticket, stored: Any) -> list[TrainState] | None:
    """The two networks that a line joins; None where there is no level before."""
    if to == "before":
        earlier = stored.before()
        return [earlier[1].state, ticket.state] if earlier else None
    names = _names(to, stored)
    for name in names:
        stored.check_task(name)
    states = [stored(name).state for name in names]
    return states if len(states) == 2 else [ticket.state, *states]


def _names(to: str, stored: Any) -> list[str]:
    """The one variant that a text names, or the two; names may hold commas."""
    there, parts = set(stored.variants), to.split(",")
    if to in there:
        return [to]
    for i in range(1, len(parts)):
        two = [",".join(part).strip() for part in (parts[:i], parts[i:])]
        if set(two) <= there:
            return two
    return [part.strip() for part in parts] if len(parts) == 2 else [to]


def _settling(recipe: Recipe, batches: int) -> Callable[[TrainState], TrainState]:
    """What takes averages of any number of networks anew, on the batches of the run."""
    objective = objective_of(recipe)
    order = recipes.keys(recipe.replicates, recipes.TRAIN)

    def settle(state):
        times = len(np.ravel(state.step)) // len(order)
        keys = jax.numpy.tile(order, times)
        return objective.reestimate(state, keys, batches)

    return settle


def objective_of(recipe: Recipe) -> recipes.Objective:
    """Return what the networks of a recipe learn; raises ValueError if it has none."""
    if recipe.objective is None:
        raise ValueError(
            "this probe needs recipe.objective, the loss and batches of its networks; "
            "lth.build and lth.make_recipe give it"
        )
    return recipe.objective


def overlaps(to: str = "before", run: str = "", level: int = -1) -> Probe:
    """Measure the Jaccard index of a ticket's mask and another, beside that of chance.

    Args:
      to: The other: the ticket of the level `before`, the `ticket` of another run, a
        branch by its name; or the other `replicates`, of whom the mean is taken.
      run: The directory of that other run; by default the same.
      level: Of the other; by default the same.

    Returns:
      The probe: `jaccard`, `chance` of masks that keep as many in each layer, with its
      95 % interval, and `beyond`, (jaccard - chance) / (1 - chance).
    """

    if run and to == "replicates":
        raise ValueError("the replicates are those of one run: no other run is read")
    if not isinstance(run, str | Path):
        raise ValueError(f"run is the directory of a run, its path; got {run!r}")

    def probe(recipe, early, ticket, stored):
        count = len(recipe.replicates)
        mine = [_one(i, ticket.mask) for i in range(count)]
        if to == "replicates":
            if count < 2:
                raise ValueError("a run of one replicate has no others to overlap with")
            others = [[m for j, m in enumerate(mine) if j != i] for i in range(count)]
        else:
            at = ticket.level if level < 0 else level
            other = _other_mask(to, run, at, level, recipe.replicates, ticket, stored)
            if other is None:
                return {}
            others = [[_one(i, other)] for i in range(count)]
        found = [
            np.mean([_told(overlap.overlap(a, b)) for b in each], 0)
            for a, each in zip(mine, others, strict=True)
        ]
        metrics: list[str] = [*overlap.Overlap._fields, "beyond"]
        return dict(zip(metrics, np.transpose(found), strict=True))

    return probe


def _told(found: overlap.Overlap) -> tuple[float, ...]:
    return (*found, found.beyond)


def _one(i: int, tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x[i]), tree)


def _other_mask(to, run, at, level, replicates: Sequence[int], ticket, stored) -> Any:
    """A mask of all replicates; None where there is no level before."""
    if run:
        variant = store.TRUNK if to == "before" else to
        return _elsewhere(Path(run), variant, at, replicates, ticket.mask)
    if to == "before" and level < 0:
        earlier = stored.before()
        return earlier[1].mask if earlier else None
    return stored(store.TRUNK if to == "before" else to, at).mask


def _elsewhere(run: Path, variant, level, replicates, like: masks.Mask) -> Any:
    """The mask of another run, of the replicates with these numbers."""
    rows: dict[int, Any] = {}
    for group, unit in store.units(run):
        folder = unit if variant == store.TRUNK else store.branches(unit).get(variant)
        if folder is None:
            raise ValueError(f"{run} holds no branch {variant}")
        stored = jax.tree.leaves(store.load(folder, level)[1])
        for i, replicate in enumerate(group):
            rows[replicate] = [leaf[i] for leaf in stored]
    lost = [replicate for replicate in replicates if replicate not in rows]
    if lost:
        raise ValueError(f"{run} has no replicate {', '.join(map(str, lost))}")
    leaves, structure = jax.tree.flatten(like)
    each = [np.stack(x) for x in zip(*(rows[r] for r in replicates), strict=True)]
    for path, theirs, ours in zip(masks.paths(like), each, leaves, strict=True):
        if theirs.shape != ours.shape:
            raise ValueError(
                f"masks of other shapes: {path} is {list(theirs.shape[1:])} in {run}, "
                f"{list(ours.shape[1:])} here"
            )
    return jax.tree.unflatten(structure, each)


def signs() -> Probe:
    """Measure the share of kept weights whose sign is another one than it was.

    `flipped` since the early state, `flipped_since_before` since the end of the level
    before.
    """
    flips = jax.jit(jax.vmap(overlap.flips))

    def probe(recipe, early, ticket, stored):
        late, mask = ticket.state.params, ticket.mask
        found = {"flipped": flips(early.params, late, mask)}
        if earlier := stored.before():
            before = earlier[1].state.params
            found["flipped_since_before"] = flips(before, late, mask)
        return found

    return probe


def paths() -> Probe:
    """Measure what of a mask lies on a path from an input to an output.

    `effective` density, dead `units`, and layers that are cut off (`severed`).
    """

    def probe(recipe, early, ticket):
        params = _one(0, early.params)
        spaces = spaces_of(recipe, early)
        found: dict[str, list] = {"effective": [], "units": [], "severed": []}
        for i in range(len(recipe.replicates)):
            mask = _one(i, ticket.mask)
            dead = graph.dead(spaces, params, mask)
            found["effective"].append(graph.effective_density(spaces, params, mask))
            found["units"].append(sum(len(units) for units in dead.values()))
            found["severed"].append(len(graph.severed(spaces, params, mask)))
        return found

    return probe


def degrees() -> Probe:
    """Count the kept weights that make and that read each unit, space by space.

    Of each axis space the mean (`<space>/inputs`, `<space>/outputs`), and the least
    (`<space>/inputs/least`, `<space>/outputs/least`) over its units.
    """

    def probe(recipe, early, ticket):
        params, found = _one(0, early.params), {}
        spaces = spaces_of(recipe, early)
        for i in range(len(recipe.replicates)):
            counts = graph.degrees(spaces, params, _one(i, ticket.mask))
            for name, sides in counts.items():
                for side, values in sides._asdict().items():
                    found.setdefault(f"{name}/{side}", []).append(values.mean())
                    found.setdefault(f"{name}/{side}/least", []).append(values.min())
        return found

    return probe


def spaces_of(recipe: Recipe, state: TrainState) -> tuple[compress.Space, ...]:
    """Return the axis spaces of the networks of a recipe."""
    objective = objective_of(recipe)
    keys = recipes.keys(recipe.replicates[:1], recipes.TRAIN)
    drawn = objective.batches(keys, 1)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype), drawn)
    params, stats = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype),
        (state.params, state.stats),
    )
    return compress.find(*followed(objective, params, stats, batch))


def followed(objective: recipes.Objective, params: Any, stats: Any, batch: Any):
    """Give what a network is followed by, its params and stats, and what it is given.

    Args:
      objective: of its recipe.
      params: of the network, or their shapes.
      stats: the same.
      batch: of data. What has no `inputs` is followed through the measure.

    Returns:
      The arguments of `compress.find`.
    """
    if hasattr(batch, "inputs"):
        return objective.apply, params, stats, batch.inputs

    def measured(params, stats, batch, train, key):
        return objective.measure(params, stats, batch), stats

    return measured, params, stats, batch
