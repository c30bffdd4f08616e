"""Scores of channels from those of weights and inputs, and how they compare.

Any criterion of weights is one of channels: its scores are added up over the weights
of each channel in each leaf, and put together over the leaves (`pooled`). Of a sum over
leaves a channel of a residual stage, which many filters make, has more than others; the
mean gives each channel one vote, and is what is taken unless something else is given.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from lth import masks
from lth.criteria import activations
from lth.criteria.gradients import wide
from lth.masks import Params, Scores

Channels = dict[str, jax.Array]  # by the name of a space, [size]
Across = Callable[..., jax.Array]  # (values [leaves, size], axis) -> [size]
MAKES = ("makes", "passes")


class Space(Protocol):
    """Stands for `compress.Space`, which says what its members are."""

    @property
    def name(self) -> str:
        """Name the layer that makes it first."""
        ...

    @property
    def size(self) -> int:
        """Count its channels."""
        ...

    @property
    def members(self) -> Mapping[tuple[str, int], np.ndarray]:
        """Give the places [size, times] of each channel, by leaf and axis."""
        ...

    def having(self, *roles: Any) -> list[tuple[str, int]]:
        """List the members that have one of these roles."""
        ...


class Agreement(NamedTuple):
    """Holds rank correlations of scores with what they estimate, in [-1, 1].

    They are NaN where all scores are alike.
    """

    each: dict[str, float]  # within each space
    whole: float  # over the channels of all spaces together

    @property
    def mean(self) -> float:
        """Average over the spaces."""
        return float(np.mean([*self.each.values()]))


def pooled(
    scores: Scores,
    spaces: Sequence[Space],
    roles: Sequence[str] = MAKES,
    within: Callable[..., jax.Array] = jnp.sum,
    across: Across = jnp.mean,
) -> Channels:
    """Put together the scores of the weights of each channel.

    Args:
      scores: a tree like the params of the network.
      spaces: of the network.
      roles: which members of a space count: those that make, pass or read a channel, or
        lie beside it (`compress.Space`).
      within: from the scores of a leaf, and the axes that are no channels, to those of
        its channels; `jnp.sum`, `jnp.mean` or `jnp.max`. The places of one channel,
        such as those of a flattened map, are pooled alike.
      across: from the scores [leaves, size] of each leaf, and the axis 0, to those of a
        space.

    Returns:
      The scores of each space, in float32 or wider.

    Raises:
      ValueError: for a space without such members among the leaves.
    """
    leaves = _leaves(wide(scores))
    found = {}
    for space in spaces:
        members = [at for at in space.having(*roles) if at[0] in leaves]
        if not members:
            raise ValueError(
                f"{space.name} has no leaf that {' or '.join(roles)} its channels"
            )
        each = []
        for path, axis in members:
            values = jnp.moveaxis(leaves[path], axis, 0)[space.members[path, axis]]
            each.append(within(values, tuple(range(1, values.ndim))))
        found[space.name] = across(jnp.stack(each), 0)
    return found


def filter_l1(
    params: Params, spaces: Sequence[Space], across: Across = jnp.mean
) -> Channels:
    """Scores Σ |w| of the filter that makes a channel (Li et al. 2017).

    arXiv:1608.08710; they compare filters within a layer. Biases do not count.
    """
    return pooled(jax.tree.map(jnp.abs, wide(params)), spaces, across=across)


def filter_l2(
    params: Params, spaces: Sequence[Space], across: Across = jnp.mean
) -> Channels:
    """Scores the l2 norm of the filter that makes a channel; biases do not count."""

    def norms(squares, axis):
        return across(jnp.sqrt(squares), axis)

    return pooled(jax.tree.map(jnp.square, wide(params)), spaces, across=norms)


def norm_scale(
    params: Params,
    spaces: Sequence[Space],
    named: str = "scale",
    across: Across = jnp.mean,
) -> Channels:
    """Scores |γ|, the scale of a normalisation beside the channel.

    Network slimming (Liu et al. 2017, arXiv:1708.06519), who train with an l1 penalty
    on the scales.

    Args:
      params: of the network.
      spaces: of those channels that a normalisation follows.
      named: the last part of the path of a scale.
      across: as in `pooled`; several normalisations can lie beside a residual sum.

    Returns:
      The scores of each space.

    Raises:
      ValueError: for a space with no scale.
    """
    rest = {
        path: jnp.abs(leaf)
        for path, leaf in _leaves(wide(params)).items()
        if path.rpartition("/")[2] == named
    }
    found = {}
    for space in spaces:
        each = [
            rest[path][space.members[path, axis][:, 0]]
            for path, axis in space.having("beside")
            if path in rest
        ]
        if not each:
            raise ValueError(f"{space.name} has no leaf {named!r} beside its channels")
        found[space.name] = across(jnp.stack(each), 0)
    return found


def mean_activation(params: Params, inputs: Any, spaces: Sequence[Space]) -> Channels:
    """Scores the mean of a channel over examples and positions, where it is read.

    `inputs` are those of each kernel, as `models.Model.intermediates` gives them, so
    that they have passed the nonlinearity.
    """
    scores = activations.mean_activation(params, inputs)
    return pooled(scores, spaces, ("reads",), within=jnp.mean)


def nonzero_share(params: Params, inputs: Any, spaces: Sequence[Space]) -> Channels:
    """Scores the share of examples and positions at which a channel is not exactly 0.

    One less the average percentage of zeros, APoZ (Hu et al. 2016, arXiv:1607.03250),
    by which high is unimportant. A dead channel scores 0. `inputs` are those of
    `mean_activation`.
    """
    scores = activations.nonzero_share(params, inputs)
    return pooled(scores, spaces, ("reads",), within=jnp.mean)


def random(spaces: Sequence[Space], key: jax.Array) -> Channels:
    """Scores uniformly in [0, 1) for each channel: the control that knows nothing."""
    keys = jax.random.split(key, len(spaces))
    return {
        space.name: jax.random.uniform(k, (space.size,))
        for space, k in zip(spaces, keys, strict=True)
    }


def normalised(
    scores: Channels, size: Callable[[jax.Array], jax.Array] = jnp.linalg.norm
) -> Channels:
    """Divides the scores of each space by their size, to compare spaces.

    That is their l2 norm, as Molchanov et al. (2017) do, or `jnp.mean` or `jnp.max`.
    """

    def space(s):
        whole = size(s)
        return s / jnp.where(whole > 0, whole, 1)

    return jax.tree.map(space, scores)


def rank_correlation(scores: Channels, truth: Channels) -> Agreement:
    """Correlate the ranks of scores with those of what they estimate.

    Spearman's coefficient, with mean ranks for ties; `truth` is usually the absolute
    value of `oracle`.
    """
    each = {name: _spearman(scores[name], truth[name]) for name in truth}
    flat = [
        np.concatenate([np.ravel(x[name]) for name in truth]) for x in (scores, truth)
    ]
    return Agreement(each, _spearman(*flat))


def _spearman(a: Any, b: Any) -> float:
    a, b = np.asarray(a), np.asarray(b)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    from scipy import stats  # only here: it takes longer to import than JAX

    found: Any = stats.spearmanr(a, b)
    return float(found.statistic)


def _leaves(params: Any) -> dict[str, jax.Array]:
    """The leaves by the paths that spaces have for them."""
    named = jax.tree_util.tree_leaves_with_path({"params": params})
    return {masks.name(path): leaf for path, leaf in named}
