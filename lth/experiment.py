"""An experiment run: parts -> early and dense -> a ticket per level -> store."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lth import (
    build,
    config,
    criteria,
    lottery,
    masks,
    results,
    rewind,
    store,
    train,
)
from lth.build import Parts
from lth.config import Experiment
from lth.lottery import Ticket
from lth.progress import Progress, Reporter
from lth.runs import open_run

REWINDS = {
    "weights": rewind.weights,
    "learning_rate": rewind.learning_rate,
    "finetune": rewind.finetune,
    "weights_low_rate": rewind.weights_low_rate,
}


class Outcome(NamedTuple):
    """A run that ended."""

    path: Path
    # (variant, replicate): level and step of its first loss or weight not finite.
    failed: dict[tuple[str, int], tuple[int, int]]


def run(
    e: Experiment,
    preset: str,
    runs: str | Path = "runs",
    data_dir: str | Path | None = None,
    watch: Callable[[Progress], None] = lambda progress: None,
) -> Outcome:
    """Run an experiment, or what of it is not stored yet, in `runs`/`preset`-id.

    A replicate whose loss is not finite ends there; the others go on. Raises
    ConfigError, DataError and StoreError, and leaves what is stored whole.
    """
    parts = build.build(e, data_dir)
    identity = config.identity(e)
    path = Path(runs) / f"{preset}-{identity}"
    with store.claim(path):
        whole = e
        if (path / "config.json").exists():
            whole = config.extended(e, open_run(path).config)
        content = {"id": identity, "preset": preset, "data": parts.data}
        store.create(path, {**content, "config": config.as_dict(whole)})
        store.add_session(path)
        store.reconcile(path)
        _complete(e, parts, path, watch)
        store.log(path, "finished", levels=e.levels)
    return Outcome(path, _failures(path, parts))


def _failures(path: Path, parts: Parts) -> dict[tuple[str, int], tuple[int, int]]:
    """The replicates that failed, from the tickets for which they have no rows."""
    stored = store.stored(path)
    table = results.read(path / "table.csv", stored)
    units = table[["variant", "level", "replicate"]].drop_duplicates()
    present = set(units.itertuples(index=False, name=None))
    failed = {}
    # A ticket before its controls, which fail with it and are not told apart.
    order = sorted(stored, key=lambda pair: (pair[1], pair[0] != results.TICKET))
    for variant, level in order:
        for i, replicate in enumerate(parts.replicates):
            known = {(variant, replicate), (results.TICKET, replicate)} & failed.keys()
            if known or (variant, level, replicate) in present:
                continue
            metrics = store.load(path, level, None, variant).metrics
            at, step = metrics["failed"][i].tolist()
            failed[variant, replicate] = (at, step)
    return failed


def _complete(e: Experiment, parts: Parts, path: Path, watch: Callable) -> None:
    """Train and store what is missing, level by level, while a replicate is left."""
    early = _checkpoints(parts, path)
    missing = _missing(e, path)
    like = (parts.mask, early)
    held = None
    for n, (variant, level) in enumerate(missing):
        start = parts.rewind_to if level else 0
        report = Reporter(
            path, variant, level, n, len(missing), start, parts.steps, watch
        )
        before = level - 1 if variant == results.TICKET else level
        if before >= 0 and (held is None or held.level != before):
            held = store.load(path, before, like)
        if held is not None and (held.metrics["failed"][:, 0] >= 0).all():
            return
        if held is None:
            new = _dense(parts, report)
        elif variant == results.TICKET:
            new = _next(e, parts, early, held, report)
        else:
            new = _control(e, variant, parts, early, held, report)
        _save(path, parts, variant, new)
        if variant == results.TICKET:
            held = new


def _missing(e: Experiment, path: Path) -> list[tuple[str, int]]:
    """The (variant, level) pairs to train, in the order to train them."""
    variants = [results.TICKET, *config.split_list(e.controls)]
    wanted = [(results.TICKET, 0)]
    wanted += [(v, level) for level in range(1, e.levels + 1) for v in variants]
    done = store.stored(path)
    return [pair for pair in wanted if pair not in done]


def _checkpoints(parts: Parts, path: Path) -> train.TrainState:
    """The early state; it and all other listed states of the dense training are stored.

    They are trained apart from the dense network, which passes through the same states.
    """
    state = init = parts.init(build.keys(parts.replicates, build.INIT))
    missing = {n: k for n, k in parts.checkpoints.items() if not store.has(path, n)}
    at = 0
    for name, step in sorted(missing.items(), key=lambda item: item[1]):
        if step > at:
            state, _ = parts.train(state, parts.mask, step - at)
            at = step
        store.save_tree(path, name, {"state": state})
    return store.load_tree(path, "early", {"state": init})["state"]


def _dense(parts: Parts, report: Reporter) -> Ticket:
    init = parts.init(build.keys(parts.replicates, build.INIT))
    state, metrics = _fit(parts, report)(init, parts.mask)
    return _judged(Ticket(0, parts.mask, state, metrics), None)


def _next(e, parts, early, ticket, report) -> Ticket:
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


def _control(e, variant, parts, early, ticket, report) -> Ticket:
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
            scores = jax.vmap(criteria.random)(state.params, keys)
        else:
            scores = criteria.magnitude(state.params)

        def one(scores, mask, failed):
            scores = jax.tree.map(lambda s: jnp.where(failed, 0, s), scores)
            return masks.keep_top(scores, mask, density, e.prune.scope)

        pruned = jax.vmap(one)(scores, mask, jnp.asarray(failed))
        counts = jax.vmap(masks.count)(pruned)
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
    finite = jax.vmap(_finite)(ticket.state.params)
    ended = np.where(finite, train.NEVER, ticket.state.step)
    diverged = np.minimum(ticket.metrics["diverged"], ended)
    failed = np.full((len(diverged), 2), -1)
    now = diverged != train.NEVER
    failed[now, 0], failed[now, 1] = ticket.level, diverged[now]
    if before is not None:
        earlier = before.metrics["failed"]
        failed = np.where(earlier[:, :1] >= 0, earlier, failed)
    return ticket._replace(metrics={**ticket.metrics, "failed": failed})


def _finite(params: masks.Params) -> jax.Array:
    leaves = jax.tree.leaves(params)
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]))


def _save(path: Path, parts: Parts, variant: str, ticket: Ticket) -> None:
    """Store a ticket, its rows first, so that no ticket is ever without them."""
    kept = np.asarray(jax.vmap(masks.count)(ticket.mask))
    density = kept / (masks.size(ticket.mask) // len(kept))
    rows = results.rows(
        path.name, variant, ticket.level, parts.replicates, density, ticket.metrics
    )
    store.append_rows(path, rows)
    store.save(path, ticket, variant)
    for replicate, (level, step) in zip(
        parts.replicates, ticket.metrics["failed"].tolist(), strict=True
    ):
        if level == ticket.level:
            store.log(
                path,
                "failed",
                replicate=replicate,
                variant=variant,
                level=level,
                step=step,
            )
