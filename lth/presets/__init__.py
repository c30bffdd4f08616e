"""Experiments by name, each with its source and the points in which it differs."""

from lth.presets import attention, images, lenet
from lth.presets.preset import Preset

__all__ = ["PRESETS", "Preset"]

PRESETS = {**lenet.PRESETS, **images.PRESETS, **attention.PRESETS}
