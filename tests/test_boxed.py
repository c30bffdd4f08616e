"""Params in boxes: Flax NNX states, and Linen params that carry metadata."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lth import dynamic, masks
from lth.dynamic import rules
from lth.masks import allocation, structure
from tests.conftest import normal


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(3, 8, rngs=rngs)
        self.output = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.output(nnx.relu(self.hidden(x)))


class Boxed(nn.Module):
    @nn.compact
    def __call__(self, x):
        init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, None))
        x = nn.relu(nn.Dense(8, kernel_init=init, name="hidden")(x))
        return nn.Dense(2, kernel_init=init, name="output")(x)


def linen():
    return Boxed().init(jax.random.key(0), jnp.ones((1, 3)))["params"]


def state():
    return nnx.state(Net(nnx.Rngs(0)), nnx.Param)


@pytest.fixture(params=[linen, state], ids=["linen", "nnx"])
def params(request):
    return request.param()


def kernels(tree):
    """The values of the kernels, by path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {masks.name(path): np.asarray(leaf) for path, leaf in leaves}
    return {path: named[path] for path in ("hidden/kernel", "output/kernel")}


def test_kernels_in_boxes_are_prunable_under_their_own_names(params):
    assert masks.paths(params) == [
        *("hidden/bias", "hidden/kernel"),
        *("output/bias", "output/kernel"),
    ]
    mask = masks.ones(params)
    assert masks.paths(mask) == ["hidden/kernel", "output/kernel"]
    assert masks.size(mask) == 40
    assert masks.matching("^output/kernel$", mask) == ["output/kernel"]


def test_only_the_box_is_left_out_of_a_name():
    tree = {"value": {"kernel": jnp.ones((2, 2))}, "value_2": {"value": jnp.ones(2)}}
    assert masks.paths(tree) == ["value/kernel", "value_2/value"]


def test_masks_of_boxes_do_what_masks_do(params):
    mask = masks.ones(params)
    scores = jax.tree.map(jnp.abs, params)
    kept = masks.keep_top(scores, mask, 0.25)
    assert int(masks.count(kept)) == 10
    assert float(masks.density(kept)) == 0.25
    shares = masks.densities(kept)
    assert 24 * shares["hidden/kernel"] + 16 * shares["output/kernel"] == 10
    every = np.sort(np.concatenate([w.ravel() for w in kernels(scores).values()]))
    sparse = kernels(masks.apply(params, kept))
    for path, w in kernels(params).items():
        expected = np.where(np.abs(w) >= every[-10], w, 0)
        np.testing.assert_array_equal(sparse[path], expected)
    for scope in ("layer", "global"):
        moved = masks.shuffle(kept, jax.random.key(0), scope)
        assert int(masks.count(moved)) == 10
    assert float(masks.overlap(kept, kept)) == 1
    assert masks.paths(masks.unmasked(params)) == []
    share = allocation.by_path(mask, 0.5, {"output": 1.0})
    assert int(masks.count(masks.keep_top(scores, mask, share))) == 12 + 16
    er = allocation.erdos_renyi(mask, 0.5)
    assert int(masks.count(masks.keep_top(scores, mask, er))) == 20
    table = {path: float(share) for path, share in shares.items()}
    again = masks.keep_top(scores, mask, allocation.from_table(mask, table))
    assert masks.densities(again) == shares
    units = structure.keep_top(scores, mask, 0.5, unit=structure.outputs())
    structure.check(units, structure.outputs())
    structure.check_n_of_m(structure.keep_n_of_m(scores, mask, 2, 4), 2, 4)


RULE = {"begin_step": 2, "end_step": 9, "frequency": 3}


def test_what_is_pruned_stays_zero_in_an_nnx_loop():
    model = Net(nnx.Rngs(0))
    tx = dynamic.sparsify(optax.adam(0.1), rules.rigl(0.5, **RULE))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    start = dynamic.masked(nnx.state(model, nnx.Param), optimizer.opt_state)
    nnx.update(model, start)

    @nnx.jit
    def step(model, optimizer, x):
        grads = nnx.grad(lambda model: jnp.mean((model(x) - 1) ** 2))(model)
        optimizer.update(model, grads)

    for i in range(11):
        mask = dynamic.state_of(optimizer.opt_state).mask
        assert int(masks.count(mask)) == 12 + 8
        weights = kernels(nnx.state(model, nnx.Param))
        for path, keep in kernels(mask).items():
            assert not weights[path][~keep].any()
        step(model, optimizer, normal(jax.random.key(i), (8, 3)))
    rows = dynamic.records(optimizer.opt_state)
    assert [(r["step"], r["path"], r["kept"]) for r in rows] == [
        (step, path, kept)
        for step in (2, 5, 8)
        for path, kept in (("hidden/kernel", 12), ("output/kernel", 8))
    ]


def test_what_is_pruned_stays_zero_in_a_loop_over_boxed_params():
    tx = dynamic.sparsify(optax.adam(0.1), rules.sparse_evolution(0.5, **RULE))
    params = linen()
    opt_state = tx.init(params)
    params = dynamic.masked(params, opt_state)

    @jax.jit
    def step(params, opt_state, x):
        def loss(params):
            return jnp.mean((Boxed().apply({"params": params}, x) - 1) ** 2)

        updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for i in range(11):
        x = normal(jax.random.key(i), (8, 3))
        params, opt_state = step(params, opt_state, x)
        keep = kernels(dynamic.state_of(opt_state).mask)
        for path, w in kernels(params).items():
            assert not w[~keep[path]].any()
            assert w[keep[path]].any()
    assert len(dynamic.records(opt_state)) == 6
