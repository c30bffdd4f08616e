"""A report of runs: one HTML file that needs nothing beside it.

Its figures answer where a script draws them, and stay as they are without one. The page
is found when it is first asked for: its tables are also shown in a terminal, which
needs no Matplotlib.
"""

from typing import TYPE_CHECKING

from lth.cli.report.tables import cells

if TYPE_CHECKING:
    from lth.cli.report.page import write

__all__ = ["cells", "write"]


def __getattr__(name: str):
    if name == "write":
        from lth.cli.report import page

        return page.write
    raise AttributeError(f"module 'lth.cli.report' has no attribute {name!r}")
