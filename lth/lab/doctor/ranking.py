"""Whether what ranks weights is right, at a million of them."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lth import criteria, train
from lth.lab.build import names
from lth.lab.doctor import restated
from lth.lab.doctor.arithmetic import HIGHEST
from lth.lab.doctor.check import (
    Check,
    Difference,
    difference,
    judged,
    tree_difference,
)
from lth.lottery import starts

SCORE = 5e-5  # of the score, or of a layer's median one; the worst here was 1.6e-5
ALLOWED = 1e-4  # of a chain of divisions and sums
# Of ranks, as shares of a leaf: two neighbours of a million are 1e-6 apart.
RANKS = {"large_init_large_final": 5e-7, "small_init_small_final": 5e-7}


@cache
def _linear() -> restated.Linear:
    return restated.linear()


def tree(leaves: Any) -> dict[str, Any]:
    """Return the two kernels of `restated.Linear` as a tree of params."""
    return {name: {"kernel": w} for name, w in zip("ab", leaves, strict=True)}


def linear_loss(params: Any, batch: Any) -> jax.Array:
    """Return the loss of `restated.Linear`."""
    kernels = [params[name]["kernel"] for name in "ab"]
    outs = [x @ w.reshape(-1, w.shape[-1]) for x, w in zip(batch, kernels, strict=True)]
    return sum(jnp.mean(jnp.square(out).sum(-1)) for out in outs) / 2  # type: ignore[return-value]


def scores(table: Mapping[str, Callable] = names.CRITERIA) -> Check:
    """Criteria by the command's names, all unless told, on a million weights."""
    p, found = _linear(), []
    with jax.default_matmul_precision(HIGHEST):
        for name, function in table.items():
            if name == "synflow":
                found.append(_synflow(function))
            elif name == "random":
                found += _random(function)
            else:
                ours = jax.jit(_bound(name, function))(p)
                right, allowed = restated.CRITERIA[name](p), RANKS.get(name, SCORE)
                found.append(tree_difference(name, ours, right, allowed))
    return judged("criteria", found, f"{len(table)} of 1 013 572 weights")


def taylor(function: Callable = criteria.taylor_batch) -> Check:
    """Taylor's criterion, which the command has no name for."""
    p = _linear()
    with jax.default_matmul_precision(HIGHEST):
        ours = jax.jit(lambda w, x: function(linear_loss, w, x))(
            tree(p.final), tuple(p.x)
        )
    found = tree_difference("taylor_batch", ours, restated.taylor(p), SCORE)
    return judged("taylor", [found], "the score of each of 1 378 inputs")


def surgery(prune: Callable = criteria.obs.sparse_gpt) -> Check:
    """SparseGPT of one kernel: a chain of 201 updates, each of all rows after it."""
    rng = np.random.default_rng(8)
    kernel = rng.standard_normal((201, 67)).astype(np.float32)
    mixed = rng.standard_normal((2003, 201)) @ rng.standard_normal((201, 201))
    inputs = (mixed / 14 + rng.standard_normal(mixed.shape)).astype(np.float32)
    hessian = jax.jit(criteria.obs.hessian)(inputs, 0.01)
    ours, keep = (np.asarray(x) for x in prune(kernel, hessian, 0.3, 128))
    right, above = restated.swept(kernel, inputs, keep, 0.01, 128)
    count = round(0.3 * kernel.size)
    found = [
        difference("how many weights surgery keeps", keep.sum(), count),
        difference("scores that surgery mistakes", above > 1e-2, 0),
        tree_difference("a kernel after surgery", [ours], [right], ALLOWED),
    ]
    return judged("surgery", found, f"SparseGPT of {kernel.size} weights")


def reshuffling(move: Callable = starts.reshuffled) -> Check:
    """Kept weights change places in the array that they are in, and none is lost."""
    params = tree(_linear().final)
    mask = jax.tree.map(lambda w: w > 0.3, tree(_linear().initial))
    moved = jax.jit(move)(params, mask, jax.random.key(0))
    found = []
    for w, keep, ours in zip(*map(jax.tree.leaves, (params, mask, moved)), strict=True):
        ours = np.asarray(ours)
        same = (ours[keep] == w[keep]).mean() > 0.01
        what = "kept weights that are reshuffled"
        found += [
            difference(f"{what}, in order", np.sort(ours[keep]), np.sort(w[keep])),
            difference(f"{what} and stay where they were", same, 0),
        ]
    return judged("reshuffling", found, "kept weights of a million in other places")


def _bound(name: str, function: Callable) -> Callable:
    """A criterion as a function of `restated.Linear`."""

    def bound(p: restated.Linear):
        return function(_view(p, curved=name == "hessian"))

    return bound


def _view(p: restated.Linear, curved: bool = False) -> names.Inputs:
    """What a criterion may look at; `curved`: a loss whose Hessian is diagonal."""
    params, seen = tree(p.final), tree(p.seen)

    def diagonal(params, batch):
        terms = jax.tree.map(lambda h, w: jnp.sum(h * jnp.square(w)), seen, params)
        return sum(jax.tree.leaves(terms)) / 2

    loss = diagonal if curved else linear_loss
    adam = optax.ScaleByAdamState(jnp.int32(1), mu=params, nu=seen)
    return names.Inputs(
        initial=tree(p.initial),
        state=train.TrainState(jnp.int32(1), params, {}, (adam,)),
        mask=jax.tree.map(lambda w: jnp.ones(w.shape, bool), params),
        key=jax.random.key(0),
        batches=lambda: tuple(p.x),
        loss=loss,
        cool=loss,
        inputs=lambda: tree(p.met),
        flow=lambda params: params,
    )


def _synflow(function: Callable) -> Difference:
    rng = np.random.default_rng(3)
    sizes = ((1009, 331), (331, 101), (101, 10))
    kernels = [rng.standard_normal(s).astype(np.float32) / 10 for s in sizes]

    def apply(params, stats, inputs, train, key):
        x = inputs
        for w in params:
            x = jax.nn.relu(x @ w)
        return x, stats

    def bound(kernels):
        def flow(params):
            return criteria.synflow(apply, params, {}, jnp.ones((1, 1009)))

        view = _view(_linear())
        return function(
            view._replace(state=view.state._replace(params=kernels), flow=flow)
        )

    ours = jax.jit(bound)(kernels)
    return tree_difference("synflow", ours, restated.synflow(kernels), SCORE)


def _random(function: Callable) -> list[Difference]:
    """Uniform in [0, 1): the mean of a million is known to some thousandths."""
    ours = jax.jit(_bound("random", function))(_linear())
    flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(ours)])
    outside = ((flat < 0) | (flat >= 1)).sum()
    odd = abs(flat.mean() - 0.5) > 5e-3 or abs(flat.std() - 12**-0.5) > 5e-3
    return [
        difference("random scores outside [0, 1)", outside, 0),
        difference("random scores that are not uniform", odd, 0),
    ]
