"""The folder of compiled programs: code, so only what this user wrote is read."""

import contextlib
import os
import stat
import time
from pathlib import Path


def private_folder(folder: Path) -> Path | None:
    """The folder, or one beside it, that only this user writes; None if there is none.

    It is closed to others' writing, and what lies there of others goes; beside another
    user's folder there is one of one's own. Nothing depends on it but time, so a folder
    that cannot be made is no error.
    """
    folder, user = folder.absolute(), os.getuid()
    for place in (folder, folder.with_name(f"{folder.name}-{user}")):
        with contextlib.suppress(OSError):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            facts = place.lstat()
            if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != user:
                continue
            if facts.st_mode & 0o022:
                place.chmod(facts.st_mode & ~0o022)
            sweep(place)
            return place
    return None


def sweep(folder: Path) -> list[str]:
    """Remove compiled programs that are empty, or that others wrote; their names.

    JAX would neither read nor replace one that a full disk left empty.
    """
    gone = []
    for entry in os.scandir(folder):
        facts = entry.stat(follow_symlinks=False)
        foreign = facts.st_uid != os.getuid() or stat.S_ISLNK(facts.st_mode)
        old = time.time() - facts.st_mtime > 60  # a new one may be being written
        if foreign or (facts.st_size == 0 and old and entry.name.endswith("-cache")):
            with contextlib.suppress(OSError):
                os.unlink(entry.path)
                gone.append(entry.name)
    return gone
