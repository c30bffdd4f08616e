"""Disks that are full, read-only, closed or another's: a sentence, exit 5, then on.

    python experiments/bench/bad_disks.py

A run is started on a disk that fails it in one way, and must end with exit code 5 and a
sentence, no traceback. Then the disk is mended, and the same command must end with the
bits of a run that met no such disk. Needs root, for small file systems of memory.
"""

import contextlib
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from lth.lab import store

RUN = (
    "run digits --quiet --model.widths 100 --steps 120it --eval-every 40it --levels 2 "
    "--replicates 2 --controls reinit --save-every 20it"
)
NOBODY = 65534


def command(runs: Path) -> list[str]:
    return [sys.executable, "-m", "lth", *RUN.split(), "--runs", str(runs)]


def run(runs: Path, cache: Path, before=(), **options) -> subprocess.CompletedProcess:
    env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    return subprocess.run(
        [*before, *command(runs)], capture_output=True, text=True, env=env, **options
    )


@contextlib.contextmanager
def memory(folder: Path, size: str) -> Iterator[None]:
    """A file system of so much memory."""
    folder.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


@contextlib.contextmanager
def full(folder: Path, size: str) -> Iterator[tuple[dict, Callable[[], None]]]:
    with memory(folder, size):
        yield {}, lambda: remount(folder, "size=200m")


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[tuple[dict, Callable[[], None]]]:
    with memory(folder, "200m"):
        remount(folder, "ro")
        yield {}, lambda: remount(folder, "rw")


@contextlib.contextmanager
def closed(folder: Path, owner: int) -> Iterator[tuple[dict, Callable[[], None]]]:
    """A folder that may not be written into, also not by this user's privileges."""
    folder.mkdir()
    os.chown(folder, owner, owner)
    folder.chmod(0o755 if owner else 0o555)

    def mend() -> None:
        os.chown(folder, os.geteuid(), os.getegid())
        folder.chmod(0o755)

    yield {"before": ["setpriv", "--bounding-set=-dac_override,-fowner"]}, mend


@contextlib.contextmanager
def small_files(folder: Path) -> Iterator[tuple[dict, Callable[[], None]]]:
    """No file may be larger than 40 kB."""
    folder.mkdir()
    options = {
        "preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000))
    }
    yield options, options.clear


CASES: dict[str, Callable[[Path], AbstractContextManager]] = {
    "full at once": lambda f: full(f, "16k"),
    "full at the first checkpoint": lambda f: full(f, "200k"),
    "full later": lambda f: full(f, "1500k"),
    "read-only": read_only,
    "no permission": lambda f: closed(f, 0),
    "another user's": lambda f: closed(f, NOBODY),
    "files too large": small_files,
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place, cache = Path(folder), Path(folder) / "cache"
        cache.mkdir()
        done = run(place / "whole", cache)
        if done.returncode:
            sys.exit(done.stderr)
        whole, wrong = store.contents(place / "whole"), 0
        for i, (name, case) in enumerate(CASES.items()):
            runs = place / f"runs{i}"
            with case(runs) as (options, mend):
                first = run(runs, cache, **options)
                mend()
                again = run(runs, cache, **options)
                same = not again.returncode and store.contents(runs) == whole
            words = first.stderr.strip().splitlines()
            told = "Traceback" in first.stderr
            good = first.returncode == 5 and not told and same
            wrong += not good
            last = next((w for w in words if w.startswith("lth:")), "nothing said")
            then = "the same bits" if same else again.stderr[-300:]
            verdict = "ok   " if good else "WRONG"
            print(f"{verdict} {name}: code {first.returncode}, then {then}")
            print(f"      {last[:150]}", flush=True)
            if not good:
                print(first.stderr[-1500:])
    sys.exit(f"{wrong} of them end otherwise" if wrong else 0)


if __name__ == "__main__":
    main()
