"""Where programs run, what fits there, and what is kept of compiling."""

from lth.lab.devices.placement import (
    SHUTDOWN,
    JoinError,
    Plan,
    TypesError,
    agree,
    check_types,
    divided,
    first_process,
    join,
    plan,
    same,
    share,
    split_batch,
    spread,
    use_cores,
)

__all__ = [
    "SHUTDOWN",
    "JoinError",
    "Plan",
    "TypesError",
    "agree",
    "check_types",
    "divided",
    "first_process",
    "join",
    "plan",
    "same",
    "share",
    "split_batch",
    "spread",
    "use_cores",
]
