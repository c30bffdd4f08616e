"""The block that the transformers share."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class Block(nn.Module):
    """Does self-attention, then two dense layers with GELU, each added to its input.

    Normalised before, not after (Xiong et al. 2020, arXiv:2002.04745). The projections
    are kernels [dim, dim] of their own, so that what an initialiser takes for fan in
    and out is right, and each is a layer when densities are given by layer. With
    `causal`, a position attends to itself and to earlier ones. GELU is its tanh form.
    `dense` and `norm` make the layers: `query`, `key`, `value`, `attended`, `hidden_0`,
    `hidden_1`, `norm_0`, `norm_1`. Where heads were sliced off, or channels of
    `value`, there are as many as the layers give (`models.resizable`).
    """

    heads: int
    dense: Any
    norm: Any
    causal: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [batch, length, dim] to the same; `heads` divides dim."""
        batch, length, dim = x.shape
        y = self.norm(name="norm_0")(x)
        wide = dim // self.heads
        query, key = (
            self.dense(dim, name=name)(y).reshape(batch, length, -1, wide)
            for name in ("query", "key")
        )
        value = self.dense(dim, name="value")(y)
        value = value.reshape(batch, length, query.shape[2], -1)
        width = value.shape[-1]
        if narrower := wide - width:  # attention takes values as wide as queries
            value = jnp.pad(value, ((0, 0), (0, 0), (0, 0), (0, narrower)))
        y = jax.nn.dot_product_attention(query, key, value, is_causal=self.causal)
        y = y[..., :width] if narrower else y
        x = x + self.dense(dim, name="attended")(y.reshape(batch, length, -1))
        y = self.dense(4 * dim, name="hidden_0")(self.norm(name="norm_1")(x))
        return x + self.dense(dim, name="hidden_1")(nn.gelu(y))
