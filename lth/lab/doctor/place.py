"""Whether the folder of runs does what the store takes for granted."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from lth.lab import store
from lth.lab.doctor.check import Check

LITTLE = 2**30  # bytes of disk below which a run may not end
# Types of file systems that other machines share, as Linux calls them. Locks and
# renames are theirs to keep, and not all do between machines.
NETWORK = (
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs"),
    *("beegfs", "glusterfs", "ocfs2", "gfs2", "pvfs2", "wekafs", "virtiofs"),
)
ENTER = """
import fcntl, sys
try:
    fcntl.flock(open(sys.argv[1], "a"), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("refused")
else:
    print("entered")
"""


def cache(runs: Path) -> Path:
    """Where compiled programs of runs are kept, or would be."""
    chosen = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    return Path(chosen) if chosen else runs / ".compiled"


def compiled(folder: Path) -> Check:
    """Compiled programs are kept in a folder of one's own: they are run as they are.

    `lth run` closes the folder beside its runs to others and passes over theirs
    (`store.private_folder`); one that JAX was told to use is used as it is.
    """
    if not folder.is_dir():
        told = f"{folder} is not there yet: the first run makes it"
        return Check("compiled programs", "ok", told)
    about = folder.stat()
    entries = [path for path in folder.iterdir() if path.name.endswith("-cache")]
    empty = sorted(path.name for path in entries if path.stat().st_size == 0)
    mode = stat.filemode(about.st_mode)
    faults = []
    if about.st_uid != os.getuid():
        faults.append(
            "it belongs to somebody else: a run makes its own beside it, but if JAX "
            "was told to use it, those programs are run"
        )
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        faults.append(
            "others may put programs there: a run closes its own folder, but if JAX "
            "was told to use it, those programs are run"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        faults.append("it cannot be written: every command compiles anew")
    if empty:
        faults.append(
            f"{len(empty)} entries are empty and never repaired by JAX, such as "
            f"{empty[0]}"
        )
    told = (
        f"{folder} holds {len(entries)} programs, {len(empty)} of them empty (user "
        f"{about.st_uid}, {mode})"
    )
    status = "warning" if faults else "ok"
    return Check("compiled programs", status, "; ".join([told, *faults]))


def disk(runs: Path, free: Callable[[Path], int] | None = None) -> Check:
    """Look at the space left where runs go."""
    there = existing(runs)
    left = free(there) if free else shutil.disk_usage(there).free
    told = f"{left / 2**30:.1f} GiB are left in {there}"
    if left < LITTLE:
        return Check("disk", "warning", f"{told}, a run may take more")
    return Check("disk", "ok", told)


def existing(runs: Path) -> Path:
    """The folder of runs, or the first above it that is there."""
    path = runs.absolute()
    return next(p for p in (path, *path.parents) if p.is_dir())


def enter(path: Path) -> bool:
    """Whether another process is let past the lock on a file."""
    command = [sys.executable, "-S", "-c", ENTER, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.stdout.strip() not in ("entered", "refused"):
        raise OSError((done.stderr.strip().splitlines() or ["no answer"])[-1])
    return done.stdout.strip() == "entered"


def folder(
    runs: Path,
    enters: Callable[[Path], bool] = enter,
    replace: Callable[[Path, Path], Any] = os.replace,
    mounts: Path = Path("/proc/self/mountinfo"),
) -> Check:
    """Locks, renames and writes through to the disk do what the store builds on.

    Args:
      runs: The folder of runs; what is written to try it is removed again.
      enters: Whether another process gets past the lock on a file.
      replace: Puts a file in another's place.
      mounts: What is mounted where, as Linux tells.

    Returns:
      FAILED where one of them does not hold, a warning on a network's file system.
    """
    there = existing(runs)
    kind = file_system(there, mounts)
    known = kind.removeprefix("fuse.") in NETWORK or kind == "fuse.sshfs"
    try:
        store.check_writable(runs)
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=there) as trial:
            wrong = [*_locked(Path(trial), enters), *_replaced(Path(trial), replace)]
            _synchronised(Path(trial))
    except (OSError, store.StoreError) as error:
        told = f"{there} ({kind}) cannot be used: {error}"
        return Check("folder of runs", "FAILED", told)
    if wrong:
        told = f"in {there} ({kind}) {'; '.join(wrong)}"
        return Check("folder of runs", "FAILED", told)
    told = f"a lock excludes, a rename replaces and fsync works in {there} ({kind})"
    if known:
        told += ": a file system of a network; between machines none of it was tried"
    return Check("folder of runs", "warning" if known else "ok", told)


def _locked(trial: Path, enters: Callable[[Path], bool]) -> Iterator[str]:
    """What is wrong with locks, those of runs being such."""
    with store.claim(trial / "run"):
        if enters(trial / "run" / "lock"):
            yield "a second process gets past the lock of a run"
    if not enters(trial / "run" / "lock"):
        yield "the lock of a run stays when it is given up"


def _replaced(trial: Path, replace: Callable[[Path, Path], Any]) -> Iterator[str]:
    """What is wrong with renaming, of files and of folders.

    Who has the old file open reads it to its end, so nobody ever sees half of one.
    """
    old, new = trial / "old", trial / "new"
    store.write(old, "old")
    store.write(new, "new")
    with old.open() as reader:
        replace(new, old)
        seen = reader.read(), old.read_text(), new.exists()
    if seen != ("old", "new", False):
        yield "a file that is renamed does not take the other's place whole"
    source, target = trial / "run" / "tickets", trial / "moved"
    replace(source, target)
    if source.exists() or not target.is_dir():
        yield "a folder that is renamed is not in its new place"


def _synchronised(trial: Path) -> None:
    """Write a file and its folder through to the disk. Raises OSError."""
    for path, flags in ((trial / "old", os.O_RDWR), (trial, os.O_RDONLY)):
        handle = os.open(path, flags)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the file system that a folder is in, or 'unknown'."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return "unknown"
    found: dict[Path, str] = {}
    for line in lines:
        before, _, after = line.partition(" - ")
        if len(before.split()) > 4 and after.split():
            found[Path(before.split()[4])] = after.split()[0]
    path = path.resolve()
    return next((found[p] for p in (path, *path.parents) if p in found), "unknown")
