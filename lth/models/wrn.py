"""Wide residual networks."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lth.models import layers


class Block(nn.Module):
    """Does normalisation, ReLU and a 3x3 convolution, twice, beside a shortcut.

    Where shapes differ the shortcut is a 1x1 convolution of the first activation.
    """

    filters: int
    stride: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        active = nn.relu(self.norm(name="norm_0")(x))
        y = self.conv(self.filters, 3, self.stride, name="conv_0")(active)
        y = nn.relu(self.norm(name="norm_1")(y))
        y = self.conv(self.filters, name="conv_1")(y)
        if x.shape != y.shape:
            x = self.conv(self.filters, 1, self.stride, name="shortcut")(active)
        return x + y


class WideResNet(nn.Module):
    """Is WRN-`depth`-`widen` for CIFAR (Zagoruyko & Komodakis 2016, arXiv:1605.07146).

    A 3x3 convolution of 16 filters, three segments of (depth - 4) / 6 blocks with 16,
    32 and 64 times `widen` filters, normalisation and ReLU, the mean over what remains,
    one dense layer. No dropout. WRN-16-4 has 2 748 890 parameters and WRN-22-2 1 079
    642. `width` multiplies every channel count, the first's included. Leaves: `stem`,
    `block_<segment>_<i>/conv_<j>`, `…/norm_<j>`, `…/shortcut`, `norm`, `output`.
    `remat` computes each block again in the backward pass.
    """

    depth: int = 16
    widen: int = 4
    classes: int = 10
    width: float = 1
    initialiser: str = "kaiming_normal"
    norm_scale: str = "ones"
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Return logits [batch, classes] of images [batch, h, w, c]."""
        if self.depth < 10 or self.depth % 6 != 4:
            raise ValueError(f"the depth of WideResNet is 6 n + 4; got {self.depth}")
        conv, norm, dense = layers.makers(self, train)
        block = nn.remat(Block) if self.remat else Block
        x = conv(layers.channels(16, self.width), name="stem")(inputs)
        for segment in range(3):
            filters = layers.channels(16 * 2**segment * self.widen, self.width)
            for i in range(self.depth // 6):
                stride = 2 if segment and not i else 1
                name = f"block_{segment}_{i}"
                x = block(filters, stride, conv, norm, name=name)(x)
        x = jnp.mean(nn.relu(norm(name="norm")(x)), (1, 2))
        return dense(self.classes, name="output")(x).astype(jnp.float32)
