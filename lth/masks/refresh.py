"""Conditions that stay conditions when replicates are mapped."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def cond_any(now: jax.Array, change: Callable, value: Any, given: Any) -> Any:
    """Return `change(value, given)` where it is time, and `value` as it is elsewhere.

    As a loop of one turn or none. `jax.lax.cond` becomes a choice between two results
    under `vmap`, worked out at every step; a loop runs where any replicate asks for it.
    It also leaves in place what it does not change, of which `cond` makes a copy. There
    is no gradient through it.

    Args:
      now: [], bool: whether it is time.
      change: gives a tree of the shapes and dtypes of `value`.
      value: a tree of arrays.
      given: a tree of arrays, which `change` reads as well.

    Returns:
      A tree like `value`.
    """

    def turn(carry):
        # Tied to what changes, or XLA works out whatever depends on `given` alone
        # before the loop, which is at every step.
        held = jax.lax.optimization_barrier((carry[1], given))
        return jnp.zeros_like(now), change(*held)

    return jax.lax.while_loop(lambda carry: carry[0], turn, (now, value))[1]


def every_steps(
    every: int, step: jax.Array, choose: Callable, held: Any, given: Any
) -> Any:
    """Return `choose(given)` at steps that `every` divides, and `held` between them.

    There is no gradient through it.

    Args:
      every: steps from one choice to the next, at least 1 (`check_every`).
      step: [], an integer.
      choose: gives a tree of the shapes and dtypes of `held`.
      held: the last choice.
      given: a tree of arrays to choose by.

    Returns:
      A tree like `held`.
    """
    given = jax.lax.stop_gradient(given)
    if every == 1:
        return choose(given)
    return cond_any(step % every == 0, lambda _, given: choose(given), held, given)


def check_every(every: int) -> None:
    """Refuse a number of steps that is none."""
    if every < 1:
        raise ValueError(f"a mask is chosen every 1 or more steps; got {every}")
