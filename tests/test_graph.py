"""The graph of a pruned network, against searches node by node and what it computes."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lth import compress, masks
from lth.analysis import graph
from tests.conftest import assert_same
from tests.test_spaces import OWN, X, close, own, shaped, spaces_of, weights
from tests.test_units import mlp

small = functools.cache(mlp)
SEEDS = st.tuples(st.integers(0, 2**16), st.sampled_from([0.1, 0.2, 0.4, 0.8]))


def cut(params, seed_and_density, covers=lambda name: True):
    """A mask drawn at random; None where it covers nothing."""
    seed, density = seed_and_density
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(rng.random(w.shape) < density)
        if covers(name) and w.ndim > 1
        else None
        for name, w in params.items()
    }


def searched(edges, sources, targets):
    """The nodes on a path from a source to a target, and the edges between them."""

    def flooded(starts, edges):
        seen, todo = set(starts), list(starts)
        while todo:
            node = todo.pop()
            for a, b in edges:
                if a == node and b not in seen:
                    seen.add(b)
                    todo.append(b)
        return seen

    reached = flooded(sources, edges)
    useful = flooded(targets, [(b, a) for a, b in edges])
    return reached & useful, [(a, b) for a, b in edges if a in reached and b in useful]


def layered(mask, links):
    """Edges [(node, node)] and their weights, of leaves between two sets of nodes."""
    found = {}
    for name, (before, after) in links.items():
        for i, j in zip(*np.nonzero(np.asarray(mask[name])), strict=True):
            found[name, int(i), int(j)] = ((before, int(i)), (after, int(j)))
    return found


def by_search(params, mask, links):
    """The effective mask and the nodes alive, found node by node."""
    found = layered(mask, links)
    ends = [
        [(layer, i) for i in range(n)]
        for layer, n in (("x", next(iter(params.values())).shape[0]), ("y", 2))
    ]
    nodes, edges = searched(sorted(set(found.values())), *ends)
    kept = {name: np.zeros(params[name].shape, bool) for name in links}
    for (name, i, j), edge in found.items():
        kept[name][i, j] = edge in edges
    return kept, nodes


@settings(max_examples=25)
@given(SEEDS, st.sampled_from([(4,), (3, 5), (4, 3, 5)]))
def test_a_search_finds_the_same_in_an_mlp(drawing, hidden):
    sizes = (6, *hidden, 2)
    _, spaces, params = small(sizes)
    mask = cut(params, drawing)
    layers = ["x", *(f"h{i}" for i in range(len(hidden))), "y"]
    links = {f"w{i}": pair for i, pair in enumerate(itertools.pairwise(layers))}
    ordered = {name: params[name] for name in links}
    kept, nodes = by_search(ordered, mask, links)
    found = graph.effective(spaces, params, mask)
    for name in links:
        assert np.array_equal(found[name], kept[name])
    for i, space in enumerate(spaces):
        units = graph.alive(spaces, params, mask)[space.name]
        assert [(f"h{i}", j) in nodes for j in range(space.size)] == units.tolist()
        gone = graph.dead(spaces, params, mask)[space.name]
        assert gone.tolist() == [j for j, unit in enumerate(units) if not unit]
    assert graph.severed(spaces, params, mask) == [
        name for name in sorted(links) if not kept[name].any()
    ]
    total = sum(keep.sum() for keep in kept.values()) / masks.size(mask)
    assert graph.effective_density(spaces, params, mask) == pytest.approx(total)


STREAM = {"a": ("x", "h"), "b": ("h", "m"), "c": ("m", "h"), "d": ("h", "y")}


@settings(max_examples=40)
@given(SEEDS)
def test_a_search_finds_the_same_in_a_residual_network(drawing):
    params, spaces = OWN["residual"][1], spaces_of("residual")
    mask = cut(params, drawing)
    found = graph.effective(spaces, params, mask)
    kept, nodes = by_search(params, mask, STREAM)
    for name in STREAM:
        assert np.array_equal(found[name], kept[name])
    stream, inner = spaces
    units = graph.alive(spaces, params, mask)
    assert [("h", i) in nodes for i in range(5)] == units[stream.name].tolist()
    assert [("m", i) in nodes for i in range(4)] == units[inner.name].tolist()
    # With the stream before and after the block told apart, less may be alive.
    apart = STREAM | {"c": ("m", "after"), "d": ("after", "y")}
    links = layered(mask, apart)
    through = {(("h", i), ("after", i)) for i in range(5)}
    ends = [("x", i) for i in range(6)], [("y", i) for i in range(2)]
    _, edges = searched(sorted({*links.values(), *through}), *ends)
    for (name, i, j), edge in links.items():
        assert found[name][i, j] or edge not in edges


@settings(max_examples=8)
@given(SEEDS)
def test_a_search_finds_the_same_in_a_convolutional_network(drawing):
    """A unit is a map: it lives if a weight of any place of the window leads to it."""
    model, params, stats, like = shaped("lenet5")
    spaces = compress.find(model.apply, params, stats, like)
    seed, density = drawing
    rng = np.random.default_rng(seed)
    mask = jax.tree.map(
        lambda w: (
            jnp.asarray(rng.random(w.shape) < density / 4) if len(w.shape) > 1 else None
        ),
        params,
    )
    names = ["conv_0", "conv_1", "hidden_0", "output"]
    keeps = [np.asarray(mask[name]["kernel"]) for name in names]
    # [reads, makes, weights]: of the flattened maps, channels run fastest.
    flat = [k.reshape(-1, *k.shape[-2:]).transpose(1, 2, 0) for k in keeps[:2]]
    flat += [keeps[2].reshape(-1, flat[1].shape[1], keeps[2].shape[1]).swapaxes(0, 1)]
    flat[2] = flat[2].swapaxes(1, 2)
    flat += [keeps[3][:, :, None]]
    links = [
        ((i, int(a)), (i + 1, int(b)))
        for i, k in enumerate(flat)
        for a, b in zip(*np.nonzero(k.any(-1)), strict=True)
    ]
    ends = [(0, 0)], [(4, i) for i in range(10)]
    nodes, edges = searched(links, *ends)
    found = graph.effective(spaces, params, mask)
    for i, (name, k) in enumerate(zip(names, flat, strict=True)):
        left = sum(
            int(k[a, b].sum())
            for a in range(k.shape[0])
            for b in range(k.shape[1])
            if ((i, a), (i + 1, b)) in set(edges)
        )
        assert left == int(found[name]["kernel"].sum())
        assert bool((found[name]["kernel"] <= mask[name]["kernel"]).all())
    units = graph.alive(spaces, params, mask)
    for i, space in enumerate(spaces, 1):
        assert units[space.name].tolist() == [
            (i, j) in nodes for j in range(space.size)
        ]


def test_by_hand():
    """x0-h0-y0, x1-h1, h2-y1: one path of three starts."""
    _, spaces, params = mlp((2, 3, 2))
    first = jnp.asarray([[1, 0, 0], [0, 1, 0]], bool)
    last = jnp.asarray([[1, 0], [0, 0], [0, 1]], bool)
    bias = jnp.asarray([1, 1, 0], bool)
    mask = {"w0": first, "w1": last, "b0": bias, "b1": None}
    assert graph.alive(spaces, params, mask)["w0"].tolist() == [True, False, False]
    assert graph.dead(spaces, params, mask)["w0"].tolist() == [1, 2]
    found = graph.effective(spaces, params, mask)
    assert found["w0"].tolist() == [[True, False, False], [False] * 3]
    assert found["w1"].tolist() == [[True, False], [False] * 2, [False] * 2]
    assert found["b0"].tolist() == [True, False, False]
    assert found["b1"] is None
    assert graph.effective_density(spaces, params, mask) == 3 / 15
    each = graph.degrees(spaces, params, mask)["w0"]
    assert each.inputs.tolist() == [1, 1, 0]
    assert each.outputs.tolist() == [1, 0, 1]
    none = mask | {"w1": jnp.zeros((3, 2), bool)}
    assert graph.severed(spaces, params, none) == ["b0", "w0", "w1"]
    assert graph.severed(spaces, params, mask) == []
    assert graph.effective_density(spaces, params, none) == 0


def test_a_million_weights_by_matrix_products():
    _, spaces, params = mlp((700, 1000, 300, 10))
    mask = cut(params, (0, 0.002))
    keeps = [np.asarray(mask[f"w{i}"]) for i in range(3)]
    reached, useful = [np.ones(700, bool)], [np.ones(10, bool)]
    for keep in keeps:
        reached.append(reached[-1].astype(float) @ keep > 0)
    for keep in keeps[::-1]:
        useful.insert(0, keep @ useful[0].astype(float) > 0)
    count = 0
    found = graph.effective(spaces, params, mask)
    for i, keep in enumerate(keeps):
        expected = keep & reached[i][:, None] & useful[i + 1][None]
        assert np.array_equal(found[f"w{i}"], expected)
        count += expected.sum()
    assert 0 < count < masks.count(mask)
    density = graph.effective_density(spaces, params, mask)
    assert density == pytest.approx(count / masks.size(mask))


# Activations that are 0 at 0, and no biases: what is not effective computes nothing.
SILENT = (
    *("residual", "fused", "grouped", "depthwise", "attention", "padded", "recurrent"),
    *("low_rank", "turned", "looped", "experts", "copied", "embedded", "pooled"),
)


@settings(max_examples=6)
@given(drawing=SEEDS)
@pytest.mark.parametrize("name", SILENT)
def test_what_is_not_effective_does_nothing(name, drawing):
    function, params, _ = OWN[name]
    spaces = spaces_of(name)
    mask = cut(params, drawing)
    found = graph.effective(spaces, params, mask)
    outputs = [function(masks.apply(params, m), X) for m in (mask, found)]
    assert close(*outputs, 1e-6)
    for keep, left in zip(jax.tree.leaves(mask), jax.tree.leaves(found), strict=True):
        assert bool((left <= keep).all())
    assert_same(graph.effective(spaces, params, found), found)


@pytest.mark.parametrize("name", SILENT)
def test_a_whole_network_is_alive(name):
    params, spaces = OWN[name][1], spaces_of(name)
    mask = cut(params, (0, 2.0))
    assert graph.effective_density(spaces, params, mask) == 1
    for space in spaces:
        units = graph.degrees(spaces, params, mask)[space.name]
        assert units.inputs.min() > 0
        assert units.outputs.min() > 0
        assert not len(graph.dead(spaces, params, mask)[space.name])


def test_an_embedding_that_is_attended_to_lives_by_itself():
    def attended(p, x):
        rows = p["a"][(x > 0).astype(jnp.int32)].sum(1)
        return jnp.tanh(rows) @ p["a"].T

    params = weights((2, 4))
    (space,) = compress.find(own(attended), params, {}, X)
    assert space.roles == {("params/a", 1): {"makes", "reads"}}
    mask = {"a": jnp.asarray([[1, 1, 0, 0], [0, 0, 0, 1]], bool)}
    assert graph.alive([space], params, mask)[space.name].tolist() == [1, 1, 0, 1]
    assert graph.effective_density([space], params, mask) == 3 / 8


def test_frozen_axes_are_alive():
    """A layer norm mixes the stream: what the blocks do inside is still told."""
    model, params, stats, like = shaped("transformer")
    spaces = compress.find(model.apply, params, stats, like)
    mask = masks.ones(jax.tree.map(lambda w: jnp.ones(w.shape), params))
    assert graph.effective_density(spaces, params, mask) == 1
    inner = mask["block_0"]["hidden_1"]["kernel"]
    mask["block_0"]["hidden_1"]["kernel"] = inner.at[:3].set(False)
    found = graph.effective(spaces, params, mask)
    into = found["block_0"]["hidden_0"]["kernel"]
    assert not into[:, :3].any()
    assert into[:, 3:].all()
    mask["block_0"]["hidden_1"]["kernel"] = jnp.zeros_like(inner)
    assert graph.severed(spaces, params, mask) == [
        "block_0/hidden_0/kernel",
        "block_0/hidden_1/kernel",
    ]
