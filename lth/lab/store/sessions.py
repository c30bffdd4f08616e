"""The processes that worked on a run: what each was, and whether they agree.

What changes the numbers that are drawn, or their types, must be the same for all of a
run. What may change how sums are rounded is said when it changes, and logged.
"""

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from lth.lab import compiler
from lth.lab.store.checkpoint import StoreError, write

PACKAGES = ("lth", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# Settings of JAX that change what is drawn, and how each is set.
DRAWS = {
    "jax_default_prng_impl": "JAX_DEFAULT_PRNG_IMPL",
    "jax_threefry_partitionable": "JAX_THREEFRY_PARTITIONABLE",
}
# Those that change how products are rounded.
ROUNDS = ("jax_default_matmul_precision",)


class RunWarning(UserWarning):
    """Says what of a run deserves a look; nothing is lost."""


def environment() -> dict[str, Any]:
    """Versions, machine, settings and command of this process."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "code": _commit(),
        "python": platform.python_version(),
        "packages": versions,
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
        "processor": _processor(),
        "devices": [device.device_kind for device in jax.devices()],
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "compiler": compiler.note(),
        "settings": {name: getattr(jax.config, name) for name in (*DRAWS, *ROUNDS)},
    }


def recorded(run: Path) -> list[dict[str, Any]]:
    """Return the processes that worked on a run, in order.

    Raises StoreError where the record of them is damaged.
    """
    path = run / "environment.json"
    try:
        found = json.loads(path.read_text()) if path.exists() else []
        if not isinstance(found, list) or not all(isinstance(s, dict) for s in found):
            raise ValueError("it holds no list of sessions")
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{path} is damaged: {error}\nMove it away and give the same command "
            "again: no number depends on it"
        ) from None
    return found


def add_session(run: Path) -> dict[str, list]:
    """Record what this process is, beside those that worked on the run before it.

    Returns what changed since the last session and may round numbers otherwise: before
    and now, by name. Raises StoreError where this process would draw other numbers.
    """
    before, now = recorded(run), environment()
    changed: dict[str, list] = {}
    if before:
        _check_draws(run, before[-1], now)
        changed = _rounding(before[-1], now)
    write(run / "environment.json", json.dumps([*before, now], indent=1) + "\n")
    if changed:
        told = "; ".join(f"{n} was {a}, is {b}" for n, (a, b) in changed.items())
        warnings.warn(
            f"{run.name} goes on where numbers may be rounded otherwise: {told}",
            RunWarning,
            stacklevel=2,
        )
    return changed


def add_facts(run: Path, facts: dict[str, Any]) -> None:
    """Record more about the last process that worked on a run.

    Raises StoreError where none did.
    """
    known = recorded(run)
    if not known:
        raise StoreError(f"{run} has no record of a process that worked on it")
    known[-1] |= facts
    write(run / "environment.json", json.dumps(known, indent=1) + "\n")


def _check_draws(run: Path, last: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on with other random numbers under the same id."""
    known = last.get("settings")
    if not isinstance(known, dict):
        return
    for name, variable in DRAWS.items():
        if name in known and known[name] != now["settings"][name]:
            value = known[name]
            text = str(int(value)) if isinstance(value, bool) else value
            raise StoreError(
                f"{run} was begun with {name} {value}, and here it is "
                f"{now['settings'][name]}: other numbers would be drawn. Set "
                f"{variable}={text} and give the same command again"
            )


def _rounding(last: dict[str, Any], now: dict[str, Any]) -> dict[str, list]:
    """What differs that may change how numbers are rounded: before and now."""
    a, b = _rounded_by(last), _rounded_by(now)
    return {n: [a[n], b[n]] for n in b if n in a and a[n] != b[n]}


def _rounded_by(session: dict[str, Any]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    packages, settings = session.get("packages"), session.get("settings")
    if isinstance(packages, dict):
        known |= {n: packages[n] for n in ("lth", "jax", "jaxlib") if n in packages}
    if isinstance(settings, dict):
        known |= {n: settings[n] for n in ROUNDS if n in settings}
    fields = ("processor", "devices", "xla_flags")
    return known | {n: session[n] for n in fields if n in session}


def begun(run: Path) -> str:
    """The day and time at which a run was begun, as it is recorded; else '?'."""
    try:
        started = json.loads((run / "environment.json").read_text())[0]["started"]
    except (OSError, ValueError, LookupError, TypeError):
        return "?"
    return str(started)[:16].replace("T", " ")


def _processor() -> str:
    """The processor, by name where the system tells it, and how many cores it has."""
    name = platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            field, _, value = line.partition(":")
            if field.strip() == "model name":
                name = value.strip()
                break
    return f"{name}, {os.cpu_count()} cores"


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
