"""Criteria against NumPy written from their definitions, and numbers worked by hand."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lth import criteria, masks, models

RNG = np.random.default_rng(0)
SHAPES = {"w0": (3, 4), "b0": (4,), "w1": (4, 2), "b1": (2,)}
WEIGHTS = {k: RNG.normal(size=s).astype(np.float32) for k, s in SHAPES.items()}
BATCHES = (  # two batches of five examples
    RNG.normal(size=(2, 5, 3)).astype(np.float32),
    RNG.normal(size=(2, 5, 2)).astype(np.float32),
)
PRUNABLE = {"w0": np.ones((3, 4), bool), "b0": None, "w1": np.ones((4, 2), bool)}
PRUNABLE["b1"] = None


def loss(params, batch):
    """The mean squared error of a tanh network."""
    x, y = batch
    hidden = jnp.tanh(x @ params["w0"] + params["b0"][None])
    return jnp.mean(jnp.square(hidden @ params["w1"] + params["b1"][None] - y))


def gradient(params, x, y):
    """The same by hand, in float64."""
    p = {k: v.astype(np.float64) for k, v in params.items()}
    hidden = np.tanh(x @ p["w0"] + p["b0"])
    error = 2 * (hidden @ p["w1"] + p["b1"] - y) / y.size
    back = (error @ p["w1"].T) * (1 - hidden**2)
    return {
        "w0": x.T @ back,
        "b0": back.sum(0),
        "w1": hidden.T @ error,
        "b1": error.sum(0),
    }


def mean_gradient(params):
    found = [gradient(params, x, y) for x, y in zip(*BATCHES, strict=True)]
    return {k: np.mean([g[k] for g in found], 0) for k in params}


def close(a, b, tolerance=1e-5):
    for k in b:
        np.testing.assert_allclose(a[k], b[k], rtol=tolerance, atol=tolerance)


def test_gradients_are_means_over_the_batches():
    expected = mean_gradient(WEIGHTS)
    close(criteria.mean_gradient(loss, WEIGHTS, BATCHES), expected)
    found = criteria.gradient_magnitude(loss, WEIGHTS, BATCHES)
    close(found, {k: np.abs(g) for k, g in expected.items()})
    found = criteria.weight_gradient(loss, WEIGHTS, BATCHES)
    close(found, {k: np.abs(WEIGHTS[k] * g) for k, g in expected.items()})


def test_snip_is_the_share_of_weight_times_gradient():
    sizes = {k: np.abs(WEIGHTS[k] * g) for k, g in mean_gradient(WEIGHTS).items()}
    total = sizes["w0"].sum() + sizes["w1"].sum()
    found = criteria.snip(loss, WEIGHTS, PRUNABLE, BATCHES)
    close(found, {k: sizes[k] / total for k in ("w0", "w1")})
    assert not np.any(found["b0"])  # biases are not prunable here, and take no share


def test_snip_is_the_gradient_for_the_mask():
    def masked(m):
        pruned = {k: w * m[k] if k in m else w for k, w in WEIGHTS.items()}
        return np.mean([float(loss(pruned, b)) for b in zip(*BATCHES, strict=True)])

    ones = {k: np.ones(SHAPES[k]) for k in ("w0", "w1")}
    found = criteria.snip(loss, WEIGHTS, PRUNABLE, BATCHES)
    total = sum(np.abs(WEIGHTS[k] * mean_gradient(WEIGHTS)[k]).sum() for k in ones)
    for k, index in (("w0", (1, 2)), ("w1", (3, 1))):
        up, down = ({n: m.copy() for n, m in ones.items()} for _ in range(2))
        up[k][index] += 1e-2
        down[k][index] -= 1e-2
        slope = (masked(up) - masked(down)) / 2e-2
        assert float(found[k][index]) == pytest.approx(abs(slope) / total, rel=1e-2)


@pytest.mark.parametrize("dead", [False, True])
def test_grasp_against_differences_of_gradients(dead):
    params, mask = dict(WEIGHTS), dict(PRUNABLE)
    if dead:
        mask["w0"] = RNG.random((3, 4)) < 0.6
        params["w0"] = params["w0"] * mask["w0"]
    g = mean_gradient(params)
    g = {k: np.where(mask[k], g[k], 0) if mask[k] is not None else 0 * g[k] for k in g}
    up = mean_gradient({k: params[k] + 1e-5 * g[k] for k in params})
    down = mean_gradient({k: params[k] - 1e-5 * g[k] for k in params})
    scores = {
        k: np.where(mask[k], params[k] * (up[k] - down[k]) / 2e-5, 0)
        for k in ("w0", "w1")
    }
    total = abs(sum(s.sum() for s in scores.values()))
    found = criteria.grasp(loss, params, mask, BATCHES)
    close(found, {k: s / total for k, s in scores.items()}, 1e-3)


def test_grasp_keeps_what_the_gradient_flow_needs():
    # L = (a x)² / 2 summed over two separate weights: H is diagonal, Hg = a⁴ x.
    params, mask = {"w": jnp.array([1.0, 1.0])}, {"w": jnp.ones(2, bool)}
    curvature = jnp.array([1.0, 3.0])

    def bowl(params, batch):
        return 0.5 * jnp.sum(batch * curvature * jnp.square(params["w"]))

    found = criteria.grasp(bowl, params, mask, jnp.ones((1,)))["w"]
    np.testing.assert_allclose(found, [0.1, 0.9], rtol=1e-6)


def linear_chain(params, stats, inputs, train, key):
    for k in sorted(params):
        inputs = jax.nn.relu(inputs @ params[k]) if k != "w2" else inputs @ params[k]
    return inputs, stats


def chain(rng=RNG):
    sizes = [5, 7, 6, 3]
    return {
        f"w{i}": rng.normal(size=sizes[i : i + 2]).astype(np.float32) for i in range(3)
    }


def test_synflow_is_the_flow_through_each_weight():
    params = chain()
    a, b, c = (np.abs(params[f"w{i}"]).astype(np.float64) for i in range(3))
    out = np.ones(3)
    expected = {
        "w0": a * np.outer(np.ones(5), b @ c @ out),
        "w1": b * np.outer(np.ones(5) @ a, c @ out),
        "w2": c * np.outer(np.ones(5) @ a @ b, out),
    }
    found = criteria.synflow(linear_chain, params, {}, jnp.ones((1, 5)))
    close(found, expected)


def test_synflow_conserves_the_sum_over_layers():
    params = chain()
    found = criteria.synflow(linear_chain, params, {}, jnp.ones((1, 5)))
    sums = [float(jnp.sum(s)) for s in found.values()]
    np.testing.assert_allclose(sums, sums[0], rtol=1e-5)
    # And at every hidden unit: what flows in flows out.
    np.testing.assert_allclose(found["w0"].sum(0), found["w1"].sum(1), rtol=1e-5)


def test_synflow_takes_norms_by_absolute_value_in_evaluation():
    def apply(params, stats, inputs, train, key):
        assert not train
        y = (inputs @ params["w"] - stats["mean"][None]) * params["scale"][None]
        return y + params["bias"][None], stats

    params = {
        "w": np.array([[1.0, -2.0]], np.float32),
        "scale": np.array([-3.0, 1.0], np.float32),
        "bias": np.array([-1.0, 0.0], np.float32),
    }
    stats = {"mean": np.array([-5.0, 0.0], np.float32)}
    found = criteria.synflow(apply, params, stats, jnp.ones((1, 1)))
    # R = |3|(|1| - |-5|) + |-1| + |1|(|-2| - 0): each score is |w ∂R/∂w|.
    np.testing.assert_allclose(found["w"], [[3.0, 2.0]])
    np.testing.assert_allclose(found["scale"], [12.0, 2.0])
    np.testing.assert_allclose(found["bias"], [1.0, 0.0])


def test_obd_on_a_diagonal_quadratic_is_the_change_of_the_loss():
    h = jnp.array([1.0, 4.0, 0.5, 9.0])
    w = {"w": jnp.array([2.0, -1.0, 3.0, 0.1])}

    def quadratic(params, batch):  # at its minimum, w
        return 0.5 * jnp.sum(batch * h * jnp.square(params["w"] - w["w"]))

    diagonal = criteria.hutchinson(quadratic, w, jnp.ones((1,)), jax.random.key(0))
    np.testing.assert_allclose(diagonal["w"], h, rtol=1e-6)
    found = criteria.obd(w, diagonal)["w"]
    actual = [quadratic({"w": w["w"].at[i].set(0)}, jnp.ones(())) for i in range(4)]
    np.testing.assert_allclose(found, actual, rtol=1e-6)


def test_significance_of_two_coefficients():
    # f = x + 5x² over x uniform on [-3, 3]: see how each criterion ranks 1 and 5.
    x = np.linspace(-3, 3, 20001, dtype=np.float32)
    features = np.stack([x, x**2], 1)
    w = {"w": np.array([1.0, 5.0], np.float32)}
    batches = (features[None], (features @ w["w"])[None])

    def squared(params, batch):
        return jnp.mean(jnp.square(batch[0] @ params["w"] - batch[1]))

    assert float(criteria.magnitude(w)["w"][0]) == 1
    hessian = 2 * features.T @ features / len(x)
    found = criteria.obd(w, {"w": np.diagonal(hessian)})["w"]
    np.testing.assert_allclose(found, [3, 405], rtol=1e-3)
    for i, change in enumerate((3, 405)):
        without = {"w": np.where(np.arange(2) == i, 0, w["w"])}
        loss = squared(without, (batches[0][0], batches[1][0]))
        assert float(loss) == pytest.approx(change, rel=1e-3)
    first_order = criteria.weight_gradient(squared, w, batches)["w"]
    np.testing.assert_allclose(first_order, 0, atol=1e-4)


def test_empirical_fisher_is_the_mean_of_squared_gradients():
    singles = [
        gradient(WEIGHTS, x[i : i + 1], y[i : i + 1])
        for x, y in zip(*BATCHES, strict=True)
        for i in range(5)
    ]
    expected = {k: np.mean([g[k] ** 2 for g in singles], 0) for k in WEIGHTS}
    close(criteria.empirical_fisher(loss, WEIGHTS, BATCHES), expected)


def test_hutchinson_averages_to_the_diagonal():
    keys = jax.random.split(jax.random.key(1), 1)[0]
    found = criteria.hutchinson(loss, WEIGHTS, BATCHES, keys, probes=4000)
    step = 1e-4
    for index in ((0, 0), (2, 3)):
        moved = []
        for sign in (1, -1):
            w = {k: v.astype(np.float64) for k, v in WEIGHTS.items()}
            w["w0"][index] += sign * step
            moved.append(mean_gradient(w)["w0"][index])
        expected = (moved[0] - moved[1]) / (2 * step)
        assert float(found["w0"][index]) == pytest.approx(expected, abs=0.05)


def test_adams_second_moment_is_found_wherever_it_is():
    tx = optax.chain(optax.clip(1.0), optax.adam(1e-3))
    state = tx.init(WEIGHTS)
    _, state = tx.update(jax.tree.map(jnp.ones_like, WEIGHTS), state)
    close(criteria.adam_second_moment(state), dict.fromkeys(WEIGHTS, 0.001))
    with pytest.raises(ValueError, match="one Adam is needed; this has 0"):
        criteria.adam_second_moment(optax.sgd(0.1).init(WEIGHTS))


arrays = st.lists(
    st.floats(-4, 4, width=16).map(lambda v: round(v, 1)), min_size=1, max_size=12
)


@given(arrays)
def test_lamp_is_the_share_of_what_is_no_smaller(values):
    w = np.array(values, np.float32)
    found = np.asarray(criteria.lamp({"w": w})["w"])
    order = sorted(range(len(w)), key=lambda i: (abs(w[i]), -i))
    energy = w.astype(np.float64) ** 2
    for place, i in enumerate(order):
        rest = sum(energy[j] for j in order[place:])
        assert found[i] == pytest.approx(energy[i] / rest if rest else 0, rel=1e-5)
    if energy.any():
        assert found.max() == pytest.approx(1)


def test_lamp_never_empties_a_layer():
    params = {"a": np.full((5, 5), 1e-4, np.float32), "b": np.ones((5, 5), np.float32)}
    mask = masks.ones(params, lambda path, leaf: True)
    kept = masks.keep_top(criteria.lamp(params), mask, 2 / 50)
    assert [int(np.sum(m)) for m in jax.tree.leaves(kept)] == [1, 1]


def test_normalised_magnitudes_divide_by_the_norm_of_the_layer():
    params = {"a": np.array([3.0, -4.0]), "b": np.array([0.0, 0.0])}
    found = criteria.normalised_magnitude(params)
    np.testing.assert_allclose(found["a"], [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(found["b"], 0)


def test_standardised_magnitudes_by_filter_and_by_matrix():
    rng = np.random.default_rng(1)
    params = {"conv": rng.normal(size=(2, 2, 3, 4)), "dense": rng.normal(size=(5, 6))}
    found = criteria.standardised_magnitude(params)
    for i in range(4):
        size = np.abs(params["conv"][..., i])
        z = (size - size.mean()) / size.std()
        np.testing.assert_allclose(found["conv"][..., i], z, rtol=1e-4, atol=1e-5)
    size = np.abs(params["dense"])
    z = (size - size.mean()) / size.std()
    np.testing.assert_allclose(found["dense"], z, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "criterion",
    [
        criteria.magnitude,
        criteria.normalised_magnitude,
        criteria.standardised_magnitude,
        criteria.lamp,
    ],
)
def test_magnitudes_do_not_see_signs(criterion):
    flipped = jax.tree.map(jnp.negative, WEIGHTS)
    close(criterion(flipped), criterion(WEIGHTS), 1e-7)


def test_inverted_keeps_the_others():
    w = {"w": np.array([3.0, 1.0, 2.0, 4.0], np.float32)}
    mask = masks.ones(w, lambda path, leaf: True)
    one = masks.keep_top(criteria.magnitude(w), mask, 0.5)["w"]
    other = masks.keep_top(criteria.inverted(criteria.magnitude(w)), mask, 0.5)["w"]
    assert (one ^ other).all()


INPUTS = {"dense": {"kernel": np.array([[1.0, 0, -2], [3, 0, 2]]), "bias": None}}
KERNEL = {
    "dense": {"kernel": np.array([[1.0, -2], [3, 4], [5, -6]]), "bias": np.ones(2)}
}


@pytest.mark.parametrize(
    ("criterion", "of_inputs", "weighted"),
    [
        (criteria.wanda, [10**0.5, 0, 8**0.5], True),
        (criteria.activation_magnitude, [2, 0, 2], True),
        (criteria.mean_activation, [2, 0, 0], False),
        (criteria.nonzero_share, [1, 0, 1], False),
    ],
)
def test_activations_by_hand(criterion, of_inputs, weighted):
    found = criterion(KERNEL, INPUTS)["dense"]
    w = np.abs(KERNEL["dense"]["kernel"]) if weighted else np.ones((3, 2))
    np.testing.assert_allclose(found["kernel"], w * np.array(of_inputs)[:, None])
    assert not np.any(found["bias"])


def test_activations_of_a_convolution_are_of_its_input_channels():
    rng = np.random.default_rng(2)
    x, w = rng.normal(size=(2, 5, 5, 3)), rng.normal(size=(3, 3, 3, 4))
    norm = np.sqrt((x**2).sum((0, 1, 2)))
    found = criteria.wanda({"k": w}, {"k": x})["k"]
    np.testing.assert_allclose(found, np.abs(w) * norm[:, None], rtol=1e-5)
    with pytest.raises(ValueError, match="k .* takes inputs"):
        criteria.wanda({"k": w}, {"k": x[..., :2]})


def test_models_tell_what_meets_each_kernel():
    module = models.MLP(widths=(6,), classes=3)
    model = models.standardized(models.from_linen(module, (4,)), 1.0, 2.0)
    params, stats = model.init(jax.random.key(0))
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    seen, left = jax.jit(model.intermediates)(params, stats, x)
    first = (x - 1) / 2
    np.testing.assert_allclose(seen["hidden_0"]["kernel"], first)
    hidden = np.maximum(first @ params["hidden_0"]["kernel"], 0)
    np.testing.assert_allclose(seen["output"]["kernel"], hidden, rtol=1e-5)
    assert seen["output"]["bias"] is None
    logits, _ = model.apply(params, stats, x, False, None)
    np.testing.assert_allclose(left["output"]["kernel"], logits, rtol=1e-6)


def least_squares(samples=200, features=20, outputs=3):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(samples, features)) @ rng.normal(size=(features, features))
    w = rng.normal(size=(features, outputs))
    return x, w


def refit(x, target, kept):
    """The loss of least squares on the kept columns of x alone."""
    solution = np.linalg.lstsq(x[:, kept], target, rcond=None)[0]
    return np.sum((target - x[:, kept] @ solution) ** 2)


@pytest.mark.parametrize("count", [1, 5])
def test_surgery_equals_a_refit_without_the_column(count):
    with jax.enable_x64(True):
        x, w = least_squares()
        hessian = criteria.obs.hessian(jnp.asarray(x))
        new, alive = criteria.obs.delete(
            jnp.asarray(w), hessian, jnp.ones(w.shape, bool), count
        )
        new, alive = np.asarray(new), np.asarray(alive)
    for j in range(w.shape[1]):
        target = x @ w[:, j]
        kept = np.flatnonzero(alive[:, j])
        assert len(kept) == 20 - count
        assert (new[~alive[:, j], j] == 0).all()
        loss = np.sum((target - x @ new[:, j]) ** 2)
        assert loss == pytest.approx(refit(x, target, kept), rel=1e-6)


def test_surgery_deletes_what_costs_least_and_goes_on_from_a_mask():
    with jax.enable_x64(True):
        x, w = least_squares(outputs=1)
        hessian = criteria.obs.hessian(jnp.asarray(x))
        ones = jnp.ones(w.shape, bool)
        once, alive = criteria.obs.delete(jnp.asarray(w), hessian, ones, 1)
        gone = int(np.flatnonzero(~np.asarray(alive)[:, 0])[0])
        again, left = criteria.obs.delete(once, hessian, alive, 1)
        both, left_both = criteria.obs.delete(jnp.asarray(w), hessian, ones, 2)
    target = x @ w[:, 0]
    losses = [refit(x, target, np.delete(np.arange(20), i)) for i in range(20)]
    assert gone == int(np.argmin(losses))
    saliency = criteria.obs.saliency(w, np.linalg.inv(x.T @ x))[:, 0]
    np.testing.assert_allclose(2 * saliency, losses, rtol=1e-4)
    assert (np.asarray(left) == np.asarray(left_both)).all()
    np.testing.assert_allclose(again, both, rtol=1e-6)


def test_sparse_gpt_in_one_column_blocks_is_sequential_surgery():
    # With blocks of one input each row of H is gone through once: the loss of a row
    # that is dropped whole equals the refit on the inputs after it.
    with jax.enable_x64(True):
        x, w = least_squares(outputs=2)
        hessian = criteria.obs.hessian(jnp.asarray(x))
        new, keep = criteria.obs.sparse_gpt(jnp.asarray(w), hessian, 0.5, block=4)
        new, keep = np.asarray(new), np.asarray(keep)
    assert keep.sum() == 20
    assert (new[~keep] == 0).all()
    large = np.asarray(masks.keep_top({"w": np.abs(w)}, {"w": keep | True}, 0.5)["w"])
    error = np.sum((x @ (w - new)) ** 2)
    assert error < 0.5 * np.sum((x @ (w - w * large)) ** 2)
    # NumPy, from the definition: the inverse of H over the inputs from q on.
    expected, h = w.copy(), x.T @ x
    for q in range(20):
        inverse = np.linalg.inv(h[q:, q:])
        for j in range(2):
            if not keep[q, j]:
                expected[q:, j] -= expected[q, j] / inverse[0, 0] * inverse[:, 0]
    np.testing.assert_allclose(new, expected * keep, rtol=1e-6, atol=1e-9)


def test_surgery_on_a_network():
    params = {"a": {"kernel": RNG.normal(size=(6, 5)).astype(np.float32)}}
    params["a"]["bias"] = np.ones(5, np.float32)
    inputs = {"a": {"kernel": RNG.normal(size=(40, 6)), "bias": None}}
    mask = masks.ones(params)
    new, kept = criteria.obs.prune(params, inputs, mask, 0.5)
    assert int(masks.count(kept)) == 15
    assert kept["a"]["bias"] is None
    np.testing.assert_array_equal(new["a"]["bias"], params["a"]["bias"])
    with pytest.raises(ValueError, match="a/kernel is pruned already"):
        criteria.obs.prune(new, inputs, kept, 0.2)
    conv = {"c": np.ones((3, 3, 2, 2), np.float32)}
    with pytest.raises(ValueError, match="c is .* leave it out"):
        criteria.obs.prune(conv, conv, masks.ones(conv, lambda *_: True), 0.5)


def test_taylor_by_hand():
    # One dense layer, two inputs and two outputs at each of two positions. The loss of
    # an example is ± (y₀ - y₁) summed over positions, so an input x is worth ± x times
    # 2 - 1 = 1 in the first row of the kernel, 3 - 1 = 2 in the second.
    layer = nn.Dense(2)
    params = {"kernel": jnp.array([[2.0, 1.0], [3.0, 1.0]]), "bias": jnp.zeros(2)}

    def loss(params, batch):
        x, sign = batch
        y = layer.apply({"params": params}, x)
        return jnp.mean(jnp.sum(y[..., 0] - y[..., 1], 1) * sign)

    x = jnp.array([[[1.0, 5.0], [2.0, -1.0]], [[3.0, -2.0], [-1.0, 3.0]]])
    batches = x[None], jnp.array([[1.0, -1.0]])  # one batch of two examples
    terms = np.array([[[1.0, 10.0], [2.0, -2.0]], [[-3.0, 4.0], [1.0, -6.0]]])
    gates = terms.sum(1)
    assert gates.tolist() == [[3, 8], [-2, -2]]  # [example, input]
    expected = {
        criteria.taylor: [2.5, 5],  # (3 + 2) / 2, (8 + 2) / 2
        criteria.taylor_abs: [3.5, 11],  # (1 + 2 + 3 + 1) / 2, (10 + 2 + 4 + 6) / 2
        criteria.taylor_batch: [0.5, 3],  # (3 - 2) / 2, (8 - 2) / 2
        criteria.taylor_squared: [0.25, 9],
    }
    for criterion, values in expected.items():
        found = jax.jit(functools.partial(criterion, loss))(params, batches)
        np.testing.assert_allclose(found["kernel"], np.array([values, values]).T)
        assert not np.any(found["bias"])
    # By weight: the mean of ± x is 0.5 and 1.5, times |2| + |-1| and |3| + |-1|.
    found = criteria.weight_gradient(loss, params, batches)
    np.testing.assert_allclose(found["kernel"].sum(1), [1.5, 6])
    normal = criteria.taylor_normalised({"w": jnp.array([[3.0, 3.0], [4.0, 4.0]])})
    np.testing.assert_allclose(normal["w"], [[0.6, 0.6], [0.8, 0.8]])


def test_taylor_by_element_of_each_layer_of_a_network():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(3, (3, 3), name="first")(x))
            return jnp.sum(jnp.square(nn.Conv(2, (3, 3), name="last")(x)))

    first, last = nn.Conv(3, (3, 3)), nn.Conv(2, (3, 3))
    rng = np.random.default_rng(6)
    shapes = {"first": (3, 3, 2, 3), "last": (3, 3, 3, 2)}
    params = {
        k: {"kernel": rng.normal(size=s).astype(np.float32), "bias": np.ones(s[-1:])}
        for k, s in shapes.items()
    }
    x = rng.normal(size=(4, 5, 5, 2)).astype(np.float32)

    def rest(hidden):
        y = last.apply({"params": params["last"]}, hidden)
        return jnp.sum(jnp.square(y)) / len(x)

    def loss(params, batch):
        return Two().apply({"params": params}, batch) / len(batch)

    @jax.jit
    def both(params):
        hidden = nn.relu(first.apply({"params": params["first"]}, x))
        expected = jnp.sum(jnp.abs(hidden * jax.grad(rest)(hidden)), (0, 1, 2))
        return criteria.taylor_abs(loss, params, x[None]), expected

    found, expected = both(params)
    np.testing.assert_allclose(found["last"]["kernel"][1, 2, :, 0], expected, rtol=1e-5)
    assert found["first"]["kernel"].any()
    again = criteria.taylor_abs(jax.jit(loss), params, x[None])
    np.testing.assert_allclose(again["last"]["kernel"], found["last"]["kernel"], 1e-5)
    with pytest.raises(ValueError, match="the loss reads no weight"):
        criteria.taylor_abs(lambda params, batch: jnp.sum(batch), params, x[None])


def test_taylor_of_a_convolution_is_the_gradient_at_a_gate():
    rng = np.random.default_rng(5)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 2, 4)), jnp.float32)
    x = jnp.asarray(rng.normal(size=(3, 6, 6, 2)), jnp.float32)

    def gated(gate, kernel, x):
        x = x * gate.reshape(1, 1, 1, -1)
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.mean(jnp.tanh(y))

    def loss(params, batch):
        return gated(jnp.ones(2), params["k"], batch)

    gates = [jax.grad(gated)(jnp.ones(2), kernel, x[i : i + 1]) for i in range(3)]
    found = criteria.taylor(loss, {"k": kernel}, x[None])["k"]
    expected = np.abs(np.stack(gates)).mean(0)
    np.testing.assert_allclose(found[0, 0, :, 0], expected, rtol=1e-5)
    assert (found == found[:1, :1, :, :1]).all()


def test_the_oracle_by_hand():
    params = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.ones(2)}
    mask = {"w": jnp.array([[True, True], [False, True]]), "b": None}
    params = masks.apply(params, mask)

    def loss(params):
        return jnp.sum(params["w"] ** 3) + jnp.sum(params["b"])

    found = criteria.oracle.without_each_weight(loss, params, mask)
    np.testing.assert_allclose(found["w"], [[-1, 8], [0, -27]], rtol=1e-6)
    assert not np.any(found["b"])
    found = criteria.oracle.without_each_input(loss, params, mask)
    np.testing.assert_allclose(found["w"], [[7, 7], [0, -27]], rtol=1e-6)


def test_surgery_where_inputs_are_never_used():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(50, 6)).astype(np.float32)
    x[:, 2] = 0
    w = rng.normal(size=(6, 4)).astype(np.float32)
    ones = jnp.ones(w.shape, bool)
    new, alive = criteria.obs.delete(w, criteria.obs.hessian(x), ones, 1)
    assert not alive[2].any()  # what reads nothing goes first
    assert int(alive.sum()) == 20
    np.testing.assert_allclose(new[alive[:, 0], 0], w[alive[:, 0], 0], rtol=1e-4)
    new, keep = criteria.obs.sparse_gpt(w, criteria.obs.hessian(x), 0.5)
    assert int(keep.sum()) == 12
    assert np.isfinite(new).all()
    params, seen = {"kernel": w}, {"kernel": np.zeros_like(x)}
    new, kept = criteria.obs.prune(params, seen, masks.ones(params), 0.5)
    assert int(masks.count(kept)) == 12
    with pytest.raises(ValueError, match="of 6 inputs 0 to 5 are deleted; got 6"):
        criteria.obs.delete(w, criteria.obs.hessian(x), ones, 6)
