"""Find data files on disk, or download them and check what came."""

import hashlib
import http.client
import os
import tempfile
import urllib.request
from pathlib import Path
from typing import NamedTuple

from lth.data.errors import DataError

TIMEOUT = 30  # seconds without a byte


class Remote(NamedTuple):
    """A published file: its name, the MD5 of its bytes, and where it may be had."""

    name: str
    md5: str
    addresses: tuple[str, ...]


def folders(data_dir: str | Path | None) -> list[Path]:
    """Where data is looked for: the folder given, else LTH_DATA, and then the cache."""
    given = data_dir or os.environ.get("LTH_DATA")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lth"
    return [Path(given).expanduser(), cache] if given else [cache]


def find(folder: str, files: list[Remote], data_dir: str | Path | None) -> list[Path]:
    """The paths of `files`, gzipped or not, in the first place that holds them all.

    Files found are used as they are; files downloaded must have their published MD5.
    Raises DataError that says which files to put where.
    """
    places = folders(data_dir)
    for place in places:
        found = [_present(place / folder, file.name) for file in files]
        paths = [path for path in found if path is not None]
        if len(paths) == len(files):
            return paths
    target = places[0] / folder
    try:
        return [_download(file, target) for file in files]
    except (OSError, http.client.HTTPException) as error:
        names = "\n".join(f"  {target / file.name}" for file in files)
        looked = ", ".join(str(place / folder) for place in places)
        raise DataError(
            f"no {folder} data in {looked}, and it cannot be downloaded ({error}). "
            f"Put these files there, gzipped or not:\n{names}\n"
            "or say where they are with --data-dir or the variable LTH_DATA"
        ) from None


def _present(folder: Path, name: str) -> Path | None:
    for path in (folder / name, folder / name.removesuffix(".gz")):
        if path.is_file():
            return path
    return None


def _download(file: Remote, folder: Path) -> Path:
    """Fetch a file into `folder`, where it appears whole and checked or not at all."""
    present = _present(folder, file.name)
    if present is not None:
        return present
    folder.mkdir(parents=True, exist_ok=True)
    error: Exception = OSError("no address is known")
    for address in file.addresses:
        try:
            with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
                body = answer.read()
        except (OSError, http.client.HTTPException) as failure:
            error = failure
            continue
        md5 = hashlib.md5(body, usedforsecurity=False).hexdigest()
        if md5 != file.md5:
            error = OSError(f"{address} has MD5 {md5}, expected {file.md5}")
            continue
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as temporary:
            temporary.write(body)
        os.replace(temporary.name, folder / file.name)
        return folder / file.name
    raise error
