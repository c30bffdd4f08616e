"""From scores and a selection to the `prune` of a recipe, of all replicates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lth import masks
from lth.lottery import loop
from lth.masks import schedules
from lth.train import TrainState

# (early, state, mask, keys [r]) -> scores of the weights of `state`
Ranking = Callable[[TrainState, TrainState, masks.Mask, jax.Array], masks.Scores]
Keep = Callable[..., masks.Mask]  # of one: (scores, mask, density) -> mask
Prune = Callable[..., masks.Mask]  # (early, ticket, density, keys [r]) -> mask


def make_prune(
    scores: Ranking, keep: Keep, *, exact: bool = True, name: str = "", advice: str = ""
) -> Prune:
    """Prune every replicate of a trained ticket to a density.

    Replicates that failed are pruned at will: their scores count as 0.

    Args:
      scores: Ranks the weights of all replicates; higher is kept.
      keep: Chooses by them, of one replicate.
      exact: Whether all replicates must keep as many weights, as they do unless
        weights are pruned in units.
      name: Of the scores, for errors.
      advice: What else errors say of scores that are not finite.

    Returns:
      `prune(early, ticket, density, keys)`.
    """

    def prune(early, ticket, density, keys):
        ranked = scores(early, ticket.state, ticket.mask, keys)
        failed = ticket.metrics["failed"][:, 0] >= 0
        return choose(_without(ranked, failed), ticket.mask, density)

    choose = _make_choose(keep, exact, name, advice)
    return prune


def make_prune_early(
    scores: Ranking,
    keep: Keep,
    *,
    rounds: int = 1,
    changed: Callable[[masks.Scores], masks.Scores] = lambda scores: scores,
    exact: bool = True,
    name: str = "",
    advice: str = "",
) -> Prune:
    """Prune the early weights, each level from the whole network.

    With a rewind point of 0 that is pruning at initialisation.

    Args:
      scores: As `make_prune` has it; the state it ranks is the early one.
      keep: As `make_prune` has it.
      rounds: In which a density is reached, falling exponentially.
      changed: What happens to the scores first, such as `criteria.inverted`.
      exact: As `make_prune` has it.
      name: As `make_prune` has it.
      advice: As `make_prune` has it.

    Returns:
      `prune(early, ticket, density, keys)`.
    """
    choose = _make_choose(keep, exact, name, advice)

    def prune(early, ticket, density, keys):
        def score(state, mask):
            return changed(scores(early, state, mask, keys))

        whole = jax.tree.map(jnp.ones_like, ticket.mask)
        falling = schedules.exponential(density, rounds)
        return loop.prune_untrained(early, whole, falling, score=score, keep=choose)

    return prune


def _make_choose(keep: Keep, exact: bool, name: str, advice: str) -> Keep:
    """The mask of the highest scores, of each replicate as many."""

    def choose(scores, mask, density):
        mask = _beside(scores, mask)
        if np.any(_infinite(scores, mask)):
            raise ValueError(f"the scores{name} are not finite{advice}")
        kept = jax.vmap(lambda scores, mask: keep(scores, mask, density))(scores, mask)
        counts = np.asarray(jax.vmap(masks.count)(kept))
        if exact and len(set(counts.tolist())) > 1:
            raise ValueError(f"replicates kept {counts} weights: were the scores NaN?")
        return kept

    return choose


def _beside(scores: masks.Scores, mask: masks.Mask) -> masks.Mask:
    """The mask on the device that the scores were put on, if they were put on one.

    The first mask was not, those pruned from it are: each would have its own programs.
    """
    placed: Any = next(iter(jax.tree.leaves(scores)), None)
    if not getattr(placed, "committed", False) or len(placed.devices()) > 1:
        return mask
    (device,) = placed.devices()
    return jax.device_put(mask, device)


@jax.jit
def _infinite(scores: masks.Scores, mask: masks.Mask) -> jax.Array:
    """Whether an alive weight scores NaN or infinity; least of all is allowed."""
    bad = jax.tree.map(
        lambda m, s: jnp.any(m & (jnp.isnan(s) | (s == jnp.inf))),
        mask,
        jax.tree.map(lambda s, m: None if m is None else s, scores, mask),
    )
    return jnp.stack(jax.tree.leaves(bad))


@jax.jit
@jax.vmap
def _without(scores: masks.Scores, failed: jax.Array) -> masks.Scores:
    """The scores of each replicate, 0 for those that failed."""
    return jax.tree.map(lambda s: jnp.where(failed, 0, s), scores)
