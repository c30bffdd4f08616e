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


def brief(e: Experiment, of: str, size: str, smaller: str, **model) -> Preset:
    """Make a preset of an experiment for two cores.

    Args:
      e: The experiment.
      of: The name of its preset.
      size: The size of the network, as in `at half its width`.
      smaller: How that differs, as in `half the channels`.
      **model: What does: fields of `Model`.

    Returns:
      The preset: shorter, rewound earlier, with fewer levels and replicates.
    """
    o, rewinds = e.optimizer, e.rewind.to != "0"
    shorter = replace(
        e,
        model=replace(e.model, **model),
        optimizer=replace(
            o,
            milestones="600it,900it" if o.milestones else "",
            warmup="100it" if o.warmup != "0" else "0",
        ),
        rewind=Rewind(to="100it" if rewinds else "0"),
        steps="1200it",
        eval_every="300it",
        levels=2,
        replicates=1,
    )
    told = [
        f"{smaller}, 1 200 iterations, measured every 300",
        "learning rate with milestones at 600 and 900" if o.milestones else "",
        "with a warmup of 100" if o.warmup != "0" else "",
        "rewound to 100" if rewinds else "",
        "1 replicate, 2 levels",
    ]
    differs = f"{', '.join(filter(None, told))}; else as {of}"
    return Preset(shorter, f"{of} {size}, briefly", differs)
