"""VGG with batch normalisation, in its form for small images."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lth.models import layers

SEGMENTS = {  # convolutions in each of the five segments
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


class Block(nn.Module):
    """Does a 3x3 convolution with bias, batch normalisation, ReLU."""

    filters: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(self.filters, use_bias=True, name="conv_0")(x)
        return nn.relu(self.norm(name="norm_0")(x))


class VGG(nn.Module):
    """Is VGG-11, VGG-13, VGG-16 or VGG-19, by `depth`.

    Five segments of 64, 128, 256, 512 and 512 filters, max pooling between them, the
    mean over what remains, one dense layer. Simonyan & Zisserman (2015,
    arXiv:1409.1556) with batch normalisation and without their two hidden layers, as
    OpenLTH has it: 9 222 848, 9 407 168, 14 715 584 and 20 024 000 prunable weights on
    CIFAR-10. The biases of the convolutions do nothing before a normalisation and are
    there because its networks have them. Leaves: `block_<segment>_<i>/conv_0`,
    `…/norm_0` and `output`. `remat` computes each block again in the backward pass.
    """

    depth: int = 16
    classes: int = 10
    width: float = 1
    initialiser: str = "kaiming_normal"
    norm_scale: str = "ones"
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Return logits [batch, classes] of images [batch, h, w, c].

        These have 16 pixels or more.
        """
        if self.depth not in SEGMENTS:
            raise ValueError(f"the depth of VGG is in {[*SEGMENTS]}; got {self.depth}")
        conv, norm, dense = layers.makers(self, train)
        block = nn.remat(Block) if self.remat else Block
        x = inputs
        for segment, count in enumerate(SEGMENTS[self.depth]):
            filters = layers.channels(min(512, 64 * 2**segment), self.width)
            x = layers.max_pool(x) if segment else x
            for i in range(count):
                x = block(filters, conv, norm, name=f"block_{segment}_{i}")(x)
        x = jnp.mean(x, (1, 2))
        return dense(self.classes, name="output")(x).astype(jnp.float32)
