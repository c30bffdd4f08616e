"""What studies put on a ticket's weights from elsewhere: signs and masks of others.

A branch here trains weights that have been given other signs, under the ticket's mask,
or the early weights under the mask of another replicate. A recipe may prune by the
masks of another run.
"""

from operator import itemgetter
from pathlib import Path

import jax
import jax.numpy as jnp

import lth
from lth import lottery, masks
from lth.analysis import matching
from lth.lottery import recipe as recipes
from lth.lottery import rewind, starts


def fresh(recipe: lottery.Recipe, signs: str) -> lottery.Branch:
    """Put the ticket's mask on fresh weights with late, early or their own signs."""

    def init(key):
        return jax.tree.map(lambda x: x[0], recipe.init(key[None]))

    def start(early, ticket, key):
        state = rewind.make_reinit(init, key)(early, early)
        by = {"late": ticket.state, "early": early, "own": state}[signs]
        return _masked(state, starts.signs_kept(state.params, by.params), ticket.mask)

    title = f"fresh weights, {signs} signs"
    return lottery.Branch(start, title, settings={"signs": signs})


def turned(mode: str, title: str, share: float) -> lottery.Branch:
    """Train a ticket once more, the signs of a share of its weights turned round.

    A share of -1 gives all of them the signs that they had at initialisation.
    """

    def start(early, ticket, key):
        def leaf(w, first):
            turn = jnp.sign(w) != jnp.sign(first)
            if share >= 0:
                turn = jax.random.bernoulli(key, share, w.shape)
            return jnp.where(turn, -w, w) if w.ndim > 1 else w  # a bias

        state = getattr(rewind, mode)(early, ticket.state)
        params = jax.tree.map(leaf, state.params, early.params)
        return _masked(state, params, ticket.mask)

    return lottery.Branch(start, title, settings={"share": share})


def pruned_as(recipe: lottery.Recipe, path: Path, name: str) -> lottery.Recipe:
    """Prune by the masks of another run, of the same replicates, called by a name."""

    def prune(early, ticket, density, keys):
        run, level = lth.open_run(path), ticket.level + 1
        known = lottery.keys(run.replicates, recipes.PRUNE, level)
        known, wanted = (jax.random.key_data(k).tolist() for k in (known, keys))
        rows = jnp.array([known.index(key) for key in wanted])
        return jax.tree.map(lambda m: jnp.asarray(m)[rows], run.ticket(level).mask)

    return recipe._replace(prune=prune, stamp={**recipe.stamp, "masks": name})


def of_the_next(run, spaces, orders: list[dict], title: str) -> lottery.Branch:
    """Put on the early weights the mask of the replicate after theirs, in an order.

    The orders, of each replicate, bring the units of the other's `spaces` to its own.
    """

    def prune(recipe, early, before, density, keys):
        theirs, each = run.ticket(before.level + 1).mask, []
        for i in map(run.replicates.index, recipe.replicates):
            mask = jax.tree.map(itemgetter((i + 1) % len(orders)), theirs)
            each.append(matching.permuted(spaces, orders[i], mask=mask)[2])
        return jax.tree.map(lambda *m: jnp.stack(m), *each)

    return lottery.branches.rewound()._replace(title=title, prune=prune)


def _masked(state, params, mask):
    """The state with these weights, as far as the mask keeps them, and the mask."""
    return state._replace(params=masks.apply(params, mask)), mask
