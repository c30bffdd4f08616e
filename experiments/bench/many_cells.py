"""What a sweep costs beside its training: 10, 100 and 1 000 tiny cells.

    python experiments/bench/many_cells.py [--counts 10 100 1000] [--jobs 2]

Each cell is an MLP of 64-4-10 on digits, four steps and one level: nothing is trained
worth speaking of, so that what is left is the sweep's own. Cells of one kind differ in
their first replicate and share what was compiled; those of the other kind differ in the
rate of pruning, and each is built and traced anew (`--kind settings`). Every count is a
process of its own. Told are seconds, files, kilobytes and locks a cell, memory of the
process at its end, and what it takes to skip all cells, to say how far they are, and to
make one table of them. The slopes, in the last lines, are between the counts.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import tyro

import lth
from lth.lab.devices import memory

TINY = {
    "model.widths": [4],
    "steps": "4it",
    "eval_every": "4it",
    "levels": 1,
    "replicates": 1,
    "prune.rates": "",
}


@dataclass(frozen=True)
class Flags:
    """How many cells, and of which kind."""

    counts: tuple[int, ...] = (10, 100, 1000)
    kind: Literal["seeds", "settings"] = "seeds"
    jobs: int = 1  # processes that train at once
    one: int = 0
    """Be the process that sweeps so many cells."""


def cells(count: int, kind: str) -> dict[str, Any]:
    """Make so many tiny cells."""
    if kind == "seeds":
        each = [{"first_replicate": i} for i in range(count)]
    else:
        each = [{"prune.rate": (i + 1) / (count + 1)} for i in range(count)]
    return {f"c{i}": ("digits", TINY | changes) for i, changes in enumerate(each)}


def clock(call, *args, **named) -> tuple[float, Any]:
    """Return the seconds that a call takes, and what it returns."""
    began = time.perf_counter()
    result = call(*args, **named)
    return time.perf_counter() - began, result


def measured(flags: Flags) -> dict[str, float]:
    """Sweep so many cells, and measure."""
    sweeps = import_module("lth.lab.sweep")
    many, ended = cells(flags.one, flags.kind), []
    submit = lth.lab.serial if flags.jobs == 1 else lth.lab.pool(flags.jobs)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = {"submit": submit, "ended": ended.append}
        took, runs = clock(lth.sweep, many, folder, **options)
        held = memory.resident() / 2**20
        files = [
            p for p in folder.rglob("*") if p.is_file() and ".compiled" not in p.parts
        ]
        size = sum(file.stat().st_size for file in files)
        skipping, _ = clock(lth.sweep, many, folder)
        planning, planned = clock(sweeps.plan, many, folder)
        asking, _ = clock(sweeps.status, planned)
        joining, table = clock(sweeps.collected, runs)
    spent = sorted(one.seconds for one in ended)
    return {
        "cells": flags.one,
        "seconds": took,
        "of a cell": spent[len(spent) // 2],
        "files": len(files),
        "KB": size / 1e3,
        "locks": sum(file.name == "lock" for file in files),
        "memory MB": held,
        "skip": skipping,
        "plan": planning,
        "status": asking,
        "table": joining,
        "rows": len(table),
    }


def main(flags: Flags) -> None:
    """Measure each count in a process of its own, and print the slopes."""
    if flags.one:
        print(json.dumps(measured(flags)))
        return
    rows = []
    for count in flags.counts:
        command = [sys.executable, __file__, "--one", str(count), "--kind", flags.kind]
        command += ["--jobs", str(flags.jobs)]
        told = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(told.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows).set_index("cells")
    print(table.round(3).to_string())
    slopes = table.diff().div(table.index.to_series().diff(), axis=0).iloc[1:]
    print("more for each cell more:")
    print(slopes.round(4).to_string())
    print(f"{os.cpu_count()} cores, {flags.jobs} at work, kind {flags.kind}")


if __name__ == "__main__":
    main(tyro.cli(Flags))
