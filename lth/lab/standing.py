"""How far the cells of a sweep are, as their folders say, whoever trains them."""

from pathlib import Path
from typing import Any, NamedTuple

from lth.lab import runner, store
from lth.lab.cells import Job, configured, not_finite
from lth.lab.config import ConfigError, identity, parse


class Standing(NamedTuple):
    """Holds how far a cell is, as its folder says."""

    cell: str
    state: str  # finished, running, failed, begun or waiting
    path: Path
    levels: int = 0  # whose tickets are stored, the dense network among them
    wanted: int = 0  # how many that is to be; 0: not known before it is trained
    reason: str = ""


def standing(job: Job) -> Standing:
    """Say how far a cell is; its folder alone is read."""
    at = Standing(job.cell, "waiting", job.path)
    if (job.path / "config.json").exists():
        try:
            at = _begun(job, at)
        except (store.StoreError, ConfigError) as error:
            return at._replace(state="failed", reason=str(error))
    if at.state != "finished":
        reason = store.reason(job.path)
        if store.holder(job.path):
            return at._replace(state="running", reason=store.holder(job.path))
        if reason:
            return at._replace(state="failed", reason=reason)
    return at


def _begun(job: Job, at: Standing) -> Standing:
    """How far a cell is whose run has a folder."""
    content = store.read_config(job.path)
    levels = len(store.stored(job.path))
    if callable(job.what):
        wanted = len(content["fingerprint"]["densities"]) + 1
        whole = bool(store.logged(job.path, "finished")) and levels >= wanted
    else:
        _, e = configured(job.what)
        wanted, whole = e.levels + 1, _is_whole(job.path, content, e)
    at = at._replace(state="begun", levels=min(levels, wanted), wanted=wanted)
    if whole:
        told = not_finite(runner.failures(job.path))
        at = at._replace(state="finished", reason=told)
    return at


def _is_whole(path: Path, content: dict[str, Any], e: Any) -> bool:
    """Whether all that an experiment asks for is stored."""
    old = identity.from_dict(content["config"])
    listed = parse.split_list(e.controls), parse.split_list(e.checkpoint_at)
    there = parse.split_list(old.controls), parse.split_list(old.checkpoint_at)
    numbers = set(range(e.first_replicate, e.first_replicate + e.replicates))
    if any(set(new) - set(known) for new, known in zip(listed, there, strict=True)):
        return False
    if "work" not in content or numbers - {
        n for group in content["replicates"] for n in group
    }:
        return False
    found = (e.learn.method, e.dynamic.rule) != ("none", "none")
    return all(
        _unit_is_whole(unit, group, e.levels, listed, found)
        for group, unit in store.units(path)
    )


def _unit_is_whole(
    unit: Path,
    group: list[int],
    levels: int,
    listed: tuple[list[str], list[str]],
    found: bool,
) -> bool:
    """Whether a unit has all levels, or as many as it has replicates left for."""
    failed = store.failures(unit)
    over = max(at[0] for at in failed.values()) if set(group) <= set(failed) else None
    wanted = set(range(levels + 1 if over is None else min(levels, over) + 1))
    pruned = wanted - ({over} if found else {0, over})
    names, checkpoints = listed
    branches = store.branches(unit)
    states = [path for path in (unit / "tickets").glob("step_*") if path.is_dir()]
    return (
        wanted <= store.stored(unit)
        and len(states) >= len(set(checkpoints))
        and all(n in branches and pruned <= store.stored(branches[n]) for n in names)
    )
