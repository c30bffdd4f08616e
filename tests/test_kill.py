"""A short version of experiments/kill_test.py: three kills."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "experiments" / "kill_test.py"


def test_a_run_killed_at_random_moments_ends_bit_identical(tmp_path):
    spec = importlib.util.spec_from_file_location("kill_test", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.kill_test(kills=3, seed=1, folder=tmp_path)
