"""LeNet-5, the convolutional network of the pruning literature on MNIST."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lth.models import layers


class LeNet5(nn.Module):
    """Has 5x5 convolutions of 20 and 50 filters, each pooled, then 500 and `classes`.

    This is the variant that Caffe made common and that Han et al. (2015,
    arXiv:1506.02626) prune: 430 500 weights and 580 biases on 28 x 28 x 1. The network
    of LeCun et al. (1998) has 6 and 16 filters, partial connections between maps, and
    trained subsampling. Unlike Caffe's, the convolutions are followed by ReLU too.
    Leaves: `conv_0`, `conv_1`, `hidden_0`, `output`.
    """

    classes: int = 10
    width: float = 1
    initialiser: str = "glorot_normal"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Return logits [batch, classes] of images [batch, h, w, c].

        They are the same in training.
        """
        options: dict[str, Any] = {"initialiser": self.initialiser, "dtype": self.dtype}
        x = inputs
        for i, count in enumerate((20, 50)):
            filters = layers.channels(count, self.width)
            conv = layers.conv(
                filters, 5, name=f"conv_{i}", use_bias=True, padding=0, **options
            )
            x = layers.max_pool(nn.relu(conv(x)))
        x = x.reshape(x.shape[0], -1)
        hidden = layers.channels(500, self.width)
        x = nn.relu(layers.dense(hidden, name="hidden_0", **options)(x))
        x = layers.dense(self.classes, name="output", **options)(x)
        return x.astype(jnp.float32)
