"""Kill a run at each call that changes a file, continue it, and compare the bits.

A run with a branch and trainings saved on the way is killed with SIGKILL just before
the n-th call that opens a file for writing, renames, removes or makes something in its
folder, for every n (`--stride`); the same command is given again and left to finish,
and its checkpoints and tables must equal those of a run that was never killed. Calls
are seen by an audit hook of Python, so those of Orbax's Python are among them; what its
C++ writes lies between them.

    python experiments/crash_points.py

Takes two runs of some three seconds for each call, of which there are several hundred.
"""

import os
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import jax
import kill_test
import tyro

from lth.cli import main as command

RUN = (
    "run digits --quiet --model.widths 8 --steps 60it --eval-every 30it --replicates 1 "
    "--levels 1 --rewind.to 20it --controls reinit --save-every 10it"
)
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")


@dataclass(frozen=True)
class Flags:
    """Which calls."""

    stride: int = 1
    """Every so many of them."""
    first: int = 1


def started(runs: Path, at: int, told: Path | None = None) -> int:
    """Run in a fork that dies before its `at`-th change; its exit code.

    With `told`, the number of changes is written there at the end.
    """
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code, seen = 1, [0]

    def heard(event: str, args: tuple) -> None:
        changes = event in CHANGES
        if event == "open":
            changes = bool((args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if changes and str(runs) in str(args[0]):
            seen[0] += 1
            if seen[0] == at:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.addaudithook(heard)
        code = command.command([*RUN.split(), "--runs", str(runs)])
        if told:
            told.write_text(str(seen[0]))
    finally:
        os._exit(code)


def main() -> None:
    flags = tyro.cli(Flags)
    assert kill_test.front  # all that a run needs is imported before the first fork
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", f"{folder}/compiled")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        whole, told = Path(folder) / "whole", Path(folder) / "count"
        if started(whole, 0, told):
            sys.exit("the unbroken run failed")
        right, count = kill_test.contents_apart(whole), int(told.read_text())
        done = 0
        for at in range(flags.first, count + 1, flags.stride):
            runs = Path(folder) / "broken"
            shutil.rmtree(runs, ignore_errors=True)
            killed = started(runs, at)
            if killed not in (-signal.SIGKILL, 0):
                sys.exit(f"call {at}: the run ended with {killed}")
            if started(runs, 0):
                sys.exit(f"call {at}: what was left of the run could not be continued")
            kill_test.compare(kill_test.contents_apart(runs), right)
            done += killed != 0
            if done % 20 == 0:
                print(f"{done} killed, to call {at} of {count}", flush=True)
    print(f"{done} of {count} calls: all bits are those of the unbroken run")


if __name__ == "__main__":
    main()
