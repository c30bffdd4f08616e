"""Many cells at once: one after another, together, and as replicates of one run.

    python experiments/bench/together.py --data-dir DATA [--cells 1 8 64] [--repeats 3]

Each cell is LeNet-300-100 on MNIST with one replicate, `--steps` steps and one level;
cells differ in their first replicate. Each way is a process of its own, which sweeps
twice, so that the second time is without tracing and compiling; told are seconds of
that, and ratios to one cell after another.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import pandas as pd
import tyro

import lth

WAYS = ("one after another", "together", "replicates")


@dataclass(frozen=True)
class Flags:
    """How many cells, and how long each is."""

    data_dir: Path | None = None
    cells: tuple[int, ...] = (8,)
    steps: int = 500
    repeats: int = 3
    preset: str = "lenet-mnist"
    way: str = ""
    """Be the process that sweeps this way."""


def measured(flags: Flags) -> float:
    """Sweep twice, and return the seconds of the second time."""
    (count,), own = flags.cells, {"steps": f"{flags.steps}it", "levels": 1}
    own |= {"eval_every": own["steps"], "controls": "", "checkpoint_at": ""}
    alone = {
        f"c{i}": own | {"first_replicate": i, "replicates": 1} for i in range(count)
    }
    cells = alone if flags.way != "replicates" else {"c": own | {"replicates": count}}
    submit = lth.lab.together() if flags.way == "together" else lth.lab.serial
    took = 0.0
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            every = {cell: (flags.preset, changes) for cell, changes in cells.items()}
            lth.sweep(every, folder, submit=submit, data_dir=flags.data_dir)
            took = time.perf_counter() - began
    return took


def main(flags: Flags) -> None:
    """Print a row for each number of cells and way."""
    if flags.way:
        print(json.dumps([measured(flags), jax.devices()[0].device_kind]))
        return
    rows, device = [], ""
    for count in flags.cells:
        for repeat in range(flags.repeats):
            for way in WAYS:
                one = replace(flags, cells=(count,), way=way)
                told = subprocess.run(
                    [sys.executable, __file__, *arguments(one)],
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
                seconds, device = json.loads(told.stdout.splitlines()[-1])
                rows.append((count, repeat, way, seconds))
    table = pd.DataFrame(rows, columns=["cells", "repeat", "way", "seconds"])
    wide = table.pivot(index=["cells", "repeat"], columns="way", values="seconds")
    for way in WAYS:
        wide[f"{way}, ratio"] = wide[way] / wide[WAYS[0]]
    told = wide.groupby("cells").agg(["min", "median", "max"]).T
    print(told.round(2).to_string())
    print(f"{flags.preset}, {flags.steps} steps, n = {flags.repeats}, {device}")


def arguments(flags: Flags) -> list[str]:
    """Write flags as the command line of a process."""
    place = ["--data-dir", str(flags.data_dir)] if flags.data_dir else []
    numbers = ["--cells", str(flags.cells[0]), "--steps", str(flags.steps)]
    return [*place, *numbers, "--preset", flags.preset, "--way", flags.way]


if __name__ == "__main__":
    main(tyro.cli(Flags))
