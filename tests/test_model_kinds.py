"""Networks as people build them, against counts and sums made by hand.

`python -m tests.test_model_kinds` prints which of `FUNCTIONS` are right for which of
`KINDS`, and which are refused.
"""

import functools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lth import criteria, masks, models, train
from lth.analysis import cost
from lth.data import Dataset
from lth.masks import allocation
from lth.models import axes
from tests.conftest import QUICK

KEY = jax.random.key(0)


class Net(nn.Module):
    """Layers of the kind, then the mean over positions and a dense layer."""

    layers: object

    @nn.compact
    def __call__(self, x, train=False):
        x = self.layers(self, x)
        return nn.Dense(3, name="head")(x.reshape(len(x), -1, x.shape[-1]).mean(1))


class Rows(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return jnp.tanh(nn.Dense(4)(x)), None


def scanned(module, x):
    loop = nn.scan(
        Rows, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
    )
    return loop(name="rows")(x, None)[0]


def tied(module, x):
    layer = nn.Dense(4, name="tied")
    return layer(jnp.tanh(layer(x)))


def attended(module, x):
    embed = nn.Embed(5, 4, name="tokens")
    return embed.attend(jnp.tanh(embed(x)))


def sown(module, x):
    module.sow("intermediates", "x", x)
    module.sow("losses", "size", jnp.mean(jnp.square(x)))
    return nn.Dense(4)(x)


def partitioned(module, x):
    normal = nn.with_partitioning(nn.initializers.normal(), (None, "model"))
    return nn.Dense(4, kernel_init=normal, name="parted")(x)


def typed(dtype):
    return lambda module, x: nn.Dense(4, param_dtype=dtype, name="typed")(x)


class Plain(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(4, 4, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(jnp.tanh(self.hidden(x)).mean(1))


class Kind(NamedTuple):
    layers: object
    shape: tuple[int, ...]
    macs: int  # by hand, without the head's
    dtype: object = jnp.float32


HEAD = 4 * 3
KINDS = {
    "dense": Kind(lambda m, x: nn.Dense(4)(x), (5, 4), 5 * 16),
    "conv": Kind(lambda m, x: nn.Conv(4, (3, 3))(x), (4, 4, 2), 16 * 72),
    "grouped": Kind(
        lambda m, x: nn.Conv(4, (3, 3), feature_group_count=2)(x), (4, 4, 4), 16 * 72
    ),
    "general": Kind(
        lambda m, x: nn.DenseGeneral(4, axis=(-2, -1))(x), (5, 2, 4), 5 * 32
    ),
    "attention": Kind(
        lambda m, x: nn.MultiHeadDotProductAttention(2)(x), (5, 4), 5 * 4 * 16
    ),
    "lstm": Kind(lambda m, x: nn.RNN(nn.LSTMCell(4))(x), (5, 4), 5 * 8 * 16),
    "fused_lstm": Kind(
        lambda m, x: nn.RNN(nn.OptimizedLSTMCell(4))(x), (5, 4), 5 * 8 * 16
    ),
    "gru": Kind(lambda m, x: nn.RNN(nn.GRUCell(4))(x), (5, 4), 5 * 6 * 16),
    "transposed": Kind(
        lambda m, x: nn.ConvTranspose(4, (3, 3), (2, 2), transpose_kernel=True)(x),
        (4, 4, 2),
        16 * 72,
    ),
    "attend": Kind(attended, (5,), 5 * 20, jnp.int32),
    "tied": Kind(tied, (5, 4), 2 * 5 * 16),
    "remat": Kind(lambda m, x: nn.remat(nn.Dense)(4)(x), (5, 4), 5 * 16),
    "jit": Kind(lambda m, x: nn.jit(nn.Dense)(4)(x), (5, 4), 5 * 16),
    "scan": Kind(scanned, (5, 4), 3 * 5 * 16),
    "partitioned": Kind(partitioned, (5, 4), 5 * 16),
    "sow": Kind(sown, (5, 4), 5 * 16),
    "nnx": Kind(None, (5, 4), 5 * 16),
    "bfloat16": Kind(typed(jnp.bfloat16), (5, 4), 5 * 16),
    "float16": Kind(typed(jnp.float16), (5, 4), 5 * 16),
}


def compiled(function, *args):
    """What a function makes of arguments, in one program and not one an operation."""
    return jax.jit(function, compiler_options=QUICK)(*args)


class Case(NamedTuple):
    model: models.Model
    params: object
    stats: object
    batches: tuple  # two batches of four examples
    loss: object
    mask: object


@functools.cache
def case(name):
    kind = KINDS[name]
    if kind.layers is None:
        model = models.from_nnx(Plain)
    else:
        model = models.from_linen(Net(kind.layers), kind.shape, kind.dtype)
    params, stats = model.init(KEY)
    rng, shape = np.random.default_rng(0), (2, 4, *kind.shape)
    if kind.dtype == jnp.int32:
        x = rng.integers(0, 5, shape, np.int32)
    else:
        x = rng.standard_normal(shape, np.float32)
    labels = np.arange(8, dtype=np.int32).reshape(2, 4) % 3

    def loss(params, batch):
        logits, _ = model.apply(params, stats, batch[0], False, None)
        one = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])
        return jnp.mean(one.astype(jnp.float32))

    kernel = masks.is_kernel
    return Case(model, params, stats, (x, labels), loss, masks.ones(params, kernel))


def right_work(name):
    c, kind = case(name), KINDS[name]
    half = jax.tree.map(lambda m: m.at[..., 0].set(False), c.mask)
    found = cost.work(c.model, c.params, c.stats, kind.shape, half, kind.dtype)
    head = 5 * 3 if name == "attend" else HEAD
    assert sum(found.dense.values()) == kind.macs + head
    assert sum(found.kept.values()) < sum(found.dense.values())
    assert found.other == (2 * 5 * 5 * 4 if name == "attention" else 0)


def halves(name, c):
    """A mask of the half that is largest: what training is under, not what is tested.

    `masks.keep_top` sees leaves and their types alone; it compiles anew for each tree.
    """
    if name in ("dense", "scan", "nnx", "bfloat16", "float16"):
        return masks.keep_top(criteria.magnitude(c.params), c.mask, 0.5)

    def leaf(m, w):
        size = np.abs(np.asarray(w))
        return None if m is None else jnp.asarray(size >= np.median(size))

    return jax.tree.map(leaf, c.mask, c.params, is_leaf=lambda m: m is None)


def right_training(name):
    c = case(name)
    tx = optax.sgd(1e-2, momentum=0.9)  # Adam's 1e-8 is 0 in float16
    loss, _ = train.classification(c.model.apply)
    data = Dataset(c.batches[0][0], c.batches[1][0])
    steps = train.make_train(loss, lambda key, i, data: data, tx)
    step = jax.jit(steps, compiler_options=QUICK)
    mask = halves(name, c)
    state = train.init_state(lambda key: (c.params, c.stats), tx, KEY)
    state, sums = step(state, mask, data, KEY, 2)
    assert int(sums["diverged"]) == train.NEVER
    alive = jax.tree.map(
        lambda w, m: m if m is None else np.asarray(m) | (np.asarray(w) == 0),
        state.params,
        mask,
    )
    assert all(m.all() for m in jax.tree.leaves(alive))
    if name == "sow":
        assert set(state.stats) == {"losses"}
        x = np.asarray(data.inputs)
        np.testing.assert_allclose(
            state.stats["losses"]["size"][0], np.mean(x**2), rtol=1e-5
        )


def right_sizes(name):
    c = case(name)
    total = sum(w.size for w in jax.tree.leaves(c.params))
    assert cost.size(c.params, c.mask).total == total
    assert float(masks.density(c.mask)) == 1


def wide(tree):
    return [np.asarray(w).astype(np.float32) for w in jax.tree.leaves(tree)]


def right_weights(name):
    c = case(name)
    for found, w in zip(
        wide(criteria.magnitude(c.params)), wide(c.params), strict=True
    ):
        np.testing.assert_array_equal(found, np.abs(w))
    for found, w in zip(wide(criteria.lamp(c.params)), wide(c.params), strict=True):
        energy = np.square(w.astype(np.float64)).ravel()
        order = np.argsort(energy[::-1], kind="stable")
        rest = np.cumsum(energy[::-1][order][::-1])[::-1]
        share = np.zeros_like(energy)
        share[order] = energy[::-1][order] / np.where(rest > 0, rest, 1)
        np.testing.assert_allclose(found.ravel(), share[::-1], rtol=1e-4)


@functools.cache
def each_gradient(name):
    """The gradient of each of the eight examples: for each leaf, [8, ...]."""
    c = case(name)
    x, y = (a.reshape(8, 1, *a.shape[2:]) for a in c.batches)
    one = jax.jit(jax.grad(c.loss), compiler_options=QUICK)
    grads = [wide(one(c.params, (x[i], y[i]))) for i in range(8)]
    return [np.stack(g) for g in zip(*grads, strict=True)]


def right_gradients(name):
    c = case(name)
    mean = [g.mean(0) for g in each_gradient(name)]
    expected = [np.abs(w * g) for w, g in zip(wide(c.params), mean, strict=True)]
    covered = [
        m is not None for m in jax.tree.leaves(c.mask, is_leaf=lambda m: m is None)
    ]
    total = sum(e.sum() for e, m in zip(expected, covered, strict=True) if m)
    snip = functools.partial(criteria.snip, c.loss)
    found = compiled(snip, c.params, c.mask, c.batches)
    for s, e, m in zip(wide(found), expected, covered, strict=True):
        np.testing.assert_allclose(s, e / total if m else 0 * e, rtol=2e-2, atol=1e-3)
    assert {s.dtype for s in jax.tree.leaves(found)} == {jnp.dtype("float32")}


def right_fisher(name):
    c = case(name)
    fisher = functools.partial(criteria.empirical_fisher, c.loss)
    found = wide(compiled(fisher, c.params, c.batches))
    for f, g in zip(found, each_gradient(name), strict=True):
        np.testing.assert_allclose(f, np.mean(np.square(g), 0), rtol=3e-2, atol=1e-4)


def right_synflow(name):
    c = case(name)
    x = np.ones_like(c.batches[0][0, :1])
    synflow = functools.partial(criteria.synflow, c.model.apply)
    found = compiled(synflow, c.params, c.stats, x)
    assert all(np.isfinite(s).all() for s in wide(found))
    # Of the head, whose outputs are summed, the flow is what comes in times |w|.
    assert all(s.dtype == jnp.float32 for s in jax.tree.leaves(found))


def right_wanda(name):
    """Squares of each leaf's scores over w² are the sums of squares of what it meets.

    For any weight w the product's change along it is x: the derivative of the outputs
    of all products that read w, squared and summed. Here: by changing one weight of
    each kernel in the linear part alone, which `inputs_by_hand` restates.
    """
    c = case(name)
    x = c.batches[0][0]

    def wanda(params, stats, x):
        seen, _ = c.model.intermediates(params, stats, x)
        return criteria.wanda(params, seen)

    found = compiled(wanda, c.params, c.stats, x)
    named = jax.tree_util.tree_leaves_with_path(found)
    kernels = {masks.name(p): np.asarray(s) for p, s in named if s.ndim > 1}
    # Biases of attention have two axes, those of scanned layers too: they read nothing.
    assert all(s.any() != path.endswith("bias") for path, s in kernels.items())
    path, expected = inputs_by_hand(name, c, np.asarray(x))
    if path is not None:
        weights = {
            masks.name(p): w for p, w in jax.tree_util.tree_leaves_with_path(c.params)
        }
        size = np.abs(np.asarray(weights[path]).astype(np.float32))
        np.testing.assert_allclose(kernels[path], size * expected, rtol=1e-4)


def inputs_by_hand(name, c, x):
    """A kernel that reads the network's inputs, and ‖x‖ for each of its weights."""
    if name == "attend":
        table = np.asarray(c.params["tokens"]["embedding"])
        taken = np.tanh(table[x.ravel()])
        counts = np.bincount(x.ravel(), minlength=5)
        return "tokens/embedding", np.sqrt(counts[:, None] + (taken**2).sum(0))
    norm = np.sqrt((x.astype(np.float64) ** 2).sum(tuple(range(x.ndim - 1))))
    if name == "tied":
        layer = c.params["tied"]
        again = np.tanh(x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]))
        return "tied/kernel", np.sqrt(norm**2 + (again**2).sum((0, 1)))[:, None]
    if name == "scan":
        layer, here, norms = c.params["rows"]["Dense_0"], x, []
        for i in range(3):
            norms.append(np.sqrt((here**2).sum((0, 1))))
            here = np.tanh(
                here @ np.asarray(layer["kernel"][i]) + np.asarray(layer["bias"][i])
            )
        return "rows/Dense_0/kernel", np.stack(norms)[..., None]
    if name == "general":
        norm = np.sqrt((x.astype(np.float64) ** 2).sum((0, 1)))
        return "DenseGeneral_0/kernel", norm[..., None]
    if name == "grouped":  # outputs 0, 1 read channels 0, 1; 2, 3 read 2, 3
        return "Conv_0/kernel", norm.reshape(2, 2).T.repeat(2, 1)
    places = {
        "dense": ("Dense_0/kernel", norm[:, None]),
        "conv": ("Conv_0/kernel", norm[:, None]),
        "attention": (
            "MultiHeadDotProductAttention_0/query/kernel",
            norm[:, None, None],
        ),
        "lstm": ("LSTMCell_0/ig/kernel", norm[:, None]),
        "fused_lstm": ("OptimizedLSTMCell_0/ig/kernel", norm[:, None]),
        "gru": ("GRUCell_0/in/kernel", norm[:, None]),
        "transposed": ("ConvTranspose_0/kernel", norm),
        "remat": ("CheckpointDense_0/kernel", norm[:, None]),
        "jit": ("JitDense_0/kernel", norm[:, None]),
        "partitioned": ("parted/kernel", norm[:, None]),
        "sow": ("Dense_0/kernel", norm[:, None]),
        "nnx": ("hidden/kernel", norm[:, None]),
        "bfloat16": ("typed/kernel", norm[:, None]),
        "float16": ("typed/kernel", norm[:, None]),
    }
    return places[name]


def right_taylor_abs(name):
    """Of the head, which reads the mean over positions once: `taylor` is the same."""
    c = case(name)
    inputs = jax.tree.leaves(c.batches)[0][0]
    met = axes.contracted(c.model.apply, c.params, c.stats, inputs)

    def both(params, batches):
        absolute = criteria.taylor_abs(c.loss, params, batches)
        return absolute, criteria.taylor(c.loss, params, batches, met)

    found, other = compiled(both, c.params, c.batches)
    np.testing.assert_allclose(
        found["head"]["kernel"], other["head"]["kernel"], rtol=2e-2, atol=1e-4
    )
    named = jax.tree_util.tree_leaves_with_path(found)
    assert all(np.any(s) for path, s in named if masks.is_kernel(masks.name(path), s))
    if name == "attention":  # a gate stands on each input, of all heads together
        query, out = (
            np.asarray(other["MultiHeadDotProductAttention_0"][side]["kernel"])
            for side in ("query", "out")
        )
        assert (query == query[:, :1, :1]).all()
        assert len(set(query[:, 0, 0])) > 1
        assert (out == out[:, :, :1]).all()
        assert len(set(out[..., 0].ravel())) > 1


def right_densities(name):
    """Erdős-Rényi by the inputs and outputs that the network's computation has."""
    c = case(name)
    inputs = jax.tree.leaves(c.batches)[0][0]
    met = axes.contracted(c.model.apply, c.params, c.stats, inputs)
    ones = masks.ones(c.params)
    found = jax.tree.leaves(allocation.erdos_renyi(ones, 0.3, axes=met))
    sides = dict(axes_by_path(met))
    ratios, sizes = [], []
    for path, leaf in jax.tree_util.tree_leaves_with_path(ones):
        side = sides[masks.name(path)]
        window = leaf.ndim - 2 if leaf.ndim > 3 and len(side.outputs) == 1 else 0
        reads = [n for i, n in enumerate(leaf.shape) if i in side.inputs][window:]
        gives = [leaf.shape[i] for i in side.outputs]
        dims = math.prod(reads), math.prod(gives)
        ratios.append(sum(dims) / math.prod(dims))
        sizes.append(leaf.size)
    total = sum(d * n for d, n in zip(found, sizes, strict=True))
    assert round(total) == round(0.3 * sum(sizes))
    # Of leaves that are not whole: in proportion, but for a weight of rounding.
    free = [i for i, d in enumerate(found) if d < 1]
    scales = [found[i] / ratios[i] for i in free]
    slack = max(1.5 / (sizes[i] * ratios[i]) for i in free)
    assert max(scales) - min(scales) <= slack


def axes_by_path(met):
    known = lambda x: isinstance(x, axes.Axes)  # noqa: E731
    named = jax.tree_util.tree_leaves_with_path(met, is_leaf=known)
    return [(masks.name(path), side) for path, side in named]


FUNCTIONS = {
    "erdos_renyi": right_densities,
    "size, density": right_sizes,
    "train": right_training,
    "magnitude, lamp": right_weights,
    "snip": right_gradients,
    "fisher": right_fisher,
    "synflow": right_synflow,
    "wanda": right_wanda,
    "taylor, taylor_abs": right_taylor_abs,
    "work": right_work,
}
REFUSED: dict[tuple[str, str], str] = {}  # (kind, function): the message


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_right_or_refused(name, function):
    if (name, function) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name, function]):
            FUNCTIONS[function](name)
    else:
        FUNCTIONS[function](name)


def test_the_work_of_attention():
    def layers(module, x):
        return nn.MultiHeadDotProductAttention(4)(nn.Dense(32)(x))

    class Known(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return nn.Dense(10)(layers(self, x).mean(1))

    model = models.from_linen(Known(), (12, 32))
    params, stats = jax.eval_shape(model.init, KEY)
    mask = jax.eval_shape(masks.ones, params)
    mask = jax.tree.map(lambda m: np.ones(m.shape, bool), mask)
    found = cost.work(model, params, stats, (12, 32), mask)
    assert sum(found.dense.values()) == 12 * 32 * 32 * 5 + 320 == 61_760
    assert found.speedup == 1


def test_axes_of_attention():
    c = case("attention")
    found = axes.contracted(c.model.apply, c.params, c.stats, c.batches[0][0])
    layer = found["MultiHeadDotProductAttention_0"]
    assert layer["query"]["kernel"] == ((0,), (1, 2))
    assert layer["out"]["kernel"] == ((0, 1), (2,))
    assert layer["query"]["bias"] is None


def opaque(params, stats, inputs, train, key):
    return inputs @ jnp.sort(params["kernel"], 0), stats


def by_hand(params, stats, inputs, train, key):
    return jnp.sum(inputs[..., None] * params["kernel"][None], 1), stats


def endless(params, stats, inputs, train, key):
    def body(x):
        return x @ params["kernel"]

    return jax.lax.while_loop(lambda x: jnp.sum(x) < 0, body, inputs), stats


@pytest.mark.parametrize(
    ("apply", "why"),
    [
        (opaque, "kernel is changed in a way that is not followed"),
        (by_hand, "kernel is multiplied and summed, not in a matrix product"),
        (endless, "kernel is read in a loop whose length depends on values"),
    ],
)
def test_what_is_not_understood_is_refused_by_path(apply, why):
    params, x = {"kernel": jnp.ones((3, 3))}, jnp.ones((2, 3))
    model = models.Model(
        lambda key: (params, {}),
        apply,
        functools.partial(models.taps.intermediates, apply),
    )
    seen, _ = model.intermediates(params, {}, x)
    match = why.replace("kernel ", "kernel \\(")
    with pytest.raises(ValueError, match=match):
        criteria.wanda(params, seen)
    with pytest.raises(ValueError, match=why):
        cost.work(model, params, {}, (3,), masks.ones(params))
    with pytest.raises(ValueError, match="inputs of kernel are not seen"):
        criteria.nonzero_share(params, {"kernel": None})


def test_values_sown_by_the_example_are_refused():
    def layers(module, x):
        module.sow("maps", "x", x)
        return x

    with pytest.raises(ValueError, match="collection 'maps' holds values whose shapes"):
        models.from_linen(Net(layers), (5, 4)).init(KEY)


if __name__ == "__main__":
    width = max(map(len, FUNCTIONS))
    for name in KINDS:
        cells = []
        for function in FUNCTIONS:
            refused = (name, function) in REFUSED
            try:
                FUNCTIONS[function](name)
                cell = "right"
            except ValueError:
                cell = "refused" if refused else "WRONG"
            except Exception:
                cell = "WRONG"
            cells.append(f"{function}: {cell}")
        print(f"{name:12}", *cells, sep=" | ")
