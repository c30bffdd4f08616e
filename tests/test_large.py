"""Our arithmetic at 10^6 elements and odd sizes, against NumPy in double precision.

Property tests run at small sizes, and compilers split large reductions: what is right
for a hundred numbers can be wrong for a million.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lth import criteria, dynamic, masks, train
from lth.analysis import cost
from lth.criteria import history, obs
from lth.dynamic import rules
from lth.lottery import starts
from lth.masks import allocation, schedules, structure
from lth.supermask import frozen, gated, superposition

SHAPES = {"a": {"kernel": (1009, 991)}, "b": {"kernel": (3, 3, 41, 37)}}
IS_SHAPE = lambda x: isinstance(x, tuple)  # noqa: E731


@functools.cache
def tree(seed: int) -> Any:
    """Two kernels, together of 1 013 572 normal numbers."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda s: rng.standard_normal(s).astype(np.float32), SHAPES, is_leaf=IS_SHAPE
    )


def doubles(params):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), params)


def agree(ours, right, rtol=1e-5, atol=0.0):
    """Every element of our tree, compiled or not, is the right one."""
    assert jax.tree.structure(ours) == jax.tree.structure(right)
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(np.asarray(mine), other, rtol=rtol, atol=atol)


def both(function, *args):
    """The result of a function as it is, and compiled whole."""
    return function(*args), jax.jit(function)(*args)


def each(function, *trees):
    return jax.tree.map(function, *[doubles(t) for t in trees])


def lamp(w):
    energy = w.ravel() ** 2
    order = np.argsort(energy[::-1], kind="stable")
    rest = np.cumsum(energy[::-1][order][::-1])[::-1]
    share = np.empty_like(energy)
    share[order] = energy[::-1][order] / rest
    return share[::-1].reshape(w.shape)


def standardised(w):
    size, axes = np.abs(w), tuple(range(w.ndim - 1)) if w.ndim == 4 else None
    return (size - size.mean(axes, keepdims=True)) / size.std(axes, keepdims=True)


OF_WEIGHTS = {
    "magnitude": (criteria.magnitude, np.abs),
    "normalised_magnitude": (
        criteria.normalised_magnitude,
        lambda w: np.abs(w) / np.sqrt((w**2).sum()),
    ),
    "standardised_magnitude": (criteria.standardised_magnitude, standardised),
    "lamp": (criteria.lamp, lamp),
}


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_criteria_of_weights(name):
    function, right = OF_WEIGHTS[name]
    for scores in both(function, tree(0)):
        agree(scores, each(right, tree(0)), rtol=2e-5, atol=1e-6)


def rank(values):
    """The share of a leaf below each value; of equals the lower index is above."""
    flat = values.ravel()
    order = np.argsort(-flat, kind="stable")
    ranks = np.empty(flat.size)
    ranks[order] = np.arange(flat.size - 1, -1, -1) / flat.size
    return ranks.reshape(values.shape)


def grown(i, f):
    return np.abs(f) - np.abs(i)


def lower(sign):
    return lambda i, f: np.minimum(rank(sign * np.abs(i)), rank(sign * np.abs(f)))


def where(same, scores):
    def right(i, f):
        return np.where((np.sign(i) == np.sign(f)) == same, scores(i, f), -np.inf)

    return right


OF_HISTORY = {
    "large_final": lambda i, f: np.abs(f),
    "small_final": lambda i, f: -np.abs(f),
    "large_init": lambda i, f: np.abs(i),
    "small_init": lambda i, f: -np.abs(i),
    "magnitude_increase": grown,
    "movement": lambda i, f: np.abs(f - i),
    "large_init_large_final": lower(1),
    "small_init_small_final": lower(-1),
    "large_final_same_sign": where(True, lambda i, f: np.abs(f)),
    "large_final_diff_sign": where(False, lambda i, f: np.abs(f)),
    "magnitude_increase_same_sign": where(True, grown),
    "magnitude_increase_diff_sign": where(False, grown),
}


@pytest.mark.parametrize("name", OF_HISTORY)
def test_criteria_of_history(name):
    right = each(OF_HISTORY[name], tree(0), tree(1))
    scores = jax.jit(getattr(history, name))(tree(0), tree(1))
    agree(scores, right, rtol=1e-5, atol=1e-6)


# A network of two linear layers side by side, whose gradients can be written down:
# L = mean over examples of (|x A|^2 / 2 + |y B|^2 / 2), B as a matrix.
N = 7


@functools.cache
def batches(count: int) -> Any:
    rng = np.random.default_rng(5)
    return {
        "x": rng.standard_normal((count, N, 1009)).astype(np.float32) / 30,
        "y": rng.standard_normal((count, N, 9 * 41)).astype(np.float32) / 20,
    }


def linear_loss(params, batch):
    flat = params["b"]["kernel"].reshape(-1, 37)
    one = jnp.square(batch["x"] @ params["a"]["kernel"]).sum(-1)
    return jnp.mean(one / 2 + jnp.square(batch["y"] @ flat).sum(-1) / 2)


def second_moment(count):
    """E[xxᵀ] of either layer, over all examples, and the inputs themselves."""
    flat = {k: v.reshape(-1, v.shape[-1]) for k, v in doubles(batches(count)).items()}
    return {k: v.T @ v / len(v) for k, v in flat.items()}, flat


def gradients(params, count=2):
    (moments, _), p = second_moment(count), doubles(params)
    b = p["b"]["kernel"].reshape(-1, 37)
    return {
        "a": {"kernel": moments["x"] @ p["a"]["kernel"]},
        "b": {"kernel": (moments["y"] @ b).reshape(3, 3, 41, 37)},
    }


def total(values):
    return sum(leaf.sum() for leaf in jax.tree.leaves(values))


def times(one, other):
    return jax.tree.map(np.multiply, one, other)


def weight_gradient():
    return jax.tree.map(np.abs, times(doubles(tree(0)), gradients(tree(0))))


def grasp():
    product = times(doubles(tree(0)), gradients(gradients(tree(0))))
    return jax.tree.map(lambda v: v / abs(total(product)), product)


def fisher():
    """The mean over examples of the squared gradient, x² of the input and output²."""
    _, flat = second_moment(2)
    p = doubles(tree(0))
    right = {}
    for layer, name in (("a", "x"), ("b", "y")):
        w = p[layer]["kernel"]
        x = flat[name]
        out = x @ w.reshape(-1, w.shape[-1])
        right[layer] = {"kernel": ((x**2).T @ out**2 / len(x)).reshape(w.shape)}
    return right


ONES = masks.ones(tree(0))
OF_GRADIENTS = {
    "mean_gradient": (criteria.mean_gradient, lambda: gradients(tree(0))),
    "gradient_magnitude": (
        criteria.gradient_magnitude,
        lambda: jax.tree.map(np.abs, gradients(tree(0))),
    ),
    "weight_gradient": (criteria.weight_gradient, weight_gradient),
    "snip": (
        lambda loss, p, b: criteria.snip(loss, p, ONES, b),
        lambda: jax.tree.map(lambda s: s / total(weight_gradient()), weight_gradient()),
    ),
    "grasp": (lambda loss, p, b: criteria.grasp(loss, p, ONES, b), grasp),
    "empirical_fisher": (criteria.empirical_fisher, fisher),
}


@pytest.mark.parametrize("name", OF_GRADIENTS)
def test_criteria_of_gradients(name):
    function, right = OF_GRADIENTS[name]
    score = jax.jit(functools.partial(function, linear_loss))
    expected = right()
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    agree(score(tree(0), batches(2)), expected, rtol=1e-4, atol=1e-5 * scale)


def spread(w, by_input):
    """[in] for all weights of a kernel [..., in, out]."""
    return np.broadcast_to(by_input.reshape(-1, 1), w.shape)


@pytest.mark.parametrize(
    ("name", "reduce", "weighted"),
    [
        ("wanda", lambda x: np.sqrt((x**2).sum(0)), True),
        ("activation_magnitude", lambda x: np.abs(x).mean(0), True),
        ("mean_activation", lambda x: x.mean(0), False),
        ("nonzero_share", lambda x: (x != 0).mean(0), False),
    ],
)
def test_criteria_of_activations(name, reduce, weighted):
    rng = np.random.default_rng(7)
    inputs = {
        "a": {"kernel": rng.standard_normal((1003, 1009)).astype(np.float32)},
        "b": {"kernel": rng.standard_normal((31, 29, 29, 41)).astype(np.float32)},
    }
    inputs = jax.tree.map(lambda x: np.where(x > 1.5, 0, x).astype(np.float32), inputs)

    def right(w, x):
        value = reduce(x.reshape(-1, x.shape[-1]))
        return spread(w, value) * (np.abs(w) if weighted else 1)

    scores = jax.jit(getattr(criteria, name))(tree(0), inputs)
    agree(scores, each(right, tree(0), inputs), rtol=1e-4, atol=1e-5)


def test_taylor_criteria():
    g = gradients(tree(0))

    def gates(w, grad):
        axes = tuple(i for i in range(w.ndim) if i != w.ndim - 2)
        return spread(w, np.sum(w * grad, axes))

    right = jax.tree.map(gates, doubles(tree(0)), g)
    params, batch = tree(0), batches(2)
    scores = jax.jit(functools.partial(criteria.taylor_batch, linear_loss))(
        params, batch
    )
    agree(scores, jax.tree.map(np.abs, right), rtol=1e-3, atol=1e-3)
    scores = jax.jit(functools.partial(criteria.taylor_squared, linear_loss))(
        params, batch
    )
    agree(scores, jax.tree.map(np.square, right), rtol=1e-3, atol=1e-3)
    normalised = jax.jit(criteria.taylor_normalised)(jax.tree.map(np.float32, right))

    def norm(s):
        return s / np.sqrt((s.reshape(-1, *s.shape[-2:])[0, :, 0] ** 2).sum())

    agree(normalised, jax.tree.map(norm, right), rtol=1e-4, atol=1e-6)


def test_the_hessian_of_surgery():
    x = np.random.default_rng(1).standard_normal((3001, 333)).astype(np.float32)
    right = x.astype(np.float64).T @ x
    right += 0.01 * np.diagonal(right).mean() * np.eye(333)
    agree(jax.jit(obs.hessian, static_argnums=1)(x, 0.01), right, rtol=1e-4, atol=1e-2)


def half(seed: int = 2):
    return jax.tree.map(lambda w: w > 0.3, tree(seed))


def test_counts_of_masks_are_exact():
    mask, other = half(2), half(3)
    flat = [
        np.concatenate([m.ravel() for m in jax.tree.leaves(t)]) for t in (mask, other)
    ]
    assert int(masks.count(mask)) == flat[0].sum()
    assert float(masks.density(mask)) == pytest.approx(flat[0].mean(), rel=1e-6)
    found = masks.densities(mask)
    assert float(found["a/kernel"]) == pytest.approx(
        mask["a"]["kernel"].mean(), rel=1e-6
    )
    jaccard = (flat[0] & flat[1]).sum() / (flat[0] | flat[1]).sum()
    assert float(masks.overlap(mask, other)) == pytest.approx(jaccard, rel=1e-6)
    moved = masks.shuffle(mask, jax.random.key(0))
    for one, new in zip(jax.tree.leaves(mask), jax.tree.leaves(moved), strict=True):
        assert int(np.sum(new)) == int(one.sum())
        assert not (np.asarray(new) == one).all()


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_highest_are_kept(scope):
    scores = each(np.abs, tree(0))
    kept = masks.keep_top(criteria.magnitude(tree(0)), ONES, 0.137, scope)
    leaves = jax.tree.leaves(scores)
    groups = [leaves] if scope == "global" else [[leaf] for leaf in leaves]
    chosen = iter(jax.tree.leaves(kept))
    for group in groups:
        flat = np.concatenate([leaf.ravel() for leaf in group])
        k = round(0.137 * flat.size)
        right = np.zeros(flat.size, bool)
        right[np.argsort(-flat, kind="stable")[:k]] = True
        ours = np.concatenate([np.asarray(next(chosen)).ravel() for _ in group])
        np.testing.assert_array_equal(ours, right)


@pytest.mark.parametrize(
    ("pool", "reduce"),
    [
        ("sum", lambda s: s.sum(-1)),
        ("l2", lambda s: np.sqrt((s**2).sum(-1))),
        ("mean", lambda s: s.mean(-1)),
        ("max", lambda s: s.max(-1)),
    ],
)
def test_units_are_pooled_and_counted(pool, reduce):
    scores = criteria.magnitude({"kernel": tree(0)["a"]["kernel"]})
    ones = {"kernel": jnp.ones((1009, 991), bool)}
    kept = structure.keep_top(
        scores, ones, 0.3, "global", unit=structure.outputs(pool)
    )["kernel"]
    pooled = reduce(np.abs(tree(0)["a"]["kernel"].T.astype(np.float64)))
    best = np.argsort(-pooled, kind="stable")[: round(0.3 * 991)]
    columns = np.flatnonzero(np.asarray(kept).all(0))
    assert int(kept.sum()) == len(columns) * 1009
    # Sums in single precision may change places at the threshold and nowhere else.
    assert len(set(columns) ^ set(best)) <= 2


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_steps_of_an_optimizer(optimizer):
    """Three masked steps of a million weights, as NumPy takes them."""
    data = jax.tree.map(lambda v: v[0], batches(1))
    tx = optax.sgd(0.1, momentum=0.9) if optimizer == "sgd" else optax.adam(0.01)

    def loss(params, stats, batch, key):
        value = linear_loss(params, batch)
        return value, (stats, {"loss": value})

    step = jax.jit(train.make_train(loss, lambda key, step, data: data, tx))
    start = train.init_state(lambda key: (tree(0), {}), tx, None)
    state, sums = step(start, half(), data, jax.random.key(0), 3)

    keep = half()
    w = times(doubles(tree(0)), keep)
    m = v = jax.tree.map(np.zeros_like, w)
    losses = 0.0
    for t in range(1, 4):
        losses += float(linear_loss(jax.tree.map(np.float32, w), data))
        g = times(gradients(w, 1), keep)
        if optimizer == "sgd":
            m = jax.tree.map(lambda m, g: 0.9 * m + g, m, g)
            w = jax.tree.map(lambda w, m: w - 0.1 * m, w, m)
            continue
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, v, g)
        w = jax.tree.map(
            lambda w, m, v, t=t: (
                w - 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            ),
            w,
            m,
            v,
        )
    agree(state.params, w, rtol=1e-3, atol=2e-4)
    assert float(sums["loss"]) == pytest.approx(losses, rel=1e-4)
    pruned = jax.tree.map(lambda w, k: float(np.abs(w[~k]).max()), state.params, keep)
    assert set(jax.tree.leaves(pruned)) == {0.0}


@pytest.mark.parametrize("examples", [100_003, 40_001, 999])
def test_means_over_a_data_set(examples):
    values = np.random.default_rng(0).random(examples).astype(np.float32)

    def measure(params, stats, batch):
        return {"loss": batch["x"] * params, "accuracy": (batch["x"] > 0.5) * 1.0}

    evaluate = jax.jit(train.make_evaluate(measure))
    found = evaluate(jnp.float32(3), {}, {"x": values})
    right = 3 * values.astype(np.float64).mean()
    assert float(found["loss"]) == pytest.approx(right, rel=1e-5)
    assert float(found["accuracy"]) == pytest.approx((values > 0.5).mean(), rel=1e-6)


def test_losses_of_many_examples():
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((100_003, 10)).astype(np.float32)
    label = rng.integers(0, 10, 100_003).astype(np.int32)
    z = logits.astype(np.float64)
    right = np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), label]

    class Batch:
        inputs, targets = logits, None

    Batch.targets = label
    loss, measure = train.classification(lambda p, s, x, train, key: (x * p, s))
    value, (_, metrics) = jax.jit(lambda p: loss(p, {}, Batch, None))(1.0)
    assert float(value) == pytest.approx(right.mean(), rel=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx((z.argmax(1) == label).mean())
    each_one = jax.jit(lambda p: measure(p, {}, Batch))(1.0)
    np.testing.assert_allclose(
        np.asarray(each_one["loss"]), right, rtol=1e-4, atol=1e-5
    )
    grad = jax.jit(jax.grad(lambda p: loss(p, {}, Batch, None)[0]))(1.0)
    soft = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    slope = (soft * z).sum(1) - z[np.arange(len(z)), label]
    assert float(grad) == pytest.approx(slope.mean(), rel=1e-4, abs=1e-6)


def test_a_rule_records_what_it_did():
    tx = dynamic.sparsify(optax.sgd(0.0), rules.gradual(schedules.one_shot(0.75, 1), 1))
    state = tx.init(tree(0))
    zero = jax.tree.map(np.zeros_like, tree(0))
    _, state = jax.jit(tx.update)(zero, state, tree(0))
    rows = {row["path"]: row for row in dynamic.records(state)}
    flat = np.concatenate([np.abs(w).ravel() for w in jax.tree.leaves(tree(0))])
    cut = np.sort(flat)[::-1][round(0.25 * flat.size) - 1]
    for path, w in (("a/kernel", tree(0)["a"]), ("b/kernel", tree(0)["b"])):
        size = np.abs(w["kernel"])
        kept = int((size >= cut).sum())
        assert rows[path]["kept"] == kept
        assert rows[path]["pruned"] == size.size - kept
        assert rows[path]["threshold"] == size[size >= cut].min()


def test_thresholds_by_deviation():
    kept = allocation.by_deviation(tree(0), half(), 0.7)

    def right(w, keep):
        alive = w[keep]
        cut = 0.7 * np.sqrt(((alive - alive.mean()) ** 2).mean())
        return keep & (np.abs(w) > cut), np.abs(np.abs(w) - cut) < 1e-5

    for ours, w, keep in zip(
        *map(jax.tree.leaves, (kept, doubles(tree(0)), half())), strict=True
    ):
        expected, close = right(w, keep)
        assert (np.asarray(ours) == expected)[~close].all()


def test_what_becomes_of_weights():
    constant = jax.jit(starts.signed_constant)(tree(0), half())
    agree(constant, each(lambda w: np.sign(w) * w.std(), tree(0)), rtol=1e-5)
    more = jax.jit(starts.rescaled)(tree(0), half())
    right = jax.tree.map(lambda w, m: w * (m.size / m.sum()), doubles(tree(0)), half())
    agree(more, right, rtol=1e-5)


def test_penalties_and_binary_weights():
    w, keep = tree(0)["a"]["kernel"], half()["a"]["kernel"]
    size = np.abs(w.astype(np.float64))[keep].mean()
    ours = jax.jit(frozen.binarised)(w, keep)
    agree({"w": ours}, {"w": np.where(w < 0, -size, size)}, rtol=1e-5)
    mean = jax.jit(gated._mean)(tree(0))
    flat = np.concatenate([x.ravel() for x in jax.tree.leaves(doubles(tree(0)))])
    assert float(mean) == pytest.approx(flat.mean(), rel=1e-3, abs=1e-6)


def test_the_entropy_of_many_outputs():
    logits = tree(0)["a"]["kernel"]
    z = logits.astype(np.float64)
    share = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    right = -(share * np.log(share)).sum(1).mean()
    ours = jax.jit(superposition.entropy)(logits)
    assert float(ours) == pytest.approx(right, rel=1e-5)


def test_sizes_and_multiplications():
    size = cost.size(tree(0), half())
    kept = sum(int(m.sum()) for m in jax.tree.leaves(half()))
    assert (size.total, size.prunable, size.kept) == (1_013_572, 1_013_572, kept)
