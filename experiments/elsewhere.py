"""What studies put on a ticket's weights from elsewhere: signs of other networks.

A branch here trains weights that have been given other signs, under the ticket's mask.
"""

import jax

from lth import lottery, masks
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


def _masked(state, params, mask):
    """The state with these weights, as far as the mask keeps them, and the mask."""
    return state._replace(params=masks.apply(params, mask)), mask
