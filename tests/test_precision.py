"""How products are computed, and in which order a GPU adds up, can be said."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lth
from lth.lab import compiler, devices
from lth.lab.config import identity
from lth.lab.config.presets import PRESETS


@pytest.mark.parametrize("precision", ["default", "float32", "tensorfloat32"])
def test_a_plan_has_one_precision_forwards_and_backwards(precision):
    traced = []

    @jax.custom_vjp
    def product(x, w):
        return x @ w

    def forward(x, w):
        traced.append(jax.config.jax_default_matmul_precision)
        return x @ w, (x, w)

    def backward(saved, grad):
        traced.append(jax.config.jax_default_matmul_precision)
        x, w = saved
        return grad @ w.T, x.T @ grad

    product.defvjp(forward, backward)

    def gradient(w):
        return jax.grad(lambda w: jnp.sum(product(jnp.ones((2, 3)), w)))(w)

    plan = devices.plan(2, precision=precision)
    spread = devices.spread(plan, gradient, (0,))
    result = spread(jnp.ones((2, 3, 4)))
    expected = None if precision == "default" else precision
    assert len(traced) >= 2
    assert set(traced) == {expected}
    np.testing.assert_array_equal(result, np.full((2, 3, 4), 2.0))
    spread(jnp.ones((3, 3, 4)))  # of more replicates, by another plan
    assert set(traced) == {expected}
    assert jax.config.jax_default_matmul_precision is None


def test_a_precision_is_part_of_what_a_run_is_unless_it_is_the_usual():
    e = PRESETS["digits"].experiment
    other = replace(e, model=replace(e.model, precision="float32"))
    usual = replace(e, model=replace(e.model, precision="default"))
    assert identity.identity(usual) == identity.identity(e)
    assert identity.identity(other) != identity.identity(e)


def test_sums_in_a_fixed_order_are_asked_for_before_jax_starts(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
    monkeypatch.setattr(compiler, "started", lambda: False)
    compiler.make_deterministic()
    assert compiler.os.environ["XLA_FLAGS"] == f"--xla_a=1 {compiler.DETERMINISTIC}"
    monkeypatch.setattr(compiler, "started", lambda: True)
    compiler.make_deterministic()  # it is there already
    monkeypatch.setenv("XLA_FLAGS", "")
    with pytest.raises(RuntimeError, match="too late to set a flag"):
        compiler.make_deterministic()


def test_the_command_runs_with_sums_in_a_fixed_order(tmp_path):
    flags = "--model.widths 4 --steps 4it --eval-every 2it --levels 0 --replicates 1"
    command = [sys.executable, "-m", "lth", "run", "digits", *flags.split()]
    done = subprocess.run(
        [*command, "--deterministic", "--runs", str(tmp_path), "--quiet"],
        capture_output=True,
        text=True,
        cwd=Path(lth.__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    (run,) = (path.parent for path in tmp_path.glob("*/config.json"))
    assert compiler.DETERMINISTIC in (run / "environment.json").read_text()
