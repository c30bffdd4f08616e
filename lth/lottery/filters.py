"""Pruning of filters: score the channels, choose, remove, fine-tune, in rounds.

The loop of Molchanov et al. (2017, arXiv:1611.06440) and Li et al. (2017,
arXiv:1608.08710). A channel goes with all that belongs to it, as its `compress.Space`
says. `pruned` slices one network smaller in every round, which saves time and needs
new programs; `make_prune` is that of a recipe, whose masks leave nothing of a channel
where it is made nor where it is read, so that all replicates share the programs of a
run and what is stored can be sliced exactly (`compress.shrink`).

Scores are {name of a space: [size]}, such as those of `criteria.channels`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lth import compress, masks
from lth.compress import Shrunk, Space
from lth.lottery import choosing
from lth.lottery.choosing import Channels, Kept
from lth.lottery.pruning import Prune
from lth.masks import topk
from lth.train import TrainState

Choose = Callable[..., Kept]  # as `choosing.over_all`


class Filtered(NamedTuple):
    """Holds a network after a round."""

    level: int  # rounds behind it
    kept: Kept  # its channels, in the indices of the whole network
    state: TrainState  # of the smaller network, fine-tuned
    shrunk: Shrunk  # that network before it was, its `apply`, and the proof


def pruned(
    apply: Callable,
    state: TrainState,
    densities: Iterable[float],
    *,
    inputs: Any,
    score: Callable[[Callable, TrainState, Sequence[Space]], Channels],
    train: Callable[[Callable, TrainState], TrainState],
    choose: Choose = choosing.over_all,
    least: int = 1,
) -> Iterator[Filtered]:
    """Prune the channels of a trained network, slice it, fine-tune; again and again.

    Args:
      apply: as in `models.Model`, of modules or functions that take their widths from
        the params (`compress.shrink`).
      state: of one network, trained. Slots of its optimizer are sliced along.
      densities: of channels, after each round; fractions of those of the whole network.
      inputs: a batch, on which each shrink proves itself.
      score: `score(apply, state, spaces)` ranks the channels that are there.
      train: `train(apply, state)` fine-tunes.
      choose: `choosing.over_all` or `in_each`, or a function like them.
      least: how many channels a space keeps.

    Yields:
      The network after each round.

    Raises:
      ValueError: as `choosing.over_all` does.
      ShrinkError: for a network that cannot be made smaller.
    """
    spaces = compress.find(apply, state.params, state.stats, inputs)
    kept = {space.name: np.arange(space.size) for space in spaces}
    total = sum(space.size for space in spaces)
    for level, density in enumerate(densities, 1):
        here = sum(space.size for space in spaces)
        share = topk.round_count(density, total) / here
        if share > 1:
            raise ValueError(f"densities fall; got {density} where {here} are left")
        now = choose(score(apply, state, spaces), share, None, least)
        shrunk = compress.shrink(
            apply, state.params, state.stats, inputs, now, found=spaces
        )
        whole = {"params": state.params, "stats": state.stats}
        state = state._replace(
            params=shrunk.params,
            stats=shrunk.stats,
            opt_state=compress.sliced(state.opt_state, whole, spaces, now),
        )
        apply = shrunk.apply
        state = train(apply, state)
        kept = {name: index[now[name]] for name, index in kept.items()}
        yield Filtered(level, kept, state, shrunk)
        spaces = _narrowed(spaces, now)


def make_prune(
    score: Callable[..., Channels],
    spaces: Sequence[Space],
    *,
    choose: Choose = choosing.over_all,
    least: int = 1,
) -> Prune:
    """Prune channels of every replicate of a ticket, as many of each.

    Density is that of channels here, so that of weights, which tables have, is lower.

    Args:
      score: `score(early, state, mask, keys)` ranks the channels of all replicates, by
        space [r, size].
      spaces: of the network.
      choose: `choosing.over_all` or `in_each`, or a function like them.
      least: how many channels a space keeps.

    Returns:
      `prune(early, ticket, density, keys)`, as a recipe has it.
    """

    def prune(early, ticket, density, keys):
        scores = jax.device_get(score(early, ticket.state, ticket.mask, keys))
        failed = np.asarray(ticket.metrics["failed"])[:, 0] >= 0
        each = []
        for i, lost in enumerate(failed):
            mask = jax.tree.map(lambda m, i=i: np.asarray(m[i]), ticket.mask)
            one = {n: np.zeros(s.shape[1]) if lost else s[i] for n, s in scores.items()}
            kept = choose(one, density, alive(mask, spaces), least)
            each.append(covered(mask, spaces, kept))
        return jax.tree.map(lambda *m: jnp.stack(m), *each)

    return prune


def alive(mask: masks.Mask, spaces: Sequence[Space]) -> Channels:
    """Say which channels a mask leaves, by space booleans [size]."""
    living = compress.living(mask, spaces)
    sizes = {space.name: space.size for space in spaces}
    return {n: np.isin(np.arange(sizes[n]), kept) for n, kept in living.items()}


def covered(mask: masks.Mask, spaces: Sequence[Space], kept: Kept) -> masks.Mask:
    """Mask all that makes or reads a channel which is not kept, of one network.

    What no mask covers, such as its bias and its norm, says nothing then.
    """
    return compress.clear({"params": mask}, spaces, kept)["params"]


def _narrowed(spaces: Sequence[Space], kept: Kept) -> tuple[Space, ...]:
    """The spaces of the network that slicing leaves, by the same names."""
    gone: dict[Any, list[np.ndarray]] = {}
    for space in spaces:
        dead = np.setdiff1d(np.arange(space.size), kept[space.name])
        for at, index in space.members.items():
            gone.setdefault(at, []).append(index[dead].ravel())
    lost = {at: np.unique(np.concatenate(parts)) for at, parts in gone.items()}

    def moved(space):
        members = {}
        for at, index in space.members.items():
            # Where spaces cross, as heads and their width do, a channel has fewer
            # places than it had.
            left = [row[~np.isin(row, lost[at])] for row in index[kept[space.name]]]
            members[at] = np.stack(
                [row - np.searchsorted(lost[at], row) for row in left]
            )
        return space._replace(size=len(kept[space.name]), members=members)

    return tuple(moved(space) for space in spaces)
