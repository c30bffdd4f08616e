"""What is wrong with the way an experiment learns masks."""

import dataclasses
from typing import NamedTuple

from lth.lab.config import ConfigError, Learn, Optimizer, Prune, Rewind
from lth.lab.config.parse import parse_steps

HIGHEST = ("edge_popup", "multi_prize")
FROZEN = ("bernoulli", *HIGHEST)  # the others train weights too
# Fields of `Learn` that only some methods have.
OF = {
    "keep": (*HIGHEST, "movement"),
    "scope": (*HIGHEST, "movement"),
    "rank": HIGHEST,
    "every": (*HIGHEST, "movement"),
    "rescale": FROZEN,
    "start": ("bernoulli", "hard_concrete"),
    "threshold": ("movement_soft",),
    "penalty": ("hard_concrete", "continuous", "movement_soft"),
}


class Outside(NamedTuple):
    """Holds what else a learned mask leaves without effect, or goes without."""

    levels: int
    controls: str
    checkpoint_at: str
    prune: Prune
    rewind: Rewind
    optimizer: Optimizer


def check(learn: Learn, data: str, e: Outside) -> None:
    """Refuse settings of `learn` that cannot be, or that nothing would look at."""
    none = Learn()
    for flag, value, good, allowed in (
        ("keep", learn.keep, 0 < learn.keep <= 1, "in (0, 1]"),
        ("every", learn.every, learn.every >= 1, "at least 1"),
        ("start", learn.start, 0 < learn.start < 1, "in (0, 1)"),
        ("threshold", learn.threshold, 0 < learn.threshold < 1, "in (0, 1)"),
        ("penalty", learn.penalty, 0 <= learn.penalty < float("inf"), "at least 0"),
    ):
        if not good:
            raise ConfigError(f"--learn.{flag} is {allowed}; got {value}")
    for name, methods in OF.items():
        given = getattr(learn, name) != getattr(none, name)
        if given and learn.method not in methods:
            raise ConfigError(
                f"--learn.{name} is of --learn.method {', '.join(methods)}; got "
                f"{learn.method}"
            )
    if learn.method == "none":
        if learn.optimizer != none.optimizer:
            raise ConfigError("--learn.optimizer goes with --learn.method")
        return
    at_start = Rewind(to=e.rewind.to)
    prune = dataclasses.replace(e.prune, include="", exclude="")
    for refused, why in (
        (
            e.levels > 0,
            f"--levels is 0: nothing is pruned after a mask is learned; got {e.levels} "
            "(in Python, lottery.imp takes its ticket as a start)",
        ),
        (
            prune != Prune(),
            "--prune is how weights are pruned, and here they are not: only "
            "--prune.include and --prune.exclude, what a mask covers, can be given",
        ),
        (
            parse_steps(e.rewind.to, 1, "--rewind.to") > 0 or e.rewind != at_start,
            "nothing is rewound: masks are learned for the initial weights, and "
            "--rewind stays as it is",
        ),
        (
            bool(e.checkpoint_at),
            "there is no dense training, and so no --checkpoint-at",
        ),
        (
            learn.method in FROZEN and e.optimizer != Optimizer() and not e.controls,
            "--optimizer moves nothing unless there are --controls; scores have "
            "--learn.optimizer",
        ),
        (
            data == "images",
            "masks are learned on data that a device holds, not on images",
        ),
    ):
        if refused:
            raise ConfigError(f"with --learn.method {learn.method}, {why}")
