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
    """A subnetwork and how its training went. Level 0 is the dense network."""

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
    """One round: prune a trained ticket to `density`, rewind it, retrain.

    From the dense ticket this is one-shot pruning. `train(state, mask)` returns the
    trained state and its metrics; `prune(state, mask, density)` a subset of `mask`.
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
    """Iterative magnitude pruning (Frankle & Carbin 2019, arXiv:1803.03635).

    Yields a ticket for each of `densities`, each pruned from the one before. `early` is
    the state to rewind to. To resume, pass the last ticket and the densities that
    remain; the result is the same bit for bit. Densities are absolute, fractions of all
    prunable weights (the paper takes 20 % of what the last rounding left).
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
    """The mask of a network as it stands: pruning at initialisation.

    For each of `densities`, `score(state, mask)` ranks what is left and `keep(scores,
    mask, density)` prunes further. One density is one-shot; SynFlow takes a hundred
    that fall exponentially (`schedules.exponential`). What a round pruned stays pruned;
    the authors' code scores all weights anew each time.
    """
    for density in densities:
        mask = keep(score(state, mask), mask, density)
    return mask
