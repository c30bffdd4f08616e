"""Tables of measured values: tidy rows, stored, read and summarised."""

from lth.results.statistics import (
    down_to,
    early_stop,
    final,
    interval,
    matching,
    score,
    summary,
)
from lth.results.table import (
    COLUMNS,
    SCORES,
    TICKET,
    Stored,
    append,
    keep,
    read,
    rows,
)

__all__ = [
    "COLUMNS",
    "SCORES",
    "TICKET",
    "Stored",
    "append",
    "down_to",
    "early_stop",
    "final",
    "interval",
    "keep",
    "matching",
    "read",
    "rows",
    "score",
    "summary",
]
