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
    """Pruning while training for `steps`, along a schedule of densities.

    Gradual magnitude pruning (Zhu & Gupta 2017, arXiv:1710.01878) and what tfmot does,
    except that counts are exact, all layers compete unless `keep` says otherwise, the
    final density is always reached and what is pruned stays so. `keep(scores, mask,
    density)` can be `structure.keep_top` of a unit, or have another scope. Raises
    ValueError for a schedule that `steps` cannot finish.
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
    """A random mask that never changes; a tree of densities can be of `allocation`."""

    def start(params, mask, key):
        return masks.keep_top(criteria.random(params, key), mask, density, scope)

    return Rule(start, lambda step, params, mask, *_: mask, lambda step: step < 0, 0)


def constant_drop(fraction: float = 0.3) -> Drop:
    """The same fraction of the weights dropped at every update."""
    if not 0 <= fraction <= 1:
        raise ValueError(f"a fraction in [0, 1] is dropped; got {fraction}")
    return lambda step: jnp.float32(fraction)


def cosine_drop(fraction: float = 0.3, *, begin_step: int = 0, end_step: int) -> Drop:
    """RigL's: half a cosine from `fraction` to 0 over the updates.

    The authors' code counts from step 0, whatever the first update; this from it.
    """

    def drop(step):
        progress = jnp.clip((step - begin_step) / (end_step - begin_step), 0, 1)
        return fraction / 2 * (1 + jnp.cos(jnp.pi * progress))

    return drop


def power_drop(
    fraction: float = 0.3, *, begin_step: int = 0, end_step: int, power: float = 1.0
) -> Drop:
    """`fraction` times (1 - progress) ** power."""

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
    """RigL (Evci et al. 2020, arXiv:1911.11134): drop small weights, grow by gradient.

    From a random mask of `density` in each layer (a tree: `allocation.erdos_renyi`),
    every `frequency` steps from `begin_step` on, before `end_step`, each layer drops
    the `drop(step)` smallest of its weights (RigL's cosine from 0.3) and grows as many
    where the loss's gradient is largest. Weights do not move at those steps, as in the
    paper, but the optimizer's moments take in the gradient. Just-dropped weights may be
    grown again, as the paper has it, and then keep their value; with `regrow=False`
    they may not.
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
    """SET, sparse evolutionary training (Mocanu et al. 2018, arXiv:1707.04780).

    As `rigl`, but it grows at random, its fraction stays at 0.3 and weights move at
    every step. The paper drops the smallest positive and the largest negative weights;
    this, as later implementations, the smallest in size.
    """

    def grow(grads, key):
        return criteria.random(grads, key)

    times = (begin_step, end_step, frequency)
    return _drop_and_grow(density, times, drop or constant_drop(), grow, regrow)


def _drop_and_grow(density, times, drop, grow, regrow) -> Rule:
    begin, end, every = times
    if not 1 <= begin < end or every < 1:
        raise ValueError(
            "updates run from begin_step to before end_step, 1 <= begin_step < "
            f"end_step, every frequency >= 1 steps; got {begin}, {end}, {every}"
        )

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

    def when(step):
        return (step >= begin) & (step < end) & ((step - begin) % every == 0)

    start = static(density).start
    return Rule(start, update, when, -(-(end - begin) // every))


def ac_dc(
    density: float,
    *,
    phase: int,
    warmup: int,
    steps: int,
    reset_momentum: bool = True,
) -> Rule:
    """AC/DC (Peste et al. 2021, arXiv:2106.12379): dense and sparse phases in turn.

    Dense for `warmup` steps; then sparse and dense phases of `phase` steps, the last
    one, which goes on to `steps`, sparse. A sparse phase keeps the largest weights of
    all layers; a dense one lets the others start again from 0.

    Args:
      density: of the sparse phases, in (0, 1].
      phase: steps of a phase, at least 1.
      warmup: steps before the first sparse phase, in (0, steps).
      steps: length of the training.
      reset_momentum: whether the optimizer's moments, of all weights, start afresh when
        a dense phase begins; its schedules go on. The authors' scripts do so (the
        flag `--reset_momentum_after_recycling` in all their published commands, off
        unless given). With False kept weights carry the moments of the sparse phase on.
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
