"""The trainings of an experiment: the dense network, the next ticket, a control."""

import jax
import jax.numpy as jnp
import numpy as np

from lth import build, criteria, lottery, masks, rewind, train
from lth.build import Parts
from lth.config import Experiment
from lth.lottery import Ticket
from lth.progress import Reporter

REWINDS = {
    "weights": rewind.weights,
    "learning_rate": rewind.learning_rate,
    "finetune": rewind.finetune,
    "weights_low_rate": rewind.weights_low_rate,
}

_random = jax.jit(jax.vmap(criteria.random))  # made here: a new one is traced anew


def dense(parts: Parts, report: Reporter) -> Ticket:
    """Level 0: the network trained whole."""
    init = parts.init(build.keys(parts.replicates, build.INIT))
    state, metrics = _fit(parts, report)(init, parts.mask)
    return _judged(Ticket(0, parts.mask, state, metrics), None)


def next_ticket(e, parts, early, ticket, report) -> Ticket:
    """The next level: one round of iterative pruning."""
    level = ticket.level + 1
    density = parts.densities[ticket.level]
    failed = ticket.metrics["failed"][:, 0] >= 0
    (new,) = lottery.imp(
        early,
        ticket,
        [density],
        train=_fit(parts, report),
        prune=_make_prune(e, parts, level, failed),
        rewind=_make_rewind(e, parts, level),
    )
    return _judged(new, ticket)


def control(e, variant, parts, early, ticket, report) -> Ticket:
    """A ticket's control: fresh weights under its mask, or its mask shuffled."""
    mask, start = ticket.mask, _reinit(parts, ticket.level)
    if variant == "shuffle":
        keys = build.keys(parts.replicates, build.SHUFFLE, ticket.level)
        mask, start = jax.vmap(masks.shuffle)(mask, keys), _make_rewind(e, parts, 0)
    state = start(early, early)  # controls belong to weight rewinding: no late state
    state, metrics = _fit(parts, report)(state, mask)
    return _judged(Ticket(ticket.level, mask, state, metrics), ticket)


def _fit(parts: Parts, report: Reporter) -> lottery.Train:
    def fit(state, mask):
        return train.fit(
            state,
            mask,
            train=parts.train,
            measures=parts.measures,
            stops=parts.stops,
            watch=report,
        )

    return fit


def _make_prune(e: Experiment, parts: Parts, level: int, failed: np.ndarray):
    """Prune every replicate to the density. Those that failed are pruned at will."""

    def prune(state, mask, density):
        if e.prune.criterion == "random":
            keys = build.keys(parts.replicates, build.PRUNE, level)
            scores = _random(state.params, keys)
        else:
            scores = jax.jit(criteria.magnitude)(state.params)
        scores = _without(scores, failed)

        def one(scores, mask):
            return masks.keep_top(scores, mask, density, e.prune.scope)

        pruned = jax.vmap(one)(scores, mask)
        counts = np.asarray(jax.vmap(masks.count)(pruned))
        if len(set(counts.tolist())) > 1:
            raise ValueError(f"replicates kept {counts} weights: were the scores NaN?")
        return pruned

    return prune


def _make_rewind(e: Experiment, parts: Parts, level: int) -> rewind.Rewind:
    if e.rewind.mode == "reinit":
        return _reinit(parts, level)
    one = REWINDS[e.rewind.mode]
    if e.rewind.moments == "drop":
        one = rewind.make_fresh_moments(one, parts.tx)
    return jax.vmap(one)


def _reinit(parts: Parts, level: int) -> rewind.Rewind:
    """Fresh weights for each replicate, drawn anew at each level."""
    keys = build.keys(parts.replicates, build.REINIT, level)
    return rewind.make_reinit(parts.init, keys)


def _judged(ticket: Ticket, before: Ticket | None) -> Ticket:
    """The ticket with `failed` [r, 2]: where each replicate was first not finite.

    That is the level and step of a loss, or of the weights at the end of training. It
    is (-1, -1) for replicates that never failed, and stays once it is set.
    """
    finite = _finite(ticket.state.params)
    ended = np.where(finite, train.NEVER, ticket.state.step)
    diverged = np.minimum(ticket.metrics["diverged"], ended)
    failed = np.full((len(diverged), 2), -1)
    now = diverged != train.NEVER
    failed[now, 0], failed[now, 1] = ticket.level, diverged[now]
    if before is not None:
        earlier = before.metrics["failed"]
        failed = np.where(earlier[:, :1] >= 0, earlier, failed)
    return ticket._replace(metrics={**ticket.metrics, "failed": failed})


@jax.jit
@jax.vmap
def _finite(params: masks.Params) -> jax.Array:
    leaves = jax.tree.leaves(params)
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]))


@jax.jit
@jax.vmap
def _without(scores: masks.Scores, failed: jax.Array) -> masks.Scores:
    """The scores of each replicate, 0 for those that failed."""
    return jax.tree.map(lambda s: jnp.where(failed, 0, s), scores)
