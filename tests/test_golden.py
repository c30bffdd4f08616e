"""Golden runs: three small experiments whose every bit is known.

They guard the bits of the built-in presets through changes that are not to change any.
Bits depend on what compiles and on what runs, so `golden.json` holds digests by jaxlib
version and processor; where neither is recorded, counts must agree exactly and
accuracies nearly. When a change is meant to change bits, say so in its commit and

    python -m tests.test_golden     # records this machine's
"""

import hashlib
import json
import os
import platform
import sys
import tempfile
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import jax
import numpy as np
import pytest

import lth
from lth import lottery, train
from lth.lab import store
from lth.lab.config.presets import PRESETS, SUPERMASKS
from tests.conftest import start

FILE = Path(__file__).with_name("golden.json")
DIGITS = PRESETS["digits"].experiment.data
RUNS = {
    "digits": replace(
        PRESETS["digits"].experiment,
        steps="200it",
        eval_every="100it",
        levels=2,
        replicates=2,
        controls="reinit,shuffle",
    ),
    "digits-edge_popup": replace(
        SUPERMASKS["digits"]["edge_popup"].experiment,
        steps="200it",
        eval_every="100it",
        levels=0,
        replicates=2,
        controls="train",
    ),
    # On digits, so that it needs no download.
    "conv2": replace(
        PRESETS["conv2"].experiment,
        data=DIGITS,
        model=replace(PRESETS["conv2"].experiment.model, width=0.1),
        steps="60it",
        eval_every="30it",
        levels=2,
        replicates=2,
    ),
}


def processor() -> str:
    """What the bits of a program depend on beside its compiler, as far as is known."""
    name = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line.split(":") for line in info.read_text().splitlines()]
        facts = {line[0].strip(): line[1].strip() for line in lines if len(line) == 2}
        wide = [w for w in ("avx2", "avx512f") if w in facts.get("flags", "").split()]
        name = " ".join([facts.get("model name", name), *wide])
    return f"jaxlib {metadata.version('jaxlib')}, {name}, {os.cpu_count()} cores"


def digest(*trees) -> str:
    """A hash of the arrays of trees, their types and shapes, in order."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(trees):
        array = np.asarray(leaf)
        total.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return total.hexdigest()[:16]


def kept(mask) -> list[int]:
    """How many weights the mask of each replicate keeps."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(mask)]
    return sum(leaf.reshape(len(leaf), -1).sum(1) for leaf in leaves).tolist()


def whole(unit: Path, level: int) -> lottery.Ticket:
    """A stored ticket in the structure it had when it was stored, its optimizer too."""
    ticket = store.load(unit, level)
    fields = (ticket.state[name] for name in train.TrainState._fields)
    return ticket._replace(state=train.TrainState(*fields))


def facts(name: str, folder: Path) -> dict:
    """What a run holds: digests of its tickets and table, counts and accuracies."""
    run = lth.open_run(start(RUNS[name], name, folder).path)
    folders = {"ticket": run.path, **store.branches(run.path)}
    tickets = {
        f"{variant} {level}": whole(unit, level)
        for variant, unit in sorted(folders.items())
        for level in sorted(store.stored(unit))
    }
    columns = ["variant", "replicate", "level", "step", "split", "metric"]
    # Its index, part of the digest, counts rows level by level.
    table = run.table.sort_values("level", kind="stable", ignore_index=True)
    table = table.sort_values(columns)[[*columns, "value"]]
    last = table[(table.metric == "accuracy") & (table.split == "test")]
    last = last[last.step == last.step.max()]
    return {
        "id": run.path.name,
        "digests": {
            **{n: digest(t.mask, t.state) for n, t in tickets.items()},
            "table": hashlib.sha256(table.to_csv().encode()).hexdigest()[:16],
        },
        "kept": {n: kept(t.mask) for n, t in tickets.items()},
        "accuracy": {
            f"{v} {level}": round(float(rows.value.mean()), 4)
            for (v, level), rows in last.groupby(["variant", "level"])
        },
    }


@pytest.mark.parametrize("name", RUNS)
def test_the_bits_are_the_ones_recorded(name, tmp_path):
    recorded, now = json.loads(FILE.read_text()), facts(name, tmp_path)
    known = recorded.get(processor())
    expected = (known or next(iter(recorded.values())))[name]
    assert now["id"] == expected["id"]
    assert now["kept"] == expected["kept"]
    if known:
        assert now["digests"] == expected["digests"]
    assert now["accuracy"] == pytest.approx(expected["accuracy"], abs=0.05)


if __name__ == "__main__":
    recorded = json.loads(FILE.read_text()) if FILE.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        recorded[processor()] = {name: facts(name, Path(folder)) for name in RUNS}
    FILE.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")
    sys.stdout.write(f"recorded {processor()}\n")
