"""Whether sums, products, selections and counts are right at full size.

Compilers split large work in ways that small numbers never see, so all of it is at a
million elements and at sizes that nothing divides.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from lth import masks
from lth.lab import compiler
from lth.lab.doctor import restated
from lth.lab.doctor.check import (
    Check,
    Difference,
    difference,
    judged,
    tree_difference,
)
from lth.masks import allocation

SUM = 1e-5  # allowed of the sum of sizes that is added up, in single precision
SIZES = ((999_983,), (40_001, 3), (1009, 991))
HIGHEST = "highest"  # precision of products: GPUs may round to fewer bits

# Each is (ours, NumPy's).
REDUCTIONS: dict[str, tuple[Callable, Callable]] = {
    "sum": (jnp.sum, np.sum),
    "mean": (jnp.mean, np.mean),
    "variance": (jnp.var, np.var),
    "max": (jnp.max, np.max),
    "count": (lambda x, axis: jnp.sum(x > 0, axis), lambda x, axis: (x > 0).sum(axis)),
}


def reductions(
    functions: Mapping[str, tuple[Callable, Callable]] = REDUCTIONS,
) -> Check:
    """Sums, means, variances and extremes of a million numbers, along every axis."""
    rng = np.random.default_rng(0)
    found = []
    for shape in SIZES:
        x = rng.standard_normal(shape).astype(np.float32)
        wide = x.astype(np.float64)
        for axis in (None, *range(len(shape) if len(shape) > 1 else 0)):
            for name, (ours, right) in functions.items():
                what = (
                    f"{name} of {list(shape)} along {'all' if axis is None else axis}"
                )
                exact = name in ("max", "count")
                # Of a sum the unit is what is added up, of a mean that by its number.
                size = np.abs(wide) if name != "variance" else wide**2
                unit = size.sum(axis) if name == "sum" else size.mean(axis)
                value = jax.jit(ours, static_argnums=1)(x, axis)
                tolerance = 0.0 if exact else SUM
                expected = right(wide, axis)
                found.append(difference(what, value, expected, tolerance, unit))
    found.append(_rows())
    check = judged("reductions", found, f"{len(found)} of up to 999 983 numbers")
    if check.status == "FAILED" and compiler.note():
        return check._replace(told=f"{check.told}; {compiler.note()}")
    return check


def _rows(rows: int = 40_001) -> Difference:
    """The sums that jaxlib 0.10.2 has wrong in 7 200 rows of these 40 001."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, 3)).astype(np.float32)
    w = rng.standard_normal((3, 3)).astype(np.float32)

    def function(row):
        return jnp.sum(jnp.matmul(w, row, precision=HIGHEST) ** 2)

    ours = jax.jit(jax.vmap(function))(x)
    right = ((x.astype(np.float64) @ w.T.astype(np.float64)) ** 2).sum(1)
    what = f"squared norms of {rows} rows of 3 times a matrix"
    return difference(what, ours, right, 1e-4, right)


def products(matmul: Callable = jnp.matmul) -> Check:
    """Products of matrices, at full precision and at the one that trainings have."""
    rng = np.random.default_rng(1)
    a, b = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in ((1009, 991), (991, 503))
    )
    right = a.astype(np.float64) @ b.astype(np.float64)
    with jax.default_matmul_precision(HIGHEST):
        full = difference("a product", jax.jit(matmul)(a, b), right, SUM)
    usual = difference(
        "a product", jax.jit(lambda a, b: matmul(a, b))(a, b), right, SUM
    )
    if usual.wrong and not full.wrong and usual.error < 1e-2:
        told = (
            f"products are rounded here to {usual.error:.0e}, which trainings take "
            "unless JAX_DEFAULT_MATMUL_PRECISION=highest; at that precision they are "
            f"right ({full.error:.0e})"
        )
        return Check("products", "warning", told)
    return judged("products", [full, usual], "of 1009 x 991 with 991 x 503 numbers")


def selection(keep_top: Callable = masks.keep_top) -> Check:
    """Exactly the k highest scores are kept, of equal ones those of lower index."""
    rng = np.random.default_rng(2)
    shapes = {"a": (997, 1003), "b": (3, 3, 41, 37)}
    plain = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    kinds = {
        "scores": plain,
        "scores with ties": jax.tree.map(lambda x: np.round(x * 8) / 8, plain),
        "equal scores": jax.tree.map(np.zeros_like, plain),
        "infinite scores": jax.tree.map(
            lambda x: np.where(
                np.abs(x) > 1, np.sign(x) * np.float32(np.inf), -0.0 * x
            ),
            plain,
        ),
    }
    ones = jax.tree.map(lambda x: np.ones(x.shape, bool), plain)
    compiled = jax.jit(keep_top, static_argnames="scope")
    found = []
    for name, scores in kinds.items():
        for density in (0.137, 0.8**11):
            for scope in ("global", "layer"):
                ours = compiled(scores, ones, density, scope=scope)
                right = _kept(scores, density, scope)
                what = f"{name}, density {density:.3g}, scope {scope}"
                found.append(tree_difference(what, ours, right))
    stacked = {n: np.stack([x, -x]) for n, x in kinds["scores with ties"].items()}
    pairs = {n: np.ones(x.shape, bool) for n, x in stacked.items()}
    both = jax.vmap(lambda s, m: keep_top(s, m, 0.137))(stacked, pairs)
    for i in range(2):
        one = {n: x[i] for n, x in stacked.items()}
        ours = {n: x[i] for n, x in both.items()}
        right = _kept(one, 0.137, "global")
        found.append(tree_difference("two networks at once", ours, right))
    return judged("selection", found, f"{len(found)} times the highest of 1 013 642")


def _kept(scores: dict, density: float, scope: str) -> dict:
    if scope == "layer":
        return {
            n: restated.highest(x, max(1, round(density * x.size)))
            for n, x in scores.items()
        }
    flat = np.concatenate([x.ravel() for x in scores.values()])
    chosen = restated.highest(flat, max(1, round(density * flat.size)))
    ends = np.cumsum([x.size for x in scores.values()])[:-1]
    parts = zip(scores.items(), np.split(chosen, ends), strict=True)
    return {n: part.reshape(x.shape) for (n, x), part in parts}


def allocations(divide: Callable = allocation.erdos_renyi) -> Check:
    """Erdős-Rényi shares: the total is exact, each layer within one weight of its."""
    shapes = ((3, 3, 3, 64), (3, 3, 64, 64), (1024, 257), (257, 10))
    mask = {f"layer_{i}": np.ones(s, bool) for i, s in enumerate(shapes)}
    sizes = np.array([m.size for m in mask.values()])
    found = []
    for kernel in (False, True):
        dims = [s if kernel else s[-2:] for s in shapes]
        raw = np.array([sum(d) / np.prod(np.array(d, float)) for d in dims])
        for density in (0.5, 0.137, 0.01):
            given = divide(mask, density, kernel)
            counts = np.array(
                [d * n for d, n in zip(given.values(), sizes, strict=True)]
            )
            total = round(density * int(sizes.sum()))
            what = f"{'ERK' if kernel else 'ER'} at density {density}"
            share = _shares(raw, sizes, total)
            apart = np.abs(counts - share) > 1 + 1e-6
            fraction = np.abs(counts - counts.round()) > 1e-6
            found += [
                difference(f"the total of {what}", counts.round().sum(), total),
                difference(
                    f"layers of {what} with parts of weights", fraction.sum(), 0
                ),
                difference(f"layers of {what} far from their share", apart.sum(), 0),
            ]
    return judged("allocation", found, "Erdős-Rényi and ERK of four layers")


def _shares(raw: np.ndarray, sizes: np.ndarray, total: int) -> np.ndarray:
    """min(1, ε raw) of each layer, ε found by halving."""
    low, high = 0.0, 1 / raw.min()
    for _ in range(200):
        middle = (low + high) / 2
        more = (np.minimum(1, middle * raw) * sizes).sum() > total
        low, high = (low, middle) if more else (middle, high)
    return np.minimum(1, low * raw) * sizes
