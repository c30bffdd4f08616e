"""A small vision transformer."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lth.models import attention, layers


class ViT(nn.Module):
    """Is the vision transformer of Dosovitskiy et al. (2021), at a size for CIFAR.

    arXiv:2010.11929. Square patches become vectors of 64 * `width` for each head;
    learned positions, N(0, 0.02²), are added; `depth` blocks, normalisation, the mean
    over patches in place of a class token, one dense layer. No dropout. Prunable are
    all kernels: at the defaults 2 665 344 weights. The positions, `position`, are no
    kernel and are never pruned. Other leaves: `stem`, `block_<i>/…` of
    `attention.Block`, `norm`, `output`. `remat` computes each block again in the
    backward pass.
    """

    depth: int = 6
    heads: int = 3
    patch: int = 4
    classes: int = 10
    width: float = 1
    initialiser: str = "glorot_normal"
    norm_scale: str = "ones"
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Return logits [batch, classes] of images [batch, h, w, c].

        Patches divide h and w.
        """
        options = {"initialiser": self.initialiser, "dtype": self.dtype}
        dense = functools.partial(layers.dense, **options)
        norm = functools.partial(
            layers.layer_norm, norm_scale=self.norm_scale, dtype=self.dtype
        )
        block = nn.remat(attention.Block) if self.remat else attention.Block
        dim = self.heads * layers.channels(64, self.width)
        x = dense(dim, name="stem")(patches(inputs, self.patch))
        normal = nn.initializers.normal(0.02)
        position = self.param("position", normal, x.shape[1:])
        x = x + position[None].astype(self.dtype)
        for i in range(self.depth):
            x = block(self.heads, dense, norm, name=f"block_{i}")(x)
        x = jnp.mean(norm(name="norm")(x), 1)
        return dense(self.classes, name="output")(x).astype(jnp.float32)


def patches(images: jax.Array, size: int) -> jax.Array:
    """Cut images [b, h, w, c] into patches [b, patches, size * size * c], row by row.

    A dense layer on them is the strided convolution of the paper.
    """
    b, h, w, c = images.shape
    if h % size or w % size:
        raise ValueError(f"patches of {size} pixels do not divide images of {h} x {w}")
    x = images.reshape(b, h // size, size, w // size, size, c)
    return x.swapaxes(2, 3).reshape(b, -1, size * size * c)
