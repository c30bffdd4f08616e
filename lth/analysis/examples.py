"""How hard each training example is for a network, and which of them to take.

Scores are numbers of examples [n]; higher is harder.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lth import masks
from lth.masks import Mask, Params, topk
from lth.train import Loss, Stats

Which = Literal["hardest", "easiest", "random"]
# (params, stats, batch) -> of each example, as `objective.measure` is
Measure = Callable[[Params, Stats, Any], Any]


def el2n(logits: Any, labels: Any) -> jax.Array:
    """Score |softmax(logits) - one-hot(label)|: the length of the error, in [0, √2].

    Paul et al. (2021, arXiv:2107.07075), there of networks trained for a few epochs and
    in the mean over several. It is about the gradient's length where the logits'
    gradients are alike and orthogonal.

    Args:
      logits: [..., classes].
      labels: [...], integers in [0, classes); one of each position of a text, say.

    Returns:
      The scores [...], in float32 or wider.

    Raises:
      ValueError: for labels that are no classes: not integers, of another shape, or,
        where their values are known, outside [0, classes).
    """
    logits, classes = jnp.asarray(logits), np.shape(logits)[-1]
    _check_labels(labels, logits.shape)
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    wanted = jax.nn.one_hot(labels, classes, dtype=wide.dtype)
    return jnp.linalg.norm(jax.nn.softmax(wide) - wanted, axis=-1)


def _check_labels(labels: Any, logits: tuple[int, ...]) -> None:
    kind, shape = jnp.asarray(labels).dtype, np.shape(labels)
    if not jnp.issubdtype(kind, jnp.integer):
        raise ValueError(f"labels are integers, the numbers of classes; got {kind}")
    if shape != logits[:-1]:
        raise ValueError(
            f"labels are as many as rows of logits, {list(logits[:-1])}; got "
            f"{list(shape)}"
        )
    if isinstance(labels, Tracer) or not np.size(labels):
        return
    low, high = np.min(labels), np.max(labels)
    if low < 0 or high >= logits[-1]:
        raise ValueError(
            f"labels are in [0, {logits[-1]}); got some in [{low}, {high}]"
        )


def grand(
    loss: Loss, params: Params, stats: Stats, batch: Any, mask: Mask, key: jax.Array
) -> jax.Array:
    """Score |∂L/∂w| of each example alone (Paul et al. 2021, arXiv:2107.07075).

    The gradient is that of the weights left. Each example is a batch of one, so batch
    norm has to go by its running averages: of such networks give a `loss` in evaluation
    rather than the one that is trained, such as the mean of `objective.measure`'s.

    Args:
      loss: As of `train.make_train`.
      params, stats: Of one network.
      batch: A tree of [n, ...]; n gradients are in memory at once.
      mask: Pruned weights are 0 and have no gradient.
      key: Of dropout and the like, the same for each example.

    Returns:
      The scores [n], in float32 or wider.
    """
    params = masks.apply(params, mask)

    def value(params, alone):
        return loss(params, stats, alone, key)[0]

    def one(example):
        alone = jax.tree.map(lambda x: x[None], example)
        slope = masks.apply(jax.grad(value)(params, alone), mask)
        return jnp.sqrt(sum(jnp.sum(_wide(g) ** 2) for g in jax.tree.leaves(slope)))

    return jax.vmap(one)(batch)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def forgetting(correct: Any) -> jax.Array:
    """Count how often each example was right and is wrong the next time.

    Toneva et al. (2019, arXiv:1812.05159). An example that is never right has nothing
    to forget and is the hardest all the same: its count is the number of times, at
    least twice what any other can have, where infinity would be no integer.

    Args:
      correct: [times, examples], booleans, in the order of training.

    Returns:
      The counts [examples], int32.

    Raises:
      ValueError: for anything but booleans [times, examples].
    """
    correct = jnp.asarray(correct)
    if correct.dtype != bool or correct.ndim != 2:
        raise ValueError(
            "correct is booleans [times, examples]; got "
            f"{correct.dtype} {list(correct.shape)}"
        )
    lost = jnp.sum(correct[:-1] & ~correct[1:], 0, dtype=jnp.int32)
    return jnp.where(jnp.any(correct, 0), lost, jnp.int32(len(correct)))


def measured(
    measure: Measure,
    params: Params,
    stats: Stats,
    parts: Iterable[Any],
    chunk: int = 1000,
) -> Any:
    """Measure every example of all parts, one after the other.

    It may be mapped over networks, not jitted whole: parts are read as they come. What
    is compiled is kept for as long as `measure` is the same function.

    Args:
      measure: `measure(params, stats, batch)`, a tree of [n, ...] for n examples.
      params, stats: Of one network.
      parts: Trees of [n, ...], such as `objective.examples()`.
      chunk: How many examples are measured at once.

    Returns:
      The tree of [examples, ...], in the order of the parts.

    Raises:
      ValueError: where there are no examples.
    """
    found = [_measured(measure, chunk, params, stats, part) for part in parts]
    if not found:
        raise ValueError("there are no examples to measure")
    return jax.tree.map(lambda *each: jnp.concatenate(each), *found)


@partial(jax.jit, static_argnums=(0, 1))
def _measured(measure: Measure, chunk: int, params, stats, part: Any) -> Any:
    examples = jax.tree.leaves(part)[0].shape[0]
    size = min(chunk, examples)
    starts = jnp.arange(0, examples, size)

    def one(start):
        # The last chunk is filled up with its last example, which is cut off below.
        index = jnp.minimum(start + jnp.arange(size), examples - 1)
        return measure(params, stats, jax.tree.map(lambda x: x[index], part))

    found = jax.lax.map(one, starts)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:examples], found)


def scores_of(
    apply: Callable,
    params: Params,
    stats: Stats,
    parts: Iterable[tuple[Any, Any]],
    score: Callable[[Any, Any], jax.Array],
    chunk: int = 1000,
) -> jax.Array:
    """Score every example by a network's outputs, in evaluation, and its targets.

    Args:
      apply: As of `models.Model`.
      params, stats: Of one network; the mean of the scores of several is steadier.
      parts: Pairs of inputs and targets [n, ...], such as a `data.Dataset` is and
        `objective.examples()` gives of one.
      score: Such as `el2n`. Of examples with several targets, such as texts, the mean.
      chunk: How many examples go through the network at once.

    Returns:
      The scores [examples], in the order of the parts.

    Raises:
      ValueError: for parts that are no pairs; `measured` takes any tree.
    """
    return measured(_scored(apply, score), params, stats, map(_pair, parts), chunk)


@lru_cache(8)  # the same function of the same two, so that it is compiled once
def _scored(apply: Callable, score: Callable) -> Measure:
    def measure(params, stats, batch):
        inputs, targets = batch
        found = score(apply(params, stats, inputs, False, None)[0], targets)
        return found.reshape(len(found), -1).mean(-1)

    return measure


def _pair(part: Any) -> tuple[Any, Any]:
    if not isinstance(part, tuple) or len(part) != 2:
        raise ValueError(
            f"parts are pairs of inputs and targets; got {type(part).__name__}"
        )
    return part


def chosen(
    scores: Any, share: float, which: Which = "hardest", key: jax.Array | None = None
) -> jax.Array:
    """Choose a share of the examples: `max(1, round(share * n))`, halves to even.

    Args:
      scores: [n], higher is harder; of random ones only their number matters.
      share: In (0, 1].
      which: `hardest` or `easiest`, of equal scores the lower index; or `random`.
      key: Of the random ones.

    Returns:
      The indices, int32 and rising.

    Raises:
      ValueError: for a share outside (0, 1], for other `which`, without the key that
        `random` needs, and for scores that are not numbers, where values are known.
    """
    scores = jnp.asarray(scores)
    if scores.ndim != 1 or not scores.size:
        raise ValueError(f"scores are [n], of an example or more; got {scores.shape}")
    if not 0 < share <= 1:
        raise ValueError(f"share is of the examples, in (0, 1]; got {share}")
    if which not in ("hardest", "easiest", "random"):
        raise ValueError(f"which is 'hardest', 'easiest' or 'random'; got {which!r}")
    if which == "random":
        if key is None:
            raise ValueError("random examples need a key")
        order = jax.random.permutation(key, len(scores))
    else:
        if not isinstance(scores, Tracer) and bool(jnp.any(jnp.isnan(scores))):
            raise ValueError("NaN among the scores: they rank nothing")
        order = jnp.argsort(scores, stable=True, descending=which == "hardest")
    count = topk.round_count(share, len(scores))
    return jnp.sort(order[:count]).astype(jnp.int32)
