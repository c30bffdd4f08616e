"""A network as a program that runs without its Python: StableHLO with its weights.

One file serves CPUs, GPUs and TPUs, and batches of any size. Whoever loads it needs JAX
and not the network's code:

    network = jax.export.deserialize(bytearray(open("ticket.stablehlo", "rb").read()))
    outputs = network.call(inputs)

JAX promises to read such a file for six months after it was written, and no older JAX
need read it: it is a form of delivery, no archive.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from lth.models import axes

PLATFORMS = ("cpu", "cuda", "tpu")
UNKNOWN = jax.errors.InconclusiveDimensionOperation


def written(
    apply: Callable,
    params: Any,
    stats: Any,
    shape: Sequence[int],
    dtype: Any = np.float32,
    platforms: Sequence[str] = PLATFORMS,
) -> bytes:
    """Write what a network computes in evaluation, its weights among the constants.

    Args:
      apply: as in `models.Model`.
      params, stats: of one network; put 0 where it is pruned.
      shape: of one input, without the batch, whose size stays open.
      dtype: of the inputs.
      platforms: for which it is written.

    Returns:
      The file.

    Raises:
      ModuleNotFoundError: with what to install, where `flatbuffers` is not.
      ValueError: for a network that wants to know how many examples there are.
    """
    params, stats = jax.tree.map(jnp.asarray, (params, stats))

    def network(inputs):
        return axes.evaluation(apply)(params, (stats, inputs))

    (batch,) = jax.export.symbolic_shape("batch")
    inputs = jax.ShapeDtypeStruct((batch, *shape), dtype)
    export = jax.export.export(jax.jit(network), platforms=platforms)
    try:
        return bytes(export(inputs).serialize())
    except ImportError:  # of which kind, JAX decides
        raise ModuleNotFoundError(
            "files of StableHLO need the package flatbuffers: pip install 'lth[export]'"
        ) from None
    except (TypeError, ValueError, UNKNOWN) as error:
        why = str(error).partition("\n")[0]
        raise ValueError(
            f"the network cannot leave the size of its batch open: {why}"
        ) from None
