"""Cells of sweeps for tests: small, and some that end their process."""

import os
import signal
from functools import partial
from pathlib import Path

import jax
import numpy as np

from lth.lab.cells import Done, Job
from lth.lab.stored import Run
from tests import own

SETTINGS = {
    "model.widths": [8],
    "steps": "20it",
    "eval_every": "10it",
    "levels": 1,
    "replicates": 2,
    "rewind.to": "5it",
}


def cell(**changes) -> tuple[str, dict]:
    """A cell of digits, with these settings besides; `_` for the dot of a section."""
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return "digits", SETTINGS | dotted


def grid(*firsts: int) -> dict:
    """Two criteria for each first replicate."""
    return {
        f"{criterion}, {first}": cell(prune__criterion=criterion, first_replicate=first)
        for criterion in ("magnitude", "random")
        for first in firsts
    }


def small(width: int = 6):
    """A recipe of one's own."""
    return own.recipe(width)


def dies_once(marker: str):
    """The same, but the first process that makes it is killed."""
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return own.recipe()


def dying(marker: Path):
    """A cell whose first process is killed."""
    return partial(dies_once, str(marker))


def tells(job: Job) -> Done:
    """The work of a cell that trains nothing and says which process had it."""
    return Done(job.cell, "finished", job.path, str(os.getpid()))


def differences(one: Run, other: Run) -> list[str]:
    """Where the numbers of two runs are not the same bits."""
    found = (
        []
        if one.table.drop(columns="run").equals(other.table.drop(columns="run"))
        else ["table"]
    )
    for level in {*one.levels, *other.levels}:
        pairs = zip(
            jax.tree.leaves(one.ticket(level)._asdict()),
            jax.tree.leaves(other.ticket(level)._asdict()),
            strict=True,
        )
        if not all(np.array_equal(a, b, equal_nan=True) for a, b in pairs):
            found.append(f"level {level}")
    return found
