"""A sweep on a real Slurm of one node, whose jobs are killed, drained and out of time.

    python tests/cluster/on_slurm.py [--short]

Starts munged, slurmctld and slurmd of its own (Debian's `slurmctld slurmd slurm-client
munge`; it must be root) with their state in a temporary folder, and ends them. Then:

- a grid of four cells, one of whose processes is killed (SIGKILL), while the node is
  drained and comes back: all cells are done, with the bits of a serial sweep;
- a training that is longer than the time limit of its job, one minute: Slurm's warning
  saves it, the job is queued again, and it ends with the bits of an unbroken run;
- a run in two processes by `srun -n 2 lth run … --coordinator auto`.

It takes some six minutes on two cores, most of them waiting for Slurm's clock; --short
leaves the second part out. Exit code 77 says what is missing here.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import lth
from lth.lab import stored
from tests import sweeps

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "srun")
CONFIGURATION = """
ClusterName=lth
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort={port}
SlurmdPort={port_of_nodes}
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
MpiDefault=none
ReturnToService=2
KillWait=30
SchedulerParameters=sched_interval=1,batch_sched_delay=0
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Say what is not here that the test needs."""
    paths = f"{os.environ['PATH']}:/usr/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=paths) is None]
    try:
        import submitit  # noqa: F401
    except ImportError:
        absent.append("submitit")
    if os.getuid() != 0:
        absent.append("root")
    return ", ".join(absent)


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class StartError(RuntimeError):
    """Slurm is here, and does not start."""


@contextlib.contextmanager
def cluster(folder: Path):
    """Run a Slurm of one node until the block is done."""
    os.environ["PATH"] += ":/usr/sbin"
    host = socket.gethostname().split(".")[0]
    fields = {"folder": folder, "host": host}
    fields |= {"port": free_port(), "port_of_nodes": free_port()}
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(**fields))
    os.environ["SLURM_CONF"] = str(configuration)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    folder.chmod(0o755)
    munge = ["munged", "--foreground", f"--socket={folder}/munge.socket", "--force"]
    munge += [f"--key-file={key}", f"--pid-file={folder}/munge.pid"]
    munge += [f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"]
    started: list[subprocess.Popen] = []
    try:
        for command in (munge, ["slurmctld", "-D"], ["slurmd", "-D", "-N", host]):
            started.append(
                subprocess.Popen(
                    command,
                    stdout=subprocess.DEVNULL,
                    stderr=(folder / f"{command[0]}.err").open("w"),
                )
            )
            time.sleep(2.0)
        try:
            wait_for(lambda: "idle" in slurm("sinfo", "-h", "-o", "%t"), 60, "a node")
        except SystemExit as error:
            logs = [log.read_text()[-500:] for log in folder.glob("*.err")]
            raise StartError(f"{error}: {' '.join(logs)}") from None
        yield host
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)


def slurm(*command: str) -> str:
    """Return what a command of Slurm prints."""
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout


def wait_for(test, seconds: float, what: str) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not test():
        if time.monotonic() > end:
            raise SystemExit(f"{what} did not come in {seconds:.0f} s")
        time.sleep(0.5)


def processes() -> list[int]:
    """List the processes of jobs that train."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if b"submitit.core._submit" in path.read_bytes():
                words = path.read_bytes().split(b"\0")
                if words[0].endswith(b"python") or b"/python" in words[0]:
                    found.append(int(path.parent.name))
    return found


def disturb(host: str, told: list[str]) -> None:
    """Kill a process that trains, and drain the node for a while."""
    wait_for(processes, 120, "a job that trains")
    time.sleep(3.0)
    for pid in processes()[:1]:
        os.kill(pid, 9)
        told.append("killed")
    node = f"nodename={host}"
    slurm("scontrol", "update", node, "state=drain", "reason=a test")
    time.sleep(5.0)
    slurm("scontrol", "update", node, "state=resume")
    told.append("drained")


def hurry(stop: threading.Event) -> None:
    """Let jobs that are queued again start at once: Slurm has them wait two minutes."""
    while not stop.wait(2.0):
        for line in slurm("squeue", "-h", "-r", "-o", "%i %r").splitlines():
            job, reason = line.split(maxsplit=1)
            if reason == "BeginTime":
                slurm("scontrol", "update", f"jobid={job}", "StartTime=now")


def check(runs: dict, others: dict, what: str) -> None:
    """Refuse runs that are not those of others, bit for bit."""
    wrong = {c: sweeps.differences(runs[c], others[c]) for c in runs}
    wrong = {cell: told for cell, told in wrong.items() if told}
    if wrong:
        raise SystemExit(f"{what}: not the bits of a serial sweep: {wrong}")
    print(f"{what}: {len(runs)} cells, with the bits of a serial sweep", flush=True)


def grid_of_four(folder: Path, host: str) -> None:
    """Sweep four cells, of which one is killed while the node is drained."""
    cells, told = sweeps.grid(0, 2), []
    thread = threading.Thread(target=disturb, args=(host, told))
    thread.start()
    submit = lth.lab.slurm(time=10, cpus_per_task=1)
    ended = []
    runs = lth.sweep(cells, folder / "grid", submit=submit, ended=ended.append)
    thread.join()
    assert told == ["killed", "drained"], told
    assert len(ended) == 4
    check(runs, lth.sweep(cells, folder / "serial"), "killed and drained")
    again = lth.sweep(cells, folder / "grid", submit=submit, ended=ended.append)
    assert len(ended) == 4, "a finished cell was trained again"
    assert set(again) == set(cells)


def longer_than_the_limit(folder: Path) -> None:
    """Sweep a cell whose training takes longer than its job may."""
    long = {"steps": "400000it", "eval_every": "100000it", "model.widths": [300, 100]}
    cells = {"long": sweeps.cell(levels=0, replicates=1, rewind__to="0it")}
    cells["long"][1].update(long)
    stop = threading.Event()
    thread = threading.Thread(target=hurry, args=(stop,))
    thread.start()
    try:
        submit = lth.lab.slurm(time=1, signal_delay_s=20, cpus_per_task=1)
        runs = lth.sweep(cells, folder / "limit", submit=submit, save_every="never")
    finally:
        stop.set()
        thread.join()
    resumed = len(stored.store.logged(runs["long"].path, "resumed"))
    assert resumed, "the training was shorter than the limit"
    print(f"time limit of a minute: queued again, and gone on {resumed} times")
    check(runs, lth.sweep(cells, folder / "unbroken"), "out of time")


def two_processes(folder: Path) -> None:
    """Train one run in two processes that find each other by what Slurm tells."""
    flags = [f"--{name}={value}" for name, value in sweeps.SETTINGS.items()]
    flags = [flag.replace("_", "-").replace("[8]", "8") for flag in flags]
    command = [sys.executable, "-m", "lth", "run", "digits", *flags, "--quiet"]
    several = ["srun", "-n", "2", "-c", "1", *command, "--coordinator", "auto"]
    subprocess.run([*several, "--runs", str(folder / "two")], check=True, timeout=300)
    subprocess.run([*command, "--runs", str(folder / "one")], check=True, timeout=300)
    both = [next((folder / name).glob("digits-*")) for name in ("two", "one")]
    two, one = (stored.open_run(path) for path in both)
    check({"digits": two}, {"digits": one}, "two processes, --coordinator auto")


def main() -> int:
    """Run all parts; the exit code."""
    if told := missing():
        print(f"not run: {told} not there")
        return 77
    with tempfile.TemporaryDirectory(prefix="lth-slurm-") as name:
        folder = Path(name)
        (folder / "slurm").mkdir()
        try:
            with cluster(folder / "slurm") as host:
                grid_of_four(folder, host)
                two_processes(folder)
                if "--short" not in sys.argv:
                    longer_than_the_limit(folder)
        except StartError as error:
            print(f"not run: Slurm does not start here: {error}")
            return 77
    return 0


if __name__ == "__main__":
    sys.exit(main())
