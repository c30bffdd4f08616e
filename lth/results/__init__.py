"""Tables of measured values: tidy rows, stored, read and summarised."""

from lth.results.statistics import (
    around,
    down_to,
    early_stop,
    final,
    interval,
    matching,
    paired,
    score,
    summary,
    text,
)
from lth.results.table import (
    COLUMNS,
    SCORES,
    TICKET,
    append,
    as_text,
    from_text,
    keep,
    read,
    rows,
)

__all__ = [
    "COLUMNS",
    "SCORES",
    "TICKET",
    "append",
    "around",
    "as_text",
    "down_to",
    "early_stop",
    "final",
    "from_text",
    "interval",
    "keep",
    "matching",
    "paired",
    "read",
    "rows",
    "score",
    "summary",
    "text",
]
