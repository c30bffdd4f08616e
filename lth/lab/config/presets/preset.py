"""What a preset is."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

from lth.lab.config import Experiment, Rewind


class Preset(NamedTuple):
    """An experiment that has a name."""

    experiment: Experiment
    title: str
    differs: str  # from its source, by what
    # What the source has, by field, where that is known: a test holds `differs` to it.
    # Steps are in iterations, since epochs are shorter without what is held out.
    published: Mapping[str, Any] = MappingProxyType({})


COUNTS = (
    "densities are powers of the kept fraction of the whole, not of what rounding left"
)
HELD_OUT = "5 000 images are held out for validation"
LAST_BATCH = "the last short batch of an epoch is filled from the next one"


def brief(e: Experiment, **model) -> Experiment:
    """`e` for two cores: as `BRIEF` says, its network with other fields of `Model`."""
    o = e.optimizer
    return replace(
        e,
        model=replace(e.model, **model),
        optimizer=replace(
            o,
            milestones="600it,900it" if o.milestones else "",
            warmup="100it" if o.warmup != "0" else "0",
        ),
        rewind=Rewind(to="100it" if e.rewind.to != "0" else "0"),
        steps="1200it",
        eval_every="300it",
        levels=2,
        replicates=1,
    )


def in_brief(e: Experiment) -> str:
    """Say what `brief` makes of `e`, but for its network."""
    schedule = "learning rate with milestones at 600 and 900, "
    parts = [
        "1 200 iterations, measured every 300, ",
        schedule if e.optimizer.milestones else "",
        "with a warmup of 100, " if e.optimizer.warmup != "0" else "",
        "rewound to 100, " if e.rewind.to != "0" else "",
        "1 replicate, 2 levels",
    ]
    return "".join(parts)
