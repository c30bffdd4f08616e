"""What all tests share: strict arithmetic, and small problems compiled once."""

import functools
import hashlib
import itertools
import math
import os
import platform
import tempfile
from pathlib import Path
from typing import NamedTuple

import hypothesis
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import pytest

from lth import data, masks, models, train
from lth.lab import devices, front
from lth.lab.build import assemble
from tests.costs import LONG, SHARED

matplotlib.use("agg")
jax.config.update("jax_numpy_rank_promotion", "raise")
hypothesis.settings.register_profile(
    "lth", deadline=None, derandomize=bool(os.environ.get("CI")), max_examples=60
)
hypothesis.settings.load_profile("lth")


# For programs of the tests' own that take longer to compile than to run: half as long,
# to the same numbers but for their last bits. What `lth` compiles itself, and what is
# told to the bit, is compiled as users have it.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
COMPILED = pytest.StashKey[str]()
ROOM = 2**31  # bytes of compiled programs, from which on all are compiled anew


def pytest_configure(config):
    """Let all processes share what they compile, and runs of the tests after this one.

    Most of the time of the tests is compiling. The key of a program is all that it was
    made from, compiler and flags too. The folder is pytest's own, which `--cache-clear`
    empties. It is no variable of the environment, for the commands that tests start are
    to find what they find without the tests; those that need not ask for `compiled`.
    """
    if hasattr(config, "workerinput"):
        folder = config.workerinput["compiled"]
    elif hasattr(config, "cache"):
        folder = str(kept(config.cache.mkdir(f"compiled-{processor()}")))
    else:
        made = tempfile.TemporaryDirectory(prefix="lth-tests-")
        config.add_cleanup(made.cleanup)
        folder = made.name
    config.stash[COMPILED] = folder
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_collection_modifyitems(items):
    """Mark the tests that `make test` leaves out (see `tests.costs`)."""
    long = set(LONG.read_text().splitlines())
    for item in items:
        if item.nodeid in long or item.nodeid.startswith(SHARED):
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="session")
def compiled(pytestconfig) -> dict[str, str]:
    """The variables of a process that is to share the compiled programs."""
    return {
        "JAX_COMPILATION_CACHE_DIR": pytestconfig.stash[COMPILED],
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def processor() -> str:
    """Name what a processor can do: programs of another one may not run on it."""
    told = platform.processor()
    if (about := Path("/proc/cpuinfo")).exists():
        told = about.read_text().partition("\n\n")[0]
        heads = ("model name", "flags", "Features")
        told = str([line for line in told.splitlines() if line.startswith(heads)])
    return hashlib.sha256(told.encode()).hexdigest()[:10]


def kept(folder: Path) -> Path:
    """Remove programs that are not whole, which JAX never repairs, and all if too many.

    A process that is killed leaves an empty file.
    """
    sizes = {path: path.stat().st_size for path in folder.iterdir()}
    everything = sum(sizes.values()) > ROOM
    for path, size in sizes.items():
        if everything or not size:
            path.unlink(missing_ok=True)
    return folder


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Tell a process of pytest-xdist, which may be absent, where that folder is."""
    node.workerinput["compiled"] = node.config.stash[COMPILED]


class Problem(NamedTuple):
    """A small classification task and the compiled functions of its training."""

    model: models.Model
    tx: optax.GradientTransformation
    early: train.TrainState
    mask: masks.Mask
    data: data.Dataset
    train: object  # (state, mask, n) -> (state, sums), compiled
    traces: list  # grows by one at each compilation of `train`


def make_problem(model, tx, *, examples=50, batch=8, shape=(3,)) -> Problem:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (examples, *shape), dtype=np.uint8)
    dataset = data.Dataset(images, rng.integers(0, 3, examples).astype(np.int32))
    loss, _ = train.classification(models.standardized(model, 0, 255).apply)
    step = train.make_train(loss, data.make_sample(batch, examples), tx)
    traces = []

    @jax.jit
    def traced(state, mask, data, key, n):
        traces.append(n)
        return step(state, mask, data, key, n)

    early = train.init_state(model.init, tx, jax.random.key(0))
    mask = masks.ones(early.params, lambda path, leaf: leaf.ndim >= 2)
    bound = functools.partial(_call, traced, dataset, jax.random.key(1))
    return Problem(model, tx, early, mask, dataset, bound, traces)


def _call(traced, dataset, key, state, mask, n):
    return traced(state, mask, dataset, key, n)


def normal(key, shape):
    """The bits of `jax.random.normal`, drawn flat: other shapes are slow to compile."""
    return jax.random.normal(key, (math.prod(shape),)).reshape(shape)


def plain_mlp(sizes=(3, 5, 3)) -> models.Model:
    """A network of plain functions over a dict, no library behind it."""

    def init(key):
        keys = jax.random.split(key, len(sizes) - 1)
        shapes = list(itertools.pairwise(sizes))
        return {
            f"w{i}": normal(k, s) * 0.5
            for i, (k, s) in enumerate(zip(keys, shapes, strict=True))
        } | {f"b{i}": jnp.zeros(s[1]) for i, s in enumerate(shapes)}, {}

    def apply(params, stats, inputs, train, key):
        x = inputs.reshape(inputs.shape[0], -1)
        for i in range(len(sizes) - 1):
            x = x @ params[f"w{i}"] + params[f"b{i}"][None]
            x = jax.nn.relu(x) if i < len(sizes) - 2 else x
        return x, stats

    return models.Model(init, apply)


@pytest.fixture(scope="session")
def adam() -> Problem:
    schedule = optax.piecewise_constant_schedule(1e-2, {20: 0.1})
    return make_problem(plain_mlp(), optax.adam(schedule))


def start(
    e,
    preset,
    runs,
    data_dir=None,
    watch=lambda progress: None,
    over="replicates",
    name="",
):
    """Run an experiment as the command does."""
    devices.use_cores(e.replicates)
    built = assemble.build(e, data_dir, over)
    return front.train(built, preset, runs, name=name, watch=watch)


def assert_same(a, b) -> None:
    """Two trees are equal to the bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert x.dtype == y.dtype
        assert x.tobytes() == y.tobytes()


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Drop a module's compiled programs after it: a process may map only so many."""
    yield
    jax.clear_caches()
