"""Networks put together at random from supported layers: they all shrink exactly."""

import os
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lth import compress, models
from tests.test_shrinking import at_random
from tests.test_spaces import close, drawn, run

IMAGE = (8, 8, 2)
WIDTHS = st.sampled_from([3, 4, 6])
ACTIVATIONS = {
    "relu": nn.relu,
    "tanh": jnp.tanh,
    "gelu": nn.gelu,
    "sigmoid": nn.sigmoid,  # 0 becomes 0.5, which what reads it must not see
    "none": lambda x: x,
}
POOLS: dict[str, Any] = {
    "avg": lambda x: nn.avg_pool(x, (2, 2), (2, 2)),
    "max": lambda x: nn.max_pool(x, (2, 2), (2, 2)),
    "whole": lambda x: x,
}


class Network(nn.Module):
    """Layers as they were drawn: a list of blocks, a head, what is between them."""

    blocks: tuple
    end: str
    hidden: tuple

    @nn.compact
    def __call__(self, x, train=False):
        for kind, width, act, norm, pool in self.blocks:
            x = self.block(kind, width, ACTIVATIONS[act], norm, train, x)
            x = POOLS[pool](x) if x.shape[1] > 1 else x
        x = x.mean((1, 2)) if self.end == "mean" else x.reshape(len(x), -1)
        for kind, width, act in self.hidden:
            h = ACTIVATIONS[act](nn.Dense(width)(x))
            x = nn.LayerNorm()(h) if kind == "norm" else h
            x = x + nn.Dense(width)(jnp.tanh(x)) if kind == "residual" else x
        return nn.Dense(2)(x)

    def block(self, kind, width, act, norm, train, x):
        def conv(x, width, size=3, **options):
            x = nn.Conv(width, (size, size), use_bias=not norm, **options)(x)
            return nn.BatchNorm(use_running_average=not train)(x) if norm else x

        if kind == "plain":
            return act(conv(x, width))
        if kind == "strided":
            return act(conv(x, width, strides=2))
        if kind == "point":
            return act(conv(x, width, size=1))
        if kind == "residual":  # its shortcut is projected
            return act(conv(act(conv(x, width)), width) + conv(x, width, size=1))
        if kind == "identity":  # and here it is not: both sums share their channels
            x = act(conv(x, width))
            x = act(x + conv(act(conv(x, 4)), width))
            return x + conv(x, width)
        if kind == "joined":
            return jnp.concatenate([act(conv(x, width)), jnp.tanh(conv(x, 3))], -1)
        if kind == "dense":  # what comes in goes on beside what is made
            return jnp.concatenate([x, act(conv(x, width))], -1)
        if kind == "gated":  # squeeze and excitation
            x = conv(x, width)
            gate = nn.sigmoid(nn.Dense(width)(act(nn.Dense(3)(x.mean((1, 2))))))
            return x * gate[:, None, None]
        raise AssertionError(kind)


KINDS = st.sampled_from(
    ["plain", "strided", "point", "residual", "identity", "joined", "dense", "gated"]
)
BLOCK = st.tuples(
    KINDS,
    WIDTHS,
    st.sampled_from(sorted(ACTIVATIONS)),
    st.booleans(),
    st.sampled_from(sorted(POOLS)),
)
HIDDEN = st.tuples(
    st.sampled_from(["plain", "norm", "residual"]),
    st.sampled_from([4, 5]),
    st.sampled_from(sorted(ACTIVATIONS)),
)
NETWORKS = st.builds(
    Network,
    st.lists(BLOCK, min_size=1, max_size=3).map(tuple),
    st.sampled_from(["mean", "flat"]),
    st.lists(HIDDEN, max_size=2).map(tuple),
)
# How many are tried: set RANDOM_NETWORKS to look longer.
EXAMPLES = int(os.environ.get("RANDOM_NETWORKS", "3"))


# Each takes seconds of compiling: to look for a smaller one that fails takes minutes.
@settings(max_examples=EXAMPLES, deadline=None, phases=set(Phase) - {Phase.shrink})
@given(NETWORKS, st.integers(0, 99))
def test_networks_put_together_at_random_shrink_exactly(module, seed):
    model = models.from_linen(module, IMAGE)
    like = jax.eval_shape(model.init, jax.random.key(0))
    params, stats = drawn(like, seed)
    x = jnp.asarray(np.random.default_rng(seed).standard_normal((3, *IMAGE)), "float32")
    found = compress.find(model.apply, params, stats, x)
    # Nothing is left alone for want of a rule: each hidden layer may lose channels.
    if not any(kind == "norm" for kind, *_ in module.hidden):
        outputs = f"params/Dense_{sum('Dense' in name for name in params) - 1}"
        wide = {f"params/{n}/kernel" for n in params if "kernel" in params[n]}
        wide.remove(f"{outputs}/kernel")
        roles = [at for space in found for at in space.roles.items()]
        made = {path for (path, axis), role in roles if "makes" in role}
        assert wide <= made
    kept = at_random(found, seed)
    small = compress.shrink(model.apply, params, stats, x, kept, found)
    assert small.difference <= 1e-5
    assert small.after.params == sum(
        leaf.size for leaf in jax.tree.leaves(small.params)
    )
    # The proof that it carries is not taken on trust: both are run here once more.
    tree = jax.device_get({"params": params, "stats": stats})
    cleared = compress.clear(tree, found, kept)
    whole = run(model.apply)(cleared, x)
    assert close(
        whole, run(small.apply)({"params": small.params, "stats": small.stats}, x)
    )
