"""A run: a recipe and a folder -> the tickets that are missing, trained and stored.

Nothing here knows a configuration. The trunk comes first, then what hangs off it, level
by level; each branch in a folder of its own, so that the trunk's files never change.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lth import lottery, train
from lth.lab import devices, keeping, measured, store
from lth.lab.devices import compilation
from lth.lab.keeping import Saving
from lth.lab.progress import Progress, Reporter
from lth.lottery import Branch, Recipe, Ticket, trainings
from lth.lottery import recipe as recipes

# What `config.json` holds from now on, given what it holds (None: there is none yet).
# Raises StoreError for a run that is another one.
About = Callable[[dict[str, Any] | None], dict[str, Any]]
USUAL = Saving()


class Outcome(NamedTuple):
    """Holds what came of a run that ended."""

    path: Path
    # (variant, replicate): level and step of its first loss or weight not finite.
    failed: dict[tuple[str, int], tuple[int, int]]
    seconds: float  # from the call of `run` to its end
    compiling: float  # seconds of those that went into tracing and compiling


def ignore(progress: Progress) -> None:
    """Watch nothing."""


def run(
    recipe: Recipe,
    path: str | Path,
    about: About,
    watch: Callable[[Progress], Any] = ignore,
    saving: Saving = USUAL,
) -> Outcome:
    """Train what of a recipe is not stored yet in the folder `path`, and store it.

    Replicates are spread over the devices there are. In several processes
    (`jax.distributed`) all call this alike, and share the folder; the first writes.
    Compiled programs are kept beside the folder, in `.compiled`.

    A replicate whose loss is not finite ends there; the others go on. Replicates that
    the stored run has not are added to it.

    Args:
      recipe: What the run is made of.
      path: The run directory, there or not yet.
      about: Says what `config.json` is to hold.
      watch: Is told where the run is, at each measurement.
      saving: When trainings under way are saved.

    Returns:
      What came of it.

    Raises:
      ValueError for a recipe whose parts do not fit; StoreError and
      MemoryTooSmallError; what is stored stays whole. Stopped, where `saving` says so.
    """
    began, compiled, path = time.monotonic(), compilation.seconds(), Path(path)
    devices.check_types()
    recipes.check(recipe)
    if jax.process_count() == 1:  # of several, the first fails for all, below
        store.check_writable(path.parent)
    compilation.keep(partial(store.private_folder, path.parent / ".compiled"))
    with contextlib.ExitStack() as stack:
        _first(stack.enter_context, store.claim(path))
        _first(_prepare, recipe, path, about)
        units = [
            (lottery.only(recipe, group), unit) for group, unit in store.units(path)
        ]
        for _, unit in units[1:]:
            _first(stack.enter_context, store.claim(unit))
            _first(store.reconcile, unit)
        for part, unit in units:
            _check_branches(part, unit, tuple(part.branches), part.checkpoints)
        tally = _Tally(path, watch, saving, sum(_count(*pair) for pair in units))
        for part, unit in units:
            _grow(part, unit, tally)
        for part, unit in units:
            _hang(part, unit, tuple(part.branches), None, tally)
            # Left by a process that ended between a ticket and this.
            _first(store.drop_trainings, unit)
        _first(_count_work, recipe, path)
        _first(store.log, path, "finished", levels=len(recipe.densities))
    return _ended(path, began, compiled)


def branch(
    recipe: Recipe,
    path: str | Path,
    name: str,
    levels: Sequence[int] | None = None,
    watch: Callable[[Progress], Any] = ignore,
    saving: Saving = USUAL,
) -> Outcome:
    """Train a branch of `recipe.branches` off stored tickets of the run in `path`.

    The trunk is read and never claimed, so several branches may be trained at once.

    Args:
      recipe: That of the run.
      path: The run directory.
      name: Of the branch.
      levels: Of the tickets; by default all that are stored and pruned.
      watch: Is told where the training is, at each measurement.
      saving: When trainings under way are saved.

    Returns:
      What came of it.

    Raises:
      ValueError for a level that is not stored; StoreError. Stopped, where `saving`
      says so.
    """
    began, compiled, path = time.monotonic(), compilation.seconds(), Path(path)
    devices.check_types()
    recipes.check(recipe)
    compilation.keep(partial(store.private_folder, path.parent / ".compiled"))
    units = [(lottery.only(recipe, group), unit) for group, unit in store.units(path)]
    for _, unit in units:
        missing = set(levels or ()) - store.stored(unit)
        if missing:
            raise ValueError(
                f"levels of {path} are {sorted(store.stored(unit))}; got "
                f"{sorted(missing)}"
            )
    if 0 in (levels or ()) and recipe.branches[name].prune:
        raise ValueError(f"the branch {name} prunes, and nothing at level 0 is")
    for part, unit in units:
        _check_branches(part, unit, (name,))
    total = sum(
        len(
            set(_wanted(part, unit, levels))
            - store.stored(_folder(unit, name, part.branches[name]))
        )
        for part, unit in units
    )
    tally = _Tally(path, watch, saving, total)
    for part, unit in units:
        _hang(part, unit, (name,), levels, tally)
    return _ended(path, began, compiled)


def _ended(path: Path, began: float, compiled: float) -> Outcome:
    """What came of a call that began at those readings of the two clocks."""
    spent, compiling = time.monotonic() - began, compilation.seconds() - compiled
    return Outcome(path, failures(path), spent, compiling)


def branch_id(name: str, branch: Branch) -> str:
    """Return the id of a branch: a hash of its name, its data order and its amounts."""
    known = [name, branch.order, dict(branch.settings)]
    text = json.dumps(known, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def failures(path: Path) -> dict[tuple[str, int], tuple[int, int]]:
    """The replicates that failed, by variant; of a branch, those its trunk has not."""
    found = {}
    for _, unit in store.units(path):
        trunk = store.failures(unit)
        found |= {(store.TRUNK, r): at for r, at in trunk.items()}
        for name, folder in store.branches(unit).items():
            for r, at in store.failures(folder).items():
                if r not in trunk or at < trunk[r]:
                    found[name, r] = at
    return found


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


def _prepare(recipe: Recipe, path: Path, about: About) -> None:
    """The run directory as this call finds or makes it."""
    there = (path / "config.json").exists()
    before = store.read_config(path) if there else None
    groups = before["replicates"] if before else []
    known = {replicate for group in groups for replicate in group}
    added = [r for r in recipe.replicates if r not in known]
    content = about(before)
    content["replicates"] = [*groups, added] if added else groups
    if before and "work" in before:
        content["work"] = before["work"]
    store.create(path, content)
    changed = store.add_session(path)
    store.reconcile(path)
    if changed:
        store.log(path, "environment", changed=changed)


def _count_work(recipe: Recipe, path: Path) -> None:
    """Store how often weights are read, which no training waits for."""
    content = store.read_config(path)
    if "work" not in content:
        store.create(path, content | {"work": dict(recipe.work())})


class _Tally:
    """What the trainings of a call share: how many are done, and how they are kept."""

    def __init__(
        self, run: Path, watch: Callable[[Progress], Any], saving: Saving, total: int
    ):
        self.run, self.watch, self.total, self.done = run, watch, total, 0
        self.saving, self.pace = saving, keeping.Pace()
        # When the training under way began, by the clock and by that of compiling.
        self.began = (0.0, 0.0)

    def keep(self, unit: Path, variant: str, level: int):
        """Keep a training, until what comes of it in the block is stored."""
        return keeping.keeping(unit, variant, level, self.saving, self.pace)

    def report(self, recipe: Recipe, unit: Path, variant: str, level: int) -> Reporter:
        """A reporter of the next training."""
        start, steps = recipe.rewind_to if level else 0, recipe.stops[-1]
        self.began = time.monotonic(), compilation.seconds()
        self.done += 1
        done = self.done - 1
        return Reporter(
            unit, variant, level, done, self.total, start, steps, self.watch
        )

    def cost(self, report: Reporter) -> dict[str, Any]:
        """What the training that is reported took: its steps, and seconds since then.

        Of a training that was killed and went on, the seconds are those of this call.
        """
        clock, compiled = self.began
        spent = time.monotonic() - clock
        compiling = compilation.seconds() - compiled
        steps = report.steps - report.start
        return {
            "steps": steps,
            "seconds": round(spent - compiling, 3),
            "compiling": round(compiling, 3),
        }


def _grow(recipe: Recipe, unit: Path, tally: _Tally) -> None:
    """Train and store the tickets that are missing, while a replicate is left."""
    start = _checkpoints(recipe, unit, tally)
    ticket = None
    for level in _missing(unit, range(len(recipe.densities) + 1)):
        report = tally.report(recipe, unit, store.TRUNK, level)
        if level and (ticket is None or ticket.level != level - 1):
            ticket = store.load(unit, level - 1, (recipe.mask, start))
        if ticket is not None and _over(ticket):
            return
        with tally.keep(unit, store.TRUNK, level) as keep:
            kept = recipe._replace(keep=keep)
            if ticket is None:
                ticket, beside = lottery.first_ticket(kept, report)
                for name, tree in beside.items():
                    (done,) = devices.agree([store.has(unit, name)])
                    if not done:  # it is only if a process ended here
                        _first(store.save_tree, unit, name, tree)
            else:
                ticket = lottery.next_ticket(kept, start, ticket, report)
            _first(_save, tally.run, unit, recipe.replicates, store.TRUNK, ticket)
        of = {"variant": store.TRUNK, "level": level}
        _first(partial(store.log, unit, "trained", **of, **tally.cost(report)))


def _hang(
    recipe: Recipe,
    unit: Path,
    names: Sequence[str],
    levels: Iterable[int] | None,
    tally: _Tally,
) -> None:
    """Train and store what is missing of branches, level by level."""
    if not names:
        return
    folders = {name: _folder(unit, name, recipe.branches[name]) for name in names}
    states = _needed(recipe, unit, names)
    with contextlib.ExitStack() as stack:
        for name, folder in folders.items():
            _first(stack.enter_context, store.claim(folder))
            _first(_prepare_branch, folder, name, recipe.branches[name])
            if not _missing(folder, _wanted(recipe, unit, levels)):
                _first(store.drop_trainings, folder)
        first = early(recipe, unit)
        for level in _wanted(recipe, unit, levels):
            left = [n for n in names if _missing(folders[n], [level])]
            if not left:
                continue
            like = (recipe.mask, first)
            ticket, before = store.load(unit, level, like), None
            if _over(ticket):
                return
            if level and any(recipe.branches[name].prune for name in left):
                before = store.load(unit, level - 1, like)
            for group in _together(recipe, left):
                by = trainings.changed(recipe, group[0])
                report = tally.report(by, folders[group[0]], group[0], level)
                with tally.keep(folders[group[0]], "+".join(group), level) as keep:
                    kept = recipe._replace(keep=keep)
                    news = lottery.branched(
                        kept, group, first, ticket, before, report, states
                    )
                    for name, new in zip(group, news, strict=True):
                        at, replicates = folders[name], recipe.replicates
                        _first(_save, tally.run, at, replicates, name, new)
                cost = tally.cost(report)
                for name in group:
                    told = {"variant": name, "level": level, **cost}
                    _first(partial(store.log, folders[name], "trained", **told))


def _needed(recipe: Recipe, unit: Path, names: Sequence[str]) -> dict[str, Any]:
    """The stored states of the dense training that branches ask for, by name."""
    asked = [state for name in names for state in recipe.branches[name].needs]
    return {state: _state(recipe, unit, state) for state in dict.fromkeys(asked)}


def _check_branches(
    recipe: Recipe, unit: Path, names: Sequence[str], coming: Iterable[str] = ()
) -> None:
    """Refuse branches that cannot be trained, before anything of them is stored.

    `coming` are the states of the dense training that will be stored before them.
    """
    there = [*coming, *(n for n in recipe.checkpoints if store.has(unit, n))]
    for name in names:
        trainings.changed(recipe, name)  # raises ValueError where it does not fit
        for state in recipe.branches[name].needs:
            if state not in there and not store.has(unit, state):
                raise store.StoreError(
                    f"the branch {name} needs the state {state} of the dense training; "
                    f"{unit} has {', '.join(dict.fromkeys(there)) or 'none'}. List its "
                    "step in --checkpoint-at, or in the checkpoints of the recipe, and "
                    "run again"
                )


def _together(recipe: Recipe, names: Sequence[str]) -> list[list[str]]:
    """The branches that are trained at once: on a CPU, where that gains nothing, each
    by itself; elsewhere all that share the recipe.
    """
    shared = [n for n in names if recipe.branches[n].changed is None]
    if jax.default_backend() == "cpu" or len(shared) < 2:
        return [[name] for name in names]
    return [shared, *([n] for n in names if n not in shared)]


def _wanted(recipe: Recipe, unit: Path, levels: Iterable[int] | None) -> list[int]:
    """The levels that branches hang off: those stored, and asked for.

    A dense network has no branches unless they are asked for.
    """
    stored = sorted(store.stored(unit))
    if levels is not None:
        return [level for level in stored if level in set(levels)]
    dense = recipe.first is None
    return [n for n in stored if n <= len(recipe.densities) and (n or not dense)]


def _count(recipe: Recipe, unit: Path) -> int:
    """How many trainings are missing."""
    every = range(len(recipe.densities) + 1)
    trunk = len(every) - len(store.stored(unit) & set(every))
    pruned = set(every) - ({0} if recipe.first is None else set())
    folders = [_folder(unit, name, b) for name, b in recipe.branches.items()]
    return trunk + sum(len(pruned - store.stored(folder)) for folder in folders)


def _folder(unit: Path, name: str, branch: Branch) -> Path:
    """The folder of a branch, whose name must not be another's."""
    here = f"{name}-{branch_id(name, branch)}"
    there = store.branches(unit).get(name)
    if there is not None and there.name != here:
        stored = store.read_branch(there)
        raise store.StoreError(
            f"{unit} has a branch called {name} already, with order {stored['order']} "
            f"and {stored['settings']}; got order {branch.order} and "
            f"{dict(branch.settings)}: give this one another name"
        )
    return unit / "branches" / here


def _prepare_branch(folder: Path, name: str, branch: Branch) -> None:
    content = {"name": name, "id": branch_id(name, branch), "title": branch.title}
    content |= {"order": branch.order, "settings": dict(branch.settings)}
    content |= {"apart": True} if branch.apart else {}
    store.create_branch(folder, content)
    store.reconcile(folder)


def _missing(unit: Path, levels: Iterable[int]) -> list[int]:
    """The levels to train, in the order to train them; all processes agree."""
    wanted, stored = list(levels), store.stored(unit)
    done = devices.agree([level in stored for level in wanted])
    return [level for level, there in zip(wanted, done, strict=True) if not there]


def _over(ticket: Ticket) -> bool:
    """Whether every replicate has failed."""
    return bool((ticket.metrics["failed"][:, 0] >= 0).all())


def _checkpoints(recipe: Recipe, unit: Path, tally: _Tally) -> train.TrainState:
    """The early state; it and all other listed states of the dense training are stored.

    They are trained apart from the dense network, which passes through the same states.
    """
    done = devices.agree([store.has(unit, name) for name in recipe.checkpoints])
    listed = zip(recipe.checkpoints.items(), done, strict=True)
    order = recipes.keys(recipe.replicates, recipes.TRAIN)
    # The state of the checkpoint before, and how to have it where it is not at hand.
    state, begin = None, partial(recipes.drawn, recipe)
    for (name, step), there in sorted(listed, key=lambda item: item[0][1]):
        if there:
            state, begin = None, partial(_state, recipe, unit, name)
            continue
        state = begin() if state is None else state
        with tally.keep(unit, name, 0) as keep:
            if step > train.step_of(state):
                kept = recipe._replace(keep=keep)
                state = lottery.advanced(kept, state, step, order)
            _first(store.save_tree, unit, name, {"state": state})
    return early(recipe, unit)


def early(recipe: Recipe, unit: Path) -> train.TrainState:
    """The stored state that tickets are rewound to."""
    return _state(recipe, unit, "early")


def begun(
    recipe: Recipe, unit: Path, name: str, level: int
) -> tuple[Recipe, train.TrainState, Any]:
    """Return the recipe that a branch off a stored ticket trains by, and its start.

    Args:
      recipe: That of the run, with the branch in it.
      unit: The folder of the run, or of its added replicates.
      name: Of the branch.
      level: Of the ticket.

    Returns:
      That recipe, the state and the mask, as `lottery.begun` has them.
    """
    first = early(recipe, unit)
    like = (recipe.mask, first)
    ticket, before = store.load(unit, level, like), None
    if level and recipe.branches[name].prune:
        before = store.load(unit, level - 1, like)
    states = _needed(recipe, unit, [name])
    return lottery.begun(recipe, name, first, ticket, before, states)


def _state(recipe: Recipe, unit: Path, name: str) -> train.TrainState:
    like = recipes.shapes(recipe)
    return store.load_tree(unit, name, {"state": like})["state"]


def _save(
    run: Path, unit: Path, replicates: Sequence[int], variant: str, ticket: Ticket
) -> None:
    """Store a ticket, its rows first, so that it is never without them."""
    failed = {
        str(replicate): at
        for replicate, at in zip(
            replicates, ticket.metrics["failed"].tolist(), strict=True
        )
        if at[0] == ticket.level
    }
    for replicate, (level, step) in failed.items():
        fields = {"replicate": int(replicate), "variant": variant}
        store.log(unit, "failed", **fields, level=level, step=step)
    rows, facts = measured.rows(run.name, variant, replicates, ticket)
    store.append_rows(unit, rows)
    store.save(unit, ticket, {**facts, "failed": failed})
