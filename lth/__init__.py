"""A laboratory for lottery tickets in JAX.

The packages are `lth.masks`, `lth.train`, `lth.lottery` and so on, found when they are
first asked for, as `open_run` is, so that `import lth` is instant.
"""

import importlib
from typing import TYPE_CHECKING

from lth.lab import compiler

if TYPE_CHECKING:
    from lth.lab.stored import open_run

__version__ = "0.1.0"
__all__ = ["open_run"]
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

compiler.guard()


def __getattr__(name: str):
    if name == "open_run":
        from lth.lab.stored import open_run

        return open_run
    if name in PACKAGES:
        return importlib.import_module(f"lth.{name}")
    raise AttributeError(f"module 'lth' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, *PACKAGES])
