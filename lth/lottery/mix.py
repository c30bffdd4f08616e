"""A branch that mixes what becomes of initial weights, in shares that it chooses."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lth import masks
from lth.lottery import recipe
from lth.lottery import rewind as rewinding
from lth.lottery.branches import Branch, Frozen, Pruned
from lth.lottery.recipe import Recipe
from lth.lottery.rewind import Rewind
from lth.masks import topk
from lth.train import TrainState


def mixed(
    init: Callable[[jax.Array], TrainState],
    changed: Callable[[Any], Any],
    rewind: Rewind = rewinding.weights,
    *,
    candidates: int = 8,
    rounds: int = 2,
    share: float = 0.2,
) -> Branch:
    """Mix init actions, layer by layer, in shares chosen on validation data.

    Of each layer's kept weights a share is drawn anew and the rest rewound; of its
    pruned weights a share is frozen at its initial values, those first that shrank
    least in training, and the rest is 0. A population of such shares is trained for a
    part of the steps; the one of the lowest validation loss is varied and tried again,
    and the best of all is trained whole. Rewinding all and freezing none, the ticket
    itself, is among them. What was chosen is stored in the stats, `facts`: [2] for each
    layer, redrawn and frozen.

    Args:
      init: `init(key)`, of one replicate.
      changed: As in `held`.
      rewind: How kept weights are rewound.
      candidates: In a round, at least 2.
      rounds: At least 1.
      share: Of the steps of a ticket, that a candidate is trained for, in (0, 1].

    Returns:
      The branch.
    """

    def start(early, ticket, key):
        state, shares = rewind(early, early), ticket.metrics["shares"]
        one, two = jax.random.split(key)
        kept, frozen = _mix(
            early.params, ticket, init(one).params, shares, two, state.params
        )
        stats = Frozen(state.stats, ticket.mask, frozen, shares)
        return state._replace(params=kept, stats=stats), ticket.mask

    def choose(whole, early, before, density, keys):
        mask = whole.prune(early, before, density, keys)
        paths = masks.paths(mask)
        ticket = before._replace(mask=mask)
        by = changed(whole)
        steps = max(1, round(share * (whole.stops[-1] - whole.rewind_to)))
        seeds = np.asarray(jax.random.key_data(keys)).tolist()
        rng = [np.random.default_rng([*seed, 1]) for seed in seeds]
        best = {path: np.zeros((len(rng), 2), np.float32) for path in paths}
        least = np.full(len(rng), np.inf)
        for turn in range(rounds):
            centre, width = {p: v.copy() for p, v in best.items()}, 0.5 / 2**turn
            for number in range(candidates):
                shares = centre
                if turn or number:  # the first of all is the ticket itself
                    shares = {p: _varied(rng, v, width) for p, v in centre.items()}
                marked = ticket._replace(metrics={"shares": shares})
                state, under = whole.each(start)(early, marked, keys)
                loss = _tried(by, state, under, steps)
                better = loss < least
                least = np.where(better, loss, least)
                for path in paths:
                    best[path] = np.where(better[:, None], shares[path], best[path])
        return Pruned(mask, before.state, {"shares": best})

    amounts = {"candidates": candidates, "rounds": rounds, "share": share}
    return Branch(start, "a mix of init actions", 0, changed, choose, amounts)


def _tried(by: Recipe, state: TrainState, mask: masks.Mask, steps: int) -> np.ndarray:
    """The validation loss [r] after some steps; infinite where it is not finite."""
    order = recipe.keys(by.replicates, recipe.TRAIN)
    state, _ = by.train(state, mask, steps, order)
    loss = np.asarray(by.measures["validation"](state)["loss"])
    return np.where(np.isfinite(loss), loss, np.inf)


def _varied(rng: list, around: np.ndarray, width: float) -> np.ndarray:
    """Two shares [r, 2] near others, in [0, 1]."""
    moves = np.stack([one.normal(0, width, 2) for one in rng])
    return np.clip(around + moves, 0, 1).astype(np.float32)


def _mix(initial, ticket, fresh, shares, key, rewound):
    """Where kept weights start, and what pruned ones are held at."""
    final = ticket.state.params
    leaves, structure = jax.tree.flatten(rewound)
    keeps = structure.flatten_up_to(ticket.mask)
    draws = jax.random.split(key, len(leaves))
    paths = iter(masks.paths(ticket.mask))
    columns = zip(
        leaves,
        keeps,
        *map(jax.tree.leaves, (initial, final, fresh)),
        draws,
        strict=True,
    )
    starts_at, held_at = [], []
    for w, keep, first, last, new, draw in columns:
        if keep is None:
            starts_at.append(w)
            held_at.append(w)
            continue
        redrawn, frozen = shares[next(paths)]
        drawn = jax.random.uniform(draw, (w.size,)).reshape(w.shape) < redrawn
        starts_at.append(jnp.where(keep, jnp.where(drawn, new, w), 0))
        count = jnp.round(frozen * jnp.sum(~keep)).astype(jnp.int32)
        (stay,), _, _ = topk.top([jnp.abs(last) - jnp.abs(first)], [~keep], count)
        held_at.append(jnp.where(stay, first, 0))
    unflatten = jax.tree.unflatten
    return unflatten(structure, starts_at), unflatten(structure, held_at)
