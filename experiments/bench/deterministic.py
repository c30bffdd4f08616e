"""What a fixed order of sums costs on a GPU, and whether it gives the same bits.

    python experiments/bench/deterministic.py --preset resnet20-fast

One training is run three times without and three times with `--deterministic`, in
turns, each in a process of its own with its own folder and one compile cache. On a CPU
both give the same bits and the ratio tells the noise of the machine.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from lth.lab import store
from lth.lab.store import checkpoint


@dataclass(frozen=True)
class Flags:
    """What is trained, and how often."""

    preset: str = "resnet20-fast"
    steps: int = 400
    """A tenth of them is trained before the clock starts."""
    times: int = 3


def trained(
    flags: Flags, runs: Path, cache: Path, extra: list[str]
) -> tuple[str, float]:
    """A digest of the dense ticket, and the seconds of all but the first tenth."""
    every = flags.steps // 10
    command = f"run {flags.preset} --steps {flags.steps}it --eval-every {every}it"
    command += f" --levels 0 --quiet --rewind.to 0it --runs {runs}"
    env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    args = [sys.executable, "-m", "lth", *command.split(), *extra]
    subprocess.run(args, check=True, env=env, stdout=subprocess.DEVNULL)
    (run,) = (path.parent for path in runs.glob("*/config.json"))
    times = [line["time"] for line in store.logged(run, "measured")]
    return checkpoint.digest(store.load_tree(run, "level_00")), times[-1] - times[0]


def main() -> None:
    flags = tyro.cli(Flags)
    ways = {"free": [], "fixed": ["--deterministic"]}
    digests: dict[str, set[str]] = {way: set() for way in ways}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(flags.times):
            for way, extra in ways.items():
                runs = Path(folder) / f"{way}{i}"
                digest, spent = trained(flags, runs, Path(folder) / "cache", extra)
                digests[way].add(digest)
                seconds[way].append(spent)
    for way in ways:
        same = "the same bits" if len(digests[way]) == 1 else "DIFFERENT bits"
        times = ", ".join(f"{s:.2f}" for s in seconds[way])
        print(f"{way:6} {same} in {flags.times} runs; {times} s")
    ratios = [b / a for a, b in zip(seconds["free"], seconds["fixed"], strict=True)]
    print(f"fixed over free: {statistics.median(ratios):.3f} (median of {len(ratios)})")


if __name__ == "__main__":
    main()
