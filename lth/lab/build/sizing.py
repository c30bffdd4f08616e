"""Probes of what pruning costs and saves: accuracy on the way, and smaller networks."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lth import compress, masks
from lth.analysis import latency
from lth.lab.build import probing
from lth.lab.build.probing import Probe
from lth.lottery import recipe as recipes


def recovery(batches: int = 20, split: str = "test") -> Probe:
    """Measure a network before pruning, just after it, settled, and retrained.

    Of each metric `<metric>_before`, the ticket of the level before; `_pruned`, the
    same under this ticket's mask; `_reestimated`, with averages of batch norm taken
    anew, where it has some; and `_retrained`, the ticket.

    Args:
      batches: Of training data, by which averages are taken anew; 0 leaves that out.
      split: On which the networks are measured.

    Returns:
      The probe; it has nothing to say where there is no level before.
    """

    def probe(recipe, early, ticket, stored):
        if split not in recipe.measures:
            raise ValueError(
                f"split is one of {', '.join(recipe.measures)}; got {split!r}"
            )
        earlier = stored.before()
        if earlier is None:
            return {}
        before = earlier[1].state
        params = recipe.each(masks.apply)(before.params, ticket.mask)
        states = {"before": before, "pruned": before._replace(params=params)}
        if batches and jax.tree.leaves(before.stats):
            keys = recipes.keys(recipe.replicates, recipes.TRAIN)
            settle = probing.objective_of(recipe).reestimate
            states["reestimated"] = settle(states["pruned"], keys, batches)
        states["retrained"] = ticket.state
        return {
            f"{metric}_{stage}": values
            for stage, state in states.items()
            for metric, values in recipe.measures[split](state).items()
        }

    return probe


def shrunk(batch: int = 64, seconds: float = 1.0) -> Probe:
    """Measure the network that is left once dead channels are sliced off.

    Its `params` and `macs` (multiply-accumulates of one example); how many times fewer
    they are than those of the whole network (`fewer_params`, `fewer_macs`); how far its
    outputs are from those of the masked network, relative to the largest (`apart`); and
    the median time of a batch, in milliseconds, of the whole network and of this one
    (`whole_ms`, `ms`), and how many times shorter that is (`faster`).

    Args:
      batch: Of how many examples.
      seconds: For how long each is timed.

    Returns:
      The probe. Times are those of the machine as busy as it is.
    """

    def probe(recipe, early, ticket):
        objective = probing.objective_of(recipe)
        spaces = probing.spaces_of(recipe, early)
        keys = recipes.keys(recipe.replicates, recipes.TRAIN)
        batches = objective.batches(keys, 1)
        trees = ticket.state.params, ticket.state.stats, ticket.mask
        each = []
        for i in range(len(recipe.replicates)):
            params, stats, mask = _one(i, trees)
            params = masks.apply(params, mask)
            given = _some(_one(i, batches), batch)
            whole = probing.followed(objective, params, stats, given)
            kept = compress.living(mask, spaces)
            small = compress.shrink(*whole, kept, spaces)
            narrow = small.apply, small.params, small.stats, whole[-1]
            times = _timed(_call(*whole), _call(*narrow), seconds)
            each.append(_told(small, *times))
        return {name: np.array([row[name] for row in each]) for name in each[0]}

    return probe


def _told(small: compress.Shrunk, slow: float, fast: float) -> dict[str, Any]:
    """The numbers of one replicate."""
    before, after = small.before, small.after
    macs = (before.macs or np.nan, after.macs or np.nan)
    return {
        "params": after.params,
        "fewer_params": before.params / after.params,
        "macs": macs[1],
        "fewer_macs": macs[0] / macs[1],
        "apart": small.difference,
        "whole_ms": 1000 * slow,
        "ms": 1000 * fast,
        "faster": slow / fast,
    }


def _call(apply: Callable, params, stats, inputs) -> Callable[[], Any]:
    program = latency.compiled(apply, params, stats, inputs)
    return lambda: program(params, stats, inputs)


def _timed(slow, fast, seconds: float) -> tuple[float, float]:
    """Medians of both, in turns, so that both meet the machine as busy as it is."""
    pairs = [
        (latency.latency(slow, 10, seconds / 5), latency.latency(fast, 10, seconds / 5))
        for _ in range(5)
    ]
    both = np.median([[a.median, b.median] for a, b in pairs], 0)
    return float(both[0]), float(both[1])


def _one(i: int, tree: Any) -> Any:
    return jax.tree.map(lambda x: x[i], tree)


def _some(batches: Any, count: int) -> Any:
    """So many examples of the first batch, over and over where it has fewer."""

    def leaf(x):
        return x[0][np.arange(count) % x.shape[1]]

    return jax.tree.map(leaf, batches)
