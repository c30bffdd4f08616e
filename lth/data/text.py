"""Characters of a text, and what follows each of them."""

from pathlib import Path

import numpy as np

from lth.data import fetch
from lth.data.dataset import Dataset
from lth.data.errors import DataError

LARGEST = 2**28  # bytes
TINYSHAKESPEARE = fetch.Remote(
    "input.txt",
    "6fb458f1232090904fb40fe944165e91",
    (
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/"
        "tinyshakespeare/input.txt",
    ),
)


def tinyshakespeare(length: int, data_dir: Path | None) -> tuple[Dataset, Dataset]:
    """Read 1.1 million characters of Shakespeare's plays (Karpathy 2015).

    65 of them are different; or read whatever `tinyshakespeare/input.txt` holds. The
    last tenth is the test set.
    """
    (path,) = fetch.find("tinyshakespeare", [TINYSHAKESPEARE], data_dir)
    return read(path, length, test=0.1)


def read(path: Path, length: int, test: float) -> tuple[Dataset, Dataset]:
    """Cut the text in a file into windows; the fraction `test` at its end is for test.

    A character is a byte, and its token is its rank among the bytes that occur: a
    vocabulary without words that never come leaves no weight that cannot be learned.
    Raises DataError for what is no text, and for one without a window.
    """
    body = np.frombuffer(fetch.slurp(path, LARGEST), np.uint8)
    if (body == 0).any():
        at = int((body == 0).argmax())
        raise DataError(f"{path}: not a text: byte {at} is 0")
    _, tokens = np.unique(body, return_inverse=True)
    cut = len(body) - round(test * len(body))
    parts = tokens[:cut].astype(np.uint8), tokens[cut:].astype(np.uint8)
    for name, part in zip(("training", "test"), parts, strict=True):
        if len(part) <= length:
            raise DataError(
                f"{path}: {len(part)} characters of {name} text hold no window of "
                f"{length} and the character after it"
            )
    return windows(parts[0], length), windows(parts[1], length)


def windows(tokens: np.ndarray, length: int, stride: int | None = None) -> Dataset:
    """Cut stretches of `length` tokens, one every `stride`, and the tokens after each.

    One every `length` unless told: each token but the last few is predicted once.
    """
    stride = stride or length
    if length < 1 or stride < 1:
        raise DataError(f"a window has at least 1 token; got {length} every {stride}")
    view = np.lib.stride_tricks.sliding_window_view(tokens, length + 1)[::stride]
    return Dataset(view[:, :-1].copy(), view[:, 1:].astype(np.int32))
