"""What studies put on a ticket's weights from elsewhere: signs and masks of others.

A branch here trains weights that have been given other signs, under the ticket's mask,
or the early weights under the mask of another replicate.
"""

from operator import itemgetter

import jax
import jax.numpy as jnp

from lth import lottery, masks
from lth.analysis import matching
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
