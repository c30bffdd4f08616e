"""Published counts, names and behaviour of the families."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lth import masks, models
from tests.conftest import normal

CIFAR = (32, 32, 3)
# Compiling takes longer than running, four times as long with optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
KEY = jax.random.key(0)


def shapes(module, shape, dtype=jnp.float32):
    """Shapes of params, stats and mask; nothing is computed."""
    params, stats = jax.eval_shape(models.from_linen(module, shape, dtype).init, KEY)
    return params, stats, jax.eval_shape(masks.ones, params)


def total(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


# Prunable weights, and all parameters.
COUNTS = [
    (models.MLP(), (28, 28, 1), 266_200, 266_610),
    (models.LeNet5(), (28, 28, 1), 430_500, 431_080),
    (models.Conv(2), CIFAR, 4_300_992, 4_300_992 + 2 * 64 + 512 + 10),
    (models.Conv(4), CIFAR, 2_425_024, 2_425_024 + 2 * 192 + 512 + 10),
    (models.Conv(6), CIFAR, 2_261_184, 2_261_184 + 2 * 448 + 512 + 10),
    (models.Conv(8), CIFAR, 5_275_840, 5_275_840 + 2 * 960 + 512 + 10),
    # The biases of the convolutions, then scale and bias of the normalisations.
    (models.VGG(11), CIFAR, 9_217_728 + 5_120, 9_222_848 + 3 * 2_752 + 10),
    (models.VGG(13), CIFAR, 9_402_048 + 5_120, 9_407_168 + 3 * 2_944 + 10),
    (models.VGG(16), CIFAR, 14_710_464 + 5_120, 14_715_584 + 3 * 4_224 + 10),
    (models.VGG(19), CIFAR, 20_018_880 + 5_120, 20_024_000 + 3 * 5_504 + 10),
    # Normalisations: 7 of 16, 7 of 32, 7 of 64 channels.
    (models.ResNet(20), CIFAR, 270_896, 270_896 + 2 * 7 * 112 + 10),
    (
        models.ResNet(20, project_first=True),
        CIFAR,
        271_152,
        271_152 + 2 * (7 * 112 + 16) + 10,
    ),
    (models.ImageNetResNet(18), (224, 224, 3), 11_678_912, 11_689_512),
    (models.ImageNetResNet(34), (224, 224, 3), 21_779_648, 21_797_672),
    (models.ImageNetResNet(50), (224, 224, 3), 25_502_912, 25_557_032),
    # 48 x 192 patches, 6 blocks of 12 x 192², the output; then biases, normalisations
    # and positions.
    (
        models.ViT(),
        CIFAR,
        9_216 + 6 * 442_368 + 1_920,
        2_665_344 + 192 + 6 * (9 * 192 + 4 * 192) + 384 + 10 + 64 * 192,
    ),
]


@pytest.mark.parametrize("case", COUNTS, ids=lambda case: str(case[2]))
def test_the_published_counts(case):
    module, shape, prunable, parameters = case
    params, _, mask = shapes(module, shape)
    assert masks.size(mask) == prunable
    assert total(params) == parameters


@pytest.mark.parametrize("depth", [32, 44, 56, 110])
def test_deeper_resnets_add_blocks_of_their_segments(depth):
    more = (depth - 20) // 6
    _, _, mask = shapes(models.ResNet(depth), CIFAR)
    block = 2 * 9 * (16**2 + 32**2 + 64**2)  # one of each segment
    assert masks.size(mask) == 270_896 + more * block


def wide_resnet(n, k):
    """Weights of convolutions, output and normalisations of WRN-(6 n + 4)-k."""
    a, b, c = 16 * k, 32 * k, 64 * k
    convs = 9 * (3 * 16 + 16 * a + a * b + b * c) + 16 * a + a * b + b * c
    convs += 9 * (2 * n - 1) * (a**2 + b**2 + c**2)
    norms = 16 + a + b + (2 * n - 1) * (a + b + c) + c
    return convs + 10 * c, convs + 10 * c + 10 + 2 * norms


def test_wide_resnets_have_the_counts_of_their_paper():
    assert wide_resnet(2, 4)[1] == 2_748_890  # 2.7 M there
    assert wide_resnet(3, 2)[1] == 1_079_642
    for depth, widen in ((16, 4), (22, 2)):
        params, _, mask = shapes(models.WideResNet(depth, widen), CIFAR)
        expected = wide_resnet((depth - 4) // 6, widen)
        assert (masks.size(mask), total(params)) == expected


def test_the_transformer_prunes_tokens_and_kernels_but_no_positions():
    params, _, mask = shapes(models.Transformer(classes=65), (128,), jnp.int32)
    assert masks.size(mask) == 2 * 65 * 128 + 4 * 12 * 128**2
    assert params["position"].shape == (128, 128)
    assert mask["position"] is None
    assert mask["tokens"]["embedding"].shape == (65, 128)


SMALL = {
    "mlp": (models.MLP((4,), classes=3), (5, 5, 1)),
    "lenet5": (models.LeNet5(classes=3, width=0.1), (16, 16, 1)),
    "conv": (models.Conv(2, classes=3, width=0.1), (8, 8, 3)),
    "vgg": (models.VGG(11, classes=3, width=0.05), (16, 16, 3)),
    "resnet": (models.ResNet(8, classes=3, width=0.25), (8, 8, 3)),
    "imagenet": (models.ImageNetResNet(18, classes=3, width=0.05), (32, 32, 3)),
    "wrn": (models.WideResNet(10, 2, classes=3, width=0.25), (8, 8, 3)),
    "vit": (models.ViT(1, 2, classes=3, width=0.1), (8, 8, 3)),
    "transformer": (models.Transformer(1, 2, 6, classes=3, width=0.1), (6,)),
}
NAMES = {
    "mlp": "hidden_0/kernel output/kernel",
    "lenet5": "conv_0/kernel conv_1/kernel hidden_0/kernel output/kernel",
    "conv": "conv_0/kernel conv_1/kernel hidden_0/kernel hidden_1/kernel output/kernel",
    "vgg": " ".join(
        f"block_{i}/conv_0/kernel"
        for i in ("0_0", "1_0", "2_0", "2_1", "3_0", "3_1", "4_0", "4_1")
    )
    + " output/kernel",
    "resnet": "block_0_0/conv_0/kernel block_0_0/conv_1/kernel "
    "block_1_0/conv_0/kernel block_1_0/conv_1/kernel block_1_0/shortcut/kernel "
    "block_2_0/conv_0/kernel block_2_0/conv_1/kernel block_2_0/shortcut/kernel "
    "output/kernel stem/kernel",
    "wrn": "block_0_0/conv_0/kernel block_0_0/conv_1/kernel block_0_0/shortcut/kernel "
    "block_1_0/conv_0/kernel block_1_0/conv_1/kernel block_1_0/shortcut/kernel "
    "block_2_0/conv_0/kernel block_2_0/conv_1/kernel block_2_0/shortcut/kernel "
    "output/kernel stem/kernel",
    "vit": "block_0/attended/kernel block_0/hidden_0/kernel block_0/hidden_1/kernel "
    "block_0/key/kernel block_0/query/kernel block_0/value/kernel "
    "output/kernel stem/kernel",
    "transformer": "block_0/attended/kernel block_0/hidden_0/kernel "
    "block_0/hidden_1/kernel block_0/key/kernel block_0/query/kernel "
    "block_0/value/kernel output/kernel tokens/embedding",
}


def inputs(name):
    """Four inputs of a small model."""
    shape = (4, *SMALL[name][1])
    if name == "transformer":
        return jax.random.randint(KEY, shape, 0, 3)
    return normal(KEY, shape)


def adapted(name, **fields):
    module = dataclasses.replace(SMALL[name][0], **fields)
    return models.from_linen(module, SMALL[name][1], inputs(name).dtype)


@pytest.mark.parametrize("name", NAMES)
def test_prunable_leaves_have_stable_names(name):
    mask = shapes(*SMALL[name], inputs(name).dtype)[2]
    assert masks.paths(mask) == NAMES[name].split()


@pytest.mark.parametrize("name", SMALL)
def test_half_precision_is_of_the_arithmetic_alone(name):
    half = dataclasses.replace(SMALL[name][0], dtype=jnp.bfloat16)

    def trace(key, x):
        variables = half.init(key, x)
        kept = {"mutable": ["batch_stats", "intermediates"]}
        outputs, state = half.apply(
            variables, x, True, capture_intermediates=True, **kept
        )
        inside = state.pop("intermediates")
        return outputs, inside.pop("__call__"), inside, (variables, state)

    outputs, _, inside, kept = jax.eval_shape(trace, KEY, inputs(name))
    lengths = (6,) if name == "transformer" else ()
    assert (outputs.shape, outputs.dtype) == ((4, *lengths, 3), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(inside)} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(kept)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", [n for n in SMALL if n != "mlp"])
def test_width_multiplies_every_channel_and_leaves_one(name):
    module, shape = SMALL[name]
    one, two, least = (
        shapes(dataclasses.replace(module, width=w), shape, inputs(name).dtype)[0]
        for w in (1, 2, 1e-3)
    )
    kernels = [
        (path, kernel)
        for path, kernel in jax.tree.leaves_with_path(one)
        if masks.is_kernel(masks.name(path), kernel)
    ]
    for path, kernel in kernels:
        wider = functools.reduce(lambda tree, key: tree[key.key], path, two)
        last = masks.name(path) == "output/kernel"
        assert wider.shape[-1] == kernel.shape[-1] * (1 if last else 2)
        assert wider.shape[-2] in (kernel.shape[-2], 2 * kernel.shape[-2])
    assert all(min(leaf.shape) >= 1 for leaf in jax.tree.leaves(least))
    hidden = least["output"]["kernel"].shape[0]
    assert hidden == {"vit": 2, "transformer": 2}.get(name, 1)


def drawn(model):
    """Params and stats from NumPy: no compiling. Deviations are those of Kaiming."""
    params, stats = jax.eval_shape(model.init, KEY)
    rng = np.random.default_rng(0)

    def leaf(path, like):
        if masks.name(path).rsplit("/")[-1] in ("scale", "var"):
            return np.ones(like.shape, like.dtype)
        fan_in = np.prod(like.shape[:-1]) if like.ndim > 1 else 100
        values = rng.standard_normal(like.shape) * (2 / fan_in) ** 0.5
        return jnp.asarray(values, like.dtype)

    params = jax.tree.map_with_path(leaf, params)
    return params, jax.tree.map_with_path(leaf, stats)


@pytest.mark.parametrize("name", [n for n in SMALL if n != "imagenet"])
def test_the_families_compute(name):
    model = adapted(name)
    params, stats = drawn(model)
    logits, new = jit(model.apply, static_argnums=3)(
        params, stats, inputs(name), True, KEY
    )
    assert jnp.isfinite(logits).all()
    logits = logits if name != "transformer" else logits[:, -1]
    assert jnp.unique(logits).size == logits.size
    assert bool(stats) == (name in ("vgg", "resnet", "wrn"))
    moved = jax.tree.map(lambda a, b: (a != b).any(), stats, new)
    assert jax.tree.all(moved)


@pytest.mark.parametrize("name", ["vgg", "resnet", "imagenet", "wrn", "vit"])
def test_rematerialisation_keeps_names_and_is_done(name):
    trees = [adapted(name, remat=remat) for remat in (False, True)]
    plain, again = (jax.eval_shape(model.init, KEY) for model in trees)
    assert jax.tree.structure(plain) == jax.tree.structure(again)
    text = str(
        jax.make_jaxpr(trees[1].apply, static_argnums=3)(
            *again, inputs(name), True, KEY
        )
    )
    blocks = [key for key in plain[0] if key.startswith("block")]
    assert text.count("prevent_cse=True") == len(blocks)


@pytest.mark.parametrize("name", ["resnet", "transformer"])
def test_rematerialisation_changes_no_output_and_no_gradient(name):
    x = inputs(name)
    params, stats = drawn(adapted(name))
    results = []
    for remat in (False, True):
        model = adapted(name, remat=remat)

        def loss(params, model=model):
            outputs, new = model.apply(params, stats, x, True, KEY)
            return jnp.mean(jax.nn.log_softmax(outputs)[..., 0]), new

        step = jit(jax.value_and_grad(loss, has_aux=True))
        results.append(step(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), *results)
    gradient = results[0][1]
    kernels = jax.tree.leaves(
        jax.tree.map(lambda g: g if g.ndim > 1 else None, gradient)
    )
    assert all(kernel.any() for kernel in kernels)


def test_statistics_stay_in_evaluation():
    model = adapted("resnet")
    params, stats = drawn(model)
    apply = jit(model.apply, static_argnums=3)
    x = inputs("resnet")
    logits, same = apply(params, stats, x, False, None)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), stats, same))
    first, _ = apply(params, stats, x.at[1:].set(0), False, None)
    assert (first[0] == logits[0]).all()  # no example sees another


@pytest.mark.parametrize(
    "name", [n for n in SMALL if n not in ("mlp", "lenet5", "conv")]
)
def test_every_norm_scale_starts_as_asked(name, monkeypatch):
    calls = []

    def recorded(key, shape, dtype):
        calls.append(tuple(shape))
        return jnp.ones(shape, dtype)

    monkeypatch.setitem(models.NORM_SCALES, "recorded", recorded)
    model = adapted(name, norm_scale="recorded")
    params, _ = jax.eval_shape(model.init, KEY)
    leaves = jax.tree.leaves_with_path(params)
    scales = [leaf for path, leaf in leaves if masks.name(path).endswith("scale")]
    assert len(calls) >= len(scales) > 0
    assert {leaf.shape for leaf in scales} == set(calls)


def test_no_token_sees_a_later_one():
    model = adapted("transformer")
    params, stats = drawn(model)
    apply = jit(model.apply, static_argnums=3)
    tokens = inputs("transformer")
    changed = tokens.at[:, 3].set((tokens[:, 3] + 1) % 3)
    a, b = (apply(params, stats, t, False, None)[0] for t in (tokens, changed))
    assert (a[:, :3] == b[:, :3]).all()
    assert (a[:, 3:] != b[:, 3:]).any((0, 2)).all()
    shorter, _ = apply(params, stats, tokens[:, :4], False, None)
    np.testing.assert_allclose(shorter, a[:, :4], rtol=1e-5, atol=1e-6)


REFUSED = [
    (models.Conv(3), CIFAR, "2, 4, 6 or 8; got 3"),
    (models.VGG(12), CIFAR, "11, 13, 16, 19.*got 12"),
    (models.ResNet(18), CIFAR, "6 n \\+ 2; got 18"),
    (models.ImageNetResNet(20), CIFAR, "18, 34, 50.*got 20"),
    (models.WideResNet(20), CIFAR, "6 n \\+ 4; got 20"),
    (models.ViT(patch=5), CIFAR, "patches of 5 pixels"),
    (models.Transformer(length=4), (5,), "at most 4 tokens; got 5"),
    (models.LeNet5(), (8, 8, 1), "no 2 x 2 window"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case[2])
def test_what_no_network_fits_is_refused(case):
    module, shape, message = case
    dtype = jnp.int32 if len(shape) == 1 else jnp.float32
    with pytest.raises(ValueError, match=message):
        shapes(module, shape, dtype)


def test_the_mlp_is_what_it_says():
    model = models.from_linen(models.MLP(widths=(4,), classes=2), (2, 3, 1))
    params, stats = drawn(model)
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3, 1)
    raw = models.standardized(model, 1.0, 4.0)
    logits, _ = raw.apply(params, stats, image, False, None)
    x = (image.reshape(2, -1) - 1.0) / 4.0
    layer = params["hidden_0"]
    hidden = np.maximum(x @ layer["kernel"] + layer["bias"][None], 0)
    expected = hidden @ params["output"]["kernel"] + params["output"]["bias"][None]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
