"""Clusters that train the cells of a sweep: Slurm, through submitit, and Ray.

The folder of runs must be one that all nodes see. Nothing else is shared: a job says
all that its process needs, and what it leaves is in the folder.
"""

import contextlib
import importlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from lth.lab import cells
from lth.lab.cells import Done, Job
from lth.lab.config import ConfigError
from lth.lab.submit import LostError, Submit, Task, Work

EVERY = 10.0  # seconds between two looks at Slurm's queue


def slurm(max_requeues: int = 1000, executor: Any = None, **options: Any) -> Submit:
    """Return what trains cells as jobs of Slurm, through submitit (`lth[slurm]`).

    Cells that are due together are one array. At the warning before its time limit
    (SIGUSR1, `signal_delay_s` seconds ahead, 90 by default) a job saves the training
    under way and is queued again, so a limit may be shorter than a training. Logs lie
    in `.slurm` of the folder of runs, which all nodes must see.

    Args:
      max_requeues: How often a job may run into its time limit.
      executor: One of submitit's own, in place of Slurm's.
      **options: Of the jobs, as submitit's `SlurmExecutor` names them: partition, time
        (minutes), cpus_per_task, gpus_per_node, array_parallelism, …

    Returns:
      The function `submit`.
    """
    os.environ.setdefault("SUBMITIT_PREEMPT_SIGNAL", "USR1")  # read by the import
    submitit = _imported("submitit", "slurm")
    queue = None if executor else _Queue()

    def submit(work: Work, jobs: Sequence[Job]) -> list[Task]:
        if not jobs:
            return []
        engine = executor
        if engine is None:
            folder = jobs[0].path.parent / ".slurm" / "%j"
            try:
                engine = submitit.SlurmExecutor(folder, max_num_timeout=max_requeues)
                engine.update_parameters(**{"job_name": "lth", "time": 60, **options})
            except (RuntimeError, ValueError) as error:
                raise ConfigError(f"Slurm: {error}") from error
        tasks = engine.map_array(_Requeued(work), jobs)
        pairs = zip(tasks, jobs, strict=True)
        return [_SlurmTask(task, job, queue) for task, job in pairs]

    return submit


def ray(retries: int = 3, **options: Any) -> Submit:
    """Return what trains cells as tasks of Ray (`lth[ray]`).

    It joins the cluster that there is (`RAY_ADDRESS`), or starts one of this machine.
    Ray gives each task its GPUs, and does one again whose worker or node is gone; it
    goes on from what is stored, if all nodes see the folder of runs.

    Args:
      retries: How often a task is done again that way.
      **options: Of the tasks, as Ray names them: num_cpus, num_gpus, resources, …

    Returns:
      The function `submit`.
    """
    engine = _imported("ray", "ray")
    if not engine.is_initialized():
        engine.init(log_to_driver=False)
    options = {"max_retries": retries, "num_cpus": 1, **options}
    try:
        remote = engine.remote(**options)(_in_worker)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Ray: {error}") from error

    def submit(work: Work, jobs: Sequence[Job]) -> list[Task]:
        return [_RayTask(engine, remote.remote(work, job)) for job in jobs]

    return submit


def _imported(name: str, extra: str) -> Any:
    """An engine, which only its extra installs."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"{name} is not installed: pip install 'lth[{extra}]'"
        ) from error


class _Requeued:
    """Trains a cell as a job of submitit, which is queued again where it was stopped.

    submitit answers its signal at once, in the midst of a step. Here the signal is
    heard first, the training saves where it stands, and then submitit gets to know.
    """

    def __init__(self, work: Work):
        self.work = work

    def __call__(self, job: Job) -> Done:
        usual = (signal.SIGUSR1, signal.SIGUSR2)
        theirs = {n: signal.getsignal(n) for n in usual}
        heard: list[int] = []

        def hear(number: int, _: Any) -> None:
            heard.append(number)
            cells.ask()

        cells.listen()
        for number in (signal.SIGTERM, *(n for n in usual if callable(theirs[n]))):
            signal.signal(number, hear)
        done = self.work(job)
        if done.state != "stopped":
            return done
        for number in heard:
            if callable(again := theirs.get(signal.Signals(number))):
                again(number, None)  # has it queued again, and leaves
        raise SystemExit(128 + signal.SIGTERM)  # Slurm, which sent it, knows what next

    def checkpoint(self, job: Job) -> Any:
        """Say what is to be done when the job is there again: the same."""
        return importlib.import_module("submitit.helpers").DelayedSubmission(self, job)


class _Queue:
    """Asks Slurm for the jobs it has, every so often and for all of a sweep.

    submitit would ask the accounts, which not every cluster keeps.
    """

    def __init__(self):
        self.looks, self.at, self.jobs = 0, float("-inf"), None

    def look(self) -> tuple[int, set[str] | None]:
        """Return how often it was asked, and what it said last; None if it did not."""
        if time.monotonic() - self.at >= EVERY:
            asked = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
            told = subprocess.run(asked, capture_output=True, text=True)
            self.jobs = None if told.returncode else set(told.stdout.split())
            self.looks, self.at = self.looks + 1, time.monotonic()
        return self.looks, self.jobs


class _SlurmTask:
    """A job of Slurm; lost if the queue has it no more, and it left no result."""

    def __init__(self, task: Any, job: Job, queue: _Queue | None):
        self.task, self.job, self.queue = task, job, queue
        self.missed, self.left = set(), False

    def done(self) -> bool:
        if self.left:
            return True
        if self.queue is None:
            return self.task.done()
        if self.task.paths.result_pickle.exists():
            return True
        look, jobs = self.queue.look()
        if jobs is not None and self.task.job_id not in jobs:
            self.missed.add(look)  # files may be seen later than the end of a job
        return len(self.missed) > 2

    def result(self) -> Done:
        if self.left:
            told = f"it is left to Slurm, as job {self.task.job_id}"
            return Done(self.job.cell, "stopped", self.job.path, told)
        if self.queue is not None and not self.task.paths.result_pickle.exists():
            raise LostError(f"Slurm's job {self.task.job_id} ended without a word")
        try:
            return self.task.result()
        except Exception as error:
            raise LostError(f"job {self.task.job_id}: {error}") from error

    def cancel(self) -> None:
        """Leave it to Slurm: the same sweep, begun again, finds what it has done."""
        self.left = True


def _in_worker(work: Work, job: Job) -> Done:
    """What Ray calls, in a process of its own that may have had other cells before."""
    with contextlib.suppress(ValueError):  # where it is not the main thread
        cells.listen()
    return work(job)


class _RayTask:
    """A task of Ray."""

    def __init__(self, engine: Any, reference: Any):
        self.engine, self.reference = engine, reference

    def done(self) -> bool:
        return bool(self.engine.wait([self.reference], timeout=0)[0])

    def result(self) -> Done:
        try:
            return self.engine.get(self.reference)
        except self.engine.exceptions.RayError as error:
            raise LostError(str(error).strip().splitlines()[-1]) from error

    def cancel(self) -> None:
        with contextlib.suppress(self.engine.exceptions.RayError):
            self.engine.cancel(self.reference)
