"""Parameters and multiply-accumulates against counts made by hand."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from lth import criteria, masks, models
from lth.analysis import cost
from lth.lab.build import networks
from lth.lab.build.names import Examples
from lth.lab.config import Model


class Small(nn.Module):
    """The network of a well-known report: conv(12, 3x3), pool, dense(10)."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Conv(12, (3, 3), padding="VALID")(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        return nn.Dense(10)(x.reshape(len(x), -1))


def test_the_table_of_a_small_network():
    params, _ = models.from_linen(Small(), (28, 28, 1)).init(jax.random.key(0))
    mask = masks.ones(params)
    dense = cost.size(params, mask)
    assert (dense.total, dense.prunable) == (20_410, 20_388)
    assert dense.total - dense.prunable == 22  # biases
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(mask)) == 20_388
    kept = masks.keep_top(criteria.magnitude(params), mask, 0.2, "layer")
    counts = {k: int(v["kernel"].sum()) for k, v in kept.items()}
    assert counts == {"Conv_0": 22, "Dense_0": 4056}
    pruned = cost.size(params, kept)
    assert pruned.remaining == 4100
    assert pruned.compression == pytest.approx(4.978, abs=5e-4)
    # 22 of 108 is what 80 % comes to there, and no tolerance of 1e-6 holds.
    assert pytest.approx(0.7963, abs=1e-4) == 1 - 22 / 108


def counted(name, shape=(32, 32, 3), classes=10):
    model = networks.network(Model(name=name), Examples(shape, classes))
    params, stats = jax.eval_shape(model.init, jax.random.key(0))
    mask = jax.tree.map(
        lambda w: np.ones(w.shape, bool) if len(w.shape) > 1 else None, params
    )
    return params, cost.work(model, params, stats, shape, mask)


def test_multiply_accumulates_by_hand():
    _, lenet = counted("mlp", (28, 28, 1))
    assert sum(lenet.dense.values()) == 266_200
    assert lenet.speedup == 1
    _, conv = counted("conv2")
    expected = 32 * 32 * 9 * (3 * 64 + 64 * 64) + 4096 * 4 * 256 + 256 * 256 + 2560
    assert sum(conv.dense.values()) == expected
    _, resnet = counted("resnet20")
    # Published: 40.8 M for ResNet-20, here with projection shortcuts.
    stage = [32 * 32 * 9 * 16 * 16, 16 * 16 * 9 * 32 * 32, 8 * 8 * 9 * 64 * 64]
    total = 32 * 32 * 27 * 16 + 6 * stage[0] + 5 * stage[1] + 5 * stage[2]
    total += 16 * 16 * 9 * 16 * 32 + 8 * 8 * 9 * 32 * 64  # at half the size
    total += 16 * 16 * 16 * 32 + 8 * 8 * 32 * 64 + 640  # shortcuts and output
    assert sum(resnet.dense.values()) == total


def test_the_published_work_of_vgg16_and_of_resnet18():
    _, vgg = counted("vgg16")
    assert sum(vgg.dense.values()) == pytest.approx(313e6, rel=0.01)
    _, resnet = counted("resnet18_imagenet", (224, 224, 3), 1000)
    assert sum(resnet.dense.values()) == pytest.approx(1.814e9, rel=0.005)


def test_the_share_of_work_is_that_of_the_layers_kept():
    model = models.from_linen(models.MLP(widths=(4,), classes=2), (3,))
    params, stats = model.init(jax.random.key(0))
    mask = masks.ones(params)
    mask["hidden_0"]["kernel"] = mask["hidden_0"]["kernel"].at[0].set(False)
    found = cost.work(model, params, stats, (3,), mask)
    assert found.dense == {"hidden_0/kernel": 12, "output/kernel": 8}
    assert found.kept == {"hidden_0/kernel": 8, "output/kernel": 8}
    assert found.speedup == 20 / 16


def test_xla_counts_the_same():
    model = models.from_linen(models.MLP(widths=(300, 100)), (784,))
    params, stats = model.init(jax.random.key(0))
    program = jax.jit(lambda p, x: model.apply(p, stats, x, False, None)[0])
    whole = program.lower(params, np.ones((1, 784), np.float32)).compile()
    found = cost.work(model, params, stats, (784,), masks.ones(params))
    flops = whole.cost_analysis()["flops"]
    assert flops / 2 == pytest.approx(sum(found.dense.values()), rel=0.05)


def test_compressions_that_cannot_be():
    assert cost.needed(20_410, 20_388, 4.978) == pytest.approx(0.2, abs=1e-4)
    with pytest.raises(ValueError, match=r"lies in \[1, 1.8\d*\] where 10 of 20"):
        cost.needed(20, 10, 3.0)
