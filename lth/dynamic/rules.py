"""Rules that change a mask during training, for `dynamic.sparsify`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lth import criteria, masks
from lth.dynamic.transform import Rule
from lth.masks import Density, Mask, Params, schedules, topk

Drop = Callable[[jax.Array], jax.Array]  # step -> the fraction of weights dropped


def gradual(
    schedule: schedules.Schedule | schedules.ByPath,
    steps: int,
    scores: Callable[[Params], masks.Scores] = criteria.magnitude,
    keep: Callable[..., Mask] = masks.keep_top,
) -> Rule:
    """Prune while training for `steps`, along a schedule of densities.

    Gradual magnitude pruning (Zhu & Gupta 2017, arXiv:1710.01878) and what tfmot does,
    except that counts are exact, all layers compete unless `keep` says otherwise, the
    final density is always reached and what is pruned stays so.

    Args:
      schedule: of the densities, over the steps of the optimizer.
      steps: length of the training.
      scores: `scores(params)` ranks the weights; higher is kept.
      keep: `keep(scores, mask, density)`, which can be `structure.keep_top` of a unit,
        or have another scope.

    Returns:
      A rule for `dynamic.sparsify`.

    Raises:
      ValueError: for a schedule that `steps` cannot finish.
    """
    schedules.check(schedule, steps)

    def pruned(step, params, mask, grads, key):
        return keep(scores(params), mask, schedules.in_force(schedule, step))

    def start(params, mask, key):
        return pruned(jnp.int32(0), params, mask, None, key)

    def when(step):
        return schedules.is_update(schedule, step)

    return Rule(start, pruned, when, len(schedules.updates(schedule)))


def static(density: Density, scope: str = "layer") -> Rule:
    """Draw a random mask that never changes.

    A tree of densities can be of `allocation`.
    """

    def start(params, mask, key):
        return masks.keep_top(criteria.random(params, key), mask, density, scope)

    return Rule(start, lambda step, params, mask, *_: mask, lambda step: step < 0, 0)


def constant_drop(fraction: float = 0.3) -> Drop:
    """Drop the same fraction of the weights at every update.

    Raises ValueError for a fraction outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"a fraction in [0, 1] is dropped; got {fraction}")
    return lambda step: jnp.float32(fraction)


def cosine_drop(fraction: float = 0.3, *, begin_step: int = 0, end_step: int) -> Drop:
    """Drop less and less, as RigL: half a cosine from `fraction` to 0 over the updates.

    The authors' code counts from step 0, whatever the first update; this from it.
    """

    def drop(step):
        progress = jnp.clip((step - begin_step) / (end_step - begin_step), 0, 1)
        return fraction / 2 * (1 + jnp.cos(jnp.pi * progress))

    return drop


def power_drop(
    fraction: float = 0.3, *, begin_step: int = 0, end_step: int, power: float = 1.0
) -> Drop:
    """Drop less and less: `fraction` times (1 - progress) ** power.

    Args:
      fraction: of the weights, dropped at the start, in [0, 1].
      begin_step: where progress is 0.
      end_step: where progress is 1.
      power: of what remains of the way.

    Returns:
      A function of the step, which gives the fraction dropped there.
    """

    def drop(step):
        progress = jnp.clip((step - begin_step) / (end_step - begin_step), 0, 1)
        return fraction * (1 - progress) ** power

    return drop


def rigl(
    density: Density,
    *,
    end_step: int,
    begin_step: int = 100,
    frequency: int = 100,
    drop: Drop | None = None,
    regrow: bool = True,
) -> Rule:
    """Drop small weights, grow by gradient: RigL (Evci et al. 2020, arXiv:1911.11134).

    From a random mask, at each update each layer drops its smallest weights and grows
    as many where the loss's gradient is largest. Weights do not move at those steps, as
    in the paper, but the optimizer's moments take in the gradient.

    Args:
      density: of each layer, in (0, 1], or a tree (`allocation.erdos_renyi`).
      end_step: updates are before it.
      begin_step: the first update, in [1, end_step).
      frequency: steps from one update to the next, at least 1.
      drop: `drop(step)`, the fraction of a layer's weights that is dropped, by default
        RigL's cosine from 0.3.
      regrow: whether just-dropped weights may be grown again, as the paper has it; they
        then keep their value.

    Returns:
      A rule for `dynamic.sparsify`.

    Raises:
      ValueError: for steps out of these ranges.
    """
    drop = drop or cosine_drop(begin_step=begin_step, end_step=end_step)

    def grow(grads, key):
        return jax.tree.map(jnp.abs, grads)

    times = (begin_step, end_step, frequency)
    return _drop_and_grow(density, times, drop, grow, regrow)._replace(skips=True)


def sparse_evolution(
    density: Density,
    *,
    end_step: int,
    begin_step: int = 100,
    frequency: int = 100,
    drop: Drop | None = None,
    regrow: bool = True,
) -> Rule:
    """Drop small weights, grow at random: SET (Mocanu et al. 2018, arXiv:1707.04780).

    Sparse evolutionary training is as `rigl`, but weights move at every step. The paper
    drops the smallest positive and the largest negative weights; this, as later
    implementations, the smallest in size.

    Args:
      density, end_step, begin_step, frequency, regrow: as in `rigl`.
      drop: as in `rigl`, by default 0.3 throughout.

    Returns:
      A rule for `dynamic.sparsify`.

    Raises:
      ValueError: as `rigl` does.
    """

    def grow(grads, key):
        return criteria.random(grads, key)

    times = (begin_step, end_step, frequency)
    return _drop_and_grow(density, times, drop or constant_drop(), grow, regrow)


def _drop_and_grow(density, times, drop, grow, regrow) -> Rule:
    when, updates = exchanges(*times)

    def update(step, params, mask, grads, key):
        fraction, scores = drop(step), grow(grads, key)

        def leaf(w, keep, score):
            if keep is None:
                return None
            kept = jnp.sum(keep, dtype=jnp.int32)
            count = (kept * fraction).astype(jnp.int32)
            count = count if regrow else jnp.minimum(count, keep.size - kept)
            (stay,), _, _ = topk.top([jnp.abs(w)], [keep], kept - count)
            free = ~stay if regrow else ~keep
            (grown,), _, _ = topk.top([score], [free], count)
            return stay | grown

        return jax.tree.map(leaf, params, mask, scores)

    return Rule(static(density).start, update, when, updates)


def exchanges(begin: int, end: int, every: int) -> tuple[Callable, int]:
    """Return the `when` of weights dropped and grown in turn, and how often that is.

    Raises ValueError unless 1 <= begin < end, and every >= 1.
    """
    if not 1 <= begin < end or every < 1:
        raise ValueError(
            "updates run from begin_step to before end_step, 1 <= begin_step < "
            f"end_step, every frequency >= 1 steps; got {begin}, {end}, {every}"
        )

    def when(step):
        return (step >= begin) & (step < end) & ((step - begin) % every == 0)

    return when, -(-(end - begin) // every)


def ac_dc(
    density: float,
    *,
    phase: int,
    warmup: int,
    steps: int,
    reset_momentum: bool = True,
) -> Rule:
    """Go dense and sparse in turn: AC/DC (Peste et al. 2021, arXiv:2106.12379).

    Dense for `warmup` steps; then sparse and dense phases of `phase` steps, the last
    one, which goes on to `steps`, sparse. A sparse phase keeps the largest weights of
    all layers; a dense one lets the others start again from 0.

    Args:
      density: of the sparse phases, in (0, 1].
      phase: steps of a phase, at least 1.
      warmup: steps before the first sparse phase, in (0, steps).
      steps: length of the training.
      reset_momentum: whether the optimizer's moments, of all weights, start afresh when
        a dense phase begins; its schedules go on. The authors' scripts do so (the flag
        `--reset_momentum_after_recycling` in all their published commands, off unless
        given). With False kept weights carry the moments of the sparse phase on.

    Returns:
      A rule for `dynamic.sparsify`.

    Raises:
      ValueError: for steps out of these ranges.
    """
    if not (0 < warmup < steps and phase > 0):
        raise ValueError(
            f"a warmup of 0 < {warmup} < {steps} steps and a phase of {phase} > 0 steps"
        )
    changes = 1 + 2 * ((steps - warmup - 1) // (2 * phase))

    def place(step):
        return (step - warmup) // phase

    def update(step, params, mask, grads, key):
        ones = jax.tree.map(jnp.ones_like, mask)
        sparse = masks.keep_top(criteria.magnitude(params), ones, density)
        compress = place(step) % 2 == 0
        return jax.tree.map(lambda s: s | ~compress, sparse)

    def when(step):
        at = (step - warmup) % phase == 0
        return (step >= warmup) & at & (place(step) < changes)

    def resets(step):
        return when(step) & (place(step) % 2 == 1)

    rule = Rule(lambda params, mask, key: mask, update, when, changes)
    return rule._replace(resets=resets) if reset_momentum else rule
