"""Kill runs with SIGKILL at random moments, continue them, and compare the bits.

Two runs take turns: one of tickets with branches, and one that learns a mask. Each is
started over and over and killed at a random moment (anywhen, soon after a checkpoint
appears, while one is being written, or soon after a training under way was saved),
until there were so many kills; then both are left to finish. Their checkpoints and
tables must equal those of runs that were never killed. A run that finishes before
enough kills is compared, deleted and begun anew.

    python experiments/kill_test.py --kills 1000

Processes are forked from one that has imported everything, so a kill takes about two
seconds on two cores. `tests/test_kill.py` runs a short version.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import jax
import tyro

from lth.cli import main as command
from lth.lab import front, store

TRAINED = "--quiet --model.widths 20 --steps 120it --eval-every 40it --replicates 2"
RUNS = {
    "tickets": f"run digits {TRAINED} --levels 3 --rewind.to 50it "
    "--controls reinit,shuffle --save-every 15it",
    "learned": f"supermask digits movement {TRAINED} --controls train "
    "--save-every 15it",
}
HALF = "orbax-checkpoint-tmp"  # in the name of a folder that is being written
LONGEST = 3.0  # seconds from the start to a kill that waits for nothing
MOMENTS = ("anywhen", "after", "during", "inside")


@dataclass(frozen=True)
class Flags:
    """How hard to try."""

    kills: int = 25
    seed: int = 0


class Process:
    """A command in a fork of this process, which must not have used a device yet."""

    def __init__(self, args: list[str]):
        sys.stdout.flush()
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            code = command.command(args)
        finally:
            os._exit(code)

    def poll(self) -> int | None:
        """The exit code, once there is one."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self) -> int:
        while (code := self.poll()) is None:
            time.sleep(0.01)
        return code

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()


def start(kind: str, runs: Path) -> Process:
    return Process([*RUNS[kind].split(), "--runs", str(runs)])


def finish(kind: str, runs: Path) -> None:
    """Run to the end."""
    if start(kind, runs).wait():
        sys.exit(f"the run of {kind} failed")


def contents(runs: Path) -> dict[str, str]:
    """What a run and its branches hold, and trainings under way that were left."""
    left = {str(p.relative_to(runs)): "left" for p in runs.rglob("training")}
    return store.contents(runs) | left


def checkpoints(runs: Path, folder: str = "tickets") -> list[Path]:
    """The checkpoints of runs and branches, half-written ones too.

    `rglob` would look into those, which vanish meanwhile.
    """
    return [*runs.glob(f"*/{folder}/*"), *runs.glob(f"*/branches/*/{folder}/*")]


def halves(runs: Path) -> list[Path]:
    every = [*checkpoints(runs), *checkpoints(runs, "training")]
    return [path for path in every if HALF in path.name]


def stored(runs: Path, folder: str = "tickets") -> int:
    found = checkpoints(runs, folder)  # once: a half may be whole meanwhile
    return len([path for path in found if HALF not in path.name])


def moment(draw: random.Random, runs: Path, process: Process) -> str:
    """Wait for a random moment, and say which kind it is."""
    kind = draw.choice(MOMENTS)
    if kind == "anywhen":
        time.sleep(draw.uniform(0, LONGEST))
        return kind
    goal = stored(runs) + draw.randint(1, 3)
    while process.poll() is None:
        if kind == "after" and stored(runs) >= goal:
            time.sleep(draw.uniform(0, 0.3))
            break
        if kind == "during" and halves(runs):
            time.sleep(draw.uniform(0, 0.03))
            break
        if kind == "inside" and stored(runs, "training"):
            time.sleep(draw.uniform(0, 0.1))
            break
        time.sleep(0.001)
    return kind


def kill_test(kills: int, seed: int, folder: Path) -> Counter:
    """Kill so many times; what was seen, by its kind."""
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    draw = random.Random(seed)
    whole = {}
    for kind in RUNS:
        finish(kind, folder / f"unbroken_{kind}")
        whole[kind] = contents_apart(folder / f"unbroken_{kind}")
    seen: Counter = Counter()
    while seen["killed"] < kills:
        kind = list(RUNS)[seen["killed"] % len(RUNS)]
        runs = folder / f"killed_{kind}"
        process = start(kind, runs)
        when = moment(draw, runs, process)
        if process.poll() is None:
            process.kill()
            seen.update(["killed", when])
            seen["half-written"] += len(halves(runs))
            seen["inside a training"] += bool(stored(runs, "training"))
            if seen["killed"] % 50 == 0:
                print(dict(seen), flush=True)
        elif process.poll():
            sys.exit(f"a continued run of {kind} failed")
        else:
            compare(contents_apart(runs), whole[kind])
            shutil.rmtree(runs)
            seen["finished"] += 1
    for kind in RUNS:
        finish(kind, folder / f"killed_{kind}")
        compare(contents_apart(folder / f"killed_{kind}"), whole[kind])
    return seen


def contents_apart(runs: Path) -> dict[str, str]:
    """`contents`, read in a fork: this process must not use a device itself."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            with os.fdopen(writer, "w") as file:
                json.dump(contents(runs), file)
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        sys.exit(f"{runs} cannot be read")
    return json.loads(text)


def compare(broken: dict[str, str], whole: dict[str, str]) -> None:
    """Exit with the names of what differs."""
    names = sorted(broken.keys() | whole.keys())
    wrong = [name for name in names if broken.get(name) != whole.get(name)]
    if wrong:
        sys.exit(f"these differ from the unbroken run: {', '.join(wrong)}")


def main() -> None:
    flags = tyro.cli(Flags)
    assert front  # all that a run needs is imported before the first fork
    with tempfile.TemporaryDirectory() as folder:
        seen = kill_test(flags.kills, flags.seed, Path(folder))
    print(f"checkpoints and tables are bit-identical to unbroken runs after {seen}")


if __name__ == "__main__":
    main()
