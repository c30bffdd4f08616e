"""A run directory on disk.

    runs/<preset>-<id>/
        config.json       the whole configuration, its id and the format
        environment.json  versions, machine and command of each session
        table.csv         every measured value (see `results`)
        log.jsonl         what happens, as it happens
        tickets/          Orbax checkpoints: early, init, step_100, level_03 and
                          level_03_reinit
        report.html       figures, once the run is done
        lock              held by the process at work

A checkpoint appears under its name only when it is whole, and is never written again,
so a process may be killed at any moment. Each carries a digest of its content, which is
checked when it is read.
"""

import contextlib
import errno
import fcntl
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from lth import results
from lth.lab import compiler
from lth.lab.store import checkpoint
from lth.lab.store.checkpoint import GO_ON, StoreError, writing
from lth.lottery import Ticket

FORMAT = 2  # of a run directory; raised when older code could not read a newer one


class BusyError(StoreError):
    """Another process is at work on the run."""


def create(run: Path, content: dict[str, Any]) -> None:
    """Write the configuration of a claimed run, or check that the one there agrees.

    `content` holds `id`, `preset`, `data` (a digest of the arrays), `examples` (their
    shape and number of classes) and `config`.
    """
    content = {"format": FORMAT, **content}
    if (run / "config.json").exists():
        found = read_config(run)
        if found["id"] != content["id"]:
            raise StoreError(
                f"{run} holds the run {found['id']} of another configuration than "
                f"{content['id']}; choose another folder with --runs"
            )
        if found["data"] != content["data"]:
            raise StoreError(
                f"{run} was trained on other data than is found now; give it the old "
                "files with --data-dir, or choose another folder with --runs"
            )
        if found == content:
            return
    write(run / "config.json", json.dumps(content, indent=1) + "\n")


def read_config(run: Path) -> dict[str, Any]:
    """What `config.json` holds: format, id, preset and config."""
    path = run / "config.json"
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise StoreError(f"{run} is not a run: it has no config.json") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise StoreError(f"{path} is not the configuration of a run")
    if content["format"] != FORMAT:
        newer = content["format"] > FORMAT
        way = (
            "install a newer lth" if newer else "give it an older lth, or run it again"
        )
        raise StoreError(
            f"{run} was written in format {content['format']}, this lth reads format "
            f"{FORMAT}: {way}"
        )
    texts = all(isinstance(content.get(n), str) for n in ("id", "preset", "data"))
    if not texts or not isinstance(content.get("config"), dict):
        raise StoreError(f"{path} is not the configuration of a run")
    if not _are_examples(content.get("examples")):
        raise StoreError(
            f"{path} is damaged: examples are a shape and a number of classes, such as "
            f"[[8, 8, 1], 10]; got {content.get('examples')!r}"
        )
    return content


def _are_examples(value: Any) -> bool:
    if not (isinstance(value, list) and len(value) == 2 and isinstance(value[0], list)):
        return False
    return all(type(n) is int and n > 0 for n in (*value[0], value[1]))


@contextlib.contextmanager
def claim(run: Path) -> Iterator[None]:
    """Hold the run for this process, making its folder if there is none.

    BusyError names the process that holds it already. The lock ends with the process,
    however that ends.
    """
    if "\\" in str(run.absolute()):
        raise StoreError(
            f"cannot write {run}: a backslash in a folder's name is taken for a slash; "
            "choose another folder with --runs"
        )
    with writing(run):
        (run / "tickets").mkdir(parents=True, exist_ok=True)
        file = (run / "lock").open("a+")
    with file:
        try:
            with writing(run / "lock"):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except StoreError as error:
            if not isinstance(error.__cause__, BlockingIOError):
                raise
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise BusyError(f"{run} is in use by {holder}") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        for leftover in (run / "tickets").glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for leftover in run.glob(".*.*.[0-9]*"):  # of a process killed in `write`
            leftover.unlink(missing_ok=True)
        yield


def check_writable(runs: Path) -> None:
    """Refuse a folder of runs, there or not yet, that nothing can be written into."""
    there = next(p for p in (runs, *runs.absolute().parents) if p.exists())
    with writing(runs):
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def level_name(level: int, variant: str = results.TICKET) -> str:
    return f"level_{level:02d}" + ("" if variant == results.TICKET else f"_{variant}")


def has(run: Path, name: str) -> bool:
    """Whether the checkpoint of that name is stored."""
    return (run / "tickets" / name).is_dir()


def stored(run: Path) -> set[tuple[str, int]]:
    """The (variant, level) pairs whose tickets are stored."""
    found = set()
    for path in (run / "tickets").glob("level_*"):
        match = re.fullmatch(r"level_(\d+)(?:_(\w+))?", path.name)
        if match:
            found.add((match[2] or results.TICKET, int(match[1])))
    return found


def latest(run: Path) -> int | None:
    """The highest level stored, None before the dense ticket is."""
    return max(
        (n for variant, n in stored(run) if variant == results.TICKET), default=None
    )


def save(run: Path, ticket: Ticket, variant: str = results.TICKET) -> None:
    """Store a ticket under its level."""
    tree = ticket._asdict()
    level = tree.pop("level")
    save_tree(run, level_name(level, variant), tree)


def load(run: Path, level: int, like: Any, variant: str = results.TICKET) -> Ticket:
    """The stored ticket of a level.

    `like` is a tree (mask, state) with the structure, shapes and types to expect;
    without it (None) the optimizer state comes back as nested lists.
    """
    expected = None if like is None else {"mask": like[0], "state": like[1]}
    tree = load_tree(run, level_name(level, variant), expected)
    return Ticket(level, tree["mask"], tree["state"], tree["metrics"])


def save_tree(run: Path, name: str, tree: dict[str, Any]) -> None:
    """Store a dict of trees of arrays as the checkpoint `name`."""
    checkpoint.save(run / "tickets" / name, tree)


def load_tree(
    run: Path, name: str, like: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The checkpoint `name`; see `checkpoint.load` for `like`."""
    if not has(run, name):
        names = sorted(p.name for p in (run / "tickets").glob("*"))
        raise StoreError(
            f"{run} holds no {name}; it holds {', '.join(names) or 'none'}"
        )
    return checkpoint.load(run / "tickets" / name, like)


def log(run: Path, event: str, **fields: Any) -> None:
    """Add a line to `log.jsonl`: the time, the event and its fields."""
    line = json.dumps({"time": round(time.time(), 3), "event": event, **fields})
    with writing(run), (run / "log.jsonl").open("a") as file:
        file.write(line + "\n")


def add_session(run: Path) -> None:
    """Record what this process is, beside those that worked on the run before it."""
    path = run / "environment.json"
    try:
        sessions = json.loads(path.read_text()) if path.exists() else []
        if not isinstance(sessions, list):
            raise ValueError("it holds no list of sessions")
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{path} is damaged: {error}\nMove it away and give the same command "
            "again: no number depends on it"
        ) from None
    sessions.append(environment())
    write(path, json.dumps(sessions, indent=1) + "\n")


def environment() -> dict[str, Any]:
    """Versions, machine and command of this process."""
    packages = ("lth", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "code": _commit(),
        "python": platform.python_version(),
        "packages": versions,
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
        "devices": [device.device_kind for device in jax.devices()],
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "compiler": compiler.note(),
    }


def _commit() -> str | None:
    """The git commit of this code, with + if files were changed; None outside git."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    try:
        known = subprocess.run(
            [*git, "ls-files", "--error-unmatch", Path(__file__).name],
            capture_output=True,
        )
        if known.returncode:
            return None  # an installed copy, not the repository around it
        head = subprocess.run(
            [*git, "describe", "--always", "--dirty=+", "--abbrev=12"],
            capture_output=True,
            text=True,
        )
    except OSError:
        return None
    return head.stdout.strip() or None


def reconcile(run: Path) -> None:
    """Drop rows of the table whose tickets were not stored before the process ended."""
    with writing(run / "table.csv"):
        try:
            results.keep(run / "table.csv", stored(run))
        except ValueError as error:
            raise StoreError(f"{run / 'table.csv'} is damaged: {error}") from None


def read_table(run: Path) -> Any:
    """The rows of stored tickets (`results.read`). Raises StoreError."""
    try:
        return results.read(run / "table.csv", stored(run))
    except (OSError, ValueError) as error:
        raise StoreError(f"{run / 'table.csv'} is damaged: {error}") from None


def append_rows(run: Path, rows: Any) -> None:
    """Add rows to the table."""
    with writing(run / "table.csv"):
        results.append(run / "table.csv", rows)


def write(path: Path, text: str, advice: str = GO_ON) -> None:
    """Write a file whole or not at all; `advice` is what to do where that fails."""
    with writing(path, advice):
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(text)
        os.replace(temporary, path)
