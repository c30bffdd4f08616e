"""The regression study: its counts, the schedule it refuses, and one tiny trial."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lth
from lth import masks
from lth.masks import schedules

PATH = Path(lth.__file__).parents[1] / "experiments" / "overfitting_regression.py"
spec = importlib.util.spec_from_file_location("overfitting_regression", PATH)
assert spec
assert spec.loader
study = importlib.util.module_from_spec(spec)
spec.loader.exec_module(study)


@pytest.mark.parametrize(
    ("problem", "dense", "sparse"),
    [(study.FULL, 2_075_649, 105_729), (study.SMALL, 117_505, 6_363)],
)
def test_parameters_at_the_start_and_with_95_percent_of_kernels_off(
    problem, dense, sparse
):
    model = study.make_model(problem)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0))[0])
    params = jax.tree.map(lambda p: jnp.zeros(p.shape), params)
    mask = masks.ones(params)
    assert study.left(params, mask) == dense
    schedule = study.trials(problem.steps)[study.RAMP, 0.95]
    density = schedules.in_force(schedule, problem.steps)
    assert study.left(params, masks.keep_top(params, mask, density, "layer")) == sparse


def test_the_printed_schedule_is_refused():
    message = "last update is at step 1600 .* 28.9%.* not density 25.0%"
    with pytest.raises(ValueError, match=message):
        schedules.check(study.PRINTED, study.FULL.steps)
    assert "28.9%" in study.refusal(study.FULL.steps)
    with pytest.raises(AssertionError, match="5000 steps reach the end"):
        study.refusal(5000)


def test_a_tiny_trial_ends_at_its_sparsity():
    problem = study.Problem(60, 10, 5, 16, 8, steps=40)
    parts = jax.device_put(study.make_data(problem))
    assert [len(part.targets) for part in parts] == [48, 12]
    assert all(abs(part.inputs).max() <= 1 for part in parts)
    trials = study.trials(problem.steps)
    trial = jax.jit(study.make_trial(problem, trials[study.RAMP, 0.95]))
    ends = [trial(key, parts) for key in study.keys(2)]
    ends = jax.tree.map(lambda *each: jnp.stack(each), *ends)
    kept = sum(round(0.05 * n) for n in (160, 256, 16))
    assert ends["params"].tolist() == [kept + 33] * 2
    rows = study.rows("tiny", 0.95, ends, parts[1].targets)
    wrong = np.mean((ends["predictions"] - parts[1].targets[None]) ** 2, axis=1)
    np.testing.assert_allclose([r["validation"] for r in rows], wrong, rtol=1e-5)
    assert all(row["ensemble"] <= wrong.mean() for row in rows)  # by convexity
