"""What zeros save on this machine, in time: nothing, until nearly all are zeros.

A product of a batch with a pruned kernel, dense (the mask applied beforehand) and with
the kernel as JAX's sparse BCOO, at falling densities. `lth` claims no speed from zeros:
this is why.

    python experiments/bench/sparse.py [--batch 60] [--shape 784 300] [--repeats 9]

Needs no data. Takes about a minute on two cores. What it gave there (jax 0.10.2; time
of the sparse product over that of the dense one, median and quartiles of 9 repeats):

    density   0.2   4.96 (4.76 to 5.23)
              0.1   2.57 (2.48 to 2.70)
             0.05   1.45 (1.40 to 1.50)
             0.02   0.78 (0.75 to 0.80)
             0.01   0.42 (0.41 to 0.44)

They break even between 2 and 5 %.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import timing
import tyro
from jax.experimental import sparse

from lth import criteria, masks

LOOPS = 50  # products that are timed at once


@dataclass(frozen=True)
class Flags:
    """What to multiply."""

    batch: int = 60
    shape: tuple[int, int] = (784, 300)
    densities: tuple[float, ...] = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002)
    repeats: int = 9


def looped(product, kernel, x):
    """Many products in one compiled loop, each on what the one before left."""

    @jax.jit
    def run(kernel, x):
        def once(_, carry):
            x, total = carry
            y = jnp.sum(product(x, kernel))
            return x + 1e-9 * y, total + y

        return jax.lax.fori_loop(0, LOOPS, once, (x, jnp.float32(0)))

    return lambda: jax.block_until_ready(run(kernel, x))


def main() -> None:
    flags = tyro.cli(Flags)
    x = jax.random.normal(jax.random.key(0), (flags.batch, flags.shape[0]))
    w = {"kernel": jax.random.normal(jax.random.key(1), flags.shape)}
    ones = masks.ones(w)
    calls = {"dense": looped(jnp.matmul, w["kernel"], x)}
    for density in flags.densities:
        mask = masks.keep_top(criteria.magnitude(w), ones, density)
        kernel = sparse.BCOO.fromdense(masks.apply(w, mask)["kernel"])
        calls[f"{density:g}"] = looped(lambda x, k: x @ k, kernel, x)
    times = timing.in_turn(calls, flags.repeats)
    print(f"batch {flags.batch}, kernel {flags.shape}, {jax.default_backend()}")
    for name, taken in times.items():
        print(f"{name:>8} {timing.ratio(taken, times['dense'])}")


if __name__ == "__main__":
    main()
