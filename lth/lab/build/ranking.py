"""From the names in a configuration to what is pruned, how much, and by what scores."""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from lth import criteria, masks, models, train
from lth.compress import Space, whole
from lth.lab.build import networks, tasks
from lth.lab.build.names import CRITERIA, Inputs
from lth.lab.config import ConfigError, Model, Prune, needs, parse
from lth.masks import Mask, Params, Scores, allocation, schedules, structure, topk

GRASP_TEMPERATURE = 200  # of the logits, in the code of Wang et al.


def make_inputs(task: tasks.Task, p: Prune) -> Callable[..., Any]:
    """Make `inputs(state, mask, key, data)` of one replicate: what kernels meet."""

    def inputs(state, mask, key, data):
        order, _ = jax.random.split(key)
        params = masks.apply(state.params, mask)
        return _met(task, params, state.stats, _drawn(task, p.batches, order, data))

    return inputs


def _drawn(task: tasks.Task, count: int, order: jax.Array, data: Any) -> Any:
    """The first batches of an order of the data, [count, n, ...]."""

    def draw(step):
        return task.sample(order, step, data)

    return jax.lax.map(draw, jnp.arange(count, dtype=jnp.int32))


def _met(task: tasks.Task, params: Params, stats: Any, batches: Any) -> Any:
    """What meets each kernel, of all batches as one: [b, n, ...] is [b * n, ...]."""
    together = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batches)
    assert task.model.intermediates is not None  # all of `networks` have it
    return task.model.intermediates(params, stats, together.inputs)[0]


def make_scores(p: Prune, m: Model, task: tasks.Task) -> Callable[..., Scores]:
    """`scores(initial, state, mask, key, data)` of one replicate, by `p`.

    `data` is what `task.sample` takes: `p.batches` batches are drawn from it.
    """
    flow = _make_flow(p, m, task)

    def loss_of(objective, stats, key):
        """The mean loss of a batch; what training would make of `stats` is dropped."""
        loss, measure = objective
        if p.mode == "training":
            return lambda params, batch: loss(params, stats, batch, key)[0]
        return lambda params, batch: jnp.mean(measure(params, stats, batch)["loss"])

    def scores(initial, state, mask, key, data):
        order, noise = jax.random.split(key)
        # One dropout for all batches, so that a loss is one function of the weights.
        dropout = jax.random.fold_in(key, 2)
        params = masks.apply(state.params, mask)

        def batches():
            return _drawn(task, p.batches, order, data)

        def inputs():
            found = _met(task, params, state.stats, batches())
            _check_inputs(found, mask, p.criterion)
            return found

        view = Inputs(
            initial=masks.apply(initial, mask),
            state=state._replace(params=params),
            mask=mask,
            key=noise,
            batches=batches,
            loss=loss_of((task.loss, task.measure), state.stats, dropout),
            cool=loss_of(_cooled(task), state.stats, dropout),
            inputs=inputs,
            flow=lambda params: flow(params, state.stats),
        )
        return CRITERIA[p.criterion](view)

    return scores


def _make_flow(p: Prune, m: Model, task: tasks.Task) -> Callable[[Params, Any], Scores]:
    """SynFlow of the network itself, on ones and at the precision asked for."""
    dtype = jnp.dtype(p.precision)
    exact = replace(m, compute=p.precision, remat=False)
    network = networks.network(exact, task.examples)

    def flow(params, stats):
        params, stats = jax.tree.map(lambda x: x.astype(dtype), (params, stats))
        inputs = jnp.ones((1, *task.examples.shape), dtype)
        with jax.default_matmul_precision("highest"):  # GPUs may round to fewer bits
            return criteria.synflow(network.apply, params, stats, inputs)

    return flow


def _cooled(task: tasks.Task) -> tuple[train.Loss, Callable]:
    """`task.loss` and `.measure` with logits over GraSP's temperature, if any."""
    if task.examples.classes == 1:
        return task.loss, task.measure

    def apply(*args):
        outputs, stats = task.model.apply(*args)
        return outputs / GRASP_TEMPERATURE, stats

    return train.classification(apply)


def _check_inputs(found: Any, mask: Mask, criterion: str) -> None:
    def unseen(keep, x):  # of a kernel that is not pruned, `keep` is None
        return keep if x is None or isinstance(x, models.Unseen) else None

    covered = jax.tree.map(unseen, mask, found, is_leaf=lambda m: m is None)
    if jax.tree.leaves(covered):
        raise ConfigError(
            f"--prune.criterion {criterion} looks at the inputs of kernels, and "
            f"{', '.join(masks.paths(covered))} has none: --prune.exclude it"
        )


def make_keep(
    p: Prune, found: Sequence[Space] = ()
) -> Callable[[Scores, Mask, Any], Mask]:
    """`keep(scores, mask, density)` for the structure and scope of `p`.

    With the spaces of a network, filters and channels are pruned with all that belongs
    to them; without, they are the columns and rows of single kernels.
    """
    if p.scope == "output":
        return structure.keep_within
    scope = "global" if p.scope == "global" else "layer"
    kind = parse.parse_structure(p.structure)
    if kind.name == "n_of_m":
        n, m = kind.sizes
        axis = None if p.along == "inputs" else -1
        return lambda scores, mask, density: structure.keep_n_of_m(
            scores, mask, n, m, axis
        )
    if kind.name == "weight":
        return lambda scores, mask, density: masks.keep_top(
            scores, mask, density, scope
        )
    if found:
        return _make_keep_whole(p, found, scope)
    unit = unit_of(p)
    return lambda scores, mask, density: structure.keep_top(
        scores, mask, density, scope, unit=unit
    )


def is_whole(p: Prune) -> bool:
    """Say whether whole channels are pruned, with all that belongs to them."""
    return parse.parse_structure(p.structure).name in ("filter", "channel")


def _make_keep_whole(p: Prune, found: Sequence[Space], scope: str) -> Callable:
    side = "makes" if parse.parse_structure(p.structure).name == "filter" else "reads"

    def keep(scores, mask, density):
        units = whole.pooled(scores, mask, found, side, pool_of(p))
        return whole.keep_top(units, mask, density, found, scope)

    return keep


def of_kernels(scores: Callable, found: Sequence[Space]) -> Callable:
    """Make `scores(early, state, mask, keys)` one that looks at kernels alone.

    The mask of whole channels covers biases and norms as well, which have no rank of
    their own: their scores are 0.
    """
    roles = ("makes", "reads", "passes")
    paths = {path for space in found for path, _ in space.having(*roles)}

    def inside(path):
        return f"params/{masks.name(path)}" in paths

    def ranked(early, state, mask, keys):
        state = state._replace(params=masks.apply(state.params, mask))
        own = jax.tree_util.tree_map_with_path(
            lambda path, m: m if inside(path) else None, mask
        )
        given = scores(early, state, own, keys)
        return jax.tree_util.tree_map_with_path(
            lambda path, w, s: s if inside(path) else jnp.zeros_like(w),
            state.params,
            given,
        )

    return ranked


def unit_of(p: Prune) -> structure.Unit:
    """What is pruned as a unit, where units compete."""
    kind = parse.parse_structure(p.structure)
    if kind.name == "block":
        pool = "mean" if p.pool == "default" else p.pool
        return structure.block(kind.sizes, pool)
    if kind.name in ("filter", "channel"):
        along = structure.outputs if kind.name == "filter" else structure.inputs
        return along(pool_of(p))
    return structure.weight()


def pool_of(p: Prune) -> str:
    """How scores of weights become one of a filter or channel.

    The sum, which for sizes of weights is Li et al.'s L1, respects signs. Scores of
    activations are of a whole channel already: their mean is theirs.
    """
    pool = "mean" if needs.has(p.criterion, "activations") else "sum"
    return pool if p.pool == "default" else p.pool


def competitors(p: Prune, mask: Mask) -> list[int]:
    """How many units each prunable leaf has."""
    if p.structure == "weight":
        return [leaf.size for leaf in jax.tree.leaves(mask)]
    tiles = structure.shapes(mask, unit_of(p))
    return [
        math.prod(-(-n // size) for n, size in zip(leaf.shape, tile, strict=True))
        for leaf, tile in zip(jax.tree.leaves(mask), tiles, strict=True)
    ]


def precision(p: Prune) -> contextlib.AbstractContextManager:
    """Within it, arrays can be of the precision the experiment ranks in."""
    if p.precision == "float64":
        return jax.enable_x64(True)
    return contextlib.nullcontext()


def chosen_spaces(
    p: Prune, params: Params, found: Sequence[Space]
) -> tuple[Space, ...]:
    """Return the spaces that the experiment prunes: those that no layer excluded makes.

    Raises ConfigError where none is left.
    """
    paths = masks.matching(p.exclude, params) if p.exclude else []
    excluded = {f"params/{path}" for path in paths}
    left = tuple(
        space
        for space in found
        if not excluded & {path for path, _ in space.having("makes", "passes")}
    )
    if not left:
        raise ConfigError(
            f"--prune.structure {p.structure} removes channels that layers make and "
            "others read: the network has none that --prune.exclude leaves"
        )
    return left


def prunable(p: Prune, params: masks.Params) -> masks.Mask:
    """Return the all-ones mask over what the experiment prunes."""

    def matching(pattern):
        return masks.matching(pattern, params) if pattern else []

    included, excluded = matching(p.include), matching(p.exclude)

    def chosen(path, leaf):
        kernel = masks.is_kernel(path, leaf)
        return (kernel or path in included) and path not in excluded

    return masks.ones(params, chosen)


def densities(
    p: Prune, count: int, mask: masks.Mask, sizes: Sequence[int] = ()
) -> list[masks.Density]:
    """Return the density of each of `count` levels, or the tree of densities by layer.

    Args:
      p: How the experiment prunes.
      count: How many levels.
      mask: What is pruned; layers are its leaves.
      sizes: Of what competes; by default, of the units of the mask's kernels.

    Returns:
      The densities.

    Raises:
      ConfigError: for a level that would keep as many weights as the one before it.
    """
    if p.cuts:  # what stays is a matter of scores: at most everything
        return [1.0] * min(count, len(parse.parse_cuts(p.cuts)))
    sizes = sizes or competitors(p, mask)
    if p.scope == "output":
        sizes = list(map(math.prod, structure.shapes(mask, structure.outputs())))
    if p.scope == "global":
        sizes = [sum(sizes)]
    before = sum(sizes)
    unit = "weight" if p.structure == "weight" else "unit"
    levels = _targets(p, count, mask)
    for level, density in enumerate(levels, 1):
        given = jax.tree.leaves(density)
        given = given if len(given) > 1 else given * len(sizes)
        kept = sum(map(topk.round_count, given, sizes))
        if kept == before:
            raise ConfigError(
                f"--levels is at most {level - 1}: level {level} would keep "
                f"{kept} of {sum(sizes)} {unit}s like the level before it"
            )
        before = kept
    return levels


def _targets(p: Prune, count: int, mask: masks.Mask) -> list[masks.Density]:
    """What the settings ask of each level."""
    kind = parse.parse_structure(p.structure)
    if kind.name == "n_of_m":
        n, m = kind.sizes
        return [n / m][:count]
    given = parse.parse_densities(p.densities)[:count]
    rates = parse.parse_rates(p.rates)
    keep: Any = 1 - p.rate
    if rates:
        kept = {pattern: 1 - rate for pattern, rate in rates.items()}
        keep = allocation.by_path(mask, keep, kept)
    levels = given or schedules.geometric(keep, count)
    if p.scope not in ("er", "erk"):
        return levels
    dense = [p.dense] if p.dense else []
    return [
        allocation.erdos_renyi(mask, density, kernel=p.scope == "erk", dense=dense)
        for density in levels
    ]
