"""Why runs failed, beside them: a run that could not begin has no folder of its own."""

import contextlib
import json
import os
import socket
import time
from pathlib import Path

from lth.lab.store.checkpoint import write, writing


def save_reason(run: Path, reason: str, trace: str) -> None:
    """Remember why a run failed, for whoever asks after it."""
    path = _place(run)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    where = f"process {os.getpid()} on {socket.gethostname()}"
    content = {"reason": reason, "time": time.time(), "where": where, "trace": trace}
    write(path, json.dumps(content, indent=1) + "\n")


def reason(run: Path) -> str:
    """Return why a run failed; an empty text if it did not, or has gone on since."""
    try:
        return str(json.loads(_place(run).read_text())["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def drop_reason(run: Path) -> None:
    """Forget that a run failed."""
    with contextlib.suppress(OSError):
        _place(run).unlink()


def _place(run: Path) -> Path:
    return run.parent / ".failed" / f"{run.name}.json"
