"""Data sets made by scikit-learn: they need no files."""

from pathlib import Path
from typing import Any

import numpy as np

from lth.data.dataset import Dataset, hold_out
from lth.data.errors import DataError

TEST_SEED = 42  # of the published study's split, whatever the problem's seed


def digits(data_dir: Path | None) -> tuple[Dataset, Dataset]:
    """Load scikit-learn's 1797 handwritten digits of 8 x 8 pixels in [0, 16].

    They come in no split of their own: 360 drawn with a fixed seed are the test set.
    """
    from sklearn.datasets import load_digits  # a second's import, only where needed

    bunch: Any = load_digits()
    image = bunch.images[..., None].astype(np.uint8)
    return hold_out(Dataset(image, bunch.target.astype(np.int32)), 360, seed=0)


def linear(
    n: int, features: int, informative: int, noise: float, seed: int
) -> tuple[Dataset, np.ndarray]:
    """Make a linear problem and its coefficients: scikit-learn's `make_regression`.

    Features are normal; the target is a combination of some of them, whose coefficients
    are uniform in [0, 100] and the rest 0, plus normal noise. Then each feature and the
    target are divided by their greatest absolute value.

    Args:
      n: examples, at least 2.
      features: of each.
      informative: how many of them matter, in [1, features].
      noise: standard deviation of the noise, at least 0, before the division.
      seed: of the draws.

    Returns:
      The data, features [n, features] and targets [n], and the coefficients [features]
      of the divided problem.

    Raises:
      DataError: for values out of these ranges.
    """
    if not (0 < informative <= features and n >= 2 and noise >= 0):
        raise DataError(
            "a regression problem has at least 2 examples, 1 to all of its features "
            f"informative and noise of at least 0; got n={n}, features={features}, "
            f"informative={informative}, noise={noise}"
        )
    from sklearn.datasets import make_regression

    made: Any = make_regression(
        n, features, n_informative=informative, noise=noise, coef=True,
        random_state=seed,
    )  # fmt: skip
    x, y, coefficients = made
    width, height = np.abs(x).max(0), np.abs(y).max()
    data = Dataset((x / width).astype(np.float32), (y / height).astype(np.float32))
    return data, coefficients * width / height


def regression(
    data_dir: Path | None,
    *,
    n: int,
    features: int,
    informative: int,
    noise: float,
    seed: int,
) -> tuple[Dataset, Dataset]:
    """Make the problem of `linear`; a fifth, drawn with a fixed seed, is the test set.

    Args:
      data_dir: unread, as the data needs no files.
      n, features, informative, noise, seed: as in `linear`.

    Returns:
      The training and the test set.

    Raises:
      DataError: as `linear` does.
    """
    data, _ = linear(n, features, informative, noise, seed)
    return hold_out(data, max(1, n // 5), TEST_SEED)
