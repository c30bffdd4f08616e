"""What each criterion needs, in words: every refusal follows from it.

Nothing here imports JAX: what is refused is refused before it is loaded.
"""

from typing import get_args

from lth.lab.config.fields import Moved

MOVED: tuple[str, ...] = get_args(Moved)

# examples: training examples to look at · loss: asked on batches, so in either mode ·
# activations: what meets each kernel · channels: scores what a layer reads, alike for
# all its outputs · adam: what Adam has seen · training: weights before and after one ·
# weights: excludes single weights, whatever is pruned with them · relu: a network of
# ReLUs · float64: may overflow float32
NEEDS: dict[str, tuple[str, ...]] = {
    "magnitude": (),
    "normalised_magnitude": (),
    "standardised_magnitude": (),
    "lamp": (),
    "random": (),
    "gradient_magnitude": ("examples", "loss"),
    "weight_gradient": ("examples", "loss"),
    "snip": ("examples", "loss"),
    "grasp": ("examples", "loss"),
    "synflow": ("relu", "float64"),
    "fisher": ("examples",),
    "hessian": ("examples", "loss"),
    "adam_second_moment": ("adam",),
    "wanda": ("examples", "activations"),
    "activation_magnitude": ("examples", "activations"),
    "mean_activation": ("examples", "activations", "channels"),
    "nonzero_share": ("examples", "activations", "channels"),
    **dict.fromkeys(MOVED, ("training",)),
    **{name: ("training", "weights") for name in MOVED if name.endswith("_sign")},
}


def has(criterion: str, what: str) -> bool:
    """Return whether a criterion needs one of the above."""
    return what in NEEDS[criterion]


def needing(what: str) -> tuple[str, ...]:
    """Return the criteria that need it."""
    return tuple(name for name, all_needs in NEEDS.items() if what in all_needs)
