"""A short version of experiments/kill_test.py, in a process that used no device yet."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "experiments" / "kill_test.py"


def test_runs_killed_at_random_moments_end_bit_identical():
    command = [sys.executable, str(SCRIPT), "--kills", "8", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bit-identical to unbroken runs" in done.stdout
