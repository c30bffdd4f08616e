"""What a stored ticket costs on this machine, beside what its zeros could save."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lth import masks, models
from lth.analysis import cost, latency
from lth.compress import storage
from lth.compress.storage import Sizes
from lth.lab import shipping
from lth.lab.stored import Run

BATCHES = (1, 64)


class Cost(NamedTuple):
    """Holds what one ticket costs."""

    level: int
    density: float
    size: cost.Size
    work: cost.Work | None  # None where it cannot be counted
    told: dict[int, latency.Told]  # by the size of the batch
    seconds: dict[int, latency.Latency]
    bytes: Sizes  # of its arrays, sparse, float32
    int8: Sizes
    kernel: tuple[int, int]  # the largest, as a matrix
    even: dict[int, latency.Even]  # of that kernel


def measured(run: Run, level: int, replicate: int | None = None) -> Cost:
    """Count and measure what a ticket of a run costs: by counts, bytes and the clock.

    A pruned network runs in the dense one's time: the program is the same, whose zeros
    are multiplied. Raises ValueError for a level that is not stored, and for a run of
    which it is not known what its networks compute.
    """
    ticket = shipping.stored_ticket(run, level, replicate)
    params = masks.apply(ticket.params, ticket.mask)
    apply, like = shipping.objective(run).apply, shipping.inputs(run)
    shape, dtype = tuple(like["shape"]), np.dtype(like["dtype"])
    told, seconds = {}, {}
    for batch in BATCHES:
        inputs = jnp.zeros((batch, *shape), dtype)
        args = jax.device_put((params, ticket.stats, inputs))
        program = latency.compiled(apply, *args)
        told[batch] = latency.told(program)
        seconds[batch] = latency.latency(lambda f=program, args=args: f(*args))
    kernel = _largest(ticket.mask)
    given = params, ticket.stats, ticket.mask, "sparse"
    size = cost.size(params, ticket.mask)
    return Cost(
        level=level,
        density=size.kept / size.prunable,
        size=size,
        work=_work(apply, params, ticket, shape, dtype),
        told=told,
        seconds=seconds,
        bytes=storage.sizes(storage.stored(*given), ticket.mask),
        int8=storage.sizes(storage.stored(*given, "int8"), ticket.mask),
        kernel=kernel,
        even={batch: latency.break_even(kernel, batch) for batch in BATCHES},
    )


def _work(apply, params, ticket, shape, dtype) -> cost.Work | None:
    def init(key: jax.Array) -> Any:
        return params, ticket.stats

    model = models.Model(init, apply)
    try:
        return cost.work(model, params, ticket.stats, shape, ticket.mask, dtype)
    except ValueError:
        return None


def _largest(mask: masks.Mask) -> tuple[int, int]:
    """The largest prunable leaf, as the matrix that products read."""
    shapes = [leaf.shape for leaf in jax.tree.leaves(mask)]
    *inputs, outputs = max(shapes, key=np.prod)
    return int(np.prod(inputs)), outputs
