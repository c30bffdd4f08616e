"""The files of an OpenLTH run: which there are, and what they hold.

    lottery_<hash>/replicate_R/level_pretrain/main/   the training before a rewind point
    lottery_<hash>/replicate_R/level_L/main/
        hparams.log          settings, of level 0
        mask.pth             the mask that the level was trained under
        model_epE_itI.pth    weights where its training began and ended
        logger               lines of name, iteration and value
        checkpoint.pth       a training under way, which is not read

Files are from outside: what is not as it should be is refused, with its path.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lth.compress import torch_files
from lth.data.errors import DataError

LARGEST = 2**26  # bytes of a file of text
METRICS = ("test_loss", "test_accuracy")
LINE = re.compile(r"(\w+),(\d+),(-?[\d.]+(?:e[+-]?\d+)?)")


class Found(NamedTuple):
    """Holds the folders of a run that are read, and says which are not."""

    replicates: Mapping[int, Path]  # by number
    settings: str  # what `hparams.log` says
    left_out: tuple[str, ...]  # in words


class Trained(NamedTuple):
    """Holds what the files of one level of one replicate say, beside its mask."""

    start: Mapping[str, np.ndarray]
    end: Mapping[str, np.ndarray]
    curves: Mapping[str, Mapping[int, float]]  # by metric and iteration


def find(folder: str | Path) -> Found:
    """Find the replicates of a run in the folder `lottery_…` of it.

    Raises DataError where there are none, or where they have different settings.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a run of OpenLTH: there is no such folder")
    found = _numbered(folder, "replicate")
    if not found:
        inside = sorted(p.name for p in folder.glob("lottery_*") if p.is_dir())
        why = "OpenLTH keeps a run as lottery_…/replicate_1/level_0/main"
        more = f"; give one of {', '.join(inside)}" if inside else ""
        raise DataError(f"{folder} holds no folder replicate_1: {why}{more}")
    texts = {
        number: text(path / "level_0" / "main" / "hparams.log")
        for number, path in found.items()
    }
    first, *others = texts
    for number in others:
        if texts[number] != texts[first]:
            raise DataError(
                f"{folder}: replicates {first} and {number} have different settings in "
                "hparams.log, so they are not of one run"
            )
    branches = sorted(
        {p.name for p in folder.glob("replicate_*/level_*/*") if p.name != "main"}
    )
    left_out = [f"the branch {name}" for name in branches]
    return Found(found, texts[first], tuple(left_out))


def levels(found: Found, start: str, end: str) -> tuple[int, list[str]]:
    """Count the levels from 0 on that all replicates have whole.

    Args:
      found: The run.
      start: What the file of weights at the start of a training is called.
      end: The same, of its end.

    Returns:
      How many there are, and in words what lies beyond them.

    Raises:
      DataError: where level 0 is not whole.
    """
    whole = dict.fromkeys(found.replicates, 0)
    for number, path in found.replicates.items():
        while not _missing(path, whole[number], start, end):
            whole[number] += 1
    count = min(whole.values())
    if not count:
        number = next(n for n in whole if not whole[n])
        path = found.replicates[number]
        raise DataError(
            f"{path / 'level_0' / 'main'} lacks "
            f"{', '.join(_missing(path, 0, start, end))}: its training is not over, or "
            "was of other lengths than hparams.log says"
        )
    told = [
        f"level {level} of replicate {number}, "
        + ("which is not whole" if level >= whole[number] else "which others lack")
        for number, path in found.replicates.items()
        for level in sorted(_numbered(path, "level"))
        if level >= count
    ]
    return count, told


def _missing(path: Path, level: int, start: str, end: str) -> list[str]:
    """The files that a level of a replicate lacks."""
    names = [start, end, "logger", *(["mask.pth"] if level else [])]
    main = path / f"level_{level}" / "main"
    return [name for name in names if not (main / name).is_file()]


def _numbered(folder: Path, word: str) -> dict[int, Path]:
    pairs = [
        (re.fullmatch(rf"{word}_(0|[1-9]\d{{0,8}})", path.name), path)
        for path in folder.iterdir()
        if path.is_dir()
    ]
    found = {int(match[1]): path for match, path in pairs if match}
    return dict(sorted(found.items()))


def read(path: Path, level: int, start: str, end: str) -> Trained:
    """Read a level of the replicate in `path`.

    Args:
      path: The folder of the replicate.
      level: Which.
      start: What the file of weights at the start of its training is called.
      end: The same, of its end.

    Returns:
      What its files say.

    Raises:
      DataError: for a file that is damaged or no such file.
    """
    main = path / f"level_{level}" / "main"
    return Trained(
        read_weights(main / start), read_weights(main / end), curves(main / "logger")
    )


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Read a file of weights. Raises DataError, also for one that is not finite."""
    tensors = torch_files.read(path)
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise DataError(f"{path}: {name} is not finite")
    return tensors


def read_mask(path: Path, level: int) -> dict[str, np.ndarray] | None:
    """Read the mask of a level of the replicate in `path`; None if there is no file.

    Raises DataError, also for other numbers than 0 and 1.
    """
    file = path / f"level_{level}" / "main" / "mask.pth"
    if not file.exists():
        return None
    mask = torch_files.read(file)
    for name, tensor in mask.items():
        if not np.isin(tensor, (0, 1)).all():
            raise DataError(f"{file}: {name} holds other numbers than 0 and 1")
    return mask


def curves(path: Path) -> dict[str, dict[int, float]]:
    """Read the test losses and accuracies of a logger, by metric and iteration.

    What it says of training examples is passed over. Raises DataError.
    """
    found: dict[str, dict[int, float]] = {name: {} for name in METRICS}
    for number, line in enumerate(text(path).split("\n"), 1):
        match = LINE.fullmatch(line.strip())
        if line.strip() and not match:
            raise DataError(
                f"{path}: line {number} is no name, iteration and number: "
                f"{line.strip()[:80]!r}"
            )
        if match and match[1] in found:
            try:
                value = float(match[3])
            except ValueError:
                value = math.nan
            most = 1.0 if match[1] == "test_accuracy" else math.inf
            if not 0 <= value <= most or math.isinf(value):
                raise DataError(f"{path}: line {number}: {match[1]} {match[3]}")
            found[match[1]][int(match[2])] = value
    return found


def text(path: Path) -> str:
    """Read a file of text, no larger than 64 MiB. Raises DataError."""
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"{path}: larger than the {LARGEST} bytes allowed")
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path}: cannot be read: {why}") from None
