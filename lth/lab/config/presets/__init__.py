"""Experiments by name, each with its source and the points in which it differs."""

from lth.lab.config.presets import attention, images, lenet
from lth.lab.config.presets.preset import Preset
from lth.lab.config.presets.supermasks import SUPERMASKS

__all__ = ["ALIASES", "PRESETS", "SUPERMASKS", "Preset", "named"]

PRESETS = {**lenet.PRESETS, **images.PRESETS, **attention.PRESETS}

# One network has one name on the command line; runs of learned masks keep their own.
ALIASES = {f"conv{depth}": f"conv{depth}-cifar10" for depth in (2, 4, 6)}


def named(name: str) -> Preset | None:
    """The preset that a run goes by; a learned mask's is its preset and method."""
    learned = {
        f"{preset}-{method}": found
        for preset, methods in SUPERMASKS.items()
        for method, found in methods.items()
    }
    return (PRESETS | learned).get(name)
