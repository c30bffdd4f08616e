"""The trainings of an experiment: the dense network, the next ticket, a control."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lth import criteria, lottery, masks, train
from lth.lab.build import assemble, ranking
from lth.lab.build.assemble import Parts
from lth.lab.config import Experiment
from lth.lab.progress import Reporter
from lth.lottery import Ticket, rewind
from lth.masks import schedules

REWINDS = {
    "weights": rewind.weights,
    "learning_rate": rewind.learning_rate,
    "finetune": rewind.finetune,
    "weights_low_rate": rewind.weights_low_rate,
}
# Controls that shuffle the mask: over what, and by which keys.
SHUFFLES = {
    "shuffle": ("layer", assemble.SHUFFLE),
    "shuffle_global": ("global", assemble.SHUFFLE_GLOBAL),
}


def dense(parts: Parts, report: Reporter) -> Ticket:
    """Level 0: the network trained whole."""
    init = parts.init(assemble.keys(parts.replicates, assemble.INIT))
    state, metrics = _fit(parts, report)(init, parts.mask)
    return _judged(Ticket(0, parts.mask, state, metrics), None)


def learned(
    parts: Parts, learner: assemble.Learner, report: Reporter
) -> tuple[Ticket, train.TrainState]:
    """Level 0 of an experiment that learns its masks, and what was trained: scores.

    The ticket is the ordinary network under the learned mask, as its weights count. Of
    masks that are drawn it holds one more, while its metrics are means over several.
    """
    start = learner.init(assemble.keys(parts.replicates, assemble.INIT))
    scores, metrics = train.fit(
        start,
        masks.unmasked(start.params),
        train=learner.train,
        measures=learner.measures,
        stops=parts.stops,
        watch=report,
    )
    keys = assemble.keys(parts.replicates, assemble.LEARN, 1)  # 0 has trained
    mask, params, stats = learner.found(scores, keys)
    moments = jax.vmap(parts.tx.init)(params)
    state = train.TrainState(scores.step, params, stats, moments)
    return _judged(Ticket(0, mask, state, metrics), None), scores


def next_ticket(e, parts, early, ticket, report) -> Ticket:
    """The next level: a round of iterative pruning, or a mask of the early weights."""
    level = ticket.level + 1
    density = parts.densities[ticket.level]
    if e.prune.at == "early":
        mask = _early_mask(e, parts, early, level)
        state, metrics = _fit(parts, report)(early, mask)
        return _judged(Ticket(level, mask, state, metrics), ticket)
    failed = ticket.metrics["failed"][:, 0] >= 0
    (new,) = lottery.imp(
        early,
        ticket,
        [density],
        train=_fit(parts, report),
        prune=_make_prune(e, parts, early, level, failed),
        rewind=_make_rewind(e, parts, level),
    )
    return _judged(new, ticket)


def control(e, variant, parts, early, ticket, report) -> Ticket:
    """Another training beside a ticket, by name (`config.CONTROLS`)."""
    mask, start = ticket.mask, _reinit(parts, ticket.level)
    if variant != "reinit":
        start = _make_rewind(e, parts, 0)
    if variant == "train":
        late = ticket.state
        early = early._replace(params=late.params, stats=late.stats)
    if variant in SHUFFLES:
        scope, stream = SHUFFLES[variant]
        keys = assemble.keys(parts.replicates, stream, ticket.level)
        mask = jax.vmap(partial(masks.shuffle, scope=scope))(mask, keys)
    elif variant == "invert":
        mask = _early_mask(e, parts, early, ticket.level, criteria.inverted)
    state = start(early, early)  # controls belong to weight rewinding: no late state
    state, metrics = _fit(parts, report)(state, mask)
    return _judged(Ticket(ticket.level, mask, state, metrics), ticket)


def _early_mask(e, parts, early, level, changed=lambda scores: scores) -> masks.Mask:
    """The mask of a level from the early weights, in `e.prune.rounds` rounds.

    `changed` is what happens to the scores first.
    """
    keys = assemble.keys(parts.replicates, assemble.PRUNE, level)
    target = parts.densities[level - 1]
    rounds = schedules.exponential(target, e.prune.rounds)

    def score(state, mask):
        return changed(parts.scores(early.params, state, mask, keys))

    with ranking.precision(e):
        return lottery.prune_untrained(
            early, parts.mask, rounds, score=score, keep=partial(_keep, e, parts)
        )


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


def _make_prune(e, parts, early, level: int, failed: np.ndarray):
    """Prune every replicate to the density. Those that failed are pruned at will."""
    keys = assemble.keys(parts.replicates, assemble.PRUNE, level)

    def prune(state, mask, density):
        with ranking.precision(e):
            scores = parts.scores(early.params, state, mask, keys)
            return _keep(e, parts, _without(scores, failed), mask, density)

    return prune


def _keep(e: Experiment, parts: Parts, scores, mask, density) -> masks.Mask:
    """The mask of the highest scores, of each replicate as many."""
    if np.any(_infinite(scores, mask)):
        advice = ": try --prune.precision float64" if _flows(e) else ""
        raise ValueError(
            f"the scores of --prune.criterion {e.prune.criterion} are not finite"
            + advice
        )
    kept = jax.vmap(lambda scores, mask: parts.keep(scores, mask, density))(
        scores, mask
    )
    counts = np.asarray(jax.vmap(masks.count)(kept))
    if e.prune.structure == "weight" and len(set(counts.tolist())) > 1:
        raise ValueError(f"replicates kept {counts} weights: were the scores NaN?")
    return kept


def _flows(e: Experiment) -> bool:
    return e.prune.criterion == "synflow" and e.prune.precision == "float32"


@jax.jit
def _infinite(scores: masks.Scores, mask: masks.Mask) -> jax.Array:
    """Whether an alive weight scores NaN or infinity; least of all is allowed."""
    bad = jax.tree.map(
        lambda m, s: jnp.any(m & (jnp.isnan(s) | (s == jnp.inf))),
        mask,
        jax.tree.map(lambda s, m: None if m is None else s, scores, mask),
    )
    return jnp.stack(jax.tree.leaves(bad))


def _make_rewind(e: Experiment, parts: Parts, level: int) -> rewind.Rewind:
    if e.rewind.mode == "reinit":
        return _reinit(parts, level)
    one = REWINDS[e.rewind.mode]
    if e.rewind.moments == "drop":
        one = rewind.make_fresh_moments(one, parts.tx)
    return jax.vmap(one)


def _reinit(parts: Parts, level: int) -> rewind.Rewind:
    """Fresh weights for each replicate, drawn anew at each level."""
    keys = assemble.keys(parts.replicates, assemble.REINIT, level)
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
