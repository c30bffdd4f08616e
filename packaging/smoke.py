"""Try an installed lth as a user meets it, in an empty folder: a minute, no network.

python -I packaging/smoke.py VERSION
"""

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path


def say(*command: str) -> str:
    """Return what a command of lth prints."""
    lth = Path(sysconfig.get_path("scripts")) / "lth"
    done = subprocess.run([lth, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"lth {' '.join(command)}: {done.returncode}\n{done.stderr}")
    return done.stdout


def main(version: str) -> None:
    """Find a ticket by the command, and open it in Python."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        import lth

        assert lth.__version__ == version, lth.__version__
        assert importlib.metadata.version("lth") == version
        place = Path(lth.__file__)
        assert place.is_relative_to(sysconfig.get_path("purelib")), place
        assert "lth run" in say("--help")
        assert "lenet-mnist" in say("list")
        small = ("--levels", "1", "--replicates", "1", "--controls", "reinit")
        path = say("run", "digits", *small, "--steps", "100it", "--quiet").strip()
        assert "dense network" in say("show", path)
        say("report", path)
        assert (Path(path) / "report.html").exists()
        run = lth.open_run(path)
        assert run.levels == [0, 1], run.levels
        kept = lth.masks.density(run.ticket(1, replicate=0).mask)
        assert 0.79 < float(kept) < 0.81, kept  # the output layer has a rate of its own
        print(f"lth {version} works on Python {sys.version.split()[0]}, from {place}")


if __name__ == "__main__":
    main(sys.argv[1])
