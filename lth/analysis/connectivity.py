"""Networks between networks: on a line, in a hull, averaged; and what is lost there.

States are of all replicates, [r, …], and share the shapes of their weights; they may
share a mask or not. Where all keep the same weights, so do all states between them.

Batch-norm averages of a mixture are the mixture of averages, which do not fit it: what
then looks like a barrier may be theirs. `paths` takes them anew where it is asked to.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from lth.train import Metrics, TrainState
from lth.train.averaging import average, check_alike, mixed

Ends = Literal["mean", "line"]

__all__ = [
    "average",
    "barrier",
    "barriers",
    "check_alike",
    "line",
    "mixed",
    "paths",
]


def line(points: int, ends: tuple[int, int] = (0, 1), count: int = 2) -> np.ndarray:
    """Return the weights [points, count] of a line from one state to another."""
    share = np.linspace(0, 1, points)
    weights = np.zeros((points, count))
    weights[:, ends[0]] = 1 - share
    weights[:, ends[1]] += share
    return weights


def paths(
    measure: Callable[[TrainState], Metrics],
    states: Sequence[TrainState],
    *,
    points: int = 11,
    pairs: Iterable[tuple[int, int]] | None = None,
    settle: Callable[[TrainState], TrainState] | None = None,
) -> dict[str, np.ndarray]:
    """Measure networks on the lines between states, all of them in one call.

    Ends that lines share are measured once.

    Args:
      measure: Such as `recipe.measures["test"]`: means over a split, of any number of
        networks.
      states: m of them, each [r, …].
      points: On a line, its two ends among them, at equal distances; at least 2.
      pairs: The states that lines join, by place; all pairs by default.
      settle: Takes the batch-norm averages of states anew, such as
        `lambda s: recipe.objective.reestimate(s, keys, 50)` with a key for each; by
        default the averages are averaged as the weights are.

    Returns:
      By metric the values [pairs, points, r].

    Raises:
      ValueError: for states that are not of the same shapes.
    """
    if points < 2:
        raise ValueError(f"points of a line are at least 2; got {points}")
    count, r = len(states), len(np.ravel(states[0].step))
    joined = list(itertools.combinations(range(count), 2) if pairs is None else pairs)
    rows, where = [np.eye(count)], []
    for i, pair in enumerate(joined):
        rows.append(line(points, pair, count)[1:-1])
        inner = count + i * (points - 2) + np.arange(points - 2)
        where.append([pair[0], *inner, pair[1]])
    state = mixed(states, np.concatenate(rows))
    values = measure(state if settle is None else settle(state))
    each = {name: np.asarray(v).reshape(-1, r) for name, v in values.items()}
    return {name: v[np.asarray(where)] for name, v in each.items()}


def barrier(errors: Any, ends: Ends = "mean") -> np.ndarray:
    """Return how much worse than its ends the worst point of a path is.

    `mean` takes the mean of both ends from the largest error (Frankle et al. 2020,
    arXiv:1912.05671, section 2); a path that falls from one end to the other then has
    half their difference. `line` takes from each error the one that lies on the line
    between the ends (Entezari et al. 2022, arXiv:2110.06296), and is 0 there.

    Args:
      errors: [points, …], along the path at equal distances: errors, or a loss.
      ends: `mean` or `line`.

    Returns:
      The barrier [...], in the unit of the errors, at least 0.

    Raises:
      ValueError: for other `ends`.
    """
    errors = np.asarray(errors, np.float64)
    first, last = errors[0], errors[-1]
    if ends == "mean":
        return errors.max(0) - (first + last) / 2
    if ends != "line":
        raise ValueError(f"ends is 'mean' or 'line'; got {ends!r}")
    share = np.linspace(0, 1, len(errors)).reshape(-1, *[1] * (errors.ndim - 1))
    return (errors - ((1 - share) * first + share * last)).max(0)


def barriers(curves: Mapping[str, np.ndarray], ends: Ends = "mean") -> dict[str, Any]:
    """Return the barriers of what `paths` measured, [pairs, r] by metric.

    A loss is taken as it is; of a score, higher being better, the error is 1 less it.
    """
    along = {
        name: np.moveaxis(v if "loss" in name else 1 - v, 1, 0)
        for name, v in curves.items()
    }
    return {name: barrier(v, ends) for name, v in along.items()}
