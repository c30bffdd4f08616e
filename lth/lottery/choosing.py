"""Which channels stay: exact numbers of them, by scores {name of a space: [size]}.

On the host, where a network is sliced anew in every round: `compress.whole.keep_top`
makes the same choice of one channel a space at least inside of programs, which would
be compiled for each number of channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lth.compress import Space, slices
from lth.masks import topk

Channels = Mapping[str, Any]  # by the name of a space, an array [size]
Kept = dict[str, np.ndarray]  # by the name of a space, indices of channels


def over_all(
    scores: Channels, density: float, alive: Channels | None = None, least: int = 1
) -> Kept:
    """Keep the highest scores of all spaces together.

    Args:
      scores: of every channel; higher is kept.
      density: of channels, in (0, 1]: `max(1, round(density * channels))` stay.
      alive: booleans [size] by space: those that are there still; by default all.
      least: how many channels every space keeps at least, whatever their scores, or
        all that it has left.

    Returns:
      What stays of each space. Equal scores: the first space, and the lower index.

    Raises:
      ValueError: for NaN, with the space, and for a density that cannot be reached,
        with those that can.
    """
    arrays = {name: np.asarray(s, np.float64) for name, s in scores.items()}
    there = {n: np.ones(len(s), bool) for n, s in arrays.items()}
    there |= {n: np.asarray(a, bool) for n, a in (alive or {}).items()}
    _refuse_nan(arrays, there)
    total = sum(map(len, arrays.values()))
    count = topk.round_count(density, total)
    low = sum(min(least, int(there[n].sum())) for n in arrays)
    high = sum(int(there[n].sum()) for n in arrays)
    if not low <= count <= high:
        raise ValueError(
            f"{count} of {total} channels cannot stay, at least {least} of each space "
            f"and none that is gone: {low} to {high} can, a density of "
            f"{low / total:.4g} to {high / total:.4g}; got {density}"
        )
    ranks = [
        (rank < least, score, space, channel)
        for space, name in enumerate(arrays)
        for rank, (score, channel) in enumerate(_ordered(arrays[name], there[name]))
    ]
    ranks.sort(key=lambda r: (not r[0], -r[1], r[2], r[3]))
    chosen: dict[str, list[int]] = {name: [] for name in arrays}
    for _, _, space, channel in ranks[:count]:
        chosen[[*arrays][space]].append(channel)
    return {name: np.sort(np.array(c, int)) for name, c in chosen.items()}


def in_each(
    scores: Channels, density: float, alive: Channels | None = None, least: int = 1
) -> Kept:
    """Keep the same share of every space, as Li et al. (2017) do within a stage.

    Args:
      scores, density, alive, least: as in `over_all`, each space by itself.

    Returns:
      What stays of each space.

    Raises:
      ValueError: as `over_all` does.
    """
    kept = {}
    for name, values in scores.items():
        floor = min(1.0, least / len(values))
        own = None if alive is None else {name: alive[name]}
        kept |= over_all({name: values}, max(density, floor), own, least)
    return kept


def costs(macs: Mapping[str, int], params: Any, spaces: Sequence[Space]) -> Channels:
    """Count the multiply-accumulates that go with one channel of each space.

    Args:
      macs: of one example, by the path of the weights read, as `analysis.cost.work` and
        `Recipe.work` give them.
      params: of the whole network, or their shapes.
      spaces: of the network.

    Returns:
      By space an array [size], alike for all its channels.
    """
    shapes = {p: x.shape for p, x in slices.by_path({"params": params}).items()}
    found = {}
    for space in spaces:
        each = 0.0
        for (path, axis), index in space.members.items():
            if path in shapes:
                own = macs.get(path.removeprefix("params/"), 0)
                each += own * index.shape[1] / shapes[path][axis]
        found[space.name] = np.full(space.size, each)
    return found


def priced(scores: Channels, costs: Channels, rate: float = 1e-3) -> Channels:
    """Take from each score `rate` times the millions that its channel multiplies.

    The regularisation by FLOPs of Molchanov et al. (2017, section 2.3), of scores that
    are normalised within layers.
    """
    return {
        n: np.asarray(s) - rate * np.asarray(costs[n]) / 1e6 for n, s in scores.items()
    }


def _ordered(scores: np.ndarray, there: np.ndarray) -> list[tuple[float, int]]:
    """The channels that are there with their scores, the highest first."""
    order = np.argsort(-scores, kind="stable")
    return [(float(scores[i]), int(i)) for i in order if there[i]]


def _refuse_nan(scores: Channels, there: Channels) -> None:
    for name, values in scores.items():
        if np.isnan(values[there[name]]).any():
            raise ValueError(f"the scores of {name} have NaN among them")
