"""The guard against wrong compilers, and our arithmetic against NumPy at full size."""

import re
import subprocess
import sys
import warnings

import pytest

from lth.lab import compiler

FLAG = "--xla_cpu_experimental_ynn_fusion_type"
# A vmapped product and sum of squares: of the 40 001 rows, jaxlib 0.10.2 alone has
# some 7 000 wrong. The other two are small programs that end its process.
CANARY = """
import jax, jax.numpy as jnp
import numpy as np
rng = np.random.default_rng(0)
x = rng.standard_normal((40001, 3)).astype("f4")
w = rng.standard_normal((3, 3)).astype("f4")
y = jax.jit(jax.vmap(lambda row: jnp.sum((w @ row) ** 2)))(x)
right = ((x.astype("f8") @ w.T.astype("f8")) ** 2).sum(1)
print("wrong", int((np.abs(y - right) > 1e-4 * right).sum()), flush=True)
u = jnp.ones((3, 1, 2, 2, 8, 8, 8))
print("sums", float(jax.jit(lambda a, b: jnp.sum(a * b, axis=3))(u, u).sum()))
"""


def run(code: str, flags: str = "") -> subprocess.CompletedProcess:
    env = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=env)


def test_the_canary_sings_right_once_lth_is_imported():
    done = run("import lth" + CANARY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["wrong", "0", "sums", "6144.0"]


@pytest.mark.skipif(
    compiler.version() != "0.10.2", reason="this jaxlib is not the one that is wrong"
)
def test_without_the_guard_the_canary_fails():
    done = run(CANARY)
    assert done.returncode != 0 or "wrong 0" not in done.stdout
    assert int(done.stdout.split()[1]) > 1000


def test_the_users_flags_stay(monkeypatch):
    monkeypatch.setattr(compiler, "version", lambda: "0.10.2")
    monkeypatch.setattr(compiler, "started", lambda: False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/tmp/x")
    compiler.guard()
    assert compiler.os.environ["XLA_FLAGS"] == f"--xla_dump_to=/tmp/x {FLAG}=-reduce"
    compiler.guard()  # a second time changes nothing
    assert compiler.os.environ["XLA_FLAGS"] == f"--xla_dump_to=/tmp/x {FLAG}=-reduce"
    assert "not fused" in compiler.note()


def test_a_jaxlib_without_a_known_fault_gets_no_flag(monkeypatch):
    monkeypatch.setattr(compiler, "version", lambda: "0.12.0.1")
    monkeypatch.setenv("XLA_FLAGS", "")
    compiler.guard()
    assert compiler.os.environ["XLA_FLAGS"] == ""
    assert compiler.note() == ""


@pytest.mark.parametrize(
    ("value", "good"),
    [("", True), ("-reduce", True), ("-dot,-reduce", True), ("+reduce", False)],
)
def test_a_users_value_of_the_flag_is_kept_and_judged(monkeypatch, value, good):
    monkeypatch.setattr(compiler, "version", lambda: "0.10.2")
    monkeypatch.setenv("XLA_FLAGS", f"{FLAG}={value}")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        compiler.guard()
    assert compiler.os.environ["XLA_FLAGS"] == f"{FLAG}={value}"
    assert bool(said) != good
    assert all("39103" in str(w.message) for w in said)


def test_a_guard_that_comes_too_late_says_so():
    code = """
import jax
jax.devices()
from lth.lab import compiler
compiler.FAULTS = {compiler.version(): next(iter(compiler.FAULTS.values()))}
compiler.guard()
"""
    done = run(code)
    assert done.returncode == 0
    assert re.search("too late.*import lth first", done.stderr)
