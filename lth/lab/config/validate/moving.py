"""What is wrong with the way a mask changes in training."""

from typing import NamedTuple

from lth.lab.config import ConfigError, Dynamic
from lth.lab.config.parse import parse_steps

UPDATED = ("gradual", "rigl", "sparse_evolution")  # between a first and a last step
FORWARD = ("straight_through", "top_kast")
# Fields that only some rules have.
OF = {
    "density": ("static", "ac_dc", *UPDATED, *FORWARD),
    "scope": ("static", *UPDATED, *FORWARD),
    "begin": ("ac_dc", *UPDATED),
    "end": UPDATED,
    "every": ("ac_dc", *UPDATED, *FORWARD),
    "drop": ("rigl", "sparse_evolution"),
    "backward": ("top_kast",),
    "decay": ("top_kast",),
    "start": ("soft_threshold",),
}


class Outside(NamedTuple):
    """Holds what else a mask that changes in training leaves without effect."""

    levels: int
    checkpoint_at: str
    learn: str
    data: str
    rewind_to: str


def check(d: Dynamic, e: Outside) -> None:
    """Refuse settings of `dynamic` that cannot be, or that nothing would look at."""
    none, every = Dynamic(), parse_steps(d.every, 1, "--dynamic.every")
    for flag, value, good, allowed in (
        ("density", d.density, 0 < d.density <= 1, "in (0, 1]"),
        ("drop", d.drop, 0 <= d.drop <= 1, "in [0, 1]"),
        ("backward", d.backward, d.backward <= 1, "in [--dynamic.density, 1]"),
        ("decay", d.decay, 0 <= d.decay < float("inf"), "at least 0"),
        ("every", d.every, every >= 1, "at least 1"),
    ):
        if not good:
            raise ConfigError(f"--dynamic.{flag} is {allowed}; got {value}")
    for name, rules in OF.items():
        if getattr(d, name) != getattr(none, name) and d.rule not in rules:
            raise ConfigError(
                f"--dynamic.{name} is of --dynamic.rule {', '.join(rules)}; got "
                f"{d.rule}"
            )
    if d.rule == "none":
        return
    for refused, why in (
        (
            d.rule == "top_kast" and d.backward < d.density,
            f"--dynamic.backward is at least --dynamic.density {d.density}; got "
            f"{d.backward}",
        ),
        (
            d.scope == "global" and d.rule not in ("gradual", *FORWARD),
            "each layer has a density: choose --dynamic.scope layer, er or erk",
        ),
        (
            e.levels > 0,
            f"--levels is 0: the mask is that of the training; got {e.levels}",
        ),
        (
            parse_steps(e.rewind_to, 1, "--rewind.to") > 0,
            f"nothing is rewound: --rewind.to is 0; got {e.rewind_to}",
        ),
        (bool(e.checkpoint_at), "there is no dense training, so no --checkpoint-at"),
        (e.learn != "none", "--learn.method is another way to a mask: give one"),
        (e.data == "images", "data lie on the device, and images are streamed"),
    ):
        if refused:
            raise ConfigError(f"with --dynamic.rule {d.rule}, {why}")
