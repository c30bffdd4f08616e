"""An experiment run: parts -> early and dense -> a ticket per level -> store."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lth import masks, results, train
from lth.lab import devices, levels, store
from lth.lab.build import assemble
from lth.lab.build.assemble import Parts
from lth.lab.config import Experiment, identity, parse
from lth.lab.devices import compilation
from lth.lab.progress import Progress, Reporter
from lth.lab.stored import open_run
from lth.lottery import Ticket


class Outcome(NamedTuple):
    """A run that ended."""

    path: Path
    # (variant, replicate): level and step of its first loss or weight not finite.
    failed: dict[tuple[str, int], tuple[int, int]]
    seconds: float  # from the call of `run` to its end
    compiling: float  # seconds of those that went into tracing and compiling


def run(
    e: Experiment,
    preset: str,
    runs: str | Path = "runs",
    data_dir: str | Path | None = None,
    watch: Callable[[Progress], None] = lambda progress: None,
    over: str = "replicates",
) -> Outcome:
    """Run an experiment, or what of it is not stored yet, in `runs`/`preset`-id.

    Replicates are spread over the devices there are, or with `over="batch"` each batch.
    In several processes (`jax.distributed`) all call this alike, and share `runs`; the
    first writes. Compiled programs are kept in `runs`/.compiled.

    A replicate whose loss is not finite ends there; the others go on. Raises
    ConfigError, DataError, StoreError and MemoryTooSmallError; what is stored stays
    whole.
    """
    began, compiled = time.monotonic(), compilation.seconds()
    devices.use_cores(e.replicates)
    if jax.process_count() == 1:  # of several, the first fails for all, below
        store.check_writable(Path(runs))
    compilation.keep(Path(runs) / ".compiled")
    parts = assemble.build(e, data_dir, over)
    run_id = identity.identity(e)
    path = Path(runs) / f"{preset}-{run_id}"
    with contextlib.ExitStack() as stack:
        _first(stack.enter_context, store.claim(path))
        _first(_prepare, e, parts, path, preset, run_id)
        _complete(e, parts, path, watch)
        _first(store.log, path, "finished", levels=e.levels)
    return Outcome(
        path,
        _failures(path, parts),
        time.monotonic() - began,
        compilation.seconds() - compiled,
    )


def _first(write: Callable, *args: Any, **named: Any) -> None:
    """Have the first process write, and the others wait for it or fail with it."""
    failure = None
    if devices.first_process():
        try:
            write(*args, **named)
        except BaseException as error:
            failure = error
    (good,) = devices.agree([failure is None])
    if failure is not None:
        raise failure
    if not good:
        raise store.StoreError("the first process of this run failed: see its message")


def _prepare(e: Experiment, parts: Parts, path: Path, preset: str, run_id: str):
    """The run directory as this call finds or makes it."""
    whole = e
    if (path / "config.json").exists():
        whole = identity.extended(e, open_run(path).config)
    content = {
        "id": run_id,
        "preset": preset,
        "data": parts.data,
        "examples": [list(parts.examples.shape), parts.examples.classes],
        "config": identity.as_dict(whole),
    }
    store.create(path, content)
    store.add_session(path)
    store.reconcile(path)


def _failures(path: Path, parts: Parts) -> dict[tuple[str, int], tuple[int, int]]:
    """The replicates that failed, from the tickets for which they have no rows."""
    stored = store.stored(path)
    table = store.read_table(path)
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
    missing = _missing(e, parts, path)
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
        if held is None and parts.learner:
            new, scores = levels.learned(parts, parts.learner, report)
            (done,) = devices.agree([store.has(path, "learned")])
            if not done:  # it is only if a process ended here
                _first(store.save_tree, path, "learned", {"state": scores})
        elif held is None:
            new = levels.dense(parts, report)
        elif variant == results.TICKET:
            new = levels.next_ticket(e, parts, early, held, report)
        else:
            new = levels.control(e, variant, parts, early, held, report)
        _first(_save, path, parts, variant, new)
        if variant == results.TICKET:
            held = new


def _missing(e: Experiment, parts: Parts, path: Path) -> list[tuple[str, int]]:
    """The (variant, level) pairs to train, in the order to train them."""
    controls = parse.split_list(e.controls)
    wanted = [(results.TICKET, 0)]
    if parts.learner:  # level 0 is a ticket too
        wanted += [(v, 0) for v in controls]
    levels = range(1, len(parts.densities) + 1)
    wanted += [(v, level) for level in levels for v in (results.TICKET, *controls)]
    stored = store.stored(path)
    done = devices.agree([pair in stored for pair in wanted])
    return [pair for pair, there in zip(wanted, done, strict=True) if not there]


def _checkpoints(parts: Parts, path: Path) -> train.TrainState:
    """The early state; it and all other listed states of the dense training are stored.

    They are trained apart from the dense network, which passes through the same states.
    """
    init = parts.init(assemble.keys(parts.replicates, assemble.INIT))
    state = train.copied(init)  # training uses it up
    done = devices.agree([store.has(path, name) for name in parts.checkpoints])
    listed = zip(parts.checkpoints.items(), done, strict=True)
    missing = [item for item, there in listed if not there]
    at = 0
    for name, step in sorted(missing, key=lambda item: item[1]):
        if step > at:
            state, _ = parts.train(state, parts.mask, step - at)
            at = step
        _first(store.save_tree, path, name, {"state": state})
    return store.load_tree(path, "early", {"state": init})["state"]


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
