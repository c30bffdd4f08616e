"""Axis spaces: found by hand-known counts, and proved by permuting and slicing."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from lth import compress, models
from lth.compress import factors
from lth.compress.factors import Factor
from tests.conftest import plain_mlp

KEY = jax.random.key(0)
IMAGE = (32, 32, 3)
ZOO = {  # the network, the shape of an input, spaces
    "mlp": (models.MLP((6, 5)), (4, 4, 1), 2),
    "lenet5": (models.LeNet5(width=0.1), (28, 28, 1), 3),
    "conv2": (models.Conv(width=0.05), IMAGE, 4),
    "vgg16": (models.VGG(width=0.05), IMAGE, 13),
    "resnet20": (models.ResNet(width=0.25), IMAGE, 12),
    "wrn": (models.WideResNet(width=0.25), IMAGE, 10),
    "resnet50": (models.ImageNetResNet(width=0.05), (32, 32, 3), 37),
    "vit": (models.ViT(width=0.1), IMAGE, 18),
    "transformer": (models.Transformer(width=0.1), (8,), 12),
}
RUN = {"xla_backend_optimization_level": 0}  # compiling takes longer than running


def shaped(name):
    """A family's model, the shapes of its params and stats, and of inputs."""
    module, shape, _ = ZOO[name]
    dtype = jnp.int32 if name == "transformer" else jnp.float32
    model = models.from_linen(module, shape, dtype)
    return (
        model,
        *jax.eval_shape(model.init, KEY),
        jax.ShapeDtypeStruct((2, *shape), dtype),
    )


def drawn(tree, seed=0):
    """Random numbers in the shapes of a tree, above 0 where they are variances."""
    rng = np.random.default_rng(seed)

    def leaf(path, x):
        values = rng.standard_normal(x.shape).astype(np.float32)
        fan = np.prod(x.shape[:-1]) if len(x.shape) > 1 else 4
        variance = "var" in jax.tree_util.keystr(path[-1:])
        return jnp.asarray(np.abs(values) + 0.5 if variance else values / fan**0.5)

    return jax.tree_util.tree_map_with_path(leaf, tree)


def examples(like, seed=1):
    rng = np.random.default_rng(seed)
    if jnp.issubdtype(like.dtype, jnp.integer):
        return jnp.asarray(rng.integers(0, 5, like.shape), like.dtype)
    return jnp.asarray(rng.standard_normal(like.shape), like.dtype)


def run(apply):
    """The network in evaluation, of {"params": …, "stats": …} and inputs."""
    return lambda tree, x: apply(tree["params"], tree["stats"], x, False, None)[0]


def at_random(tree, spaces, seed=2):
    """All spaces permuted at random."""
    rng = np.random.default_rng(seed)
    for space in spaces:
        order = rng.permutation(space.size)
        if (order == np.arange(space.size)).all():
            order = np.roll(order, 1)
        tree = compress.permute(tree, space, order)
    return tree


def close(a, b, limit=1e-5):
    """Within a limit of the largest output."""
    scale = max(1.0, float(jnp.max(jnp.abs(a))))
    return float(jnp.max(jnp.abs(a - b))) <= limit * scale


@pytest.mark.parametrize("name", ZOO)
def test_every_family_has_the_spaces_it_should(name):
    spaces = compress.find(*_of(name))
    assert len(spaces) == ZOO[name][2]
    assert len({space.name for space in spaces}) == len(spaces)
    for space in spaces:
        assert space.written
        assert space.read
        for index in space.members.values():
            assert index.shape[0] == space.size
            assert len(np.unique(index)) == index.size


def _of(name):
    model, params, stats, inputs = shaped(name)
    return model.apply, params, stats, inputs


def test_members_by_hand():
    spaces = {space.name: space for space in compress.find(*_of("conv2"))}
    flat = spaces["conv_1"].members["params/hidden_0/kernel", 0]
    assert flat.shape == (3, 256)  # 16 x 16 places of 3 channels, which run fastest
    assert flat[1].tolist() == list(range(1, 768, 3))
    assert spaces["conv_1"].roles == {
        ("params/conv_1/kernel", 3): {"makes"},
        ("params/conv_1/bias", 0): {"beside"},
        ("params/hidden_0/kernel", 0): {"reads"},
    }
    heads, width = compress.find(*_of("vit"))[:2]
    assert (heads.size, width.size) == (3, 6)
    into = "params/block_0/attended/kernel", 0
    assert heads.members[into].tolist() == np.arange(18).reshape(3, 6).tolist()
    assert width.members[into].tolist() == np.arange(18).reshape(3, 6).T.tolist()
    assert ("params/block_0/query/kernel", 1) in heads.members
    assert ("params/block_0/query/kernel", 1) not in width.members
    norm = next(s for s in compress.find(*_of("resnet20")) if s.name == "stem")
    stats = [at for at in norm.members if at[0].startswith("stats/")]
    assert len(stats) == 8  # a mean and a variance of each of four normalisations
    assert all(norm.roles[at] == {"beside"} for at in stats)


def test_reasons_are_told():
    found = compress.frozen(*_of("transformer"))
    assert found["params/tokens/embedding", 0] == "gather"
    assert found["params/norm/scale", 0] == "reduce_sum"  # a layer norm
    assert found["params/output/kernel", 1] == "outputs"
    assert "two arrays" in found["params/block_0/query/kernel", 1]
    assert compress.frozen(*_of("mlp"))["params/hidden_0/kernel", 0] == "inputs"


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "vit", "transformer"])
def test_families_are_the_same_functions_permuted(name):
    model, params, stats, like = shaped(name)
    spaces = compress.find(model.apply, params, stats, like)
    tree, x = drawn({"params": params, "stats": stats}), examples(like)
    function = jax.jit(run(model.apply), compiler_options=RUN)
    before, after = function(tree, x), function(at_random(tree, spaces), x)
    assert close(before, after)
    # Kernels alone, without what else belongs to the channels, are another function.
    alone = [
        space._replace(
            members={a: i for a, i in space.members.items() if "kernel" in a[0]}
        )
        for space in spaces
    ]
    assert not close(before, function(at_random(tree, alone), x), 1e-2)


def weights(*shapes):
    """Random params {"a": …, "b": …} in these shapes."""
    like = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32)
        for name, shape in zip("abcdefgh", shapes, strict=False)
    }
    return drawn(like)


def residual(p, x):
    h = jax.nn.relu(x @ p["a"])
    return (h + jnp.tanh(h @ p["b"]) @ p["c"]) @ p["d"]


def joined(p, x):
    h = jnp.concatenate([jnp.tanh(x @ p["a"]), jax.nn.sigmoid(x @ p["b"])], -1)
    return (h * p["d"][None]) @ p["c"]


def fused(p, x):
    """One kernel for three, cut after the product."""
    a, b, c = jnp.split(x @ p["a"], [4, 8], -1)
    return (jnp.tanh(a) * b + c) @ p["b"]


def grouped(p, x):
    def conv(x, w, groups):
        numbers = ("NHC", "HIO", "NHC")
        return jax.lax.conv_general_dilated(
            x, w, (1,), "SAME", dimension_numbers=numbers, feature_group_count=groups
        )

    h = jax.nn.relu(conv(x[:, :, None] * p["d"][None], p["a"], 1))
    h = jax.nn.relu(conv(h, p["b"], 2))
    return conv(h, p["c"], 1).sum(1)


def depthwise(p, x):
    def conv(x, w, groups):
        numbers = ("NHC", "HIO", "NHC")
        return jax.lax.conv_general_dilated(
            x, w, (1,), "SAME", dimension_numbers=numbers, feature_group_count=groups
        )

    h = conv(x[:, :, None] * p["d"][None], p["a"], 1)
    h = jax.nn.relu(conv(h, p["b"], h.shape[-1]))
    blurred = conv(h, jnp.ones((3, 1, h.shape[-1])) / 3, h.shape[-1])
    return conv(blurred, p["c"], 1).sum(1)


def attention(p, x):
    x = x[:, :, None] * p["d"][None]
    q, k, v = ((x @ p[n]).reshape(*x.shape[:2], 2, -1) for n in "abc")
    y = jax.nn.dot_product_attention(q, k, v)
    return y.reshape(*x.shape[:2], -1) @ p["e"]


def padded(p, x):
    """A shortcut with zeros for the channels that it lacks."""
    h = jax.nn.relu(x @ p["a"])
    return (jnp.pad(h, ((0, 0), (1, 2))) + jnp.tanh(h @ p["b"])) @ p["c"]


def recurrent(p, x):
    def one(h, x):
        h = jnp.tanh(x[:, None] @ p["a"] + h @ p["b"])
        return h, h @ p["c"]

    return jax.lax.scan(one, jnp.zeros((len(x), len(p["b"]))), x.T)[1].swapaxes(0, 1)


def low_rank(p, x):
    return jnp.tanh(x @ (p["a"] @ p["b"])) @ p["c"]


def turned(p, x):
    """Kernels [out, in], as PyTorch has them, the second behind a product."""
    h = jnp.tanh(x @ p["a"].T)
    return h @ (p["c"] @ p["b"]).T


def branched(p, x):
    h = x @ p["a"]
    h = jax.lax.cond(h.sum() > 0, lambda h: jnp.tanh(h) @ p["b"], jnp.sin, h)
    return h @ p["c"]


def looped(p, x):
    h = jax.lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h @ p["b"]), x @ p["a"])
    return h @ p["c"]


def experts(p, x):
    h = jnp.einsum("bi,eih->beh", x, p["a"])
    return jnp.einsum("beh,eho->bo", jnp.tanh(h), p["b"])


def group_norm(p, x):
    h = (x @ p["a"]).reshape(len(x), 2, -1)
    h = (h - h.mean(-1, keepdims=True)).reshape(len(x), -1)
    return (h * p["b"][None]) @ p["c"]


def copied(p, x):
    """Inputs copied for every expert, whose products lie side by side."""
    x = jnp.broadcast_to(x[:, None], (len(x), len(p["a"]), x.shape[1]))
    h = jnp.einsum("bei,eih->beh", x, p["a"])
    return jnp.einsum("beh,eho->bo", jnp.tanh(h), p["b"])


def embedded(p, x):
    rows = p["a"][(x > 0).astype(jnp.int32)]
    return jnp.tanh(rows @ p["b"]).sum(1) @ p["c"]


def pooled(p, x):
    h = nn.avg_pool(jnp.tanh(x[:, :, None] @ p["a"]), (2,), (2,))
    h = nn.max_pool(h @ p["b"], (3,))
    return h.reshape(len(x), -1) @ p["c"]


def sorted_(p, x):
    """An operation without a rule, of channels."""
    return jnp.sort(jnp.tanh(x @ p["a"]), -1) @ p["b"]


def scaled(p, x):
    """A constant that tells channels apart."""
    return (jnp.tanh(x @ p["a"]) * np.arange(4, dtype=np.float32)[None]) @ p["b"]


def shifted(p, x):
    h = jnp.tanh(x @ p["a"])
    return (h[:, 1:] - h[:, :-1]) @ p["b"]


def ranked(p, x):
    """Positions that a mask made inside tells apart."""
    h = jnp.tanh(x @ p["a"])
    return jnp.where(jnp.arange(4)[None] < 2, h, 0.0) @ p["b"]


def bordered(p, x):
    """The first two channels get something that the others do not."""
    h = jnp.tanh(x @ p["a"])
    return (h + jnp.pad(jnp.ones((len(x), 2)), ((0, 0), (0, 3)))) @ p["b"]


def empty(p, x):
    h = jnp.concatenate(
        [jnp.tanh(x @ p["a"]), jnp.zeros((len(x), 0, 2)).reshape(3, 0)], 1
    )
    return h @ p["b"]


def outer(p, x):
    h = jnp.tanh(x @ p["a"])
    return (h[:, :, None] * h[:, None]).reshape(len(x), -1) @ p["b"]


OWN = {  # the function, its weights, and the sizes of its spaces
    "residual": (residual, weights((6, 5), (5, 4), (4, 5), (5, 2)), [5, 4]),
    "joined": (joined, weights((6, 4), (6, 3), (7, 2), (7,)), [4, 3]),
    "fused": (fused, weights((6, 12), (4, 2)), [4]),
    "grouped": (
        grouped,
        weights((3, 1, 6), (3, 3, 4), (1, 4, 2), (1, 1)),
        [2, 3, 2],
    ),
    "depthwise": (depthwise, weights((3, 1, 4), (3, 1, 4), (1, 4, 2), (1, 1)), [4]),
    "attention": (
        attention,
        weights((3, 6), (3, 6), (3, 6), (1, 3), (6, 2)),
        [2, 3],
    ),
    "padded": (padded, weights((6, 4), (4, 7), (7, 2)), [4, 2]),
    "recurrent": (recurrent, weights((1, 5), (5, 5), (5, 2)), [5]),
    "low_rank": (low_rank, weights((6, 3), (3, 5), (5, 2)), [3, 5]),
    "turned": (turned, weights((5, 6), (3, 5), (2, 3)), [5, 3]),
    "branched": (branched, weights((6, 4), (4, 4), (4, 2)), []),
    "looped": (looped, weights((6, 4), (4, 4), (4, 2)), [4]),
    "experts": (experts, weights((3, 6, 4), (3, 4, 2)), [3, 4]),
    "group_norm": (group_norm, weights((6, 8), (8,), (8, 2)), [2]),
    "copied": (copied, weights((3, 6, 4), (3, 4, 2)), [3, 4]),
    "embedded": (embedded, weights((2, 4), (4, 5), (5, 2)), [4, 5]),
    "pooled": (pooled, weights((1, 4), (4, 5), (5, 2)), [4, 5]),
    "sorted": (sorted_, weights((6, 4), (4, 2)), []),
    "scaled": (scaled, weights((6, 4), (4, 2)), []),
    "shifted": (shifted, weights((6, 4), (3, 2)), []),
    "ranked": (ranked, weights((6, 4), (4, 2)), []),
    "bordered": (bordered, weights((6, 5), (5, 2)), [2, 3]),
    "empty": (empty, weights((6, 4), (4, 2)), [4]),
    "outer": (outer, weights((6, 4), (16, 2)), []),
}
X = examples(jax.ShapeDtypeStruct((3, 6), jnp.float32))


def own(function):
    return lambda params, stats, x, train, key: (function(params, x), stats)


@functools.cache
def spaces_of(name):
    function, params, _ = OWN[name]
    return compress.find(own(function), params, {}, X)


@pytest.mark.parametrize("name", OWN)
def test_own_functions(name):
    function, params, sizes = OWN[name]
    spaces = spaces_of(name)
    assert sorted(space.size for space in spaces) == sorted(sizes)
    if spaces:
        after = at_random({"params": params}, spaces)["params"]
        assert close(function(params, X), function(after, X))
        assert any(
            bool(jnp.any(a != b))
            for a, b in zip(params.values(), after.values(), strict=True)
        )


def test_roles_by_hand():
    (space,) = spaces_of("recurrent")
    assert space.roles == {
        ("params/a", 1): {"makes"},
        ("params/b", 0): {"reads"},
        ("params/b", 1): {"makes"},
        ("params/c", 0): {"reads"},
    }
    rank, hidden = spaces_of("low_rank")
    assert rank.roles == {("params/a", 1): {"makes"}, ("params/b", 0): {"reads"}}
    assert hidden.roles == {("params/b", 1): {"makes"}, ("params/c", 0): {"reads"}}
    rank = spaces_of("turned")[-1]
    assert rank.roles == {("params/b", 0): {"makes"}, ("params/c", 1): {"reads"}}
    (channels,) = spaces_of("depthwise")
    assert channels.roles["params/b", 2] == {"passes"}
    assert spaces_of("copied")[0].roles["params/a", 0] == {"makes"}
    assert spaces_of("embedded")[0].roles["params/a", 1] == {"makes"}
    first = spaces_of("joined")[0]
    assert first.members["params/c", 0].tolist() == [[0], [1], [2], [3]]
    assert first.roles["params/d", 0] == {"beside"}
    (parts,) = spaces_of("fused")  # one after the other, of which all have one size
    assert parts.members["params/a", 1].tolist() == [
        [i, i + 4, i + 8] for i in range(4)
    ]


def test_what_has_no_rule_is_named():
    function, params, _ = OWN["sorted"]
    reasons = compress.frozen(own(function), params, {}, X)
    assert reasons["params/a", 1] == reasons["params/b", 0] == "sort has no rule"
    function, params, _ = OWN["scaled"]
    assert compress.frozen(own(function), params, {}, X)["params/b", 0] == "constant"


SLICED = ("residual", "joined", "grouped", "depthwise", "recurrent", "low_rank")


@settings(max_examples=10)
@given(st.data())
@pytest.mark.parametrize("name", [*SLICED, "experts", "mlp"])
def test_cleared_is_sliced(name, data):
    """Removing places written and read is the smaller network, whatever act(0) is."""
    if name == "mlp":
        model = plain_mlp((6, 5, 4, 2))
        like, _ = jax.eval_shape(model.init, KEY)
        params, function = (
            drawn(like),
            lambda p, x: model.apply(p, {}, x, False, KEY)[0],
        )
    else:
        function, params, _ = OWN[name]
    spaces = compress.find(own(function), params, {}, X)
    kept = {
        space.name: data.draw(
            st.sets(st.integers(0, space.size - 1), min_size=1), label=space.name
        )
        for space in spaces
        if not (name == "grouped" and space.size == 2)  # the count of groups is written
    }
    kept = {k: sorted(v) for k, v in kept.items()}
    tree = {"params": params}
    large = compress.clear(tree, spaces, kept)["params"]
    small = compress.keep(tree, spaces, kept)["params"]
    for space in spaces:
        for (path, axis), index in space.members.items():
            if space.name in kept and index.size == params[path[7:]].shape[axis]:
                size = index.shape[1] * len(kept[space.name])
                assert small[path[7:]].shape[axis] == size
    assert close(function(large, X), function(small, X))


def test_clearing_what_is_written_alone_is_not_enough():
    """A sigmoid of 0 is 0.5: only cleared readers take it out."""
    function, params, _ = OWN["joined"]
    space = spaces_of("joined")[1]
    kept = {space.name: [0]}
    small = compress.keep({"params": params}, [space], kept)["params"]
    written = {at: space.members[at] for at in space.written if at[0] != "params/d"}
    half = compress.clear({"params": params}, [space._replace(members=written)], kept)
    assert not close(function(small, X), function(half["params"], X), 1e-3)


def test_masks_and_slots_go_along():
    params, spaces = OWN["residual"][1], spaces_of("residual")
    mask = {"a": np.arange(30).reshape(6, 5) % 3 > 0, "b": None, "c": None, "d": None}
    moved = compress.permute({"params": mask}, spaces[0], [4, 3, 2, 1, 0])["params"]
    assert (moved["a"] == mask["a"][:, ::-1]).all()
    assert moved["b"] is None
    kept = {spaces[0].name: [1, 3]}
    assert compress.keep({"params": mask}, spaces, kept)["params"]["a"].shape == (6, 2)
    double = {"params": {k: np.asarray(v, np.float64) for k, v in params.items()}}
    assert compress.permute(double, spaces[0], range(5))["params"]["a"].dtype == float


def test_refusals_name_what_is_wrong():
    spaces, tree = spaces_of("residual"), {"params": OWN["residual"][1]}
    with pytest.raises(ValueError, match="a has 5 channels to permute"):
        compress.permute(tree, spaces[0], [0, 1, 2, 3, 3])
    with pytest.raises(ValueError, match="no space 'z'; there are"):
        compress.keep(tree, spaces, {"z": [0]})
    with pytest.raises(ValueError, match="one or more of its 5 channels; got"):
        compress.keep(tree, spaces, {"a": [5]})
    with pytest.raises(ValueError, match="one or more of its 5 channels; got"):
        compress.clear(tree, spaces, {"a": []})
    with pytest.raises(ValueError, match="params lie under 'params'"):
        compress.permute(tree["params"], spaces[0], range(5))


class Wide(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(6, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(jnp.tanh(self.norm(self.first(x))))


class Deep(nn.Module):
    """Layers in a loop, whose kernels are stacked along an axis of their own."""

    @nn.compact
    def __call__(self, x, train=False):
        class Block(nn.Module):
            @nn.compact
            def __call__(self, x, _):
                return x + nn.Dense(4)(jnp.tanh(nn.Dense(5)(x))), None

        kinds = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
        x = nn.Dense(4, name="stem")(x)
        return nn.Dense(2)(nn.scan(Block, length=3, **kinds)(name="blocks")(x, None)[0])


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        (models.from_nnx(Wide), [4]),
        (models.from_linen(Deep(), (6,)), [4, 5]),
        (models.from_linen(nn.remat(models.MLP)((5,), 2), (6,)), [5]),
    ],
    ids=["nnx", "scanned", "remat"],
)
def test_other_ways_of_writing_a_network(model, sizes):
    params, stats = jax.eval_shape(model.init, KEY)
    spaces = compress.find(model.apply, params, stats, X)
    assert [space.size for space in spaces] == sizes
    tree = drawn({"params": params, "stats": stats})
    function = run(model.apply)
    assert close(function(tree, X), function(at_random(tree, spaces), X))


def test_axes_as_products_and_sums():
    """Places by hand: heads x (query, key), the last of which runs fastest."""
    a, b = Factor(2), Factor(3)
    f = factors.product([a, factors.chain([b, b])])
    found = [(leaf, index.tolist()) for leaf, index in factors.places(f)]
    assert found[0] == (a, [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]])
    assert found[1] == (b, [[0, 6], [1, 7], [2, 8]])
    assert found[2] == (b, [[3, 9], [4, 10], [5, 11]])


def test_axes_that_are_cut_in_ways_that_do_not_fit_are_frozen():
    one, other = (
        factors.product([Factor(2), Factor(3)]),
        factors.product([Factor(3), Factor(2)]),
    )
    factors.join(one, other)
    assert factors.reason(one) == factors.reason(other) != ""
    whole = Factor(12)
    factors.join(whole, factors.product([Factor(2), Factor(6)]))
    factors.join(whole, factors.product([Factor(4), Factor(3)]))
    assert [leaf.size for leaf in factors.leaves(whole)] == [2, 2, 3]
    assert not factors.reason(whole)


def normalised(params, stats, x, train, key):
    """Batch normalisation by its averages, on plain trees."""
    h = x @ params["a"]
    h = (h - stats["mean"][None]) * jax.lax.rsqrt(stats["var"] + 1e-5)[None]
    h = jax.nn.relu(h * params["scale"][None] + params["shift"][None])
    return h @ params["b"], stats


def test_averages_are_sliced_too_and_kernels_alone_do_not_do():
    like = {"a": (6, 5), "b": (5, 2), "scale": (5,), "shift": (5,)}
    params = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in like.items()}
    stats = {k: jax.ShapeDtypeStruct((5,), jnp.float32) for k in ("mean", "var")}
    tree = drawn({"params": params, "stats": stats})
    tree["params"]["shift"] += 1  # so that the normalisation lets something through
    (space,) = compress.find(normalised, params, stats, X)
    kept, function = {space.name: [0, 3]}, run(normalised)
    small = compress.keep(tree, [space], kept)
    assert small["stats"]["var"].shape == (2,)
    assert close(function(small, X), function(compress.clear(tree, [space], kept), X))
    makes = space._replace(
        members={at: space.members[at] for at in space.having("makes")}
    )
    alone = compress.clear(tree, [makes], kept)
    assert not close(function(small, X), function(alone, X), 1e-2)
