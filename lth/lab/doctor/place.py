"""Whether the machine and the folders hold what a run takes for granted."""

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lth.data import cifar, fetch, mnist, text
from lth.lab import store
from lth.lab.build import networks
from lth.lab.build.names import Examples
from lth.lab.config import Model
from lth.lab.devices import memory
from lth.lab.doctor.check import Check, difference, judged

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


def settings() -> Check:
    """JAX draws the numbers that a replicate has everywhere else."""
    found = {
        "jax_default_prng_impl": "threefry2x32",
        "jax_threefry_partitionable": True,
        "jax_enable_x64": False,
    }
    odd = [
        f"{name} is {now}, usually {usual}"
        for name, usual in found.items()
        if (now := getattr(jax.config, name)) != usual
    ]
    if odd:
        told = f"replicates have other numbers than usual here: {'; '.join(odd)}"
        return Check("random numbers", "warning", told)
    # The published test of Threefry-2x32 with 20 rounds (Salmon et al. 2011).
    key = jax.random.wrap_key_data(jnp.zeros(2, jnp.uint32), impl="threefry2x32")
    words = np.asarray(jax.random.key_data(jax.random.split(key, 1)))
    first = jax.random.bits(key, (1,))
    right = [0x6B200159, 0x99BA4EFE]
    differences = [
        difference("the words of a split key", words[0], right),
        difference("random bits", first[0], right[0] ^ right[1]),
    ]
    return judged("random numbers", differences, "Threefry as published")


def devices(square: Callable[[jax.Array], jax.Array] | None = None) -> Check:
    """The devices there are, each of which squares a matrix alike."""
    there = jax.local_devices()
    x = np.random.default_rng(0).integers(-4, 5, (255, 255)).astype(np.float32)
    found = []
    for device in there:
        function = square or (lambda x: x @ x)
        y = jax.jit(function)(jax.device_put(x, device))
        what = f"a square on {device}"
        found.append(difference(what, y, np.asarray(x, np.float64) @ x))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    kinds = ", ".join(sorted({device.device_kind for device in there}))
    about = (
        f"{len(there)} of the kind {kinds}, {cores or os.cpu_count()} processor cores"
    )
    return judged("devices", found, about)


def room(free: Callable[[], tuple[int | None, int | None]] | None = None) -> Check:
    """The memory that is free, against what five replicates of Conv-2 take."""
    available, limit = (free or _memory)()
    examples = Examples((32, 32, 3), 10)
    model = networks.network(Model(name="conv2"), examples)
    params, _ = jax.eval_shape(model.init, jax.random.key(0))
    weights = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params))
    # As `compose.check_memory` has it: three states of Adam, and gradients of one.
    needed = 5 * 3 * 3 * weights + weights + 60_000 * 3072
    gib = [f"{n / 2**30:.1f} GiB" if n else "?" for n in (available, limit, needed)]
    told = (
        f"{gib[0]} of {gib[1]} are free; five replicates of conv2 on CIFAR-10 take "
        f"{gib[2]} beside activations"
    )
    short = available is not None and available < needed
    return Check("memory", "warning" if short else "ok", told)


def _memory() -> tuple[int | None, int | None]:
    """The bytes of memory that are free, and those there are, as far as is known."""
    stats = jax.local_devices()[0].memory_stats() or {}
    limit = memory.limit()
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0), limit
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.exists() else []
    free = [int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable:")]
    known = [n for n in (*free, limit) if n is not None]
    return min(known, default=None), limit


def cache(runs: Path) -> Path:
    """Where compiled programs of runs are kept, or would be."""
    chosen = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    return Path(chosen) if chosen else runs / ".compiled"


def compiled(folder: Path) -> Check:
    """Compiled programs are kept in a folder of one's own: they are run as they are."""
    if not folder.is_dir():
        told = f"{folder} is not there yet: the first run makes it"
        return Check("compiled programs", "ok", told)
    about = folder.stat()
    entries = [path for path in folder.iterdir() if path.name.endswith("-cache")]
    empty = sorted(path.name for path in entries if path.stat().st_size == 0)
    mode = stat.filemode(about.st_mode)
    faults = []
    if about.st_uid != os.getuid():
        faults.append("it belongs to somebody else, whose programs would be run")
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        faults.append("others may put programs there, which would be run")
    if not os.access(folder, os.W_OK | os.X_OK):
        faults.append("it cannot be written: every command compiles anew")
    if empty:
        faults.append(
            f"{len(empty)} entries are empty and never repaired, such as {empty[0]}: "
            "delete them"
        )
    told = (
        f"{folder} holds {len(entries)} programs, {len(empty)} of them empty (user "
        f"{about.st_uid}, {mode})"
    )
    status = "warning" if faults else "ok"
    return Check("compiled programs", status, "; ".join([told, *faults]))


class Known(NamedTuple):
    """A form in which a data set is published: its files, and their MD5 if known."""

    folder: str
    md5: Mapping[str, str]


def _published() -> Iterator[Known]:
    sets = {
        "mnist": mnist.MNIST_MD5,
        "fashion_mnist": mnist.FASHION_MD5,
        "kmnist": mnist.KMNIST_MD5,
    }
    for folder, digests in sets.items():
        yield Known(folder, dict(zip(mnist.IDX_FILES, digests, strict=True)))
    yield Known("emnist", {mnist.EMNIST_ZIP.name: mnist.EMNIST_ZIP.md5})
    for kind in (cifar.CIFAR10, cifar.CIFAR100):
        for layout in kind.layouts:
            names = [f"{layout.folder}/{n}{layout.suffix}" for n in kind.train]
            yield Known(kind.folder, dict.fromkeys(names, ""))
            yield Known(kind.folder, {layout.archive: layout.md5})
    remote = text.TINYSHAKESPEARE
    yield Known("tinyshakespeare", {remote.name: remote.md5})


def files(data_dir: Path | None) -> Check:
    """The data sets that are there, and whether they are the published ones."""
    same, unknown, other = [], [], []
    for known in _published():
        for place in fetch.folders(data_dir):
            paths = fetch.present(place / known.folder, list(known.md5))
            if paths is None:
                continue
            pairs = list(zip(paths, known.md5.items(), strict=True))
            # Unpacked files, and those of an unpacked archive, have no known digest.
            told = [(p, md5) for p, (name, md5) in pairs if md5 and p.name == name]
            wrong = [(p, found) for p, md5 in told if (found := _md5(p)) != md5]
            if wrong:
                more = f" and {len(wrong) - 1} more files" * (len(wrong) > 1)
                other.append(f"{wrong[0][0]} (MD5 {wrong[0][1]}){more}")
            if not wrong:
                (same if len(told) == len(pairs) else unknown).append(known.folder)
            break
    places = ", ".join(map(str, fetch.folders(data_dir)))
    parts = [
        f"as published: {', '.join(dict.fromkeys(same)) or 'none'}",
        f"not compared, for lack of a known MD5: {', '.join(dict.fromkeys(unknown))}",
        f"not the published files: {'; '.join(other)}",
    ]
    kept = [parts[0], *parts[1:2] * bool(unknown), *parts[2:] * bool(other)]
    status = "warning" if other else "ok"
    return Check("data", status, f"in {places}, {'; '.join(kept)}")


def _md5(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, _plain_md5).hexdigest()
    except OSError as error:
        return f"unknown, for it cannot be read ({error.strerror})"


def _plain_md5() -> Any:
    return hashlib.md5(usedforsecurity=False)


def disk(runs: Path, free: Callable[[Path], int] | None = None) -> Check:
    """The space left where runs go."""
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
