"""The scaled-down VGG networks of the lottery ticket papers."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lth.models import layers


class Conv(nn.Module):
    """Is Conv-2, Conv-4, Conv-6 or Conv-8, by `depth`.

    Pairs of 3x3 convolutions with 64, 128, 256 and 512 filters, max pooling after each
    pair, then dense layers of 256, 256 and `classes`; ReLU between, biases throughout.
    Frankle & Carbin (2019, arXiv:1803.03635), figure 2; Conv-8 is of Ramanujan et al.
    (2020, arXiv:1911.13299). On CIFAR-10 they have 4 300 992, 2 425 024, 2 261 184 and
    5 275 840 prunable weights. Leaves: `conv_0` …, `hidden_0`, `hidden_1`, `output`.
    """

    depth: int = 2
    classes: int = 10
    width: float = 1
    initialiser: str = "glorot_normal"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Return logits [batch, classes] of images [batch, h, w, c].

        They are the same in training.
        """
        if self.depth not in (2, 4, 6, 8):
            raise ValueError(f"the depth of Conv is 2, 4, 6 or 8; got {self.depth}")
        options: dict[str, Any] = {"initialiser": self.initialiser, "dtype": self.dtype}
        x = inputs
        for i in range(self.depth):
            filters = layers.channels(64 * 2 ** (i // 2), self.width)
            conv = layers.conv(filters, name=f"conv_{i}", use_bias=True, **options)
            x = nn.relu(conv(x))
            if i % 2:
                x = layers.max_pool(x)
        x = x.reshape(x.shape[0], -1)
        for i in range(2):
            hidden = layers.channels(256, self.width)
            x = nn.relu(layers.dense(hidden, name=f"hidden_{i}", **options)(x))
        x = layers.dense(self.classes, name="output", **options)(x)
        return x.astype(jnp.float32)
