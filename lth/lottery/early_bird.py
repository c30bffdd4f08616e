"""Early-bird tickets: masks of early steps of the dense training.

You et al. (2020, arXiv:1909.11957) prune the network in training again and again and
stop once the masks hardly change any more.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lth import masks
from lth.lottery import rewind as rewinding
from lth.lottery.branches import Branch, Pruned
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

    Five distances stand in the queue, each of that mask to one before. The code
    published with the paper queues five masks, so four distances; its Algorithm 1
    queues those of successive masks.

    Args:
      drawn: Masks of one network at rising steps of its training.
      window: How many masks before it are looked at, at least 1; there must be as many.
      close: The distance below which masks are near, in (0, 1].

    Returns:
      The index of the mask, or None where they never settle.

    Raises:
      ValueError: for a window or a distance that cannot be.
    """
    _check(window, close)
    for i in range(window, len(drawn)):
        apart = [float(distance(drawn[i], old)) for old in drawn[i - window : i]]
        if max(apart) < close:
            return i
    return None


def _check(window: int, close: float) -> None:
    if window < 1:
        raise ValueError(f"window is at least 1 mask; got {window}")
    if not 0 < close <= 1:
        raise ValueError(f"close is a distance of masks, in (0, 1]; got {close}")


def early_bird(
    at: Sequence[str],
    rewind: Rewind = rewinding.weights,
    window: int = WINDOW,
    close: float = CLOSE,
) -> Branch:
    """Prune the dense network of an early step, and put that mask on the early weights.

    As many weights are kept as the ticket keeps, chosen at once by the run's own
    criterion from a checkpoint of the dense training.

    Args:
      at: The names of checkpoints, such as `step_100`, of rising steps. Of several,
        each replicate takes the first whose mask has settled (`found_at`), or the last.
      rewind: What becomes of the early state.
      window: As `found_at` has it.
      close: As `found_at` has it.

    Returns:
      The branch; there is none of the dense network.

    Raises:
      ValueError: for several checkpoints that are too few to settle.
    """
    _check(window, close)
    at = tuple(at)
    if not at or 1 < len(at) <= window:
        raise ValueError(
            "an early-bird mask is that of one step, or the first to settle of at "
            f"least {window + 1}: one, and {window} before it; got "
            f"{', '.join(at) or 'none'}"
        )

    def prune(recipe, early, before, density, keys, states):
        whole = jax.tree.map(lambda m: np.ones(m.shape, bool), before.mask)
        drawn = []
        for name in at:
            dense = before._replace(mask=whole, state=states[name])
            made = recipe.prune(early, dense, density, keys)
            drawn.append(made.mask if isinstance(made, Pruned) else made)
        return drawn[0] if len(drawn) == 1 else _settled(drawn, window, close)

    def start(early, ticket, key, states):
        return rewind(early, early), ticket.mask

    one = f"mask of {at[0].replace('_', ' ')}"
    title = one if len(at) == 1 else "mask that settled"
    return Branch(start, title, prune=prune, needs=at)


def _settled(drawn: list[masks.Mask], window: int, close: float) -> masks.Mask:
    """Of each replicate the mask that settled first, or the last of them."""
    drawn = [jax.tree.map(np.asarray, mask) for mask in drawn]
    places = []
    for i in range(len(jax.tree.leaves(drawn[0])[0])):
        one = [jax.tree.map(lambda m, i=i: m[i], mask) for mask in drawn]
        place = found_at(one, window, close)
        places.append(len(drawn) - 1 if place is None else place)

    def leaf(*each):
        return np.stack([each[place][i] for i, place in enumerate(places)])

    return jax.tree.map(leaf, *drawn)
