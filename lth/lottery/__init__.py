"""The lottery: prune, rewind, retrain, again and again."""

from lth.lottery.loop import (
    Prune,
    Ticket,
    Train,
    imp,
    prune_once,
    prune_untrained,
)

__all__ = [
    "Prune",
    "Ticket",
    "Train",
    "imp",
    "prune_once",
    "prune_untrained",
]
