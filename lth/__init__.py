"""A laboratory for lottery tickets in JAX.

The packages are `lth.masks`, `lth.train`, `lth.lottery` and so on, found when they are
first asked for, as `run`, `build`, `make_recipe` and `open_run` are, so that
`import lth` is instant.
"""

import importlib
from typing import TYPE_CHECKING

from lth.lab import compiler

if TYPE_CHECKING:
    from lth.lab.build.compose import make_recipe
    from lth.lab.front import build, run
    from lth.lab.stored import open_run
    from lth.lab.sweep import sweep

__version__ = "0.1.0"
__all__ = ["build", "make_recipe", "open_run", "run", "sweep"]
PACKAGES = (
    "masks",
    "models",
    "data",
    "results",
    "criteria",
    "train",
    "supermask",
    "compress",
    "plot",
    "lottery",
    "dynamic",
    "analysis",
    "lab",
)

FUNCTIONS = {
    "build": "lth.lab.front",
    "make_recipe": "lth.lab.build.compose",
    "open_run": "lth.lab.stored",
    "run": "lth.lab.front",
    "sweep": "lth.lab.sweep",
}

compiler.guard()


def __getattr__(name: str):
    if name in FUNCTIONS:
        return getattr(importlib.import_module(FUNCTIONS[name]), name)
    if name in PACKAGES:
        return importlib.import_module(f"lth.{name}")
    raise AttributeError(f"module 'lth' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, *PACKAGES])
