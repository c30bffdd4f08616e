"""A long training that is killed again and again, and what saving it costs.

    python experiments/bench/preempted.py --every 15

One training of 20 000 steps is killed with SIGKILL every so many seconds, and the same
command given again, until it ends; its checkpoints and table must equal those of one
that was never killed. Then: how long trainings waited for their saves, as a share of
ten minutes, the time between two saves unless it is set.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from lth.lab import store


@dataclass(frozen=True)
class Flags:
    """How long, and how often it is killed."""

    every: float = 15.0
    """Seconds from one start to its kill."""
    steps: int = 20000
    """Of the training."""
    preset: str = "lenet-mnist"
    """What is trained, dense."""
    save: str = "3s"
    """How often it saves."""


def start(flags: Flags, runs: Path, save: str) -> subprocess.Popen:
    command = f"run {flags.preset} --steps {flags.steps}it --eval-every 5000it"
    command += f" --levels 0 --quiet --save-every {save}"
    args = [sys.executable, "-m", "lth", *command.split(), "--runs", str(runs)]
    return subprocess.Popen(args, stdout=subprocess.DEVNULL)


def main() -> None:
    flags = tyro.cli(Flags)
    with tempfile.TemporaryDirectory() as folder:
        broken, whole, kills = Path(folder) / "broken", Path(folder) / "whole", 0
        while True:
            process = start(flags, broken, flags.save)
            try:
                code = process.wait(flags.every)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                continue
            if code:
                sys.exit(f"it ended with {code}")
            break
        began = time.monotonic()
        if start(flags, whole, "never").wait():
            sys.exit("the unbroken run failed")
        spent = time.monotonic() - began
        if store.contents(broken) != store.contents(whole):
            sys.exit("the bits differ")
        (log,) = broken.glob("*/log.jsonl")
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        waits = [line["seconds"] for line in lines if line["event"] == "kept"]
        resumed = [line["step"] for line in lines if line["event"] == "resumed"]
    print(
        f"{kills} kills, resumed at {resumed}; bit-identical to the unbroken run of "
        f"{spent:.0f} s\n{len(waits)} saves: the training waited "
        f"{statistics.median(waits):.3f} s for one (largest {max(waits):.3f}), "
        f"{100 * statistics.median(waits) / 600:.3f} % of ten minutes"
    )


if __name__ == "__main__":
    main()
