"""Kill a run with SIGKILL at random moments, continue it, and compare the bits.

A run is started over and over and killed at a random moment (anywhen, soon after a
checkpoint appears, or while one is being written), until it has been killed so many
times; then it is left to finish. Its checkpoints and its table must equal those of a
run that was never killed. Runs that finish before enough kills are deleted and begun
anew.

    python experiments/kill_test.py --kills 25

Takes about 4 minutes on two cores. `tests/test_kill.py` runs a short version.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from lth.lab import store
from lth.lab.store import checkpoint

SMALL = (
    "run digits --quiet --model.widths 30 --steps 150it --eval-every 50it --levels 5 "
    "--replicates 2 --rewind.to 20it --controls reinit,shuffle"
).split()
HALF = "orbax-checkpoint-tmp"  # in the name of a folder that is being written
STARTING = 3.0  # seconds before the first checkpoint: import, data, compiling


@dataclass(frozen=True)
class Flags:
    """How hard to try."""

    kills: int = 25
    seed: int = 0


def start(runs: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "lth", *SMALL, "--runs", str(runs)]
    root = str(Path(store.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": root, "XDG_CACHE_HOME": str(runs)}
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)


def finish(runs: Path) -> None:
    """Run to the end."""
    if start(runs).wait():
        sys.exit("the run failed")


def contents(runs: Path) -> dict[str, str]:
    """What a run and its branches hold: a digest of each checkpoint, and tables."""
    found = {}
    for unit in sorted(path.parent for path in runs.rglob("tickets")):
        name = str(unit.relative_to(runs))
        found[f"{name}/table.csv"] = (unit / "table.csv").read_text()
        for path in sorted((unit / "tickets").iterdir()):
            tree = store.load_tree(unit, path.name)
            found[f"{name}/{path.name}"] = checkpoint.digest(tree)
    return found


def checkpoints(runs: Path) -> list[Path]:
    """The checkpoints of runs and branches, half-written ones too.

    `rglob` would look into those, which vanish meanwhile.
    """
    return [*runs.glob("*/tickets/*"), *runs.glob("*/branches/*/tickets/*")]


def halves(runs: Path) -> list[Path]:
    return [path for path in checkpoints(runs) if HALF in path.name]


def stored(runs: Path) -> int:
    found = checkpoints(runs)  # once: what is half-written may be whole meanwhile
    return len([path for path in found if HALF not in path.name])


def moment(draw: random.Random, runs: Path, process: subprocess.Popen) -> None:
    """Wait for a random moment: anywhen, soon after a checkpoint, or while one is
    saved.
    """
    kind = draw.choice(("anywhen", "after", "during"))
    if kind == "anywhen":
        time.sleep(draw.uniform(0, 2 * STARTING))
        return
    goal = stored(runs) + draw.randint(1, 3)
    while process.poll() is None:
        if kind == "after" and stored(runs) >= goal:
            time.sleep(draw.uniform(0, 0.5))
            return
        if kind == "during" and halves(runs):
            time.sleep(draw.uniform(0, 0.03))
            return
        time.sleep(0.001)


def kill_test(kills: int, seed: int, folder: Path) -> int:
    """Kill so many times; the number of times that a finished run had to begin anew."""
    draw = random.Random(seed)
    finish(folder / "unbroken")
    whole = contents(folder / "unbroken")
    every = stored(folder / "unbroken")
    killed, restarts, runs = 0, 0, folder / "killed"
    while killed < kills:
        process = start(runs)
        moment(draw, runs, process)
        if process.poll() is None:
            process.kill()
            process.wait()
            killed += 1
            broken = len(halves(runs))
            print(
                f"kill {killed}: {stored(runs)} of {every} checkpoints "
                "stored, "
                f"{broken} half-written"
            )
        elif process.returncode:
            sys.exit("a continued run failed")
        else:
            compare(contents(runs), whole)
            shutil.rmtree(runs)
            restarts += 1
    finish(runs)
    compare(contents(runs), whole)
    return restarts


def compare(broken: dict[str, str], whole: dict[str, str]) -> None:
    """Exit with the names of what differs."""
    names = sorted(broken.keys() | whole.keys())
    wrong = [name for name in names if broken.get(name) != whole.get(name)]
    if wrong:
        sys.exit(f"these differ from the unbroken run: {', '.join(wrong)}")


def main() -> None:
    flags = tyro.cli(Flags)
    with tempfile.TemporaryDirectory() as folder:
        restarts = kill_test(flags.kills, flags.seed, Path(folder))
    print(
        f"{flags.kills} kills (the run was begun anew {restarts} times): checkpoints "
        "and "
        "table are bit-identical to the unbroken run"
    )


if __name__ == "__main__":
    main()
