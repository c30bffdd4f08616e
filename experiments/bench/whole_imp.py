"""The whole iterative pruning of LeNet-300-100 on MNIST, against plain PyTorch.

    python experiments/bench/whole_imp.py --data-dir DATA [--replicates 1 5]

Preset `lenet-mnist-sgd`, shortened: a dense network and two tickets, three epochs each
(430 steps of 128 out of 55 000 images), the test set measured after each epoch. Whole
processes are timed, from their start to their end:

- `lth run` with an empty compilation cache, then once more in another runs folder with
  the cache that is there now. It also measures a validation set, stores every ticket
  and writes a report;
- this file as the program of PyTorch, the fastest we could write: pixels read and
  standardised once, one tensor, one permutation an epoch, a fused optimizer, masks
  multiplied in after each step, one exact threshold over all hidden layers. It stores
  nothing. Its number of threads is chosen by trying, before anything is timed. Several
  replicates train one after the other in one process.

The columns on the right leave out the start: what each process itself measured from
the moment it had read the data (PyTorch), or `lth run` printed beside the time of
compiling (which includes reading the data and storing the tickets). Needs PyTorch;
takes about nine minutes on two cores.
"""

import gzip
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import tyro

BATCH, EXAMPLES = 128, 55_000
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


@dataclass(frozen=True)
class Flags:
    """What is timed."""

    data_dir: Path
    """Holds mnist/ with the four files."""
    replicates: tuple[int, ...] = (1, 5)
    epochs: int = 3
    levels: int = 2
    repeats: int = 5
    threads: int = 0
    """Of PyTorch; 0: the fastest of one and as many as there are cores."""
    torch: bool = False
    """Be the PyTorch program, for the first of `replicates`."""


def images(data_dir: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [n, 784] and labels [n] of MNIST."""
    image, label = (
        np.frombuffer(gzip.decompress((data_dir / "mnist" / file).read_bytes()), "u1")
        for file in FILES[split]
    )
    return image[16:].reshape(-1, 784).astype(np.float32), label[8:].astype(np.int64)


def pytorch(flags: Flags) -> None:
    """The rival: prints a JSON line of accuracies and of seconds without the start."""
    import torch  # type: ignore[import-not-found]

    torch.set_num_threads(flags.threads or os.cpu_count() or 1)
    (image, label), test = (images(flags.data_dir, s) for s in FILES)
    chosen = np.random.default_rng(0).permutation(len(label))[:EXAMPLES]
    image, label = image[chosen], label[chosen]
    mean, deviation = image.mean(), image.std()
    tensors = [torch.from_numpy((x - mean) / deviation) for x in (image, test[0])]
    learned = tensors[0], torch.from_numpy(label)
    held = tensors[1], torch.from_numpy(test[1])
    began = time.perf_counter()
    found = []
    for seed in range(flags.replicates[0]):
        torch.manual_seed(seed)
        found.append(prune_iteratively(torch, flags, learned, held))
    print(json.dumps({"seconds": time.perf_counter() - began, "accuracy": found}))


def prune_iteratively(torch: Any, flags: Flags, learned, held) -> list[float]:
    """The last test accuracy of each level."""
    nn = torch.nn
    net = nn.Sequential(
        nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU()
    ).append(nn.Linear(100, 10))
    for layer in net[::2]:
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    start = {name: value.clone() for name, value in net.state_dict().items()}
    hidden = [net[0].weight, net[2].weight]
    keep = [torch.ones_like(w) for w in hidden]
    found = []
    for level in range(flags.levels + 1):
        with torch.no_grad():
            if level:
                keep = largest(torch, hidden, keep, 0.8**level)
            net.load_state_dict(start)
            torch._foreach_mul_(hidden, keep)
        found.append(train(torch, flags, net, hidden, keep, learned, held))
    return found


def largest(torch: Any, weights: list, keep: list, density: float) -> list:
    """The masks of the `density` largest weights of all layers together."""
    scores = torch.cat(
        [(w * m).abs().flatten() for w, m in zip(weights, keep, strict=True)]
    )
    dropped = len(scores) - round(density * len(scores))
    threshold = scores.kthvalue(dropped).values
    return [
        (w * m).abs().gt(threshold).float() for w, m in zip(weights, keep, strict=True)
    ]


def train(torch: Any, flags: Flags, net, hidden, keep, learned, held) -> float:
    """Train to the last epoch, measuring after each; the last test accuracy."""
    loss, accuracy = torch.nn.functional.cross_entropy, 0.0
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, fused=True)
    image, label = learned
    for _ in range(flags.epochs):
        for rows in torch.randperm(EXAMPLES).split(BATCH):
            optimizer.zero_grad(set_to_none=True)
            loss(net(image.index_select(0, rows)), label[rows]).backward()
            optimizer.step()
            with torch.no_grad():
                torch._foreach_mul_(hidden, keep)
        with torch.inference_mode():
            logits = net(held[0])
            loss(logits, held[1]).item()
            accuracy = (logits.argmax(1) == held[1]).float().mean().item()
    return accuracy


def run_lth(flags: Flags, n: int, runs: Path, cache: Path) -> tuple[float, float]:
    """Seconds of a whole `lth run`, and those it reports without compiling."""
    command = [sys.executable, "-m", "lth", "run", "lenet-mnist-sgd"]
    command += ["--steps", f"{flags.epochs}ep", "--levels", str(flags.levels)]
    command += ["--replicates", str(n), "--eval-every", "1ep"]
    command += ["--data-dir", str(flags.data_dir.absolute()), "--runs", str(runs)]
    root = str(Path(__file__).absolute().parents[2])
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    seconds, text = timed(command, env)
    found = re.search(r"time +([\d.]+) s", text)
    if found is None:
        raise SystemExit(f"lth run printed no time:\n{text}")
    return seconds, float(found[1])


def run_torch(flags: Flags, n: int, threads: int, epochs: int) -> tuple[float, float]:
    """Seconds of the whole process, and those without its start."""
    command = [sys.executable, __file__, "--torch", "--data-dir", str(flags.data_dir)]
    command += ["--replicates", str(n), "--epochs", str(epochs)]
    command += ["--levels", str(flags.levels), "--threads", str(threads)]
    seconds, text = timed(command, dict(os.environ))
    result = json.loads(text.splitlines()[-1])
    if min(map(min, result["accuracy"])) < 0.9:
        raise SystemExit(f"PyTorch did not learn: {result['accuracy']}")
    return seconds, result["seconds"]


def timed(command: list[str], env: dict[str, str]) -> tuple[float, str]:
    """Wall-clock seconds and standard output of a process; stops if it fails."""
    began = time.perf_counter()
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return seconds, done.stdout


def choose_threads(flags: Flags) -> int:
    """The number of threads with which an epoch of PyTorch is fastest."""
    counts = sorted({1, os.cpu_count() or 1})
    tried = {n: min(run_torch(flags, 1, n, 1)[1] for _ in range(2)) for n in counts}
    return min(counts, key=tried.__getitem__)


def measure(flags: Flags, n: int, threads: int) -> dict[str, list[tuple[float, float]]]:
    """By program and repeat: seconds of the process, and without its start."""
    times: dict[str, list[tuple[float, float]]] = {
        name: [] for name in ("lth, cold", "lth, warm", "PyTorch")
    }
    for _ in range(flags.repeats):
        with tempfile.TemporaryDirectory(prefix="bench-imp-") as folder:
            place = Path(folder)
            for name in ("cold", "warm"):
                runs, cache = place / name, place / "compiled"
                times[f"lth, {name}"].append(run_lth(flags, n, runs, cache))
        times["PyTorch"].append(run_torch(flags, n, threads, flags.epochs))
    return times


def quartiles(ratios: list[float]) -> str:
    """Their median and quartiles."""
    if len(ratios) < 2:
        return f"{ratios[0]:.2f}"
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def report(n: int, times: dict[str, list[tuple[float, float]]]) -> None:
    """A line for each program: seconds, and PyTorch's time / its time."""
    for name, pairs in times.items():
        cells = [f"{n:>10}  {name:10}"]
        for i in (0, 1):
            own = [pair[i] for pair in pairs]
            ratios = [t[i] / o for t, o in zip(times["PyTorch"], own, strict=True)]
            cells.append(f"{statistics.median(own):10.1f}{quartiles(ratios):>24}")
        print("".join(cells), flush=True)


def main() -> None:
    flags = tyro.cli(Flags)
    if flags.torch:
        return pytorch(flags)
    threads = flags.threads or choose_threads(flags)
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("jax", "torch"))
    print(
        f"lenet-mnist-sgd, {flags.levels + 1} trainings of {flags.epochs} epochs, "
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{versions}, {threads} threads of PyTorch; {flags.repeats} repeats\n"
        f"{'':22}{'whole process':>34}{'without start and compiling':>34}\n"
        f"{'replicates':>10}  {'':10}" + f"{'seconds':>10}{'PyTorch / this':>24}" * 2
    )
    for n in flags.replicates:
        report(n, measure(flags, n, threads))
    return None


if __name__ == "__main__":
    main()
