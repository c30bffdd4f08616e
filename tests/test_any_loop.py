"""The rules inside loops of other libraries: the example is run as it stands."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import lth
from lth import dynamic, masks

EXAMPLE = Path(lth.__file__).parents[1] / "experiments" / "any_loop.py"
spec = importlib.util.spec_from_file_location("any_loop", EXAMPLE)
any_loop = importlib.util.module_from_spec(spec)
spec.loader.exec_module(any_loop)


def test_all_three_are_there():
    assert list(any_loop.LOOPS) == ["Linen", "NNX", "Equinox"]


@pytest.mark.parametrize("name", any_loop.LOOPS)
def test_density_is_exact_and_something_is_learned(name):
    outputs, opt_state = any_loop.LOOPS[name](60)
    mask = dynamic.state_of(opt_state).mask
    assert int(masks.count(mask)) == round(0.2 * 6400) + round(0.2 * 1000)
    rows = dynamic.records(opt_state)
    assert sorted({row["step"] for row in rows}) == [20, 40]
    x, y = any_loop.held_out()
    assert np.mean(np.asarray(outputs(x)).argmax(-1) == y) > 0.3  # a tenth is chance
