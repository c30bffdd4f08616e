"""Early-bird tickets: masks of an early step of the dense training.

You et al. (2020, arXiv:1909.11957) prune the network in training again and again and
stop once the masks hardly change any more.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lth import masks
from lth.lottery import rewind as rewinding
from lth.lottery.branches import Branch
from lth.lottery.rewind import Rewind

WINDOW, CLOSE = 5, 0.1  # the paper's


def distance(mask: masks.Mask, other: masks.Mask) -> jax.Array:
    """Return the share of prunable weights of which two masks say different things.

    The paper's mask distance: the Hamming distance over the number of weights.
    """
    apart = jax.tree.map(lambda a, b: jnp.sum(a != b, dtype=jnp.int32), mask, other)
    return jnp.asarray(sum(jax.tree.leaves(apart)) / masks.size(mask))


def found_at(
    drawn: Sequence[masks.Mask], window: int = WINDOW, close: float = CLOSE
) -> int | None:
    """Return the place of the first mask that is near all of those just before it.

    Args:
      drawn: Masks of one network at rising steps of its training.
      window: How many masks before it are looked at; there must be as many.
      close: The distance below which masks are near, in (0, 1].

    Returns:
      The index of the mask, or None where they never settle.
    """
    for i in range(window, len(drawn)):
        apart = [float(distance(drawn[i], old)) for old in drawn[i - window : i]]
        if max(apart) < close:
            return i
    return None


def early_bird(at: str, rewind: Rewind = rewinding.weights) -> Branch:
    """Prune the dense network of an early step, and put that mask on the early weights.

    As many weights are kept as the ticket keeps, chosen at once by the run's own
    criterion from the checkpoint called `at`, such as `step_100`.
    """

    def prune(recipe, early, before, density, keys, states):
        whole = jax.tree.map(lambda m: np.ones(m.shape, bool), before.mask)
        dense = before._replace(mask=whole, state=states[at])
        return recipe.prune(early, dense, density, keys)

    def start(early, ticket, key, states):
        return rewind(early, early), ticket.mask

    title = f"mask of {at.replace('_', ' ')}"
    return Branch(start, title, prune=prune, needs=(at,))
