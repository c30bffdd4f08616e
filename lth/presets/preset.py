"""What a preset is."""

from dataclasses import replace
from typing import NamedTuple

from lth.config import Experiment, Rewind


class Preset(NamedTuple):
    """An experiment worth a name."""

    experiment: Experiment
    title: str
    differs: str  # from its source, by what


COUNTS = (
    "densities are powers of the kept fraction of the whole, not of what rounding left"
)
BRIEF = "1 200 iterations, 1 replicate, 2 levels, rewound to at most 100"


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
