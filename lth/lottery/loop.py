"""The lottery: prune, rewind, retrain, again and again."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax

from lth import masks
from lth.lottery.rewind import Rewind
from lth.train import TrainState

Train = Callable[[TrainState, masks.Mask], tuple[TrainState, Any]]
Prune = Callable[[TrainState, masks.Mask, masks.Density], masks.Mask]


class Ticket(NamedTuple):
    """Holds a subnetwork and how its training went. Level 0 is the dense network."""

    level: int  # pruning rounds behind it
    mask: masks.Mask
    state: TrainState  # at the end of training
    metrics: Any  # what `train` measured on the way


def prune_once(
    early: TrainState,
    ticket: Ticket,
    density: masks.Density,
    *,
    train: Train,
    prune: Prune,
    rewind: Rewind,
) -> Ticket:
    """Do one round: prune a trained ticket to `density`, rewind it, retrain.

    From the dense ticket this is one-shot pruning.

    Args:
      early: the state to rewind to.
      ticket: the trained ticket to prune further.
      density: of the result, in (0, 1], or a tree of such numbers.
      train: `train(state, mask)` returns the trained state and its metrics.
      prune: `prune(state, mask, density)` returns a subset of `mask`.
      rewind: `rewind(early, late)` returns the state to retrain (see `rewind`).

    Returns:
      The ticket of the next level.

    Raises:
      ValueError: where pruning leaves no weight, as after NaN scores.
    """
    mask = prune(ticket.state, ticket.mask, density)
    if not jax.jit(masks.count)(mask):  # of one network, or of all replicates stacked
        raise ValueError(
            f"pruning to level {ticket.level + 1} left no weight: were the scores NaN?"
        )
    state, metrics = train(rewind(early, ticket.state), mask)
    return Ticket(ticket.level + 1, mask, state, metrics)


def imp(
    early: TrainState,
    ticket: Ticket,
    densities: Iterable[masks.Density],
    *,
    train: Train,
    prune: Prune,
    rewind: Rewind,
) -> Iterator[Ticket]:
    """Prune, rewind and retrain, again and again (Frankle & Carbin 2019).

    This is iterative magnitude pruning (arXiv:1803.03635). To resume, pass the last
    ticket and the densities that remain; the result is the same bit for bit.

    Args:
      early, ticket, train, prune, rewind: as in `prune_once`.
      densities: of the levels to come. They are absolute, fractions of all prunable
        weights (the paper takes 20 % of what the last rounding left).

    Yields:
      A ticket for each of `densities`, each pruned from the one before.

    Raises:
      ValueError: as `prune_once` does.
    """
    for density in densities:
        ticket = prune_once(
            early, ticket, density, train=train, prune=prune, rewind=rewind
        )
        yield ticket


def prune_untrained(
    state: TrainState,
    mask: masks.Mask,
    densities: Iterable[masks.Density],
    *,
    score: Callable[[TrainState, masks.Mask], masks.Scores],
    keep: Callable[..., masks.Mask] = masks.keep_top,
) -> masks.Mask:
    """Prune a network as it stands: pruning at initialisation.

    What a round pruned stays pruned; the authors' code scores all weights anew each
    time.

    Args:
      state: of the network, which stays as it is.
      mask: what to prune further.
      densities: of the rounds. One density is one-shot; SynFlow takes a hundred that
        fall exponentially (`schedules.exponential`).
      score: `score(state, mask)` ranks what is left.
      keep: `keep(scores, mask, density)` prunes further.

    Returns:
      The mask of the last round.
    """
    for density in densities:
        mask = keep(score(state, mask), mask, density)
    return mask
