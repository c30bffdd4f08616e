"""What the machine has, what it draws at random, and the data that lie on it."""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lth.data import DataError, DataWarning, cifar, fetch, mnist, text
from lth.lab.build import networks
from lth.lab.build.names import Examples
from lth.lab.config import Model
from lth.lab.devices import memory
from lth.lab.doctor.check import Check, difference, judged


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


class Known(NamedTuple):
    """A form in which a data set is published: its files, and their MD5 if known."""

    folder: str
    md5: Mapping[str, str]
    # Reads it, with a DataWarning where its content is not what is known of it.
    read: Callable[[Path | None], object] | None = None


def _published() -> Iterator[Known]:
    sets = {
        "mnist": (mnist.MNIST_MD5, mnist.mnist),
        "fashion_mnist": (mnist.FASHION_MD5, None),
        "kmnist": (mnist.KMNIST_MD5, None),
    }
    for folder, (digests, read) in sets.items():
        yield Known(folder, dict(zip(mnist.IDX_FILES, digests, strict=True)), read)
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
            wrong = [(p, found) for p, md5 in told if (found := fetch.md5(p)) != md5]
            whole = len(told) == len(pairs) and not wrong
            if not whole and known.read and _as_known(known.read, data_dir):
                whole, wrong = True, []  # in another order, or packed otherwise
            if wrong:
                more = f" and {len(wrong) - 1} more files" * (len(wrong) > 1)
                other.append(f"{wrong[0][0]} (MD5 {wrong[0][1]}){more}")
            else:
                (same if whole else unknown).append(known.folder)
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


def _as_known(read: Callable[[Path | None], object], data_dir: Path | None) -> bool:
    """Whether data are read without a word about what they hold."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        try:
            read(data_dir)
        except (DataError, DataWarning):
            return False
    return True
