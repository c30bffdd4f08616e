"""SRigL: dropped and grown under constant fan-in, outputs ablated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lth import dynamic
from lth.dynamic import rules
from tests.test_dynamic import one_layer

KEY = jax.random.key(3)


def srigl_at_once(density, **options):
    times = {"begin_step": 1, "end_step": 10, "frequency": 1}
    return dynamic.srigl(density, drop=rules.constant_drop(0.5), **times, **options)


def test_srigl_by_hand():
    # Three outputs, of which each reads two of four: half of the six are dropped, the
    # smallest of the layer, 1, 2 and 3.
    weights = [[9.0, 0, 1], [8, 3, 0], [0, 7, 0], [0, 0, 2]]
    mask = np.array(weights) != 0
    grads = [[0.0, 9, 0], [0, 0, 4], [1, 0, 5], [2, 6, 0]]
    # Grown were 9, 6 and 5, those of largest gradient: 2, 3 and 1 of the outputs' two
    # are salient, of which a share of 0.5 is one.
    new, kept = one_layer(srigl_at_once(0.5, ablate=0.5), weights, grads, mask)
    assert np.asarray(kept).T.tolist() == [
        [True, True, False, False],  # has all it reads
        [True, False, True, False],  # 9, where 6 would have come next
        [False, True, True, False],  # 4 and 5
    ]
    assert np.asarray(new).T.tolist() == [[9, 8, 0, 0], [0, 0, 7, 0], [0, 0, 0, 0]]
    # Two are asked for: the third is ablated, and the others read three of four.
    new, kept = one_layer(srigl_at_once(0.5, ablate=1.0), weights, grads, mask)
    assert np.asarray(kept).T.tolist() == [
        [True, True, False, True],  # 2 rather than 1
        [True, False, True, True],  # 9 and 6
        [False] * 4,
    ]
    assert np.asarray(new).T.tolist() == [[9, 8, 0, 0], [0, 0, 7, 0], [0, 0, 0, 0]]


def restated(w, g, keep, density, fraction, ablate):
    """An update of SRigL, of a matrix [inputs, outputs], as the paper numbers it."""
    inputs, outputs = w.shape
    order = [(i, j) for i in range(inputs) for j in range(outputs)]
    alive = [at for at in order if keep[at]]
    count = int(np.float32(len(alive)) * np.float32(fraction))
    stay = sorted(alive, key=lambda at: (-abs(w[at]), at))[: len(alive) - count]
    dead = [at for at in order if not keep[at]]
    grow = sorted(dead, key=lambda at: (-abs(g[at]), at))[:count]
    salient = np.bincount([j for _, j in stay + grow], minlength=outputs)
    living = [j for j in range(outputs) if keep[:, j].any()]
    enough = min(ablate * keep.sum(0).max(), max(salient[j] for j in living))
    living = [j for j in living if salient[j] >= enough]
    fan_in = min(max(1, round(density * inputs)) * outputs // len(living), inputs)
    new = np.zeros_like(keep)
    for j in living:
        own = [i for i, column in stay if column == j]
        rest = [i for i in range(inputs) if i not in own]
        rest = sorted(rest, key=lambda i: (-abs(g[i, j]), i))
        new[own + rest[: fan_in - len(own)], j] = True
    return new


def updates_of(rule, shape, seed, count):
    """Masks before and after updates, and the weights and gradients they saw."""
    rng, update = np.random.default_rng(seed), jax.jit(rule.update)
    mask = rule.start({"w": jnp.ones(shape)}, {"w": jnp.ones(shape, bool)}, KEY)
    for step in range(1, count + 1):
        w, g = rng.standard_normal((2, *shape)).astype(np.float32)
        w = np.where(mask["w"], w, 0)
        after = update(step, {"w": w}, mask, {"w": g}, KEY)
        yield np.asarray(mask["w"]), np.asarray(after["w"]), w, g
        mask = after


@pytest.mark.parametrize("ablate", [0.0, 0.5, 0.8])
def test_srigl_as_numpy_has_it(ablate):
    lost, rule = 0, srigl_at_once(0.3, ablate=ablate)
    for seed in range(4):  # of one rule, whose update is compiled once
        for before, after, w, g in updates_of(rule, (12, 7), seed, 6):
            wanted = restated(w, g, before, 0.3, 0.5, ablate)
            assert (after == wanted).all()
            assert len({*after.sum(0).tolist()} - {0}) == 1  # of all that live
            assert after.sum() <= 4 * 7
            assert not (after.any(0) & ~before.any(0)).any()
            lost += before.any(0).sum() - after.any(0).sum()
    assert (lost > 0) == (ablate > 0)


def test_srigl_of_a_million_weights_and_of_a_convolution():
    rule = srigl_at_once(0.1, ablate=0.9)
    for before, after, _, _ in updates_of(rule, (1000, 1000), 0, 1):
        assert before.sum(0).tolist() == [100] * 1000
        living = after.any(0)
        assert 0 < living.sum() < 1000
        assert set(after.sum(0)[living]) == {100_000 // living.sum()}
    for before, after, w, g in updates_of(srigl_at_once(0.25), (3, 3, 4, 5), 0, 3):
        w, g, before, after = (x.reshape(36, 5) for x in (w, g, before, after))
        assert (after == restated(w, g, before, 0.25, 0.5, 0.3)).all()


def test_an_output_of_srigl_stays_whatever_is_asked():
    w, g = np.zeros((4, 3)), np.zeros((4, 3))
    _, kept = one_layer(srigl_at_once(0.5, ablate=1.0), w, g, np.eye(4, 3) > 0)
    assert kept.any()
    with pytest.raises(ValueError, match=r"a share of the fan-in, in \[0, 1\]; got 2"):
        srigl_at_once(0.5, ablate=2)


def test_a_layer_that_is_whole_stays_so():
    w = np.diag([5.0, 0, 0])  # by itself only the first output were salient
    _, kept = one_layer(srigl_at_once(1.0), w, np.zeros((3, 3)), np.ones((3, 3)) > 0)
    assert np.asarray(kept).all()
