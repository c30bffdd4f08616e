"""Models: a pair of functions over trees, wherever they come from.

`lth` trains any `Model`. A Flax Linen module becomes one with `from_linen`, a Flax NNX
module with `from_nnx`; a plain pair of functions is one already. No model knows about
masks.
"""

from lth.models.adapters import Model, from_linen, from_nnx, standardized
from lth.models.mlp import INITIALISERS, MLP

__all__ = ["INITIALISERS", "MLP", "Model", "from_linen", "from_nnx", "standardized"]
