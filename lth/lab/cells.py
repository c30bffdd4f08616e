"""A cell of a sweep: where its run lies, how far it is, and what trains it.

A job says all that a process needs to train a cell, so that any may do it: this one,
one beside it, or one on another machine that sees the same folder.
"""

import contextlib
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from lth.lab import devices, front, joint, keeping, runner, store
from lth.lab.build import assemble
from lth.lab.config import ConfigError, Experiment, identity, parse, settings, validate
from lth.lab.keeping import Saving
from lth.lottery import Recipe

# An experiment, a preset's name with settings, or what makes a recipe once it is due
Cell = Experiment | tuple[str, Mapping[str, Any]] | Callable[[], Recipe]
TRIES = 4  # to claim a run, which someone may only be looking at

_signalled = threading.Event()
_built: dict[Any, assemble.Built] = {}  # the functions of the cell before
_first: dict[Any, Recipe] = {}  # of cells that train together, by program and data


class Options(NamedTuple):
    """Says how the cells of a sweep are trained, whichever they are."""

    data_dir: str | Path | None = None
    save_every: str = "10min"
    over: str = "replicates"  # what several devices share


class Job(NamedTuple):
    """Says which cell is to be trained, and where its run lies."""

    cell: str
    what: Cell
    path: Path
    name: str  # of the run
    program: str  # what tells the functions that are compiled from those of others
    options: Options


class Done(NamedTuple):
    """Holds what came of a job."""

    cell: str
    state: str  # finished, failed, busy, stopped or lost
    path: Path
    reason: str = ""
    seconds: float = 0.0
    compiling: float = 0.0  # seconds of those
    recipe: Recipe | None = None  # of a function, to whoever asked for it


def asked() -> bool:
    """Return whether a signal came since `listen`, asked by a training."""
    return _signalled.is_set()


def ask(*_: Any) -> None:
    """Ask the training of this process to save where it stands, and to stop."""
    _signalled.set()


def listen(numbers: Iterable[int] = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)):
    """Let signals ask the training of this process to stop; forget those before."""
    _signalled.clear()
    for number in numbers:
        signal.signal(number, ask)


def job(cell: str, what: Cell, folder: Path, name: str, options: Options) -> Job:
    """Say which run a cell is, before anything of it is built.

    Args:
      cell: Its name.
      what: An experiment, a preset's name with settings, or a function that makes a
        recipe, whose run lies in `folder`/cell.
      folder: Where runs lie.
      name: What the run is called; by default as its cell.
      options: How it is trained.

    Returns:
      The job.

    Raises:
      ConfigError for what can be seen to be wrong with it.
    """
    if callable(what):
        plain = what.func if isinstance(what, partial) else what
        made = (
            f"{getattr(plain, '__module__', '')}.{getattr(plain, '__qualname__', '')}"
        )
        return Job(cell, what, folder / cell, cell, made, options)
    try:
        _, e = configured(what)
        validate.check(e)
    except ConfigError as error:
        raise ConfigError(f"cell {cell}: {error}") from None

    def run_id(replicates: int) -> str:
        return identity.identity(replace(e, replicates=replicates))

    path, _ = front.placed(run_id, e.replicates, folder, name or cell)
    # What is pruned, and to where it is rewound, is said to the programs of training.
    usual, none = Experiment(), {"first_replicate": 0, "levels": 0, "controls": ""}
    common = {"prune": usual.prune, "rewind": usual.rewind, "checkpoint_at": ""}
    program = identity.identity(replace(e, **none, **common))
    return Job(cell, what, path, name or cell, program, options)


def configured(what: Any) -> tuple[str, Any]:
    """Return the name of a cell's preset, and its experiment."""
    preset, changes = what if isinstance(what, tuple) else (what, {})
    return settings.configured(preset, changes)


def work(
    job: Job,
    *,
    watch: Callable[[Any], Any] = runner.ignore,
    stop: Callable[[], bool] = asked,
    keep: bool = False,
    join: joint.Join = joint.alone,
) -> Done:
    """Train what is missing of a cell, in this process.

    What goes wrong is told, and stored for whoever asks how far the sweep is.

    Args:
      job: The cell.
      watch: Is told where its run is, at each measurement.
      stop: Says whether to save the training under way, and to end.
      keep: Whether to return the recipe of a function.
      join: Makes its recipe one that trains with those of other cells.

    Returns:
      What came of it.
    """
    began = time.monotonic()
    told = Done(job.cell, "stopped", job.path)
    if stop():
        return told
    try:
        outcome, recipe = _claimed(job, watch, stop, join)
    except keeping.Stopped:
        return told._replace(seconds=time.monotonic() - began)
    except store.BusyError as error:
        return told._replace(state="busy", reason=str(error))
    except Exception as error:
        spent, reason = time.monotonic() - began, f"{type(error).__name__}: {error}"
        with contextlib.suppress(store.StoreError):  # it may be that no one can write
            store.save_reason(job.path, reason, traceback.format_exc())
        return told._replace(state="failed", reason=reason, seconds=spent)
    store.drop_reason(job.path)
    return told._replace(
        state="finished",
        reason=not_finite(outcome.failed),
        seconds=outcome.seconds,
        compiling=outcome.compiling,
        recipe=recipe if keep else None,
    )


def not_finite(failed: Mapping[tuple[str, int], tuple[int, int]]) -> str:
    """Say which replicates failed, and where; an empty text where none did."""
    told = [
        f"replicate {replicate} of {variant} was not finite at level {level}, step "
        f"{step}"
        for (variant, replicate), (level, step) in failed.items()
    ]
    return "; ".join(told)


@contextlib.contextmanager
def gathered(together: Iterable[Job]) -> Iterator[None]:
    """Train cells together in the block, each in a call of `work` of its own."""
    named = [job for job in together if not callable(job.what)]
    _keep_built({_key(job) for job in named})
    devices.use_cores(sum(configured(job.what)[1].replicates for job in named))
    try:
        yield
    finally:
        _keep_built({*[*_built][-1:]})
        _first.clear()


def _keep_built(keys: set) -> None:
    for key in {*_built} - keys:
        del _built[key]


def _claimed(
    job: Job, watch: Callable, stop: Callable, join: joint.Join
) -> tuple[runner.Outcome, Any]:
    """What came of a cell, and its recipe if a function made it."""
    saving = Saving(*parse.parse_saving(job.options.save_every, "save_every"), stop)
    recipe = _made(job) if callable(job.what) else None
    for left in reversed(range(TRIES)):
        try:
            if recipe is None:
                return _trained(job, watch, saving, join), None
            flags = getattr(job.what, "keywords", None)
            about = {"flags": dict(flags)} if flags else {}
            options = {"about": about, "watch": watch, "saving": saving}
            return front.train_own(join(recipe), job.path, **options), recipe
        except store.BusyError:
            if not left:
                raise
            time.sleep(0.1)
    raise AssertionError


def _made(job: Job) -> Recipe:
    assert callable(job.what)
    recipe = job.what()
    if not isinstance(recipe, Recipe):
        raise TypeError(
            f"cell {job.cell} is a function that returned {type(recipe).__name__}, not "
            "a recipe: return what lth.make_recipe or lth.build gives"
        )
    return recipe


def _key(job: Job) -> tuple:
    """What cells have in common whose functions are the same."""
    _, e = configured(job.what)
    return replace(e, first_replicate=0), job.options.data_dir, job.options.over


def _trained(
    job: Job, watch: Callable, saving: Saving, join: joint.Join
) -> runner.Outcome:
    """Train a cell that comes from names.

    Cells in a row that differ in their first replicate alone share their functions, so
    that only the first of them traces and compiles. Each trains by itself unless it
    joins others: as replicates of one program their last bits may be others, for a
    device may add up eight networks in another order than one.
    """
    preset, e = configured(job.what)
    devices.use_cores(e.replicates)
    key = _key(job)
    if key not in _built:
        if join is joint.alone:
            _keep_built(set())
        _built[key] = assemble.build(e, job.options.data_dir, job.options.over)
    built = _built[key].beginning(e.first_replicate)
    if join is not joint.alone:
        # Another way to prune is built anew, and trained by the same program.
        like = _first.setdefault((job.program, built.data), built.recipe)
        recipe = built.recipe._replace(train=like.train, measures=like.measures)
        built = built._replace(recipe=join(recipe))
    options = {"name": job.name, "watch": watch, "saving": saving}
    return front.train(built, preset, job.path.parent, **options)
