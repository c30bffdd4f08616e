"""A run directory on disk.

    runs/<name>-<id>/
        config.json       what the run is: its configuration or its fingerprint, its id,
                          its replicates and the format
        environment.json  versions, machine and command of each session
        table.csv         every measured value of the trunk (see `results`)
        log.jsonl         what happens, as it happens
        tickets/          Orbax checkpoints: early, init, step_100, level_03
        branches/reinit-1f2e3d4c/
                          a branch, with branch.json, table, log, tickets and lock
        replicates/1/     replicates that were added later: the same again
        probes/barrier/   numbers about stored tickets
        training/         the training under way, saved every so often
        report.html       figures, once the run is done
        lock              held by the process at work

The functions here take a *unit*: a run directory, or one of the folders in it that have
a table and tickets of their own. A checkpoint appears under its name only when it is
whole, and is never written again, so a process may be killed at any moment. Each
carries a digest of its content, which is checked when it is read.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lth import results
from lth.lab.store import checkpoint
from lth.lab.store.checkpoint import EMPTY, StoreError, write, writing
from lth.lottery import Ticket

FORMAT = 4  # of a run directory; raised when older code could not read a newer one
TRUNK = results.TICKET
STEP = re.compile(r"step_(\d+)")
LEVEL = re.compile(r"level_(\d+)")
# What to do about a description that was edited.
UNDO = (
    "Undo the change; a run with another setting comes from its flag, in a directory "
    "of its own"
)


class BusyError(StoreError):
    """Another process is at work on the run."""


def create(run: Path, content: dict[str, Any]) -> None:
    """Write what a claimed run is, if that is not what its `config.json` says."""
    content = {"format": FORMAT, **content}
    there = (run / "config.json").exists()
    if not there or read_config(run) != json.loads(json.dumps(content)):
        write(run / "config.json", sealed(content))


def create_branch(unit: Path, content: dict[str, Any]) -> None:
    """Write what a claimed branch is."""
    if not (unit / "branch.json").exists():
        write(unit / "branch.json", sealed(content))


def sealed(content: dict[str, Any]) -> str:
    """Return a description as text, with a digest of it as its last field."""
    return json.dumps({**content, "seal": _seal(content)}, indent=1) + "\n"


def _seal(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _unsealed(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """What a description holds, checked against its digest."""
    seal = content.pop("seal", None)
    if seal != _seal(content):
        raise StoreError(
            f"{path} was changed: its content is not what was written. {UNDO}"
        )
    return content


def read_branch(unit: Path) -> dict[str, Any]:
    """What `branch.json` holds: name, title, id, order, settings, if it is apart."""
    path = unit / "branch.json"
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict) or not {"name", "title", "id"} <= set(content):
        raise StoreError(f"{path} is not the description of a branch")
    return _unsealed(path, content)


def branches(unit: Path) -> dict[str, Path]:
    """Return the folder of each branch of a run, or of added replicates, by name."""
    paths = sorted((unit / "branches").glob("*/branch.json"))
    found = [(read_branch(path.parent), path.parent) for path in paths]
    return {content["name"]: path for content, path in found}


def units(run: Path) -> list[tuple[list[int], Path]]:
    """The replicates trained together, and the unit that holds each: the first, the
    run itself.
    """
    groups = read_config(run)["replicates"]
    return [
        (group, run / "replicates" / str(i) if i else run)
        for i, group in enumerate(groups)
    ]


def read_config(run: Path) -> dict[str, Any]:
    """What `config.json` holds: format, id, preset and config."""
    path = run / "config.json"
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        why = "it has no config.json" if run.is_dir() else "there is no such folder"
        raise StoreError(f"{run} is not a run: {why}") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise StoreError(f"{path} is not the configuration of a run")
    if content["format"] != FORMAT:
        newer = content["format"] > FORMAT
        way = (
            "install a newer lth"
            if newer
            else "give it an older lth, or run it again in another folder"
        )
        raise StoreError(
            f"{run} was written in format {content['format']}, this lth reads format "
            f"{FORMAT}: {way}"
        )
    named = isinstance(content.get("id"), str) and isinstance(content.get("name"), str)
    known = isinstance(content.get("config", content.get("fingerprint")), dict)
    if not named or not known:
        raise StoreError(f"{path} is not the configuration of a run")
    if not _are_groups(content.get("replicates")):
        raise StoreError(
            f"{path} is damaged: replicates are lists of numbers, such as [[0, 1]]; "
            f"got {content.get('replicates')!r}"
        )
    expected = {"work": dict, "flags": dict, "data": str, "preset": str}
    needed = ("data", "preset") if "config" in content else ()
    for name, kind in expected.items():
        good = (
            isinstance(content[name], kind) if name in content else name not in needed
        )
        if not good:
            raise StoreError(
                f"{path} is damaged: {name} cannot be {content.get(name)!r}"
            )
    return _unsealed(path, content)


def _are_groups(value: Any) -> bool:
    """Whether it is lists of numbers, at least one, none of them empty."""
    lists = isinstance(value, list) and all(isinstance(g, list) and g for g in value)
    return lists and bool(value) and all(type(n) is int for g in value for n in g)


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
        for leftover in run.glob("*/*.orbax-checkpoint-tmp*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for leftover in run.glob(".*.*.[0-9]*"):  # of a process killed in `write`
            leftover.unlink(missing_ok=True)
        yield


def holder(run: Path) -> str:
    """Return who holds the run, such as `process 7 on host`; empty if nobody does."""
    try:
        with (run / "lock").open("r") as file:
            try:
                # For a moment; who claims the run right then asks again.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "another process"
    except OSError:
        pass
    return ""


def check_writable(runs: Path) -> None:
    """Refuse a folder of runs, there or not yet, that nothing can be written into."""
    there = next(p for p in (runs, *runs.absolute().parents) if p.exists())
    with writing(runs):
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if os.statvfs(there).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def level_name(level: int) -> str:
    """What the checkpoint of a level's ticket is called."""
    return f"level_{level:02d}"


def has(unit: Path, name: str) -> bool:
    """Whether the checkpoint of that name is stored."""
    return (unit / "tickets" / name).is_dir()


def stored(unit: Path) -> set[int]:
    """The levels whose tickets are stored. Raises StoreError."""
    try:
        names = os.listdir(unit / "tickets")
    except FileNotFoundError:
        names = []
    except OSError as error:
        why = error.strerror
        raise StoreError(f"{unit / 'tickets'} cannot be read: {why}") from None
    return {int(m[1]) for m in map(LEVEL.fullmatch, names) if m}


def latest(unit: Path) -> int | None:
    """The highest level stored, None before the dense ticket is."""
    return max(stored(unit), default=None)


def save(unit: Path, ticket: Ticket, facts: Mapping[str, Any] = EMPTY) -> None:
    """Store a ticket under its level, with facts about it that are read apart."""
    tree = ticket._asdict()
    level = tree.pop("level")
    save_tree(unit, level_name(level), tree, facts)


def load(unit: Path, level: int, like: Any = None) -> Ticket:
    """Read the stored ticket of a level.

    `like` is a tree (mask, state) with the structure, shapes and types to expect;
    without it all is dicts of arrays, and lists where there were tuples of any kind.
    """
    expected = None if like is None else {"mask": like[0], "state": like[1]}
    tree = load_tree(unit, level_name(level), expected)
    return Ticket(level, tree["mask"], tree["state"], tree["metrics"])


def save_tree(
    unit: Path, name: str, tree: dict[str, Any], facts: Mapping[str, Any] = EMPTY
) -> None:
    """Store a dict of trees of arrays as a checkpoint.

    Args:
      unit: The folder of the run, or of its added replicates or a branch.
      name: What the checkpoint is called.
      tree: The trees.
      facts: What lies beside them as text.
    """
    about = {"of": whose(unit, name), **facts}
    checkpoint.save(unit / "tickets" / name, tree, about)


def whose(unit: Path, name: str) -> dict[str, Any]:
    """Return whose a checkpoint is: of which run, replicates and branch, and its name.

    It lies inside the checkpoint, so that one in another's place is known as that.
    """
    path, branch, identity = unit, "", {}
    if unit.parent.name == "branches":
        path, branch = unit.parents[1], unit.name
    group = 0
    if path.parent.name == "replicates":
        path, group = path.parents[1], int(path.name)
    if (path / "config.json").exists():
        content = read_config(path)
        identity = {"run": content["id"], "replicates": content["replicates"][group]}
    return {**identity, "branch": branch, "name": name}


def facts(unit: Path, name: str) -> dict[str, Any]:
    """What a checkpoint says of itself, once it is known to be in its place."""
    path = unit / "tickets" / name
    about = checkpoint.about(path)
    _check_place(path, about, unit, name)
    return about


def _check_place(path: Path, about: dict[str, Any], unit: Path, name: str) -> None:
    """Refuse a checkpoint of another run, branch or level."""
    here, found = whose(unit, name), about.get("of")
    if found == here:
        return
    known = found if isinstance(found, dict) else {}
    differ = [k for k in here if known.get(k) != here[k]]
    told = "; ".join(
        f"{k} {known.get(k) or 'none'!r}, not {here[k] or 'none'!r}" for k in differ
    )
    raise checkpoint.ForeignError(
        f"{path} belongs elsewhere: it is of {told}\n"
        "Put the right one in its place; or delete that folder and give the same "
        "command again: what is missing is trained anew"
    )


def load_tree(
    unit: Path, name: str, like: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Read the checkpoint `name`; see `checkpoint.load` for `like`."""
    if not has(unit, name):
        names = sorted(p.name for p in (unit / "tickets").glob("*"))
        raise StoreError(
            f"{unit} holds no {name}; it holds {', '.join(names) or 'none'}"
        )
    path = unit / "tickets" / name
    tree, about = checkpoint.load_with_about(path, like)
    _check_place(path, about, unit, name)
    return tree


def training(unit: Path) -> str | None:
    """Return the name of the last checkpoint of a unit's training under way, if any."""
    names = [path.name for path in (unit / "training").glob("step_*")]
    steps = [int(m[1]) for m in map(STEP.fullmatch, names) if m]
    return f"step_{max(steps)}" if steps else None


def save_training(
    unit: Path, name: str, tree: dict[str, Any], told: Mapping[str, Any]
) -> Callable[[], None]:
    """Begin to store a training under way.

    Those before this one go once it is whole.

    Args:
      unit: The folder of the run, or of its added replicates or a branch.
      name: What the checkpoint is called.
      tree: The state and what was measured.
      told: Which training it is.

    Returns:
      What waits for it, to be called before the next one is stored.
    """
    folder = unit / "training"
    with writing(folder):
        folder.mkdir(exist_ok=True)
        shutil.rmtree(folder / name, ignore_errors=True)
    about = {"of": whose(unit, f"training {name}"), "training": dict(told)}
    wait = checkpoint.save_later(folder / name, tree, about)

    def done() -> None:
        wait()
        for path in folder.iterdir():
            if path.name != name:
                shutil.rmtree(path, ignore_errors=True)

    return done


def load_training(
    unit: Path, name: str, like: dict[str, Any], told: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Read the stored training under way.

    Args:
      unit: The folder of the run, or of its added replicates or a branch.
      name: What the checkpoint is called.
      like: The structure of what was stored.
      told: Which training is wanted.

    Returns:
      What was stored, or None where that is another training.
    """
    path = unit / "training" / name
    about = checkpoint.about(path)
    _check_place(path, about, unit, f"training {name}")
    if about.get("training") != dict(told):
        return None
    return checkpoint.load(path, like)


def drop_trainings(unit: Path) -> None:
    """Remove what is stored of trainings under way."""
    shutil.rmtree(unit / "training", ignore_errors=True)


def log(unit: Path, event: str, **fields: Any) -> None:
    """Add a line to `log.jsonl`: the time, the event and its fields."""
    line = json.dumps({"time": round(time.time(), 3), "event": event, **fields})
    with writing(unit), (unit / "log.jsonl").open("a") as file:
        file.write(line + "\n")


def mend_log(unit: Path) -> None:
    """Take a line that was cut short from the end of the log of a claimed unit."""
    path = unit / "log.jsonl"
    if not path.exists():
        return
    with writing(path), path.open("rb+") as file:
        text = file.read()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            file.truncate(whole)


def failures(unit: Path) -> dict[int, tuple[int, int]]:
    """Where each replicate that failed was first not finite: its level and step.

    The tickets say it themselves, of their own level.
    """
    found: dict[int, tuple[int, int]] = {}
    for level in sorted(stored(unit)):
        for replicate, at in facts(unit, level_name(level)).get("failed", {}).items():
            found.setdefault(int(replicate), (at[0], at[1]))
    return found


def logged(unit: Path, event: str) -> list[dict[str, Any]]:
    """The lines of the log about an event; what was cut short is passed over."""
    path = unit / "log.jsonl"
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    found = []
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return [line for line in found if line.get("event") == event]
