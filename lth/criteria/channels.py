"""What each channel is worth: the scores that filters are pruned by; higher is kept.

A channel lies in several leaves, as a `compress.Space` says: the filters that make it,
what lies beside them, and the weights that read it. Scores are {name of a space:
[size]}, which `masks.keep_top` takes as it takes any tree.
"""

from lth.criteria.channel_examples import fisher, taylor, taylor_abs
from lth.criteria.channel_gates import (
    gated,
    obd,
    oracle,
    taylor_batch,
    taylor_squared,
)
from lth.criteria.channel_pooling import (
    Agreement,
    Channels,
    Space,
    filter_l1,
    filter_l2,
    mean_activation,
    nonzero_share,
    norm_scale,
    normalised,
    pooled,
    random,
    rank_correlation,
)

__all__ = [
    "Agreement",
    "Channels",
    "Space",
    "filter_l1",
    "filter_l2",
    "fisher",
    "gated",
    "mean_activation",
    "nonzero_share",
    "norm_scale",
    "normalised",
    "obd",
    "oracle",
    "pooled",
    "random",
    "rank_correlation",
    "taylor",
    "taylor_abs",
    "taylor_batch",
    "taylor_squared",
]
