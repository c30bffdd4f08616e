"""Names to functions to a run: configure, build, train, store, open; and sweeps.

Who trains the cells of a sweep is here by name, found when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lth.lab.cluster import ray, slurm
    from lth.lab.submit import pool, serial, together

ENGINES = {
    "pool": "lth.lab.submit",
    "ray": "lth.lab.cluster",
    "serial": "lth.lab.submit",
    "slurm": "lth.lab.cluster",
    "together": "lth.lab.submit",
}
__all__ = ["pool", "ray", "serial", "slurm", "together"]


def __getattr__(name: str):
    if name in ENGINES:
        return getattr(importlib.import_module(ENGINES[name]), name)
    raise AttributeError(f"module 'lth.lab' has no attribute {name!r}")
