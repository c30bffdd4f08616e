"""Layers of constant fan-in, condensed, against the dense product: time and bytes.

SRigL (Lasby et al. 2024, arXiv:2305.02299) trains layers whose living outputs all read
equally many inputs, and condenses them to values and indices of [outputs, fan-in]
(`lth.compress.condensed`). At 80, 90 and 95 % sparsity, for one input and for 64: the
condensed product and SciPy's of compressed rows, as shares of the time of the dense
one, in which JAX multiplies by the zeros. "half" has ablated half of the outputs at the
same number of weights. NumPy and SciPy have one thread.

    python experiments/bench/condensed.py [--repeats 15]

Needs no data. Takes two minutes on busy cores. What it gave there (jax 0.10.2;
medians and quartiles of the ratios of 15 repeats; bytes include indices and pointers):

  kernel sparsity batch  condensed            half                 rows
 784x300      80%     1  1.56 (0.46 to 11.64)  2.40 (0.97 to 10.53)  0.31 (0.14 to 1.98)
 784x300      80%    64  0.86 (0.54 to 1.04)  0.82 (0.55 to 0.91)  0.95 (0.72 to 1.42)
                         0.40 of the dense kernel's bytes
 784x300      90%     1  2.10 (1.86 to 2.26)  2.11 (1.84 to 2.36)  1.15 (0.72 to 1.27)
 784x300      90%    64  0.50 (0.43 to 0.61)  0.40 (0.28 to 0.46)  0.39 (0.24 to 0.62)
                         0.20 of the dense kernel's bytes
 784x300      95%     1  1.11 (0.81 to 1.17)  1.21 (0.90 to 1.35)  0.62 (0.43 to 0.73)
 784x300      95%    64  0.28 (0.19 to 0.31)  0.22 (0.16 to 0.27)  0.26 (0.17 to 0.29)
                         0.10 of the dense kernel's bytes
3072x768      80%     1  2.43 (1.25 to 2.90)  2.44 (0.98 to 3.90)  1.45 (0.53 to 1.76)
3072x768      80%    64  1.86 (1.35 to 2.40)  2.19 (1.26 to 3.19)  1.20 (1.13 to 1.39)
                         0.40 of the dense kernel's bytes
3072x768      90%     1  1.39 (1.11 to 1.81)  1.58 (0.87 to 2.05)  0.59 (0.28 to 0.74)
3072x768      90%    64  0.72 (0.43 to 1.13)  0.76 (0.45 to 1.45)  0.69 (0.46 to 0.84)
                         0.20 of the dense kernel's bytes
3072x768      95%     1  0.74 (0.42 to 0.84)  0.72 (0.48 to 0.85)  0.15 (0.10 to 0.38)
3072x768      95%    64  0.38 (0.23 to 0.57)  0.31 (0.17 to 0.45)  0.23 (0.15 to 0.37)
                         0.10 of the dense kernel's bytes


One input breaks even at 95 % condensed, and near 90 % by compressed rows; 64 inputs
below 80 % for the small kernel and between 80 and 90 % for the large one. So at 90 % a
condensed layer is a loss for one input and a gain of 1.4 to 2 times for 64, and at 95 %
a gain of 0.9 to 1.4 and of 2.6 to 3.6 times.
SciPy's loop in C is as fast or faster throughout, without fan-in being constant: what
is constant lets XLA do without a sparse format, and the paper's gains are of kernels
written for it. Other work had most of both cores meanwhile, hence the quartiles.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import threadpoolctl
import timing
import tyro
from scipy import sparse

from lth.compress import condensed

LOOPS = 20  # products that are timed at once


@dataclass(frozen=True)
class Flags:
    """What to multiply."""

    shapes: tuple[str, ...] = ("784x300", "3072x768")
    sparsities: tuple[float, ...] = (0.8, 0.9, 0.95)
    batches: tuple[int, ...] = (1, 64)
    repeats: int = 15


def looped(product, x, *weights):
    """Many products in one compiled loop, each on what the one before left."""

    @jax.jit
    def run(x, *weights):
        def once(_, carry):
            x, total = carry
            y = jnp.sum(product(x, *weights))
            return x + 1e-9 * y, total + y

        return jax.lax.fori_loop(0, LOOPS, once, (x, jnp.float32(0)))

    return lambda: jax.block_until_ready(run(x, *weights))


def drawn(shape: tuple[int, int], fan_in: int, living: int) -> np.ndarray:
    """Draw a kernel [in, out] of which `living` outputs read `fan_in` inputs each."""
    rng = np.random.default_rng(0)
    order = np.argsort(rng.random(shape), 0)
    keep = (order < fan_in) & (np.arange(shape[1]) < living)
    return np.where(keep, rng.standard_normal(shape), 0).astype(np.float32)


def by_rows(kernel: np.ndarray, x: np.ndarray):
    """SciPy's product, as many times as the loops of the others."""
    rows, columns = sparse.csr_array(kernel.T), np.ascontiguousarray(x.T)

    def run():
        for _ in range(LOOPS):
            _ = rows @ columns

    return run


def main() -> None:
    flags = tyro.cli(Flags)
    threadpoolctl.threadpool_limits(1)
    print(
        f"{'kernel':>9} sparsity batch  condensed            half                 rows"
    )
    for text in flags.shapes:
        shape = int(text.partition("x")[0]), int(text.partition("x")[2])
        for sparsity in flags.sparsities:
            fan_in = round((1 - sparsity) * shape[0])
            kernel = drawn(shape, fan_in, shape[1])
            half = drawn(shape, 2 * fan_in, shape[1] // 2)
            layers = [condensed.condense(w, w != 0) for w in (kernel, half)]
            for batch in flags.batches:
                x = jax.random.normal(jax.random.key(0), (batch, shape[0]))
                calls = {"dense": looped(jnp.matmul, x, jnp.asarray(kernel))}
                for name, layer in zip(("condensed", "half"), layers, strict=True):
                    calls[name] = looped(
                        lambda x, *parts: condensed.product(
                            condensed.Condensed(*parts), x
                        ),
                        x,
                        *layer,
                    )
                calls["rows"] = by_rows(kernel, np.asarray(x))
                times = timing.in_turn(calls, flags.repeats)
                cells = [timing.ratio(t, times["dense"]) for t in times.values()][1:]
                cells = "  ".join(f"{cell:19}" for cell in cells)
                print(f"{text:>9} {sparsity:8.0%} {batch:5d}  {cells}", flush=True)
            size = layers[0].nbytes
            print(f"{'':24}  {size / kernel.nbytes:.2f} of the dense kernel's bytes")


if __name__ == "__main__":
    main()
