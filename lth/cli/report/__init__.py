"""A report of runs: one HTML file that needs nothing beside it.

Its figures answer where a script draws them, and stay as they are without one.
"""

from lth.cli.report.page import write
from lth.cli.report.tables import cells

__all__ = ["cells", "write"]
