"""What may be said of an experiment, and what is refused. Nothing here imports JAX."""

from lth.lab.config.fields import (
    ABLATIONS,
    CONTROLS,
    EXTENDING,
    MASK_0,
    NORMS,
    SEEDS,
    ConfigError,
    Data,
    Dynamic,
    Experiment,
    Learn,
    Model,
    Moved,
    Optimizer,
    Prune,
    Rewind,
)

__all__ = [
    "ABLATIONS",
    "CONTROLS",
    "EXTENDING",
    "MASK_0",
    "NORMS",
    "SEEDS",
    "ConfigError",
    "Data",
    "Dynamic",
    "Experiment",
    "Learn",
    "Model",
    "Moved",
    "Optimizer",
    "Prune",
    "Rewind",
]
