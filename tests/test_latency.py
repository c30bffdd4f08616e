"""Counts against the compiler's own, memory, medians, and where sparse products pay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lth
from lth import models
from lth.analysis import cost, latency
from lth.cli import main
from lth.lab import costing


def counted(module, shape):
    """Multiply-accumulates by the jaxpr, and the compiler's flops of one example."""
    model = models.from_linen(module, shape)
    params, stats = jax.eval_shape(model.init, jax.random.key(0))
    none = jax.tree.map(lambda _: None, params)
    work = cost.work(model, params, stats, shape, none)
    example = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    program = latency.compiled(model.apply, params, stats, example)
    return sum(work.dense.values()), latency.told(program)


def test_dense_layers_are_counted_as_the_compiler_does():
    macs, told = counted(models.MLP((30, 20)), (8, 8, 1))
    assert macs == 64 * 30 + 30 * 20 + 20 * 10
    # Biases are added place by place, and ReLU taken of the hidden units.
    assert told.flops == 2 * macs + (30 + 20 + 10) + (30 + 20)
    held = macs + 60 + 64  # weights, biases, inputs
    assert 4 * held <= told.memory <= 4 * held + 2000
    assert told.moved >= 4 * held


def test_convolutions_are_counted_but_for_the_edges():
    macs, told = counted(models.Conv(width=0.1), (12, 12, 3))
    # 6 channels twice, on 12 x 12: 3 x 3 taps each, of which the padded edges lack
    # some: along a side of n pixels there are 3 n - 2.
    taps = 3 * 6 + 6 * 6
    dense = 6 * 6 * 6 * 26 + 26 * 26 + 26 * 10
    assert macs == 144 * 9 * taps + dense
    exact = (3 * 12 - 2) ** 2 * taps + dense
    by_place = told.flops - 2 * exact
    # Biases and ReLU of two maps of 864, three maxima of 216, and dense layers.
    assert by_place == 2 * 864 * 2 + 3 * 216 + (26 + 26 + 10) + (26 + 26)


def test_a_median_is_that_of_the_calls(monkeypatch):
    took = [5, 1, 2, 30, 4]
    clock = iter(np.cumsum(np.ravel([(10, seconds) for seconds in took])).tolist())
    monkeypatch.setattr(latency.time, "perf_counter", lambda: next(clock))
    calls: list[int] = []
    found = latency.latency(lambda: calls.append(0), repeats=5)
    assert found.median == 4
    assert len(calls) == 3 + 5


def test_where_ratios_cross_one():
    # 2 at a half and 0.5 at an eighth: 1 lies halfway of the logarithms, at a quarter.
    assert latency.crossing({0.5: 2.0, 0.125: 0.5}) == pytest.approx(0.25)
    assert latency.crossing({0.5: 3.0, 0.2: 1.0, 0.1: 0.2}) == pytest.approx(0.2)
    assert latency.crossing({0.5: 3.0, 0.2: 1.5}) == 0
    assert latency.crossing({0.5: 0.9, 0.2: 0.5}) == 1


def test_a_large_kernel_has_a_break_even():
    even = latency.break_even((1000, 1000), 64, (0.9, 0.001))
    assert 0.001 < even.density < 0.9
    assert even.ratios[0.9] > 1 > even.ratios[0.001]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    settings = {"steps": "8it", "eval_every": "8it", "levels": 1, "replicates": 1}
    few = {"prune": {"rate": 0.5, "rates": ""}, "model": {"widths": (30, 20)}}
    return lth.run("digits", runs=tmp_path_factory.mktemp("runs"), **settings, **few)


def test_what_a_ticket_costs(run):
    found = costing.measured(run, 1)
    assert found.size.total == 2720 + 60
    assert found.size.remaining == 1360 + 60
    assert found.work is not None
    assert sum(found.work.kept.values()) == 1360
    assert found.kernel == (64, 30)
    # The compiler counts what is done: of a pruned network, as much as of a dense one.
    assert found.told[1].flops / 2 > 2720
    assert found.told[64].flops == pytest.approx(64 * found.told[1].flops, rel=0.01)
    assert found.bytes.raw == 4 * 2780
    for seconds in found.seconds.values():
        assert 0 < seconds.low <= seconds.median <= seconds.high


def test_the_command_says_it(run, capsys):
    assert main.command(["cost", str(run.path)]) == 0
    told = capsys.readouterr().out
    for text in (
        "level 1: 50 % of the weights",
        "1,420 of 2,780: 1.96 times fewer",
        "1,360 of 2,720 an example, were zeros skipped",
        "11,120 bytes dense",
        "zeros are multiplied",
        "break-even",
    ):
        assert text in told
    assert main.command(["cost", str(run.path), "--level", "4"]) == 2
    assert "are 0, 1; got 4" in capsys.readouterr().err
