"""What a preset is."""

from typing import NamedTuple

from lth.config import Experiment


class Preset(NamedTuple):
    """An experiment worth a name."""

    experiment: Experiment
    title: str
    differs: str  # from its source, by what


COUNTS = (
    "densities are powers of the kept fraction of the whole, not of what rounding left"
)
