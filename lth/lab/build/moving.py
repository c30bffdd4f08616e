"""From the names in a configuration to a mask that changes in training."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from lth import dynamic, masks, train
from lth.lab.build import finding
from lth.lab.build.names import FORWARDS, RULES, Moves
from lth.lab.build.tasks import Task
from lth.lab.config import ConfigError, Dynamic, parse
from lth.lottery import recipe as recipes
from lth.masks import allocation
from lth.train import TrainState


class Moving(NamedTuple):
    """How a training goes whose mask changes: what a recipe's `first` is made of."""

    task: Task  # as this training sees it
    tx: optax.GradientTransformation
    init: Callable[[jax.Array, jax.Array], TrainState]  # of one: (key, key of the mask)
    # (state) -> masked params, stats and mask of the ordinary network
    final: Callable[[TrainState], tuple[masks.Params, Any, masks.Mask]]
    updates: finding.Updates | None


def make(
    d: Dynamic,
    task: Task,
    tx: optax.GradientTransformation,
    mask: masks.Mask,
    epoch: int,
    steps: int,
) -> Moving:
    """Make what the rule of a configuration asks for.

    Args:
      d: The section.
      task: Of the ordinary network.
      tx: Its optimizer.
      mask: All ones, of one replicate: what is prunable.
      epoch: Steps in an epoch.
      steps: Of the training.

    Returns:
      How it goes.

    Raises:
      ConfigError: for steps that do not fit the training.
    """
    covered = set(masks.paths(mask))
    try:
        moves = _moves(d, mask, epoch, steps)
        if d.rule in FORWARDS:
            return _forward(d, task, tx, moves, lambda path, leaf: path in covered)
        rule = RULES[d.rule](d, moves)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"--dynamic.rule {d.rule}: {error}") from error
    return _by_rule(rule, task, tx, lambda path, leaf: path in covered)


def _moves(d: Dynamic, mask: masks.Mask, epoch: int, steps: int) -> Moves:
    """Steps and densities as numbers."""
    begin = parse.parse_steps(d.begin, epoch, "--dynamic.begin")
    end = 3 * steps // 4
    if d.end:
        end = parse.parse_steps(d.end, epoch, "--dynamic.end")
    every = parse.parse_steps(d.every, epoch, "--dynamic.every")
    density: masks.Density = d.density
    if d.scope in ("er", "erk"):
        density = allocation.erdos_renyi(mask, d.density, kernel=d.scope == "erk")
    elif d.scope == "layer":
        density = allocation.uniform(mask, d.density)
    return Moves(begin, end, every, steps, density)


def _by_rule(rule: dynamic.Rule, task: Task, tx, prunable) -> Moving:
    """The optimizer changes the mask, and the task stays as it is."""

    def init(key, drawn):
        moved = dynamic.sparsify(tx, rule, prunable, drawn)
        state = train.init_state(task.model.init, moved, key)
        return state._replace(params=dynamic.masked(state.params, state.opt_state))

    def final(state):
        return state.params, state.stats, dynamic.state_of(state.opt_state).mask

    return Moving(
        task,
        dynamic.sparsify(tx, rule, prunable),
        init,
        final,
        lambda state: dynamic.records(state.opt_state),
    )


def _forward(d: Dynamic, task: Task, tx, moves: Moves, prunable) -> Moving:
    """The model runs sparse, and its optimizer moves all weights."""
    model, last, penalty = FORWARDS[d.rule](d, task.model, moves, prunable)
    loss, measure = task.objective(model.apply)
    if penalty is not None:
        loss = _penalised(loss, penalty, d.decay)

    def init(key, drawn):
        return train.init_state(model.init, tx, key)

    def final(state):
        params, mask = last(state.params, state.stats)
        return params, getattr(state.stats, "inner", state.stats), mask

    seen = task._replace(model=model, loss=loss, measure=measure)
    return Moving(seen, tx, init, final, None)


def _penalised(loss: train.Loss, penalty: Callable, amount: float) -> train.Loss:
    def penalised(params, stats, batch, key):
        value, (new, metrics) = loss(params, stats, batch, key)
        return value + amount * penalty(params, stats), (new, metrics)

    return penalised


def make_first(
    m: Moving,
    programs: tuple[Callable, dict[str, Callable]],
    tx: optax.GradientTransformation,
) -> Callable:
    """Make the `first` of a recipe whose mask changes in its only training.

    The ticket is the ordinary network under the last mask. Updates of the mask, of
    rules that have them, are told to who watches (`finding.telling`).

    Args:
      m: How it goes.
      programs: `train` and `measures` of its states, as a recipe has them.
      tx: The optimizer of the ordinary network.

    Returns:
      `first(recipe, watch)`.
    """
    begin = jax.jit(jax.vmap(m.init))

    def start(recipe):
        drawn = recipes.keys(recipe.replicates, recipes.DYNAMIC)
        return begin(recipes.keys(recipe.replicates, recipes.INIT), drawn)

    first = finding.make_first(
        start, lambda state, key: m.final(state), programs, tx, stream=recipes.TRAIN
    )
    return first if m.updates is None else finding.telling(first, m.updates)
