"""An experiment run: parts -> early and dense -> a ticket per level -> store."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lth import build, config, criteria, lottery, masks, results, rewind, store, train
from lth.build import Parts
from lth.config import Experiment
from lth.lottery import Ticket

REWINDS = {
    "weights": rewind.weights,
    "learning_rate": rewind.learning_rate,
    "finetune": rewind.finetune,
    "weights_low_rate": rewind.weights_low_rate,
}


class Progress(NamedTuple):
    """Where a run is; said at each measurement."""

    variant: str
    level: int
    step: int
    steps: int  # where this training ends
    fraction: float  # of all the steps this call has to train
    loss: float  # training loss and validation accuracy, means over replicates
    accuracy: float


class Outcome(NamedTuple):
    """A run that ended."""

    path: Path
    failed: dict[
        int, tuple[int, int]
    ]  # replicate: level and step of its first NaN loss


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
        content = {"id": identity, "preset": preset, "config": config.as_dict(e)}
        store.create(path, content)
        store.add_session(path)
        store.reconcile(path)
        last = _complete(e, parts, path, watch)
        store.log(path, "finished", levels=e.levels)
    pairs = zip(parts.replicates, last.metrics["failed"].tolist(), strict=True)
    return Outcome(path, {r: (level, step) for r, (level, step) in pairs if level >= 0})


def _complete(e: Experiment, parts: Parts, path: Path, watch: Callable) -> Ticket:
    """Train and store what is missing, level by level; the last ticket."""
    early = _checkpoints(parts, path)
    missing = _missing(e, path)
    like = (parts.mask, early)
    held = None
    for n, (variant, level) in enumerate(missing):
        report = _Reporter(path, variant, level, n, len(missing), parts, watch)
        before = level - 1 if variant == results.TICKET else level
        if before >= 0 and (held is None or held.level != before):
            held = store.load(path, before, like)
        if held is not None and (held.metrics["failed"][:, 0] >= 0).all():
            return held
        if held is None:
            new = _dense(parts, report)
        elif variant == results.TICKET:
            new = _next(e, parts, early, held, report)
        else:
            new = _control(variant, parts, early, held, report)
        _save(path, parts, variant, new)
        if variant == results.TICKET:
            held = new
    return held or store.load(path, e.levels, like)


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
    if all(store.has(path, name) for name in parts.checkpoints):
        return store.load_tree(path, "early", {"state": init})["state"]
    at, early = 0, init
    for name, step in sorted(parts.checkpoints.items(), key=lambda item: item[1]):
        if step > at:
            state, _ = parts.train(state, parts.mask, step - at)
            at = step
        if not store.has(path, name):
            store.save_tree(path, name, {"state": state})
        early = state if name == "early" else early
    return early


def _dense(parts: Parts, report: "_Reporter") -> Ticket:
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


def _control(variant, parts, early, ticket, report) -> Ticket:
    """A ticket's control: fresh weights under its mask, or its mask shuffled."""
    mask, state = ticket.mask, early
    if variant == "shuffle":
        keys = build.keys(parts.replicates, build.SHUFFLE, ticket.level)
        mask = jax.vmap(masks.shuffle)(mask, keys)
    else:
        state = _reinit(parts, ticket.level)(early, ticket.state)
    state, metrics = _fit(parts, report)(state, mask)
    return _judged(Ticket(ticket.level, mask, state, metrics), ticket)


def _fit(parts: Parts, report: "_Reporter") -> lottery.Train:
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
    """The ticket with `failed` [r, 2]: level and step of each first loss not finite.

    It is (-1, -1) for replicates that never failed, and stays once it is set.
    """
    diverged = ticket.metrics["diverged"]
    failed = np.full((len(diverged), 2), -1)
    now = diverged != train.NEVER
    failed[now, 0], failed[now, 1] = ticket.level, diverged[now]
    if before is not None:
        earlier = before.metrics["failed"]
        failed = np.where(earlier[:, :1] >= 0, earlier, failed)
    return ticket._replace(metrics={**ticket.metrics, "failed": failed})


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


def _mean_of_finite(values: np.ndarray) -> float:
    """The mean over the replicates that have not failed; NaN when all have."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


class _Reporter(NamedTuple):
    """What `train.fit` tells of its measurements: to the log and to who watches."""

    path: Path
    variant: str
    level: int
    trained: int  # trainings behind this one, of so many
    trainings: int
    parts: Parts
    watch: Callable[[Progress], Any]

    def __call__(self, state: train.TrainState, record: train.Metrics) -> None:
        step = int(record["step"][0])
        means = {
            name: _mean_of_finite(values)
            for name, values in record.items()
            if name not in ("step", "diverged")
        }
        store.log(
            self.path,
            "measured",
            variant=self.variant,
            level=self.level,
            step=step,
            **{n: round(m, 6) if np.isfinite(m) else None for n, m in means.items()},
        )
        start = 0 if self.level == 0 else self.parts.rewind_to
        part = (step - start) / (self.parts.steps - start)
        self.watch(
            Progress(
                self.variant,
                self.level,
                step,
                self.parts.steps,
                (self.trained + part) / self.trainings,
                means["train_loss"],
                means["validation_accuracy"],
            )
        )
