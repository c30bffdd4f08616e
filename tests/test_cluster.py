"""What is said to Slurm and Ray, and heard from them; `tests/cluster` has real ones.

Engines of the tests stand in for theirs, with the few things that are called.
"""

import os
import signal
import sys
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

import lth
from lth.lab import cells, cluster, store, stored, submit
from lth.lab.cells import Done, Job, Options
from lth.lab.config import ConfigError
from lth.lab.submit import LostError
from tests import own, sweeps


def a_job(folder, name="small") -> Job:
    return Job(name, sweeps.small, folder / name, name, "", Options())


@pytest.fixture
def handlers():
    """Signals are answered as before once the test is over."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    cells._signalled.clear()


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_job_out_of_time_saves_first_and_is_queued_again_then(tmp_path, number):
    job, order = a_job(tmp_path), []

    def theirs(heard, frame):
        order.append(("queued again", heard, store.training(job.path)))
        raise SystemExit(255)

    other = {signal.SIGUSR1: signal.SIGUSR2, signal.SIGUSR2: signal.SIGUSR1}[number]
    signal.signal(number, theirs)
    signal.signal(other, signal.SIG_DFL)

    def work(job):
        def watch(progress):
            if progress.step == 6 and not order:
                os.kill(os.getpid(), number)
                order.append("warned")

        return cells.work(job, watch=watch)

    with pytest.raises(SystemExit):
        cluster._Requeued(work)(job)
    assert order == ["warned", ("queued again", number, "step_6")]
    signal.signal(number, theirs)
    done = cluster._Requeued(cells.work)(job)
    assert done.state == "finished"
    assert store.logged(job.path, "resumed")
    alone = lth.run(own.recipe(), tmp_path / "alone")
    assert not sweeps.differences(alone, stored.open_run(job.path))


@pytest.mark.usefixtures("handlers")
def test_a_job_that_is_ended_saves_and_leaves_the_rest_to_who_ended_it(tmp_path):
    def work(job):
        os.kill(os.getpid(), signal.SIGTERM)
        return Done(job.cell, "stopped" if cells.asked() else "finished", job.path)

    signal.signal(signal.SIGUSR1, lambda *_: pytest.fail("it is queued again"))
    with pytest.raises(SystemExit) as left:
        cluster._Requeued(work)(a_job(tmp_path))
    assert left.value.code == 143


class Jobs:
    """Stands in for submitit: a folder of results, and a queue that squeue shows."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.asked, self.queued = folder, [], ""
        self.parameters = {}
        ran = SimpleNamespace(returncode=0)

        def run(command, **options):
            self.asked.append(command[0])
            return SimpleNamespace(returncode=ran.returncode, stdout=self.queued)

        monkeypatch.setattr(cluster.subprocess, "run", run)
        monkeypatch.setattr(cluster, "EVERY", 0.0)
        module = SimpleNamespace(SlurmExecutor=lambda *args, **named: self)
        monkeypatch.setitem(sys.modules, "submitit", module)
        self.ran = ran

    def update_parameters(self, **parameters):
        if "partitoin" in parameters:
            raise ValueError("Unavailable parameter(s): ['partitoin']")
        self.parameters = parameters

    def map_array(self, work, jobs):
        self.work = work
        return [
            SimpleNamespace(
                job_id=f"7_{i}",
                paths=SimpleNamespace(result_pickle=self.folder / f"7_{i}"),
                result=lambda job=job: Done(job.cell, "finished", job.path),
                done=lambda: False,
            )
            for i, job in enumerate(jobs)
        ]


def test_a_job_of_slurm_is_lost_when_neither_the_queue_nor_a_result_has_it(
    tmp_path, monkeypatch
):
    jobs = Jobs(tmp_path, monkeypatch)
    submitted = cluster.slurm(partition="gpu", time=7)
    assert submitted(cells.work, []) == []
    one, two = submitted(cells.work, [a_job(tmp_path, "a"), a_job(tmp_path, "b")])
    assert jobs.parameters == {"job_name": "lth", "partition": "gpu", "time": 7}
    assert isinstance(jobs.work, cluster._Requeued)
    jobs.queued = "7_0\n7_1\n"
    assert not one.done()
    jobs.queued = "7_0\n"  # the second is not there; it may have just ended
    assert [two.done() for _ in range(3)] == [False, False, True]
    with pytest.raises(LostError, match="Slurm's job 7_1 ended without a word"):
        two.result()
    jobs.queued, jobs.ran.returncode = "", 1  # the controller is away: who knows
    assert not any(one.done() for _ in range(5))
    (tmp_path / "7_0").touch()
    assert one.done()
    assert one.result().state == "finished"


def test_a_sweep_that_is_left_leaves_the_jobs_to_slurm(tmp_path, monkeypatch):
    jobs = Jobs(tmp_path, monkeypatch)
    jobs.queued = "7_0"
    (one,) = cluster.slurm()(cells.work, [a_job(tmp_path)])
    assert not one.done()
    one.cancel()
    assert one.done()
    assert one.result()[:2] == ("small", "stopped")
    assert jobs.asked == ["squeue"]  # and nothing that ends a job


def test_what_slurm_does_not_know_is_refused(tmp_path, monkeypatch):
    Jobs(tmp_path, monkeypatch)
    with pytest.raises(ConfigError, match="Slurm: Unavailable parameter"):
        cluster.slurm(partitoin="gpu")(cells.work, [a_job(tmp_path)])


class Ray:
    """Stands in for Ray, whose tasks are done at once or are lost."""

    class exceptions:  # noqa: N801
        class RayError(Exception):
            """Stands for all of Ray's."""

    def __init__(self, monkeypatch):
        self.options, self.cancelled, self.begun = {}, [], False
        monkeypatch.setitem(sys.modules, "ray", self)

    def is_initialized(self):
        return self.begun

    def init(self, **options):
        self.begun = True

    def remote(self, **options):
        if "num_gpsu" in options:
            raise ValueError("Invalid option keyword num_gpsu")
        self.options = options

        def remote(work, job):
            future = Future()
            if job.cell == "lost":
                future.set_exception(self.exceptions.RayError("a node\ndied"))
            else:
                future.set_result(work(job))
            return future

        return lambda function: SimpleNamespace(remote=remote)

    def wait(self, references, timeout):
        return [r for r in references if r.done()], []

    def get(self, reference):
        return reference.result()

    def cancel(self, reference):
        self.cancelled.append(reference)


def test_ray_is_told_what_a_task_takes_and_says_when_one_is_lost(tmp_path, monkeypatch):
    engine = Ray(monkeypatch)
    given = cluster.ray(retries=5, num_gpus=1)
    assert engine.begun
    assert engine.options == {"max_retries": 5, "num_cpus": 1, "num_gpus": 1}

    def work(job):
        return Done(job.cell, "finished", job.path)

    good, lost = given(work, [a_job(tmp_path), a_job(tmp_path, "lost")])
    assert good.done()
    assert good.result().cell == "small"
    with pytest.raises(LostError, match="died"):
        lost.result()
    lost.cancel()
    assert len(engine.cancelled) == 1
    with pytest.raises(ConfigError, match="Ray: Invalid option keyword"):
        cluster.ray(num_gpsu=1)


@pytest.mark.parametrize(("engine", "name"), [("slurm", "submitit"), ("ray", "ray")])
def test_an_engine_that_is_not_installed_is_named_with_its_extra(
    engine, name, monkeypatch
):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"pip install 'lth\[{engine}\]'"):
        getattr(lth.lab, engine)()


def test_engines_have_their_names_in_the_laboratory():
    assert lth.lab.pool is submit.pool
    assert lth.lab.serial is submit.serial
    with pytest.raises(AttributeError, match="no attribute 'dask'"):
        _ = lth.lab.dask
