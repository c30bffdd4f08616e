"""What is right: sums, criteria, networks and optimizers in NumPy's double precision.

Nothing here calls JAX or another part of `lth` to compute, so that both can be wrong
without agreeing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
FEATURES = (1009, 9 * 41)  # of the two layers of `Linear`
SHAPES = ((1009, 991), (3, 3, 41, 37))  # 1 013 572 weights, odd in every axis


def doubles(*arrays: Any) -> list[Array]:
    """Return the arrays in double precision."""
    return [np.asarray(x, np.float64) for x in arrays]


class Linear(NamedTuple):
    """Two linear layers side by side, whose gradients can be written down.

    The loss is the mean over examples of (|x A|² + |y B|²) / 2, B as a matrix.
    """

    initial: list[Array]  # kernels of SHAPES, float32
    final: list[Array]
    x: list[Array]  # [batches, examples, features] of either layer, float32
    met: list[Array]  # what meets each kernel, [..., in], float32
    seen: list[Array]  # Adam's second moments, float32, positive


def linear(seed: int = 0) -> Linear:
    """Draw the weights and inputs."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    positive = [draw(173, 1009), draw(5, 7, 11, 41)]
    return Linear(
        initial=[draw(*shape) for shape in SHAPES],
        final=[draw(*shape) for shape in SHAPES],
        x=[draw(2, 7, n) / np.float32(np.sqrt(n)) for n in FEATURES],
        met=[np.maximum(x, 0) for x in positive],
        seen=[np.square(draw(*shape)) for shape in SHAPES],
    )


def gradients(kernels: list[Array], x: list[Array]) -> list[Array]:
    """Return the gradients of the loss of `Linear`, in its kernels."""
    flat = [each.reshape(-1, each.shape[-1]) for each in doubles(*x)]
    flat_w = [w.reshape(-1, w.shape[-1]) for w in doubles(*kernels)]
    products = [
        x.T @ (x @ w) / len(x) for x, w in zip(flat, flat_w, strict=True)
    ]  # the Hessian of the loss times the kernels
    return [g.reshape(w.shape) for g, w in zip(products, kernels, strict=True)]


def ranks(values: Array) -> Array:
    """The share of a leaf below each value; of equals the lower index is above."""
    flat = values.ravel()
    result = np.empty(flat.size)
    order = np.argsort(-flat, kind="stable")
    result[order] = np.arange(flat.size - 1, -1, -1) / flat.size
    return result.reshape(values.shape)


def lamp(w: Array) -> Array:
    """Return w² as a share of itself and all that are larger in the layer."""
    energy = w.ravel()[::-1] ** 2
    order = np.argsort(energy, kind="stable")
    share = np.empty_like(energy)
    share[order] = energy[order] / np.cumsum(energy[order][::-1])[::-1]
    return share[::-1].reshape(w.shape)


def standardised(w: Array) -> Array:
    """Return |w| less its mean, by its deviation; of convolutions, by output."""
    size, axes = np.abs(w), tuple(range(w.ndim - 1)) if w.ndim == 4 else None
    return (size - size.mean(axes, keepdims=True)) / size.std(axes, keepdims=True)


def _of_weights(function: Callable) -> Callable[[Linear], list[Array]]:
    return lambda p: [function(w) for w in doubles(*p.final)]


def _of_change(function: Callable) -> Callable[[Linear], list[Array]]:
    def right(p):
        pairs = zip(doubles(*p.initial), doubles(*p.final), strict=True)
        return [function(i, f) for i, f in pairs]

    return right


def _of_gradients(function: Callable) -> Callable[[Linear], list[Array]]:
    """`function(weights, gradients)` of all leaves together."""
    return lambda p: function(doubles(*p.final), gradients(p.final, p.x))


def _of_inputs(reduce: Callable, weighted: bool) -> Callable[[Linear], list[Array]]:
    def leaf(w, x):
        by_input = reduce(x.reshape(-1, x.shape[-1]))[:, None]
        return by_input * (np.abs(w) if weighted else np.ones_like(w))

    def right(p):
        pairs = zip(doubles(*p.final), doubles(*p.met), strict=True)
        return [leaf(w, x) for w, x in pairs]

    return right


def _snip(w: list[Array], g: list[Array]) -> list[Array]:
    scores = [np.abs(a * b) for a, b in zip(w, g, strict=True)]
    return [s / sum(s.sum() for s in scores) for s in scores]


def _grasp(p: Linear) -> list[Array]:
    flow = gradients(gradients(p.final, p.x), p.x)  # H g: the loss is quadratic
    scores = [w * f for w, f in zip(doubles(*p.final), flow, strict=True)]
    return [s / abs(sum(s.sum() for s in scores)) for s in scores]


def _fisher(p: Linear) -> list[Array]:
    """An example's gradient is x outᵀ, so that its mean square is a product too."""
    scores = []
    for w, x in zip(doubles(*p.final), doubles(*p.x), strict=True):
        flat = x.reshape(-1, x.shape[-1])
        out = flat @ w.reshape(-1, w.shape[-1])
        mean = (flat**2).T @ out**2 / len(flat)
        scores.append(mean.reshape(w.shape) * w**2 / 2)
    return scores


def _curved(p: Linear) -> list[Array]:
    """h w² / 2 of a diagonal Hessian h, or what Adam has seen in its place."""
    pairs = zip(doubles(*p.seen), doubles(*p.final), strict=True)
    return [h * w**2 / 2 for h, w in pairs]


def _same(sign: bool, scores: Callable) -> Callable:
    return lambda i, f: np.where(
        (np.sign(i) == np.sign(f)) == sign, scores(i, f), -np.inf
    )


def _both(sign: int) -> Callable:
    return lambda i, f: np.minimum(ranks(sign * np.abs(i)), ranks(sign * np.abs(f)))


def _grown(i: Array, f: Array) -> Array:
    return np.abs(f) - np.abs(i)


# By the names that the command has for them; SynFlow is below, `random` has no right.
CRITERIA: dict[str, Callable[[Linear], list[Array]]] = {
    "magnitude": _of_weights(np.abs),
    "normalised_magnitude": _of_weights(lambda w: np.abs(w) / np.sqrt((w**2).sum())),
    "standardised_magnitude": _of_weights(standardised),
    "lamp": _of_weights(lamp),
    "gradient_magnitude": _of_gradients(lambda w, g: [np.abs(x) for x in g]),
    "weight_gradient": _of_gradients(
        lambda w, g: [np.abs(a * b) for a, b in zip(w, g, strict=True)]
    ),
    "snip": _of_gradients(_snip),
    "grasp": _grasp,
    "fisher": _fisher,
    "hessian": _curved,
    "adam_second_moment": _curved,
    "wanda": _of_inputs(lambda x: np.sqrt((x**2).sum(0)), True),
    "activation_magnitude": _of_inputs(lambda x: np.abs(x).mean(0), True),
    "mean_activation": _of_inputs(lambda x: x.mean(0), False),
    "nonzero_share": _of_inputs(lambda x: (x != 0).mean(0), False),
    "large_final": _of_change(lambda i, f: np.abs(f)),
    "small_final": _of_change(lambda i, f: -np.abs(f)),
    "large_init": _of_change(lambda i, f: np.abs(i)),
    "small_init": _of_change(lambda i, f: -np.abs(i)),
    "magnitude_increase": _of_change(_grown),
    "movement": _of_change(lambda i, f: np.abs(f - i)),
    "large_init_large_final": _of_change(_both(1)),
    "small_init_small_final": _of_change(_both(-1)),
    "large_final_same_sign": _of_change(_same(True, lambda i, f: np.abs(f))),
    "large_final_diff_sign": _of_change(_same(False, lambda i, f: np.abs(f))),
    "magnitude_increase_same_sign": _of_change(_same(True, _grown)),
    "magnitude_increase_diff_sign": _of_change(_same(False, _grown)),
}


def synflow(kernels: list[Array]) -> list[Array]:
    """Return |w| times what flows in from inputs of 1 and on to outputs of 1."""
    sizes = [np.abs(w) for w in doubles(*kernels)]
    before = [np.ones(len(sizes[0]))]
    for w in sizes[:-1]:
        before.append(before[-1] @ w)
    after = [np.ones(sizes[-1].shape[1])]
    for w in reversed(sizes[1:]):
        after.insert(0, w @ after[0])
    return [w * np.outer(b, a) for w, b, a in zip(sizes, before, after, strict=True)]


def taylor(p: Linear) -> list[Array]:
    """Return |sum over a kernel's outputs and window of w times gradient|, by input."""
    scores = []
    for w, g in zip(doubles(*p.final), gradients(p.final, p.x), strict=True):
        axes = tuple(i for i in range(w.ndim) if i != w.ndim - 2)
        gate = np.abs((w * g).sum(axes, keepdims=True))
        scores.append(np.broadcast_to(gate, w.shape))
    return scores


def swept(
    kernel: Array, inputs: Array, keep: Array, damp: float, block: int
) -> tuple[Array, float]:
    """SparseGPT's kernel under the mask that it chose, and how far that is from right.

    Args:
      kernel: [in, out].
      inputs: [n, in].
      keep: [in, out], the mask.
      damp: The share of the mean of the Hessian's diagonal that is added to that.
      block: Inputs that choose their weights together.

    Returns:
      The kernel, and by what share of it a pruned score is above one that stays in its
      block: at most 0 where all were chosen right.
    """
    w, x = doubles(kernel, inputs)
    hessian = x.T @ x
    hessian += damp * np.diagonal(hessian).mean() * np.eye(len(w))
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    above = -1.0
    for start in range(0, len(w), block):
        rows = slice(start, start + block)
        scores = (w[rows] / np.diagonal(upper)[rows, None]) ** 2
        lowest, best = scores[keep[rows]].min(), scores[~keep[rows]].max()
        above = max(above, float(best / lowest - 1))
        for q in range(start, min(start + block, len(w))):
            error = np.where(keep[q], 0, w[q]) / upper[q, q]
            w[q + 1 :] -= np.outer(upper[q, q + 1 :], error)
            w[q] *= keep[q]
    return w, above


def highest(scores: Array, k: int) -> Array:
    """Which are the k highest; of equal ones the lower index is."""
    flat = scores.ravel()
    cut = np.partition(flat, flat.size - k)[flat.size - k]
    chosen = flat > cut
    ties = np.flatnonzero(flat == cut)
    chosen[ties[: k - chosen.sum()]] = True
    return chosen.reshape(scores.shape)


def convolution(
    x: Array, kernel: Array, strides: tuple[int, int], pads: tuple, grad: Any = None
) -> tuple[Array, ...]:
    """Convolve images, and return the gradients of the outputs' sum times `grad` too.

    Args:
      x: [batch, h, w, in].
      kernel: [h, w, in, out].
      strides: Along both axes.
      pads: (before, after) along both axes.
      grad: Like the outputs, if gradients are asked for.

    Returns:
      The outputs; with `grad`, also the gradients for `x` and for `kernel`.
    """
    x, kernel = doubles(x, kernel)
    wide = np.pad(x, ((0, 0), *pads, (0, 0)))
    sizes = [
        (n - k) // s + 1
        for n, k, s in zip(wide.shape[1:3], kernel.shape[:2], strides, strict=True)
    ]

    def seen(array, i, j):
        rows, columns = (
            slice(at, at + (n - 1) * s + 1, s)
            for at, n, s in zip((i, j), sizes, strides, strict=True)
        )
        return array[:, rows, columns]

    window = [(i, j) for i in range(kernel.shape[0]) for j in range(kernel.shape[1])]
    y = np.zeros((len(x), *sizes, kernel.shape[-1]))
    for i, j in window:
        y += seen(wide, i, j) @ kernel[i, j]
    if grad is None:
        return (y,)
    (grad,) = doubles(grad)
    to_x, to_kernel = np.zeros_like(wide), np.zeros_like(kernel)
    for i, j in window:
        seen(to_x, i, j)[:] += grad @ kernel[i, j].T
        to_kernel[i, j] = np.einsum("nhwi,nhwo->io", seen(wide, i, j), grad)
    (top, _), (left, _) = pads
    height, width = x.shape[1:3]
    return y, to_x[:, top : top + height, left : left + width], to_kernel


def mlp(params: dict, x: Array) -> Array:
    """Return the logits of `models.MLP`."""
    x = x.reshape(len(x), -1)
    for name in sorted(params):  # hidden_0, hidden_1, …, output
        x = x @ params[name]["kernel"] + params[name]["bias"]
        x = x if name == "output" else np.maximum(x, 0)
    return x


def conv(params: dict, x: Array) -> Array:
    """Return the logits of `models.Conv` of depth 2."""
    for i in range(2):
        layer = params[f"conv_{i}"]
        (x,) = convolution(x, layer["kernel"], (1, 1), ((1, 1), (1, 1)))
        x = np.maximum(x + layer["bias"], 0)
    rows, columns = (n // 2 * 2 for n in x.shape[1:3])
    x = np.maximum(x[:, :rows:2, :columns], x[:, 1:rows:2, :columns])
    x = np.maximum(x[:, :, ::2], x[:, :, 1::2])
    return mlp({n: p for n, p in params.items() if not n.startswith("conv")}, x)


def cross_entropy(logits: Array, label: Array) -> float:
    """Return the mean cross-entropy of integer labels."""
    high = logits.max(-1, keepdims=True)
    total = np.log(np.exp(logits - high).sum(-1)) + high[:, 0]
    return float((total - logits[np.arange(len(logits)), label]).mean())


class Step(NamedTuple):
    """Holds an optimizer's numbers, as the command calls them."""

    name: str
    learning_rate: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0


def stepped(o: Step, w: Array, gradient: Callable, keep: Array, steps: int) -> Array:
    """Take masked steps: pruned weights neither move nor are moved.

    Args:
      o: The optimizer.
      w: Where the weights start.
      gradient: Of them, a function.
      keep: 1 for the kept ones, 0 for the others.
      steps: How many to take.

    Returns:
      The weights after them.
    """
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, steps + 1):
        g = gradient(w) * keep
        if o.name == "adam":
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            update = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            w = (w - o.learning_rate * (update + o.weight_decay * w)) * keep
            continue
        g = g + o.weight_decay * w
        m = o.momentum * m + g
        w = (w - o.learning_rate * (g + o.momentum * m if o.nesterov else m)) * keep
    return w
