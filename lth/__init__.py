"""A laboratory for lottery tickets in JAX.

The functions live in modules: `lth.masks`, `lth.train`, `lth.lottery` and so on. Only
`open_run` stands here, for notebooks; it is found lazily so that `import lth` is
instant.
"""

from typing import TYPE_CHECKING

from lth import _compiler

if TYPE_CHECKING:
    from lth.runs import open_run

__version__ = "0.1.0"
__all__ = ["open_run"]

_compiler.guard()


def __getattr__(name: str):
    if name == "open_run":
        from lth.runs import open_run

        return open_run
    raise AttributeError(f"module 'lth' has no attribute {name!r}")
