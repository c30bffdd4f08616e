"""What storing and reading a ticket costs, and how soon the command answers.

    python experiments/bench/store.py [--models lenet-mnist-sgd resnet20] [--repeats 9]

The first table has a ticket of each preset's network at density 0.2 (mask, weights and
optimizer state), saved and loaded by `lth.lab.store` as experiments do: whole or not at
all, with a digest that is checked. Beside it `numpy.savez` of the same arrays to one
file that is flushed to the disk, and `numpy.load` of it onto the device. The share of
the digest is that of hashing alone.

The second table has whole processes: commands of `lth` as ratios to an interpreter that
does nothing and to one that imports JAX. `lth show` reads a run of digits that is made
beforehand.

Needs no data. Takes about three minutes on two cores, and 1 GiB of disk and 2 of memory
for ResNet-50.
"""

import functools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint
import timing
import tyro

from lth import lottery, train
from lth.lab import store
from lth.lab.build import networks, ranking
from lth.lab.config.presets import PRESETS
from lth.lab.store import checkpoint

SHAPES = {"lenet-mnist-sgd": (28, 28, 1), "resnet50-imagenet": (224, 224, 3)}
CLASSES = {"resnet50-imagenet": 1000}


@dataclass(frozen=True)
class Flags:
    """What is timed."""

    models: tuple[str, ...] = ("lenet-mnist-sgd", "resnet20", "resnet50-imagenet")
    """Presets whose tickets are stored."""
    repeats: int = 9
    density: float = 0.2
    folder: Path | None = None
    """On the disk to be measured; else where temporary files go."""


def ticket(name: str, density: float) -> lottery.Ticket:
    """A ticket of the shapes of a preset, of random numbers, with one replicate."""
    e = PRESETS[name].experiment
    examples = networks.Examples(SHAPES.get(name, (32, 32, 3)), CLASSES.get(name, 10))
    model = networks.network(e.model, examples)
    tx = networks.optimizer(e.optimizer, 1, 10**6)
    make = functools.partial(train.init_state, model.init, tx)
    state = jax.eval_shape(make, jax.random.key(0))
    chosen = jax.eval_shape(functools.partial(ranking.prunable, e.prune), state.params)
    rng = np.random.default_rng(0)

    def numbers(like, keep=None):
        if not np.issubdtype(like.dtype, np.floating):
            return np.zeros((1, *like.shape), like.dtype)
        values = rng.standard_normal((1, *like.shape), like.dtype)
        return values if keep is None else values * keep

    mask = jax.tree.map(lambda m: rng.random((1, *m.shape)) < density, chosen)
    params = jax.tree.map(numbers, state.params, mask)
    state = jax.tree.map(numbers, state)._replace(params=params)
    mask, state = jax.device_put((mask, state))
    return lottery.Ticket(1, mask, state, {"failed": np.zeros(2)})


def ours(one: lottery.Ticket, folder: Path) -> dict[str, Callable[[], Any]]:
    """Save under a new name, load the last one saved, and the digest alone."""
    level = [0]
    (folder / "tickets").mkdir(parents=True)

    def save():
        level[0] += 1
        store.save(folder, one._replace(level=level[0]))

    def load():
        jax.block_until_ready(store.load(folder, level[0], (one.mask, one.state)))
        if level[0] > 1:  # the disk need not hold them all
            old = folder / "tickets" / store.level_name(level[0] - 1)
            subprocess.run(["rm", "-r", str(old)], check=True)

    def hash_alone():
        checkpoint.digest({"mask": one.mask, "state": one.state})

    return {"save": save, "load": load, "digest": hash_alone}


def plain(one: lottery.Ticket, path: Path) -> dict[str, Callable[[], Any]]:
    """The same arrays in one file of NumPy's."""
    leaves = jax.tree.leaves((one.mask, one.state))

    def save():
        with path.open("wb") as file:
            np.savez(file, *map(np.asarray, leaves))
            file.flush()
            os.fsync(file.fileno())

    def load():
        with np.load(path) as file:
            jax.block_until_ready(jax.device_put([file[name] for name in file]))

    return {"savez": save, "np.load": load}


def size(path: Path) -> int:
    """Bytes of a file, or of all files under a folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files)


def row(flags: Flags, name: str, place: Path) -> str:
    """The line of a network."""
    one = ticket(name, flags.density)
    run, file = place / name, place / f"{name}.npz"
    times = timing.in_turn(ours(one, run) | plain(one, file), flags.repeats)
    saved, loaded = (1e3 * statistics.median(times[n]) for n in ("save", "load"))
    share = statistics.median(
        d / s for d, s in zip(times["digest"], times["save"], strict=True)
    )
    (last,) = (run / "tickets").iterdir()
    arrays = len(jax.tree.leaves((one.mask, one.state)))
    return (
        f"{name:20}{arrays:>7}{size(file) / 1e6:>8.1f}"
        f"{size(last) / size(file):>8.2f}"
        f"{saved:>8.0f}{timing.ratio(times['save'], times['savez']):>24}"
        f"{loaded:>8.0f}{timing.ratio(times['load'], times['np.load']):>24}"
        f"{100 * share:>8.0f} %"
    )


def commands(place: Path) -> dict[str, Callable[[], Any]]:
    """What starts each of the processes that are timed."""
    root = str(Path(__file__).absolute().parents[2])
    paths = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": paths}

    def process(*args: str) -> str:
        done = subprocess.run(
            [sys.executable, *args], env=env, capture_output=True, text=True, cwd=place
        )
        if done.returncode:
            raise SystemExit(f"python {' '.join(args)} failed:\n{done.stderr}")
        return done.stdout

    lth = ("-m", "lth")
    small = ("--steps", "20it", "--levels", "1", "--replicates", "1", "--quiet")
    run = process(*lth, "run", "digits", *small).strip()
    return {
        "python -c pass": lambda: process("-c", "pass"),
        "python -c 'import jax'": lambda: process("-c", "import jax"),
        "lth --version": lambda: process(*lth, "--version"),
        "lth run digits --help": lambda: process(*lth, "run", "digits", "--help"),
        "lth list": lambda: process(*lth, "list"),
        "lth show RUN": lambda: process(*lth, "show", run),
    }


def main() -> None:
    flags = tyro.cli(Flags)
    print(
        f"tickets of one replicate at density {flags.density:g}; "
        f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}, "
        f"orbax {orbax.checkpoint.__version__}, numpy {np.__version__}; "
        f"{flags.repeats} repeats\n"
        f"{'':20}{'':7}{'MB of':>8}{'bytes,':>8}{'save,':>8}{'of':>24}{'load,':>8}"
        f"{'of':>24}{'digest':>10}\n"
        f"{'':20}{'arrays':>7}{'.npz':>8}{'ratio':>8}{'ms':>8}{'savez + fsync':>24}"
        f"{'ms':>8}{'numpy.load':>24}{'/ save':>10}"
    )
    with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
        for name in flags.models:
            print(row(flags, name, Path(folder)), flush=True)
        times = timing.in_turn(commands(Path(folder)), flags.repeats)
    print(f"\n{'':24}{'seconds':>9}{'/ python -c pass':>28}{'/ import jax':>24}")
    for name, values in times.items():
        others = [timing.ratio(values, times[base]) for base in list(times)[:2]]
        print(
            f"{name:24}{statistics.median(values):9.2f}{others[0]:>28}{others[1]:>24}"
        )


if __name__ == "__main__":
    main()
