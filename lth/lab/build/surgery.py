"""Ways to prune that do more than choose the highest scores of a density."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lth import masks
from lth.criteria import obs
from lth.lab import devices
from lth.lab.build import ranking
from lth.lab.build.tasks import Task
from lth.lab.config import ConfigError, Prune, parse
from lth.lottery import Pruned, make_prune
from lth.masks import allocation, topk

DAMP = 0.01  # times the mean of the Hessian's diagonal, as SparseGPT has it


def by_cuts(p: Prune, scores: Callable) -> Callable:
    """The `prune` of a recipe that keeps what lies above the cut of each level."""
    cuts = parse.parse_cuts(p.cuts)

    def above(cut):
        def keep(ranked, mask, density):
            return allocation.threshold(ranked, mask, cut.value)

        return make_prune(scores, keep, exact=False)

    prunes = [above(cut) for cut in cuts]

    @jax.jit
    @jax.vmap
    def far(params, mask, quality):
        return allocation.by_deviation(params, mask, quality)

    def prune(early, ticket, density, keys):
        cut = cuts[ticket.level]
        if not cut.deviations:
            return prunes[ticket.level](early, ticket, density, keys)
        quality = jnp.full(len(keys), cut.value, jnp.float32)
        return far(ticket.state.params, ticket.mask, quality)

    return prune


def by_surgery(p: Prune, task: Task, plan: devices.Plan, mask: masks.Mask) -> Callable:
    """Make the `prune` of a recipe in which kept weights make up for those that go.

    Args:
      p: Which surgery, and on how many batches.
      task: The network and its data.
      plan: The devices.
      mask: Covers what can be pruned.

    Returns:
      `prune(early, ticket, density, keys)`.

    Raises:
      ConfigError for what is prunable and no dense kernel.
    """
    odd = [
        path
        for path, leaf in zip(masks.paths(mask), jax.tree.leaves(mask), strict=True)
        if leaf.ndim != 2
    ]
    if odd:
        raise ConfigError(
            f"--prune.surgery {p.surgery} is of dense kernels [in, out]: "
            f"--prune.exclude {', '.join(odd)}"
        )
    inputs = devices.spread(plan, ranking.make_inputs(task, p), (0, 0, 0, None))
    operate = {"obs": _obs, "sparse_gpt": _sparse_gpt}[p.surgery]

    def prune(early, ticket, density, keys):
        block, _ = next(task.blocks(keys[0], 0, p.batches))
        met = inputs(ticket.state, ticket.mask, keys, block)
        each = jax.tree.leaves(density)
        each = each if len(each) > 1 else each * len(jax.tree.leaves(ticket.mask))
        shares = iter(each)

        def leaf(w, x, keep):
            if keep is None:
                return w, None
            share = next(shares)
            pairs = [
                operate(w[i], obs.hessian(x[i], DAMP), keep[i], share)
                for i in range(len(w))
            ]
            return tuple(map(jnp.stack, zip(*pairs, strict=True)))

        params, structure = jax.tree.flatten(ticket.state.params)
        parts = [
            leaf(*part)
            for part in zip(
                params,
                structure.flatten_up_to(met),
                structure.flatten_up_to(ticket.mask),
                strict=True,
            )
        ]
        moved, kept = (
            jax.tree.unflatten(structure, c) for c in zip(*parts, strict=True)
        )
        return Pruned(kept, ticket.state._replace(params=moved))

    return prune


def _obs(kernel, hessian, alive, share):
    """As many weights of each output, one deletion after another."""
    left = int(np.max(np.sum(np.asarray(alive), axis=0)))
    target = max(1, topk.round_count(share, len(kernel)))
    return obs.delete(kernel, hessian, alive, max(0, left - target))


def _sparse_gpt(kernel, hessian, alive, share):
    return obs.sparse_gpt(kernel, hessian, float(share))


def reestimated(prune: Callable, steps: int, reestimate: Callable) -> Callable:
    """Make a `prune` that takes averages of batch norm anew under the mask it found.

    `reestimate(state, keys, steps)` takes those of states anew.
    """
    masked = jax.jit(jax.vmap(masks.apply))

    def fitted(early, ticket, density, keys):
        made: Any = prune(early, ticket, density, keys)
        if not isinstance(made, Pruned):
            made = Pruned(made, ticket.state)
        params = masked(made.state.params, made.mask)
        under = made.state._replace(params=params, opt_state=())
        stats = reestimate(under, keys, steps).stats
        return made._replace(state=made.state._replace(stats=stats))

    return fitted
