"""Units of two networks matched: against every permutation there is, and undone."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lth import compress, masks
from lth.analysis import matching
from tests.conftest import assert_same, plain_mlp
from tests.test_spaces import (
    KEY,
    OWN,
    X,
    at_random,
    close,
    drawn,
    examples,
    own,
    shaped,
    spaces_of,
)


def mlp(sizes, seed=0):
    """A network with biases, its spaces and its weights."""
    model = plain_mlp(sizes)
    params, stats = jax.eval_shape(model.init, KEY)
    inputs = jax.ShapeDtypeStruct((2, sizes[0]), jnp.float32)
    return (
        model.apply,
        compress.find(model.apply, params, stats, inputs),
        drawn(params, seed),
    )


def undone(spaces, tree, moved):
    orders = matching.match(spaces, tree["params"], moved["params"])
    params, stats, _ = matching.permuted(
        spaces, orders, moved["params"], moved.get("stats")
    )
    return orders, {"params": params, "stats": stats}


@pytest.mark.parametrize(
    "name", ["mlp", "conv2", "vgg16", "resnet20", "wrn", "vit", "transformer"]
)
def test_a_permuted_network_is_recognised(name):
    model, params, stats, like = shaped(name)
    spaces = compress.find(model.apply, params, stats, like)
    tree = drawn({"params": params, "stats": stats})
    _, after = undone(spaces, tree, at_random(tree, spaces))
    assert_same(after, tree)


@pytest.mark.parametrize("name", ["residual", "joined", "grouped", "fused", "experts"])
def test_own_functions_are_recognised(name):
    params, spaces = OWN[name][1], spaces_of(name)
    moved = at_random({"params": params}, spaces)
    assert_same(undone(spaces, {"params": params}, moved)[1]["params"], params)


def test_a_million_weights_are_recognised():
    _, spaces, params = mlp((700, 1000, 300, 10))
    assert sum(w.size for w in params.values()) > 10**6
    moved = at_random({"params": params}, spaces)
    orders, after = undone(spaces, {"params": params}, moved)
    assert_same(after["params"], params)
    assert [len(order) for order in orders.values()] == [1000, 300]


def every_order(spaces, a, b):
    """The highest sum of products over all orders of all spaces."""
    best = -np.inf
    sizes = [itertools.permutations(range(space.size)) for space in spaces]
    for orders in itertools.product(*sizes):
        tree = {"params": b}
        for space, order in zip(spaces, orders, strict=True):
            tree = compress.permute(tree, space, order)
        value = sum(float(np.vdot(a[k], tree["params"][k])) for k in a)
        best = max(best, value)
    return best


@pytest.mark.parametrize("seed", range(3))
def test_one_space_is_matched_as_well_as_can_be(seed):
    _, spaces, ours = mlp((3, 5, 2), seed)
    theirs = drawn(ours, seed + 10)
    *_, (orders, value) = matching.descend(
        spaces, matching.arrays(ours), matching.arrays(theirs)
    )
    assert value == pytest.approx(every_order(spaces, ours, theirs), rel=1e-5)
    after, *_ = matching.permuted(spaces, orders, theirs)
    total = sum(float(jnp.vdot(ours[k], after[k])) for k in ours)
    assert total == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("name", ["mlp", "recurrent", "attention"])
def test_steps_only_get_better_and_the_function_stays(name):
    lengths = []
    for seed in range(4):
        if name == "mlp":
            apply, spaces, ours = mlp((6, 20, 16, 12, 2), seed)
            inputs = X
        else:
            function, like, _ = OWN[name]
            apply, spaces, inputs = own(function), spaces_of(name), X
            ours = drawn(like, seed)
        theirs = drawn(ours, seed + 20)
        steps = list(
            matching.descend(spaces, matching.arrays(ours), matching.arrays(theirs))
        )
        values = [value for _, value in steps]
        assert values == sorted(values)
        lengths.append(len(values))
        before = sum(float(jnp.vdot(ours[k], theirs[k])) for k in ours)
        assert values[0] >= before - 1e-4
        after, *_ = matching.permuted(spaces, steps[-1][0], theirs)
        assert close(
            apply(theirs, {}, inputs, False, KEY)[0],
            apply(after, {}, inputs, False, KEY)[0],
        )
    assert name != "mlp" or max(lengths) > 2


def test_matching_lowers_the_loss_between():
    """The midpoint of a network and a permuted, noisy copy is near them again."""
    apply, spaces, ours = mlp((6, 20, 20, 2))
    noise = drawn(ours, 5)
    theirs = jax.tree.map(lambda w, e: w + 0.1 * e, ours, noise)
    theirs = at_random({"params": theirs}, spaces)["params"]
    orders = matching.match(spaces, ours, theirs)
    after, *_ = matching.permuted(spaces, orders, theirs)

    def off(other):
        middle = jax.tree.map(lambda a, b: (a + b) / 2, ours, other)
        outputs = [apply(p, {}, X, False, KEY)[0] for p in (middle, ours)]
        return float(jnp.abs(outputs[0] - outputs[1]).mean())

    assert off(after) < 0.2 * off(theirs)


def test_activations_are_what_kernels_read():
    apply, spaces, params = mlp((6, 5, 4, 2))
    found = matching.activations(spaces, apply, params, {}, X)
    w = {name: np.asarray(values) for name, values in params.items()}
    hidden = np.maximum(np.asarray(X) @ w["w0"] + w["b0"], 0)
    deeper = np.maximum(hidden @ w["w1"] + w["b1"], 0)
    assert set(found) == {("params/w1", 0), ("params/w2", 0)}
    assert np.allclose(found["params/w1", 0], hidden, atol=1e-6)
    assert np.allclose(found["params/w2", 0], deeper, atol=1e-6)


def test_correlations_by_every_order():
    rng = np.random.default_rng(0)
    space = spaces_of("residual")[0]._replace(
        members={("params/b", 0): np.arange(5)[:, None]}
    )
    ours, theirs = rng.standard_normal((2, 40, 5))
    theirs[:, 2] = 3.0  # a unit that never changes
    found = matching.match_activations(
        [space], {("params/b", 0): ours}, {("params/b", 0): theirs}
    )[space.name]
    table = np.zeros((5, 5))
    for i, j in itertools.product(range(5), [0, 1, 3, 4]):
        table[i, j] = np.corrcoef(ours[:, i], theirs[:, j])[0, 1]
    best = max(
        itertools.permutations(range(5)),
        key=lambda order: sum(table[i, j] for i, j in enumerate(order)),
    )
    assert found.tolist() == list(best)


@pytest.mark.parametrize(("name", "n"), [("lenet5", 60), ("resnet20", 6)])
def test_activations_recognise_a_permuted_network(name, n):
    model, params, stats, like = shaped(name)
    spaces = compress.find(model.apply, params, stats, like)
    tree = drawn({"params": params, "stats": stats})
    inputs = examples(jax.ShapeDtypeStruct((n, *like.shape[1:]), jnp.float32))
    states = [t.values() for t in (tree, at_random(tree, spaces))]
    seen = [matching.activations(spaces, model.apply, *t, inputs) for t in states]
    orders = matching.match_activations(spaces, *seen)
    *after, _ = matching.permuted(spaces, orders, *states[1])
    # Units that are silent on these inputs cannot be told apart, and need not be.
    again = matching.activations(spaces, model.apply, *after, inputs)
    for at, values in seen[0].items():
        assert np.abs(values - again[at]).max() <= 1e-4 * np.abs(values).max()
    assert any(
        np.abs(seen[0][at] - values).max() > 0.1 for at, values in seen[1].items()
    )


def test_masks_are_carried():
    _, spaces, params = mlp((6, 5, 4, 2))
    rng = np.random.default_rng(3)
    mask = {
        k: jnp.asarray(rng.random(w.shape) < 0.5) if w.ndim == 2 else None
        for k, w in params.items()
    }
    orders = {"w0": np.array([3, 0, 4, 1, 2]), "w1": np.array([1, 3, 0, 2])}
    assert [space.name for space in spaces] == list(orders)
    state, stats, carried = matching.permuted(spaces, orders, params, None, mask)
    assert stats is None
    for i, j in itertools.product(range(5), range(4)):
        from_ = orders["w0"][i], orders["w1"][j]
        assert carried["w1"][i, j] == mask["w1"][from_]
    assert carried["b0"] is None
    # A mask goes with its weights.
    pruned, *_ = matching.permuted(spaces, orders, masks.apply(params, mask))
    assert_same(masks.apply(state, carried), pruned)
    *_, alone = matching.permuted(spaces, orders, mask=mask)
    assert_same(alone, carried)


def test_refusals_name_what_is_wrong():
    _, spaces, params = mlp((6, 5, 2))
    with pytest.raises(ValueError, match="params/b0 is \\[5\\] in one network; other"):
        matching.match(spaces, params, params | {"b0": jnp.ones(4)})
    with pytest.raises(ValueError, match="params/w0 holds values that are not finite"):
        matching.match(spaces, params, params | {"w0": params["w0"] * jnp.nan})
    with pytest.raises(ValueError, match="no space 'z'"):
        matching.permuted(spaces, {"z": [0]}, params)
    with pytest.raises(ValueError, match="5 channels to permute"):
        matching.permuted(spaces, {"w0": [0, 0, 1, 2, 3]}, params)
