"""Networks as programs: a process that has no `lth` runs them to the same outputs."""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lth.compress import program
from tests.test_spaces import RUN, ZOO, drawn, examples, run, shaped

RUNS = ("mlp", "lenet5", "resnet20", "vit", "transformer")  # in the other process
LOADER = """
import pathlib, sys
sys.modules["lth"] = None  # importing it fails
import jax, jax.export, numpy as np
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.stablehlo")):
    network = jax.export.deserialize(bytearray(path.read_bytes()))
    assert network.platforms == ("cpu", "cuda", "tpu"), network.platforms
    for case in sorted(path.parent.glob(path.stem + "-*.npz")):
        held = np.load(case)
        found = network.call(held["inputs"])
        np.testing.assert_allclose(found, held["outputs"], rtol=1e-5, atol=1e-5)
        print(case.stem)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Each network's program, and inputs and outputs for batches of 2 and 1."""
    path = tmp_path_factory.mktemp("programs")
    for name in ZOO:
        model, params, stats, inputs = shaped(name)
        tree = drawn({"params": params, "stats": stats})
        shape, dtype = inputs.shape[1:], inputs.dtype
        file = program.written(model.apply, tree["params"], tree["stats"], shape, dtype)
        (path / f"{name}.stablehlo").write_bytes(file)
        if name not in RUNS:
            continue
        x = examples(inputs)
        outputs = jax.jit(run(model.apply), compiler_options=RUN)(tree, x)
        for n in (2, 1):
            case = {"inputs": np.asarray(x[:n]), "outputs": np.asarray(outputs[:n])}
            np.savez(path / f"{name}-{n}.npz", **case)
    return path


def test_another_process_runs_them(folder):
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
    for name in ZOO:
        if name not in RUNS:
            assert (folder / f"{name}.stablehlo").stat().st_size > 5000
            (folder / f"{name}.stablehlo").unlink()
    command = [sys.executable, "-c", LOADER, str(folder)]
    told = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert told.stdout.split() == sorted(f"{name}-{n}" for name in RUNS for n in (1, 2))


def test_the_weights_are_in_the_file():
    def apply(params, stats, inputs, train, key):
        return inputs @ params["w"] + stats["b"], stats

    w = np.arange(6, dtype=np.float32).reshape(3, 2)
    file = program.written(apply, {"w": w}, {"b": np.float32(2)}, (3,))
    found = jax.export.deserialize(bytearray(file))
    x = np.array([[1, 0, 2]], np.float32)
    np.testing.assert_array_equal(found.call(x), [[8 + 2, 11 + 2]])
    assert w.tobytes() in file


@pytest.mark.parametrize(
    "reads", [lambda x: x * x.shape[0] ** 0.5, lambda x: x.reshape(4, -1)]
)
def test_a_network_that_counts_its_examples_is_refused(reads):
    def apply(params, stats, inputs, train, key):
        return jnp.asarray(reads(inputs)), stats

    with pytest.raises(ValueError, match="cannot leave the size of its batch open"):
        partial(program.written, apply, {}, {}, (3,))()
