"""Masks that change in training, as Optax transformations."""

from lth.dynamic import forward, rules
from lth.dynamic.rules import (
    Drop,
    ac_dc,
    constant_drop,
    cosine_drop,
    gradual,
    power_drop,
    rigl,
    sparse_evolution,
    static,
)
from lth.dynamic.structured import srigl
from lth.dynamic.transform import (
    GATES,
    Log,
    Rule,
    SparseState,
    masked,
    records,
    sparsify,
    state_of,
)

__all__ = [
    "GATES",
    "Drop",
    "Log",
    "Rule",
    "SparseState",
    "ac_dc",
    "constant_drop",
    "cosine_drop",
    "forward",
    "gradual",
    "masked",
    "power_drop",
    "records",
    "rigl",
    "rules",
    "sparse_evolution",
    "sparsify",
    "srigl",
    "state_of",
    "static",
]
