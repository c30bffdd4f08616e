"""Fully connected networks."""

from typing import Any

import flax.linen as nn
import jax

INITIALISERS: dict[str, Any] = {
    # Glorot & Bengio (2010): variance 2 / (fan_in + fan_out), truncated at two sigma.
    "glorot_normal": jax.nn.initializers.glorot_normal(),
    # He et al. (2015): variance 2 / fan_in. Untruncated, as PyTorch draws it.
    "kaiming_normal": jax.nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
}


class MLP(nn.Module):
    """Dense layers with ReLU between them, `hidden_0` … and `output`; biases start at
    0.

    With `widths` (300, 100) on 784 inputs and 10 outputs this is LeNet-300-100 (LeCun
    et al. 1998), of 266 200 prunable weights and 410 biases.
    """

    widths: tuple[int, ...] = (300, 100)
    outputs: int = 10
    initialiser: str = "glorot_normal"

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Logits [batch, outputs] of inputs [batch, ...]; the same in training."""
        init = INITIALISERS[self.initialiser]
        x = inputs.reshape(inputs.shape[0], -1)
        for i, width in enumerate(self.widths):
            x = nn.relu(nn.Dense(width, kernel_init=init, name=f"hidden_{i}")(x))
        return nn.Dense(self.outputs, kernel_init=init, name="output")(x)
