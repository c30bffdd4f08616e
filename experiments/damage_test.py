"""Damage files at random, read them, and count what comes of it.

Every file that `lth` reads is damaged in many ways: bits flipped, bytes cut, dropped,
doubled, made zero, put in, or a file emptied. What reads it must refuse it in a
sentence (StoreError, DataError, ConfigError), or give what it gave before. It must not
crash, nor end in another error. Formats without a checksum may pass other content; how
often they do is counted. The last column tells how often a DataWarning named such a
file.

    python experiments/damage_test.py --files 10000

Takes about 20 minutes on two cores. `tests/test_damage.py` runs a short version.
"""

import gzip
import hashlib
import json
import pickle
import struct
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

import lth
from lth import data
from lth.cli import own, report
from lth.data import cifar, mnist, text
from lth.lab import store
from lth.lab.config import ConfigError

REFUSALS = (store.StoreError, data.DataError, ConfigError)
OUTCOMES = ("refused", "same", "other", "crash", "warned")


@dataclass(frozen=True)
class Flags:
    """How many, or which share of them a child process does."""

    files: int = 10000
    seed: int = 0
    kind: str = ""
    folder: Path = field(default_factory=Path)


class Kind(NamedTuple):
    """Files that are damaged one at a time, and what reads them."""

    make: Callable[[Path], Any]  # writes them into a folder
    files: Callable[[Path], list[Path]]
    read: Callable[[Path], Any]  # what is compared, given the folder
    share: float  # of all files that are damaged; those quick to read have more
    sealed: bool = True  # whether a checksum tells other content


def damaged(rng: np.random.Generator, body: bytes) -> bytes:
    """The content with one thing wrong."""
    size = len(body)
    if not size:
        return bytes(rng.integers(0, 256, 8, np.uint8))
    at = int(rng.integers(size))
    length = int(min(rng.integers(1, 64), size - at))
    way = rng.integers(7)
    if way == 0:
        flipped = body[at] ^ (1 << int(rng.integers(8)))
        return body[:at] + bytes([flipped]) + body[at + 1 :]
    if way == 1:
        return body[:at]
    if way == 2:
        return body[:at] + body[at + length :]
    if way == 3:
        return body[: at + length] + body[at:]
    if way == 4:
        return body[:at] + bytes(length) + body[at + length :]
    if way == 5:
        noise = rng.integers(0, 256, length, np.uint8).tobytes()
        return body[:at] + noise + body[at:]
    return b"" if rng.random() < 0.2 else body[:at] + body[at + 1 :]


def _idx(array: np.ndarray) -> bytes:
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return head + array.tobytes()


def make_idx(folder: Path) -> None:
    """Few images, which take the place of MNIST as it is known."""
    rng, known = np.random.default_rng(0), []
    for name, count in (("train", 40), ("t10k", 20)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = rng.integers(0, 10, count).astype(np.uint8)
        counts = tuple(np.bincount(labels, minlength=10).tolist())
        known.append((int(images.sum(dtype=np.int64)), counts))
        place = folder / "mnist"
        place.mkdir(exist_ok=True)
        (place / f"{name}-images-idx3-ubyte").write_bytes(_idx(images))
        packed = gzip.compress(_idx(labels), mtime=0)
        (place / f"{name}-labels-idx1-ubyte.gz").write_bytes(packed)
    mnist.MNIST_FACTS = tuple(known)


# CIFAR-10 of fewer images in a file, so that reading it is quick.
FEW = cifar.CIFAR10._replace(records=(20, 10))


def make_cifar(folder: Path) -> None:
    (layout,) = (x for x in FEW.layouts if not x.suffix)
    place, rng = folder / FEW.folder / layout.folder, np.random.default_rng(0)
    place.mkdir(parents=True)
    for name in (*FEW.train, *FEW.test):
        count = FEW.records[name in FEW.test]
        known = {
            b"data": rng.integers(0, 2, (count, 3072), np.uint8),
            b"labels": rng.integers(0, 10, count).tolist(),
        }
        (place / name).write_bytes(pickle.dumps(known, protocol=2))


def make_text(folder: Path) -> None:
    words = b"To be, or not to be, that is the question.\n" * 200
    (folder / "input.txt").write_bytes(words)


def make_run(folder: Path) -> None:
    lth.run(
        "digits",
        runs=folder,
        model={"widths": (8,)},
        steps="40it",
        eval_every="20it",
        levels=2,
        replicates=2,
        controls="reinit",
    )


def read_idx(folder: Path) -> str:
    return digest(mnist.mnist(folder))


def read_cifar(folder: Path) -> str:
    return digest(cifar.read(FEW, folder))


def read_text(folder: Path) -> str:
    return digest(text.read(folder / "input.txt", 16, 0.1))


def run_of(folder: Path) -> Path:
    return next(path.parent for path in folder.glob("*/config.json"))


def read_run(folder: Path) -> Any:
    """All that readers see of a run."""
    path = run_of(folder)
    run = lth.open_run(path)
    told = [run.table.to_csv(), run.name, run.settings, run.titles, str(run)]
    store.reconcile(path)
    trees = [run.init, run.early, *(run.ticket(n) for n in run.levels)]
    trees += [run.ticket(1, "reinit")]
    return digest(told, trees)


def read_drawn(folder: Path) -> Any:
    """What the report holds, but for what tells of processes."""
    run = lth.open_run(run_of(folder))
    report.write([run], folder / "report.html")
    return (folder / "report.html").stat().st_size > 0


def read_study(folder: Path) -> Any:
    """A user's own file, whose content runs as it stands."""
    return own.function(f"{folder / 'study.py'}:recipe").__name__


STUDY = '''"""A study."""

import math


def recipe(width: int = 3, rate: float = 0.1):
    """Make it."""
    return math.sqrt(width) * rate
'''


def make_study(folder: Path) -> None:
    (folder / "study.py").write_text(STUDY)


def digest(*trees: Any) -> str:
    return hashlib.sha256(pickle.dumps(trees)).hexdigest()


def inside(*patterns: str) -> Callable[[Path], list[Path]]:
    def files(folder: Path) -> list[Path]:
        found = [p for pattern in patterns for p in folder.glob(pattern)]
        return sorted(path for path in found if path.is_file())

    return files


TABLES = inside("*/table.csv", "*/branches/*/table.csv")
REPORTED = inside("*/config.json", "*/table.csv", "*/log.jsonl")
KINDS = {
    "idx": Kind(make_idx, inside("mnist/*"), read_idx, 0.3, sealed=False),
    "cifar": Kind(make_cifar, inside("*/*/*"), read_cifar, 0.2, sealed=False),
    "text": Kind(make_text, inside("input.txt"), read_text, 0.1, sealed=False),
    "study": Kind(make_study, inside("study.py"), read_study, 0.1, sealed=False),
    "config": Kind(make_run, inside("*/config.json"), read_run, 0.08),
    "branch": Kind(make_run, inside("*/branches/*/branch.json"), read_run, 0.03),
    "table": Kind(make_run, TABLES, read_run, 0.07),
    "log": Kind(make_run, inside("*/log.jsonl"), read_run, 0.03, sealed=False),
    "checkpoint": Kind(make_run, inside("*/tickets/**/*"), read_run, 0.07),
    "environment": Kind(
        make_run, inside("*/environment.json"), read_drawn, 0.01, sealed=False
    ),
    "report": Kind(make_run, REPORTED, read_drawn, 0.01),
}


def outcome(kind: Kind, folder: Path, right: Any) -> tuple[str, str]:
    """What reading gives, and the error it ends in if that is none of ours."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            same = kind.read(folder) == right
        except REFUSALS:
            return "refused", ""
        except Exception as error:
            return "crash", f"{type(error).__name__}: {error}"
    if any(issubclass(w.category, data.DataWarning) for w in told) and not same:
        return "warned", ""
    return ("same" if same else "other"), ""


def work(name: str, folder: Path, count: int, seed: int) -> None:
    """Damage so many files of a kind, and print what came of each, a line of JSON."""
    kind, rng = KINDS[name], np.random.default_rng(seed)
    kind.make(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        right = kind.read(folder)
    files = kind.files(folder)
    for _ in range(count):
        path = files[int(rng.integers(len(files)))]
        body = path.read_bytes()
        bad = damaged(rng, body)
        if bad == body:
            bad = body + b"x"
        path.write_bytes(bad)
        print(json.dumps(["doing", path.name]), flush=True)
        what, why = outcome(kind, folder, right)
        print(json.dumps([what, why]), flush=True)
        path.write_bytes(body)


def count_outcomes(name: str, count: int, seed: int) -> tuple[Counter, list[str]]:
    """Damage files in a child process, which a crash may end."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--kind", name, "--files", str(count)]
        command += ["--folder", folder, "--seed", str(seed)]
        done = subprocess.run(command, capture_output=True, text=True)
    lines = [json.loads(x) for x in done.stdout.splitlines() if x.startswith("[")]
    found = Counter(what for what, _ in lines if what != "doing")
    whys = [why for what, why in lines if what == "crash"]
    if done.returncode:
        found["crash"] += 1
        whys.append(f"the process ended with {done.returncode}: {done.stderr[-500:]}")
    return found, whys


def damage_test(files: int, seed: int = 0) -> bool:
    """Damage so many files of all kinds; whether none crashed, and none slipped by."""
    good = True
    print(f"{'kind':12}" + "".join(f"{o:>9}" for o in OUTCOMES))
    for name, kind in KINDS.items():
        found, whys = count_outcomes(name, max(1, round(files * kind.share)), seed)
        print(f"{name:12}" + "".join(f"{found[o]:9}" for o in OUTCOMES), flush=True)
        for why in sorted(set(whys))[:5]:
            print(f"   {why}")
        good &= not found["crash"] and not (kind.sealed and found["other"])
    return good


def main() -> None:
    flags = tyro.cli(Flags)
    if flags.kind:
        work(flags.kind, flags.folder, flags.files, flags.seed)
    elif not damage_test(flags.files, flags.seed):
        sys.exit("a damaged file crashed what reads it, or passed for whole")


if __name__ == "__main__":
    main()
