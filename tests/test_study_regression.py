"""The regression study: its counts, the schedule it refuses, and one tiny trial."""

import importlib.util
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lth
from lth import masks
from lth.masks import schedules

PLACE = Path(lth.__file__).parents[1] / "experiments"


@pytest.fixture(scope="module")
def study():
    """The module, which imports its neighbour."""
    sys.path.insert(0, str(PLACE))
    path = PLACE / "overfitting_regression.py"
    spec = importlib.util.spec_from_file_location("overfitting_regression", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(PLACE))


@pytest.mark.parametrize(
    ("problem", "dense", "sparse"),
    [("FULL", 2_075_649, 105_729), ("SMALL", 117_505, 6_363)],
)
def test_parameters_at_the_start_and_with_95_percent_of_kernels_off(
    study, problem, dense, sparse
):
    *sizes, _ = getattr(study, problem)
    *_, model = study.made(*sizes)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0))[0])
    params = jax.tree.map(lambda p: jnp.zeros(p.shape), params)
    mask = masks.ones(params)
    assert study.left(params, mask) == dense
    assert study.left(params, masks.keep_top(params, mask, 0.05, "layer")) == sparse


def test_the_printed_schedule_is_refused(study):
    message = "last update is at step 1600 .* 28.9%.* not density 25.0%"
    with pytest.raises(ValueError, match=message):
        schedules.check(study.PRINTED, study.STEPS)


def test_a_tiny_trial_ends_at_its_sparsity(study, tmp_path, monkeypatch):
    sizes = {"n": 60, "features": 10, "informative": 5}
    monkeypatch.setattr(study, "SMALL", (sizes, 16, 8))
    learned, held, model = study.made(sizes, 16)
    assert [len(part.targets) for part in (learned, held)] == [48, 12]
    assert all(abs(part.inputs).max() <= 1 for part in (learned, held))
    flags = study.Flags(replicates=2, steps=40)
    recipe = study.CELLS["0 to 960, 0.95"](flags)
    run = lth.run(recipe, tmp_path / "tiny")
    found = run.measure("end", study.at_the_end)
    ends = found.pivot_table("value", "replicate", "metric")
    kept = sum(round(0.05 * n) for n in (160, 256, 16))
    assert ends["left"].tolist() == [kept + 33] * 2
    outputs = [
        model.apply(run.ticket(0, replicate=r).params, {}, held.inputs, False, None)[0]
        for r in (0, 1)
    ]
    wrong = [1e3 * np.mean((y[:, 0] - held.targets) ** 2) for y in outputs]
    np.testing.assert_allclose(ends["validation"], wrong, rtol=1e-5)
    assert (ends["ensemble"] <= np.mean(wrong)).all()  # by convexity
