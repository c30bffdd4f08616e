"""Several runs, cell by cell: trained by whoever is asked, stored and read as one."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from lth.lab import cells as jobs
from lth.lab import joint, keeping, standing, store
from lth.lab.cells import Cell, Done, Job, Options
from lth.lab.config import ConfigError, parse
from lth.lab.standing import Standing
from lth.lab.stored import Run, open_run
from lth.lab.submit import Here, LostError, Submit, Task, serial

PAUSE = 0.2  # seconds between two looks at what is under way
AGAIN = 3  # times that a cell is given out anew whose process was lost


class SweepError(RuntimeError):
    """Some cells are not finished; `done` says of each what came of it."""

    def __init__(self, done: Mapping[str, Done]):
        told = [f"{cell} {one.state}: {one.reason}" for cell, one in done.items()]
        super().__init__(
            f"{len(done)} cells are not finished; the same sweep goes on with them. "
            + "\n".join(told)
        )
        self.done = dict(done)


def sweep(
    cells: Mapping[str, Cell],
    folder: str | Path,
    *,
    submit: Submit = serial,
    data_dir: str | Path | None = None,
    save_every: str = "10min",
    over: str = "replicates",
    name: str = "",
    watch: Callable[[str, Any], Any] = lambda cell, progress: None,
    ended: Callable[[Done], Any] = lambda done: None,
    stop: Callable[[], bool] = keeping.never,
) -> dict[str, Run]:
    """Train and store what is missing of each cell.

    Stopped at any moment, the same call goes on. A cell that is finished is not begun
    again, one that another process is at work on is left to it, and one that fails
    keeps none of the others from their turn. A cell that is a function makes its recipe
    only when it is its turn, and its run lies in `folder`/cell.

    Args:
      cells: By name. An experiment; a preset's name and settings, as `lth.run` takes
        them; or a function that returns a recipe.
      folder: Where the runs lie.
      submit: Who trains them: by default this process, one after another; see
        `lab.together`, `lab.pool`, `lab.slurm` and `lab.ray`.
      data_dir: Where data files are, of cells that come from names.
      save_every: How often a training under way is saved, as `lth.run` has it.
      over: What several devices share of a cell: `replicates`, or each `batch`.
      name: What the runs are called, in place of their cells.
      watch: Is told the cell and where its run is, at each measurement; of cells that
        this process trains.
      ended: Is told what came of a cell.
      stop: Says whether to save the trainings under way, and to end.

    Returns:
      The runs, opened, by the names of their cells.

    Raises:
      ConfigError for a cell that can be seen to be wrong, before anything is trained;
      SweepError, once all others are done, for cells that are not.
    """
    parse.parse_saving(save_every, "save_every")
    here = isinstance(submit, Here)
    folder = Path(folder) if here else Path(folder).absolute()
    options = Options(data_dir, save_every, over)
    planned = plan(cells, folder, name, options)
    due: dict[Path, Job] = {}  # cells of one id are one run
    for job in planned.values():
        if job.path not in due and not _is_over(job):
            due[job.path] = job

    def work(job: Job, join: joint.Join = joint.alone) -> Done:
        told = partial(watch, job.cell)
        return jobs.work(job, watch=told, stop=stop, keep=True, join=join)

    # What another process is given must say where it is found.
    given = work if here else jobs.work
    done = _carried_out(list(due.values()), submit, given, stop, ended)
    bad = {cell: one for cell, one in done.items() if one.state != "finished"}
    if bad:
        raise SweepError(bad)
    return {
        cell: open_run(job.path, _recipe(job, done.get(cell)), data_dir)
        for cell, job in planned.items()
    }


def plan(
    cells: Mapping[str, Cell],
    folder: Path,
    name: str = "",
    options: Options = Options(),  # noqa: B008
) -> dict[str, Job]:
    """Say which run each cell is; nothing is built, and nothing written.

    Args:
      cells: By name.
      folder: Where the runs lie.
      name: What they are called, in place of their cells.
      options: How they are trained.

    Returns:
      The jobs, by the names of the cells. Cells of one id are one run.

    Raises:
      ConfigError for a cell that can be seen to be wrong.
    """
    if not cells:
        raise ConfigError("a sweep needs at least one cell")
    return {
        cell: jobs.job(cell, what, folder, name, options)
        for cell, what in cells.items()
    }


def status(planned: Mapping[str, Job]) -> list[Standing]:
    """Say how far each cell is; only folders are read, whoever is at work on them."""
    return [standing.standing(job) for job in planned.values()]


def table(runs: Mapping[str, Run]) -> pd.DataFrame:
    """The rows of all cells; the column `run` has the names of the cells."""
    tables = [run.table.assign(run=name) for name, run in runs.items()]
    return pd.concat(tables, ignore_index=True)


def asked(rows: pd.DataFrame, planned: Mapping[str, Job]) -> pd.DataFrame:
    """Keep of each cell the levels and replicates it asks for: its run may hold more.

    Of a cell that is a function, all is kept.
    """
    wanted = pd.Series(True, rows.index)
    for cell, job in planned.items():
        if not callable(job.what):
            _, e = jobs.configured(job.what)
            numbers = range(e.first_replicate, e.first_replicate + e.replicates)
            inside = rows["replicate"].isin(numbers) & (rows["level"] <= e.levels)
            wanted &= (rows["run"] != cell) | inside
    return rows[wanted].reset_index(drop=True)


def collected(runs: Mapping[str, Run]) -> pd.DataFrame:
    """Return the rows of all cells, with a column for each setting that differs.

    A setting that some run does not have is missing there.
    """
    settings = {name: run.settings for name, run in runs.items()}
    fields = dict.fromkeys(f for known in settings.values() for f in known)
    rows = table(runs)
    for field in fields:
        values = {name: _plain(known.get(field)) for name, known in settings.items()}
        if len({str(value) for value in values.values()}) > 1:
            label = f"cell_{field}" if field in rows.columns else field
            rows[label] = rows["run"].map(values)
    return rows


def leaders(due: Sequence[Job]) -> dict[str, Job]:
    """Return the first job of each program, by programs; the others wait for it.

    It compiles what they read from the cache that all share, beside their runs.
    """
    first: dict[str, Job] = {}
    for job in due:
        first.setdefault(job.program, job)
    return first


def _plain(value: Any) -> Any:
    """A setting as a cell of a table holds it."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value


def _recipe(job: Job, done: Done | None) -> Any:
    """What `open_run` takes for a run of a function: what it made, or itself."""
    if not callable(job.what):
        return None
    return (done and done.recipe) or job.what


def _is_over(job: Job) -> bool:
    """Whether a cell is finished; one that a function makes is asked itself."""
    return not callable(job.what) and standing.standing(job).state == "finished"


def _carried_out(
    due: Sequence[Job], submit: Submit, work: Callable, stop: Callable, ended: Callable
) -> dict[str, Done]:
    """What came of all jobs, once each has ended or `stop` says so."""
    if isinstance(submit, Here):
        ends = (task for group in submit.groups(due) for task in submit(work, group))
        return {one.cell: _told(one, ended) for one in (t.result() for t in ends)}
    first = leaders(due)
    left = [job for job in due if first[job.program] is not job]
    begun = list(first.values())
    under_way = list(zip(submit(work, begun), begun, strict=True))
    lost: dict[str, int] = {}
    done: dict[str, Done] = {}
    asked = False
    try:
        while under_way or left:
            if stop() and not asked:
                asked, left = True, []
                _cancel(under_way)
            news = _ended(under_way, done, lost, ended, asked)
            waited = {job.program for job in left}
            ready = {p for p in waited if _has_compiled(first[p], done)}
            news += [job for job in left if job.program in ready]
            left = [job for job in left if job.program not in ready]
            under_way += zip(submit(work, news), news, strict=True)
            time.sleep(PAUSE)
    except BaseException:
        _cancel(under_way)
        raise
    for job in due:  # those that were never given out
        done.setdefault(job.cell, Done(job.cell, "stopped", job.path))
    return done


def _ended(
    under_way: list[tuple[Task, Job]], done: dict, lost: dict, ended: Callable, asked
) -> list[Job]:
    """Take what has ended from what is under way; the jobs to be given out anew."""
    again = []
    over = [pair for pair in under_way if pair[0].done()]
    names = {job.cell for _, job in over}
    under_way[:] = [pair for pair in under_way if pair[1].cell not in names]
    for task, job in over:
        try:
            one = task.result()
        except LostError as error:
            one = Done(job.cell, "lost", job.path, str(error))
        except Exception as error:
            one = Done(job.cell, "failed", job.path, f"{type(error).__name__}: {error}")
        lost[job.cell] = lost.get(job.cell, 0) + (one.state == "lost")
        # A worker may be stopped by who runs it, such as a node that is drained.
        early = one.state == "stopped" or (
            one.state == "lost" and lost[job.cell] <= AGAIN
        )
        if early and not asked:
            again.append(job)
            continue
        if one.state in ("lost", "failed") and not store.reason(job.path):
            store.save_reason(job.path, one.reason, "")
        done[job.cell] = _told(one, ended)
    return again


def _told(one: Done, ended: Callable) -> Done:
    ended(one)
    return one


def _cancel(under_way: Sequence[tuple[Task, Job]]) -> None:
    for task, _ in under_way:
        task.cancel()


def _has_compiled(leader: Job, done: Mapping[str, Done]) -> bool:
    """Whether the first job of a program has a pruned ticket, or has ended."""
    return leader.cell in done or 1 in store.stored(leader.path)
