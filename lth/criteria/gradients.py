"""Criteria that ask a loss, and SynFlow, which asks the network without data.

`loss(params, batch)` is one number, the mean over a batch. `batches` is a tree of
arrays [b, n, ...]: b batches of n examples. How many there are is the caller's to say;
one is what most papers' code takes. Whether batch norm goes by its running averages
(evaluation) or by the batch (training) is the caller's to say too, in `loss`: the
command scores in evaluation unless `--prune.mode training` is given, and the two rank
weights differently (`experiments/criteria_at_init.py`). Masked weights are exactly 0
in `params`, so gradients are taken through the mask where a definition asks for that.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lth.masks import Mask, Params, Scores

Loss = Callable[[Params, Any], jax.Array]


def mean_gradient(loss: Loss, params: Params, batches: Any) -> Params:
    """Returns the gradient of the mean of `loss` over the batches."""
    return mean_over(lambda batch: jax.grad(loss)(params, batch), batches)


def gradient_magnitude(loss: Loss, params: Params, batches: Any) -> Scores:
    """Scores |∂L/∂w|: how fast the loss changes with the weight, whatever its size."""
    return jax.tree.map(jnp.abs, mean_gradient(loss, params, batches))


def weight_gradient(loss: Loss, params: Params, batches: Any) -> Scores:
    """Scores |w ∂L/∂w|: the change of the loss without the weight, to first order.

    The gradient magnitude of ShrinkBench (Blalock et al. 2020, arXiv:2003.03033), there
    of one batch. At a minimum of the loss it says nothing: every gradient is 0.
    """
    gradient = mean_gradient(loss, params, batches)
    return jax.tree.map(lambda w, g: jnp.abs(w * g), wide(params), gradient)


def snip(loss: Loss, params: Params, mask: Mask, batches: Any) -> Scores:
    """Scores |w ∂L/∂w| over its sum: connection sensitivity.

    Lee et al. (2019, arXiv:1810.02340): |∂L/∂m| at m = 1. Meant for initialisation. The
    authors' code draws a network of its own to score; this scores the one that is
    trained, in the mode of `loss`.

    Args:
      loss: `loss(params, batch)`, the mean over a batch.
      params: the weights, masked ones 0.
      mask: the weights that the sum is over.
      batches: a tree of arrays [b, n, ...], b batches of n examples.

    Returns:
      A tree like `params`, 0 wherever `mask` does not keep a weight.
    """
    scores = _within(weight_gradient(loss, params, batches), mask)
    return _divided(scores, _sum(scores))


def grasp(loss: Loss, params: Params, mask: Mask, batches: Any) -> Scores:
    """Scores w (Hg) / |Σ w (Hg)|: gradient flow (Wang et al. 2020, arXiv:2002.07376).

    H is the Hessian and g the gradient, both of the mean loss over all batches and in
    the weights that `mask` keeps. The paper prunes the highest -w (Hg), whose removal
    lowers the flow least or raises it, so the highest w (Hg) is kept. Its code divides
    logits by a temperature of 200, in training mode: do so in `loss`.

    Args:
      loss, params, mask, batches: as in `snip`.

    Returns:
      A tree like `params`, 0 where `mask` does not keep a weight.
    """
    gradient = _within(mean_gradient(loss, params, batches), mask)
    product = _hessian_product(loss, params, gradient, batches)
    scores = _within(jax.tree.map(jnp.multiply, wide(params), product), mask)
    return _divided(scores, jnp.abs(_sum(scores)) + 1e-10)


def synflow(apply: Callable, params: Params, stats: Any, inputs: Any) -> Scores:
    """Scores |w ∂R/∂w|, R the summed outputs of the network with all numbers positive.

    Synaptic flow (Tanaka et al. 2020, arXiv:2006.05467): weights, biases and batch-norm
    numbers enter by absolute value, in evaluation mode. No data is used. Meant for many
    rounds, of densities that fall exponentially; one prunes whole layers. R grows with
    every layer: where float32 overflows, scores are not finite, and float64 params,
    inputs and modules will do (under `jax.enable_x64`).

    Args:
      apply: as in `models.Model`.
      params: the weights, masked ones 0.
      stats: of the model.
      inputs: one example of ones, as the network itself takes it, not before pixels are
        scaled.

    Returns:
      A tree like `params`.
    """
    size, stats = wide(jax.tree.map(jnp.abs, (params, stats)))
    inputs = wide(inputs)

    def flow(size):
        return jnp.sum(apply(size, stats, inputs, False, None)[0])

    return jax.tree.map(lambda w, f: jnp.abs(w * f), size, jax.grad(flow)(size))


def obd(params: Params, diagonal: Params) -> Scores:
    """Scores h w² / 2: the change of the loss at a minimum, to second order.

    The weights stand apart, as if H were diagonal: optimal brain damage (LeCun et al.
    1989) with any `diagonal` h of the Hessian: `empirical_fisher`, `hutchinson` or
    `adam_second_moment`.
    """
    return jax.tree.map(
        lambda w, h: h * jnp.square(w) / 2, wide(params), wide(diagonal)
    )


def empirical_fisher(loss: Loss, params: Params, batches: Any) -> Params:
    """Returns the mean over examples of each one's squared gradient, at its own label.

    With labels drawn from the network's own predictions it estimates the Fisher matrix,
    which for a softmax is the Gauss-Newton matrix; with the labels of the data it is
    only called so (Kunstner et al. 2019, arXiv:1905.12558). Examples are taken one by
    one, so batch norm has to go by its running averages (`loss` in evaluation).
    """

    def squared(gradient):
        return jax.tree.map(jnp.square, gradient)

    return mean_over_examples(loss, params, batches, squared)


def mean_over_examples(
    loss: Loss, params: Params, batches: Any, function: Callable[[Params], Any]
) -> Any:
    """Returns the mean over all examples of a function of each one's gradient.

    Args:
      loss, params, batches: as in `snip`.
      function: from a gradient, a tree like `params`, to a tree of arrays.

    Returns:
      A tree as `function` gives it, in float32 or wider.
    """

    def batch_mean(batch):
        def one(example):
            alone = jax.tree.map(lambda x: x[None], example)
            return function(wide(jax.grad(loss)(params, alone)))

        return jax.tree.map(lambda g: jnp.mean(g, 0), jax.vmap(one)(batch))

    return mean_over(batch_mean, batches)


def hutchinson(
    loss: Loss, params: Params, batches: Any, key: jax.Array, probes: int = 1
) -> Params:
    """Estimates the Hessian's diagonal as the mean of v ⊙ Hv over random signs v.

    Exact, whatever the signs, where the Hessian is diagonal (Hutchinson 1989).

    Args:
      loss, params, batches: as in `snip`.
      key: of the signs.
      probes: how many v are drawn, at least 1.

    Returns:
      A tree like `params`, in float32 or wider.
    """
    leaves, structure = jax.tree.flatten(params)

    def probe(key):
        keys = jax.random.split(key, len(leaves))
        signs = [
            jax.random.rademacher(k, (w.size,), w.dtype).reshape(w.shape)
            for k, w in zip(keys, leaves, strict=True)
        ]
        v = jax.tree.unflatten(structure, signs)
        return jax.tree.map(jnp.multiply, v, _hessian_product(loss, params, v, batches))

    return mean_over(probe, jax.random.split(key, probes))


def adam_second_moment(opt_state: Any) -> Params:
    """Returns Adam's running mean of squared gradients, which is there after training.

    It costs nothing. Of batches, not of examples: an estimate of the gradient noise
    more than of the curvature. Raises ValueError without exactly one Adam in the state.
    """
    is_adam = lambda x: isinstance(x, optax.ScaleByAdamState)  # noqa: E731
    found = [x for x in jax.tree.leaves(opt_state, is_leaf=is_adam) if is_adam(x)]
    if len(found) != 1:
        raise ValueError(f"a state of one Adam is needed; this has {len(found)}")
    return found[0].nu


def mean_over(function: Callable[[Any], Params], over: Any) -> Params:
    """Returns the mean of a tree-valued function over the leading axis.

    It is in float32 or wider.
    """
    first = jax.tree.map(lambda x: x[0], over)
    like = jax.eval_shape(lambda one: wide(function(one)), first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)

    def add(total, one):
        return jax.tree.map(jnp.add, total, wide(function(one))), None

    total, _ = jax.lax.scan(add, zeros, over)
    count = jax.tree.leaves(over)[0].shape[0]
    return jax.tree.map(lambda x: x / count, total)


def _hessian_product(loss: Loss, params: Params, vector: Params, batches: Any):
    """H v of the mean loss, by the gradient of ⟨∇L, v⟩.

    Not by forward over reverse, which custom gradients such as those of
    `models.convolution` do not support.
    """

    def product(batch):
        def inner(params):
            gradient = jax.grad(loss)(params, batch)
            terms = jax.tree.map(lambda g, v: jnp.sum(g * v), gradient, vector)
            return sum(jax.tree.leaves(terms))

        return jax.grad(inner)(params)

    return mean_over(product, batches)


def wide(tree: Any) -> Any:
    """Returns the tree with floating numbers in float32 or wider."""

    def leaf(x):
        x = jnp.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    return jax.tree.map(leaf, tree)


def _within(tree: Params, mask: Mask) -> Params:
    """The tree, 0 wherever `mask` does not keep a weight."""

    def leaf(x, keep):
        return jnp.zeros_like(x) if keep is None else jnp.where(keep, x, 0)

    return jax.tree.map(leaf, tree, mask)


def _sum(tree: Params) -> Any:
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tree))


def _divided(tree: Params, by: Any) -> Params:
    return jax.tree.map(lambda x: x / jnp.where(by > 0, by, 1), tree)
