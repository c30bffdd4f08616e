"""Fully connected networks."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lth.models import layers


class MLP(nn.Module):
    """Has dense layers with ReLU between them, whose biases start at 0.

    With `widths` (300, 100) on 784 inputs and 10 classes this is LeNet-300-100 (LeCun
    et al. 1998), of 266 200 prunable weights and 410 biases. Leaves: `hidden_0` … and
    `output`.
    """

    widths: tuple[int, ...] = (300, 100)
    classes: int = 10
    initialiser: str = "glorot_normal"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Return logits [batch, classes] of inputs [batch, ...], alike in training."""
        options = {"initialiser": self.initialiser, "dtype": self.dtype}
        x = inputs.reshape(inputs.shape[0], -1)
        for i, width in enumerate(self.widths):
            x = nn.relu(layers.dense(width, name=f"hidden_{i}", **options)(x))
        x = layers.dense(self.classes, name="output", **options)(x)
        return x.astype(jnp.float32)
