"""A condition that stays one when replicates are mapped."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def if_any(now: jax.Array, change: Callable, same: Callable, args: Any) -> Any:
    """`jax.lax.cond`, which stays one under `vmap`.

    There it would become a choice between both results, and the change would be worked
    out at every step; here it is worked out where any replicate asks for it, and as
    they go in step, all do or none.
    """

    @jax.custom_batching.custom_vmap
    def either(now, args):
        return jax.lax.cond(now, change, same, args)

    @either.def_vmap
    def mapped(size, batched, now, args):
        axes = jax.tree.map(lambda b: 0 if b else None, tuple(batched))

        def choose(now, args):
            pairs = change(args), same(args)
            return jax.tree.map(lambda a, b: jnp.where(now, a, b), *pairs)

        def all_of(function):
            return jax.vmap(function, axes, axis_size=size)(now, args)

        found = jax.lax.cond(
            jnp.any(now),
            lambda: all_of(choose),
            lambda: all_of(lambda now, args: same(args)),
        )
        return found, jax.tree.map(lambda _: True, found)

    return either(now, args)
