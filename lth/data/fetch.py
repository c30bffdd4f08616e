"""Find data files on disk, or download them and check what came."""

import hashlib
import http.client
import os
import tempfile
import urllib.request
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

from lth.data.errors import DataError, DataWarning

TIMEOUT = 30  # seconds without a byte
LARGEST = 2**30  # bytes; the largest file we know of has 562 million
CHUNK = 2**20


class Remote(NamedTuple):
    """Names a published file, the MD5 of its bytes, and where it may be had."""

    name: str
    md5: str
    addresses: tuple[str, ...]


def folders(data_dir: str | Path | None) -> list[Path]:
    """Return where data is looked for: `data_dir`, else LTH_DATA, then the cache."""
    given = data_dir or os.environ.get("LTH_DATA")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lth"
    return [Path(given).expanduser(), cache] if given else [cache]


def present(folder: Path, names: Sequence[str]) -> list[Path] | None:
    """Return the paths of files in a folder, gzipped or not; None if one lacks."""
    found = [_present(folder, name) for name in names]
    paths = [path for path in found if path is not None]
    return paths if len(paths) == len(names) else None


def find(
    folder: str,
    files: Sequence[Remote],
    data_dir: str | Path | None,
    also: Sequence[str] = (),
    check: bool = True,
) -> list[Path]:
    """Find `files`, gzipped or not, in the first place that holds them all.

    Files found are used as they are, with a DataWarning where one has not its published
    MD5; files downloaded must have it.

    Args:
      folder: under each data folder.
      files: what is needed.
      data_dir: the data folder, as in `folders`.
      also: other layouts that would serve and that the caller has looked for in the
        same folders; the error names them.
      check: whether files found are compared with their published MD5.

    Returns:
      A path for each of `files`.

    Raises:
      DataError: where they are nowhere and cannot be downloaded; it says which files to
        put where.
    """
    places = [place / folder for place in folders(data_dir)]
    for place in places:
        paths = present(place, [file.name for file in files])
        if paths is not None:
            if check:
                _compare(paths, files)
            return paths
    try:
        return [_download(file, places[0]) for file in files]
    except (OSError, http.client.HTTPException) as error:
        names = "\n".join(f"  {places[0] / file.name}" for file in files)
        others = "".join(f"or  {places[0] / layout}\n" for layout in also)
        raise DataError(
            f"no {folder} data in {', '.join(map(str, places))}, "
            f"and it cannot be downloaded ({error}). "
            f"Put these files there, gzipped or not:\n{names}\n{others}"
            "or say where they are with --data-dir or the variable LTH_DATA"
        ) from None


def _compare(paths: Sequence[Path], files: Sequence[Remote]) -> None:
    """Warn of files that are not those published; unpacked ones are not known."""
    for path, file in zip(paths, files, strict=True):
        if path.name != file.name:
            continue
        digest = md5(path)
        if digest != file.md5:
            warnings.warn(
                f"{path} is not the file that was published: its MD5 is {digest}, that "
                f"of {file.name} is {file.md5}",
                DataWarning,
                stacklevel=4,
            )


def md5(path: Path) -> str:
    """Return the MD5 of a file's bytes; of one that cannot be read, why."""
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        return f"unknown, for it cannot be read ({error.strerror})"
    return digest.hexdigest()


def slurp(path: Path, limit: int) -> bytes:
    """Read the bytes of a file of at most `limit` of them.

    Raises DataError.
    """
    try:
        with path.open("rb") as file:
            body = file.read(limit + 1)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    if len(body) > limit:
        raise DataError(f"{path}: more than {limit} bytes, which is more than allowed")
    return body


def _present(folder: Path, name: str) -> Path | None:
    for path in (folder / name, folder / name.removesuffix(".gz")):
        if path.is_file():
            return path
    return None


def _download(file: Remote, folder: Path) -> Path:
    """Fetch a file into `folder`, where it appears whole and checked or not at all."""
    there = _present(folder, file.name)
    if there is not None:
        return there
    folder.mkdir(parents=True, exist_ok=True)
    error: Exception = OSError("no address is known")
    for address in file.addresses:
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as temporary:
            try:
                md5 = _copy(address, temporary)
            except (OSError, http.client.HTTPException) as failure:
                error, md5 = failure, None
        if md5 == file.md5:
            os.replace(temporary.name, folder / file.name)
            return folder / file.name
        os.unlink(temporary.name)
        if md5 is not None:
            error = OSError(f"{address} has MD5 {md5}, expected {file.md5}")
    raise error


def _copy(address: str, file: IO[bytes]) -> str:
    """Copy what is at `address` into `file`; the MD5 of its bytes."""
    digest, size = hashlib.md5(usedforsecurity=False), 0
    with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
        while chunk := answer.read(CHUNK):
            size += len(chunk)
            if size > LARGEST:
                raise OSError(f"{address} has more than {LARGEST} bytes")
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()
