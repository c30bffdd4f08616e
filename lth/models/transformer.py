"""A small decoder-only transformer for text."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lth.models import attention, layers


class Transformer(nn.Module):
    """Is a language model of the shape of GPT-2 (Radford et al. 2019), for characters.

    Tokens are embedded as 64 * `width` numbers for each head; learned positions are
    added; `depth` causal blocks, normalisation, a dense layer to the `classes` tokens
    of the vocabulary. No dropout; the output is not tied to the embedding, so that
    their masks are two. Prunable are the kernels and the embedding, `tokens/embedding`;
    the positions, `position`, never are. Both are drawn from N(0, 0.02²), whatever the
    `initialiser` of the kernels. Other leaves: `block_<i>/…` of `attention.Block`,
    `norm`, `output`. `remat` computes each block again in the backward pass.
    """

    depth: int = 4
    heads: int = 2
    length: int = 128  # of the longest text
    classes: int = 256
    width: float = 1
    initialiser: str = "glorot_normal"
    norm_scale: str = "ones"
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Return logits [batch, n, classes] of the token after each of the inputs.

        Those are [batch, n] integers in [0, classes), n <= `length`.
        """
        n = inputs.shape[1]
        if n > self.length:
            raise ValueError(f"texts have at most {self.length} tokens; got {n}")
        options = {"initialiser": self.initialiser, "dtype": self.dtype}
        dense = functools.partial(layers.dense, **options)
        norm = functools.partial(
            layers.layer_norm, norm_scale=self.norm_scale, dtype=self.dtype
        )
        block = nn.remat(attention.Block) if self.remat else attention.Block
        dim = self.heads * layers.channels(64, self.width)
        normal = nn.initializers.normal(0.02)
        embed = nn.Embed(
            self.classes, dim, embedding_init=normal, dtype=self.dtype, name="tokens"
        )
        position = self.param("position", normal, (self.length, dim))
        x = embed(inputs) + position[None, :n].astype(self.dtype)
        for i in range(self.depth):
            x = block(self.heads, dense, norm, causal=True, name=f"block_{i}")(x)
        x = norm(name="norm")(x)
        return dense(self.classes, name="output")(x).astype(jnp.float32)
