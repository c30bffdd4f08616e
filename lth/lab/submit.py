"""Who trains the cells of a sweep: this process, or others beside it.

Each is a function `submit(work, jobs)` that gives every job to its engine and returns a
future of each: `done()`, `result()`, which raises where the process that had the job is
gone, and `cancel()`, which asks it to save where it stands and to stop. There is no
scheduler here: order, priority and resources are the engine's. `cluster` has others.
"""

import math
import multiprocessing
import os
import pickle
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from lth.lab import cells, joint
from lth.lab.cells import Done, Job
from lth.lab.devices import memory

Work = Callable[[Job], Done]


class Task(Protocol):
    """Holds what will come of a job."""

    def done(self) -> bool:
        """Return whether there is a result."""
        ...

    def result(self) -> Done:
        """Return what came of the job; raises where nobody can say."""
        ...

    def cancel(self) -> Any:
        """Ask for an early end."""
        ...


Submit = Callable[[Work, Sequence[Job]], Sequence[Task]]


class Share(NamedTuple):
    """Says what a process has to itself."""

    cores: tuple[int, ...]
    variables: Mapping[str, str]  # which GPUs
    memory: float = math.inf  # bytes


class LostError(RuntimeError):
    """The process that had a job is gone, and said nothing of it."""


class Here(NamedTuple):
    """Trains cells in this process, so many together."""

    together: int = 1  # 0: all

    def groups(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """Say which cells train together: some of one program."""
        found: list[list[Job]] = []
        free: dict[str, list[Job]] = {}  # groups with room
        for job in jobs:
            group = free.setdefault(job.program, [])
            if not group:
                found.append(group)
            group.append(job)
            if len(group) == self.together:
                free[job.program] = []
        return found

    def __call__(self, work: Callable[..., Done], jobs: Sequence[Job]) -> list[Future]:
        """Train the cells, one group after another."""
        tasks = {job.cell: Future() for job in jobs}
        for group in self.groups(jobs):
            for done in _done(work, group):
                tasks[done.cell].set_result(done)
        return [tasks[job.cell] for job in jobs]


def _done(work: Callable[..., Done], group: Sequence[Job]) -> list[Done]:
    """What comes of cells that are trained together."""
    if len(group) == 1:
        return [work(group[0])]
    with cells.gathered(group):
        return joint.train_together(
            [lambda join, job=job: work(job, join=join) for job in group]
        )


serial = Here()


def together(count: int = 0) -> Here:
    """Return what trains cells of one program together, in this process.

    They are trained as the replicates of one run are, by one program on one device,
    and stored apart. That is faster on a GPU, where their last bits may be others than
    alone. What is told of the time of each is that of all.

    Args:
      count: How many at once; by default all. What a program of that many has no
        memory for is done in halves.

    Returns:
      The function `submit`.
    """
    return Here(count)


def pool(processes: int = 0, gpus: Sequence[str] | None = None) -> Submit:
    """Return what trains cells in processes of this machine, each on a share of it.

    A process trains cell after cell, so that what a cell compiled the next one of its
    kind has; it has cores of its own (its affinity), and GPUs of its own
    (`CUDA_VISIBLE_DEVICES`), or a part of the memory of one. One that dies is replaced,
    and so is one that after a cell holds more than its share of the machine's memory,
    for what is kept of cells before adds up.

    Args:
      processes: How many; by default one for each GPU, or else for each core.
      gpus: Which GPUs, as `CUDA_VISIBLE_DEVICES` names them; by default all there are.

    Returns:
      The function `submit`.
    """
    shares = shared_out(processes, cores(), there() if gpus is None else gpus)
    free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    for share in shares:
        free.put(_Worker(share))
    threads = ThreadPoolExecutor(len(shares))

    def one(work: Work, job: Job, stop: threading.Event) -> Done:
        worker = free.get()
        try:
            return worker.do(work, job, stop)
        finally:
            free.put(worker)

    def submit(work: Work, jobs: Sequence[Job]) -> list[Task]:
        tasks = []
        for job in jobs:
            stop = threading.Event()
            tasks.append(_Stoppable(threads.submit(one, work, job, stop), stop))
        return tasks

    return submit


def cores() -> list[int]:
    """Return the cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def there() -> list[str]:
    """Return the NVIDIA GPUs this process may use, without asking a driver."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name.strip() not in ("", "-1")]
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    found = [path.name for path in Path("/dev").glob("nvidia[0-9]*")]
    return sorted((name.removeprefix("nvidia") for name in found), key=int)


def shared_out(
    processes: int, cores: Sequence[int], gpus: Sequence[str]
) -> list[Share]:
    """Share cores and GPUs out to so many processes; 0: one for each GPU, or core.

    None has less than one core of its own unless there are more processes than cores.
    """
    count = processes or len(gpus) or len(cores)
    held = (memory.machine() or math.inf) / (count + 1)  # one is of who asks
    shares = []
    for i in range(count):
        variables = {}
        if gpus:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(_part(gpus, i, count))
        if gpus and count > len(gpus):  # JAX would take 3/4 of a GPU for the first
            part = 0.9 / -(-count // len(gpus))
            variables["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{part:.3f}"
        shares.append(Share(tuple(_part(cores, i, count)), variables, held))
    return shares


def _part(things: Sequence[Any], i: int, count: int) -> Sequence[Any]:
    """The part of one of so many, and at least one thing."""
    begin, end = i * len(things) // count, (i + 1) * len(things) // count
    return things[begin : max(end, begin + 1)]


class _Stoppable(NamedTuple):
    """A job of the pool."""

    future: Future
    stop: threading.Event

    def done(self) -> bool:
        return self.future.done()

    def result(self) -> Done:
        return self.future.result()

    def cancel(self) -> None:
        self.stop.set()
        self.future.cancel()


class _Worker:
    """A process that trains cell after cell, started when it is first needed."""

    def __init__(self, share: Share):
        self.share = share
        self.process: Any = None
        self.pipe: Any = None

    def do(self, work: Work, job: Job, stop: threading.Event) -> Done:
        """Have the process train a cell; its training is asked to stop at `stop`."""
        sent = _pickled(work, job)
        if self.process is None or not self.process.is_alive():
            self._start()
        process: Any = self.process
        self.process = None  # kept if all goes well
        terminated = False
        try:
            self.pipe.send(sent)
            while not self.pipe.poll(0.1):
                if stop.is_set() and not terminated:
                    terminated = True
                    process.terminate()  # a signal that it hears, see `_serve`
            done, last = self.pipe.recv()
        except (EOFError, OSError):
            process.join()
            code = process.exitcode
            raise LostError(f"its process ended with exit code {code}") from None
        if last:
            self.pipe.close()
        else:
            self.process = process
        if isinstance(done, str):
            raise RuntimeError(done)
        return done

    def _start(self) -> None:
        spawned = multiprocessing.get_context("spawn")
        self.pipe, end = spawned.Pipe()
        serve = (end, self.share.cores, self.share.memory)
        with _starting:
            before = {name: os.environ.get(name) for name in self.share.variables}
            os.environ.update(self.share.variables)
            self.process = spawned.Process(target=_serve, args=serve, daemon=True)
            self.process.start()
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value
        end.close()


_starting = threading.Lock()  # of processes, which find their variables here


def _pickled(work: Work, job: Job) -> bytes:
    try:
        return pickle.dumps((work, job))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            f"it cannot be given to another process ({error}): a cell is an "
            "experiment, a preset's name with settings, or a function that has its "
            "name in a module, such as functools.partial of one"
        ) from None


def _serve(pipe: Any, cores: Sequence[int], most: float) -> None:
    """Train what comes through a pipe, until it closes or a signal comes.

    With what came of a cell goes whether it was the last one: after a signal, or when
    this process holds more bytes than `most`.
    """
    if hasattr(os, "sched_setaffinity"):  # before JAX counts the cores
        os.sched_setaffinity(0, cores)
    cells.listen()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def outlived():
        parent.join()
        cells.ask()

    threading.Thread(target=outlived, daemon=True).start()
    try:
        while True:
            while not pipe.poll(0.5):
                if cells.asked():
                    return
            try:
                work, job = pickle.loads(pipe.recv())
                done = work(job)
            except EOFError:
                return
            except Exception as error:
                done = f"{type(error).__name__}: {error}"
            last = cells.asked() or memory.resident() > most
            pipe.send((done, last))
            if last:
                return
    except OSError:  # nobody is left to tell
        return
