"""Residual networks (He et al. 2016, arXiv:1512.03385), for small and large images.

In both, the shortcut is the identity where shapes agree, else a 1x1 convolution and a
normalisation (their option B). Leaves: `stem`, `stem_norm`,
`block_<segment>_<i>/conv_<j>`, `…/norm_<j>`, `…/shortcut`, `…/shortcut_norm`, `output`.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lth.models import layers


class Basic(nn.Module):
    """Has two 3x3 convolutions beside a shortcut; `conv` and `norm` make the layers."""

    filters: int
    stride: int
    conv: Any
    norm: Any
    project: bool = False  # even where shapes agree

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.filters, 3, self.stride, name="conv_0")(x)
        y = nn.relu(self.norm(name="norm_0")(y))
        y = self.norm(name="norm_1")(self.conv(self.filters, name="conv_1")(y))
        if self.project or x.shape != y.shape:
            x = self.conv(self.filters, 1, self.stride, name="shortcut")(x)
            x = self.norm(name="shortcut_norm")(x)
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """Has 1x1, 3x3 and 1x1 convolutions, the last four times as wide, and a shortcut.

    The stride is in the 3x3 convolution, as in torchvision; in the first 1x1 in He et
    al.
    """

    filters: int
    stride: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.filters, 1, name="conv_0")(x)
        y = nn.relu(self.norm(name="norm_0")(y))
        y = self.conv(self.filters, 3, self.stride, name="conv_1")(y)
        y = nn.relu(self.norm(name="norm_1")(y))
        y = self.conv(4 * self.filters, 1, name="conv_2")(y)
        y = self.norm(name="norm_2")(y)
        if x.shape != y.shape:
            x = self.conv(4 * self.filters, 1, self.stride, name="shortcut")(x)
            x = self.norm(name="shortcut_norm")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Is ResNet-20, -32, -44, -56 or -110 for CIFAR, by `depth`, which is 6 n + 2.

    A 3x3 convolution, three segments of n basic blocks with 16, 32 and 64 filters, the
    mean over what remains, one dense layer. He et al. pad their shortcuts with zeros;
    these project, as those of OpenLTH do: 270 896 prunable weights at depth 20. With
    `project_first` the first segment projects as well, as in the networks of Renda et
    al. (2020, arXiv:2003.02389): 271 152. `remat` computes each block again in the
    backward pass.
    """

    depth: int = 20
    classes: int = 10
    width: float = 1
    initialiser: str = "kaiming_normal"
    norm_scale: str = "ones"
    dtype: Any = jnp.float32
    remat: bool = False
    project_first: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Return logits [batch, classes] of images [batch, h, w, c]."""
        if self.depth < 8 or self.depth % 6 != 2:
            raise ValueError(f"the depth of ResNet is 6 n + 2; got {self.depth}")
        conv, norm, dense = layers.makers(self, train)
        block = nn.remat(Basic) if self.remat else Basic
        filters = layers.channels(16, self.width)
        x = nn.relu(norm(name="stem_norm")(conv(filters, name="stem")(inputs)))
        for segment in range(3):
            filters = layers.channels(16 * 2**segment, self.width)
            for i in range(self.depth // 6):
                stride = 2 if segment and not i else 1
                project = self.project_first and not i
                name = f"block_{segment}_{i}"
                x = block(filters, stride, conv, norm, project, name=name)(x)
        x = jnp.mean(x, (1, 2))
        return dense(self.classes, name="output")(x).astype(jnp.float32)


SEGMENTS = {  # the block, and how many in each of the four segments
    18: (Basic, (2, 2, 2, 2)),
    34: (Basic, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


class ImageNetResNet(nn.Module):
    """Is ResNet-18, -34 or -50 for ImageNet, by `depth`, in the layout of torchvision.

    A 7x7 convolution of stride 2, max pooling, four segments of 64, 128, 256 and 512
    filters, the mean over what remains, one dense layer: 11 678 912, 21 779 648 and 25
    502 912 prunable weights for 1000 classes. `remat` as in `ResNet`.
    """

    depth: int = 50
    classes: int = 1000
    width: float = 1
    initialiser: str = "kaiming_normal"
    norm_scale: str = "ones"
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Return logits [batch, classes] of images [batch, h, w, c].

        These have 224 pixels as a rule.
        """
        if self.depth not in SEGMENTS:
            raise ValueError(f"the depth is in {[*SEGMENTS]}; got {self.depth}")
        conv, norm, dense = layers.makers(self, train)
        block, counts = SEGMENTS[self.depth]
        block = nn.remat(block) if self.remat else block
        x = conv(layers.channels(64, self.width), 7, 2, name="stem")(inputs)
        x = layers.max_pool(nn.relu(norm(name="stem_norm")(x)), 3, padding=1)
        for segment, count in enumerate(counts):
            filters = layers.channels(64 * 2**segment, self.width)
            for i in range(count):
                stride = 2 if segment and not i else 1
                name = f"block_{segment}_{i}"
                x = block(filters, stride, conv, norm, name=name)(x)
        x = jnp.mean(x, (1, 2))
        return dense(self.classes, name="output")(x).astype(jnp.float32)
