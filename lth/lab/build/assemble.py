"""From the configuration of an experiment to its recipe: names become functions."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lth import compress, criteria, lottery, masks, models, train
from lth.compress import Space, shrinking, whole
from lth.data import folder
from lth.lab import devices, store
from lth.lab.build import (
    compose,
    learners,
    moving,
    names,
    networks,
    ranking,
    surgery,
    tasks,
)
from lth.lab.config import (
    ConfigError,
    Experiment,
    Learn,
    Model,
    Prune,
    Rewind,
    identity,
    parse,
    validate,
)
from lth.lottery import Recipe, rewind
from lth.train import TrainState


class Built(NamedTuple):
    """A recipe that comes from names, and what its run is known by."""

    recipe: Recipe
    data: str  # a digest of the arrays
    # (how many replicates the run was begun with) -> its id
    id: Callable[[int], str]
    # (name, preset, how many, what is stored or None) -> what `config.json` holds
    about: Callable[[str, str, int, dict[str, Any] | None], dict[str, Any]]
    # () -> what tells its data and batches from others, once it is one's own recipe
    stamp: Callable[[], dict[str, str]]
    # (first replicate) -> the same functions, so nothing is compiled again, of other
    # replicates, and what their run is known by
    beginning: "Callable[[int], Built]"


class Lengths(NamedTuple):
    """How long a training is, as it is written."""

    steps: str
    eval_every: str
    rewind_to: str
    checkpoint_at: str


class Times(NamedTuple):
    """Steps of a training."""

    steps: int  # in all
    rewind_to: int
    stops: tuple[int, ...]  # where to measure
    checkpoints: dict[str, int]  # name -> step of the dense training


def build(
    e: Experiment, data_dir: str | Path | None = None, over: str = "replicates"
) -> Built:
    """Read the data and make the recipe of an experiment.

    With several devices, `over` says what is spread over them: replicates, or each
    batch. Raises ConfigError for what cannot be run, before anything is compiled, and
    DataError for data that is missing or damaged.
    """
    validate.check(e)
    plan = devices.plan(e.replicates, over, e.model.precision)
    _check_spread(plan, e.batch_size)
    task = tasks.load(
        e.data,
        e.model,
        e.batch_size,
        data_dir,
        place=partial(devices.share, plan),
        part=lambda rows: folder.Part(*devices.divided(plan, rows)),
        pause=e.eval_every,
    )
    epoch = math.ceil(task.size / e.batch_size)
    lengths = Lengths(e.steps, e.eval_every, e.rewind.to, e.checkpoint_at)
    drops = e.optimizer.milestones, e.learn.optimizer.milestones
    times = times_of(lengths, drops, e.batch_size, epoch)
    tx = networks.optimizer(e.optimizer, epoch, times.steps)
    init = partial(train.init_state, task.model.init, tx)
    like = _shapes(init, task, e.model, e.data.name)
    compose.check_memory(plan, like, e.model.name)
    found = _spaces(e.prune, task, like)
    mask, densities = _pruned(e.prune, e.levels, like.params, found)
    scores = _scores(e.prune, e.model, task, plan)
    scores = ranking.of_kernels(scores, found) if found else scores
    keep = ranking.make_keep(e.prune, found)
    one = _rewind(e.rewind, tx)
    invert = _inverted(e.prune, scores, keep)
    frozen = compose.make_frozen(task, tx, plan)

    def other(data: str, classes: str) -> tuple[Recipe, str]:
        """The same settings on other data, and the digest of those."""
        chosen = tuple(map(int, parse.split_list(classes)))
        named = replace(e.data, name=data or e.data.name, classes=chosen)
        built = build(replace(e, data=named, controls=""), data_dir, over)
        return built.recipe, built.data

    start = names.Start(init, one, times.rewind_to, invert, frozen, tx, other)
    every = jax.jit(jax.vmap(init))
    finds = (e.learn.method, e.dynamic.rule) != ("none", "none")
    fitting = validate.fitting(e.prune, e.rewind, e.model, finds)
    first = None
    if e.learn.method != "none":
        moves = learners.optimizer(e.learn, e.optimizer, epoch, times.steps)
        learned = learners.learner(e.learn, task.model, mask, times.steps)
        first = _learned(e.learn, learned, task, plan, moves, tx)
    elif e.dynamic.rule != "none":
        moved = moving.make(e.dynamic, task, tx, mask, epoch, times.steps)
        changed = compose.programs(moved.task, moved.tx, plan)
        first = moving.make_first(moved, changed, tx)
    trained = None
    if e.shrink:
        task, trained = _narrowed(task, found, e.model.compute)
    step, measures = compose.programs(task, tx, plan)
    recipe = Recipe(
        replicates=tuple(e.first_replicate + i for i in range(e.replicates)),
        init=every,
        mask=compose.whole_mask(mask, e.replicates),
        train=step,
        measures=measures,
        stops=times.stops,
        rewind_to=times.rewind_to,
        checkpoints=times.checkpoints,
        densities=tuple(densities),
        prune=_prune(e.prune, scores, keep, task, plan, mask),
        rewind=_of_all(one, every if e.rewind.mode == "reinit" else None),
        first=first,
        branches={n: compose.control(n, start) for n in parse.split_list(e.controls)},
        offers=compose.offers(start, fitting),
        each=compose.each_on(plan),
        work=partial(compose.work, task, like),
        objective=compose.objective(task, plan),
        piece=task.piece,
        trained=trained,
    )

    stamp = partial(compose.stamp, task)

    def beginning(first: int) -> Built:
        numbers = tuple(first + i for i in range(e.replicates))

        def begun(replicates):
            return replace(e, first_replicate=first, replicates=replicates)

        def run_id(replicates: int) -> str:
            return identity.identity(begun(replicates))

        def about(name, preset, replicates, before):
            config = identity.as_dict(begun(replicates))
            if before:
                old = identity.as_dict(identity.from_dict(before["config"]))
                config = identity.extended(config, old)
            known = _about(name, preset, run_id(replicates), task, before)
            return known | {"config": config}

        own = recipe._replace(replicates=numbers)
        return Built(own, task.digest, run_id, about, stamp, beginning)

    return beginning(e.first_replicate)


def _about(name: str, preset: str, run_id: str, task: tasks.Task, before) -> dict:
    """What `config.json` holds of a run beside its configuration."""
    if before is not None and before["id"] != run_id:
        raise store.StoreError(
            f"the folder holds the run {before['id']} of another configuration "
            f"than {run_id}; choose another folder with --runs"
        )
    if before is not None and before["data"] != task.digest:
        raise store.StoreError(
            f"{name}-{run_id} was trained on other data than is found now; give it the "
            "old files with --data-dir, or choose another folder with --runs"
        )
    return {"id": run_id, "name": name, "preset": preset, "data": task.digest}


def _check_spread(plan: devices.Plan, batch_size: int) -> None:
    if plan.over == "batch" and batch_size % plan.mesh.size:
        raise ConfigError(
            f"--batch-size is a multiple of the {plan.mesh.size} devices it is spread "
            f"over; got {batch_size}"
        )


def _shapes(init: Callable, task: tasks.Task, m: Model, name: str) -> TrainState:
    try:
        return jax.eval_shape(init, jax.random.key(0))
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ConfigError(
            f"--model.name {m.name} does not fit examples of shape "
            f"{task.examples.shape}, --data.name {name}: {error}"
        ) from error


def _spaces(p: Prune, task: tasks.Task, like: TrainState) -> tuple[Space, ...]:
    """The channels that are pruned whole, if any are."""
    if not ranking.is_whole(p):
        return ()
    example = task.example.inputs
    inputs = jax.ShapeDtypeStruct((2, *example.shape[1:]), example.dtype)
    found = compress.find(task.model.apply, like.params, like.stats, inputs)
    return ranking.chosen_spaces(p, like.params, found)


def _narrowed(task: tasks.Task, found: Sequence[Space], compute: str):
    """The task of networks of any width, and how a recipe trains tickets in theirs."""
    inputs = next(task.learned()).inputs[:32]
    limit = shrinking.LIMIT if compute == "float32" else 0.05  # of bfloat16's 8 bits
    loss, measure = map(models.resizable, (task.loss, task.measure))
    trained = lottery.narrow.make_trained(task.model.apply, found, inputs, limit)
    return task._replace(loss=loss, measure=measure), trained


def _pruned(
    p: Prune, levels: int, params: masks.Params, found: Sequence[Space]
) -> tuple[masks.Mask, list]:
    """What is pruned, and the densities of the levels."""
    try:
        if found:
            units = whole.ones(found)
            sizes = [space.size for space in found]
            densities = ranking.densities(p, levels, units, sizes)
            for density in densities:
                whole.check_reachable(density, found, p.scope)
            return whole.covered(params, found), densities
        mask = ranking.prunable(p, params)
        return mask, ranking.densities(p, levels, mask)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"--prune: {error}") from None


def _scores(p: Prune, m: Model, task: tasks.Task, plan: devices.Plan) -> Callable:
    """`scores(early, state, mask, keys)` of all replicates."""
    made = ranking.make_scores(p, m, task)
    program = devices.spread(plan, made, (0, 0, 0, 0, None))

    def scores(early, state, mask, keys):
        block, _ = next(task.blocks(keys[0], 0, p.batches))
        return program(early.params, state, mask, keys, block)

    return scores


def _prune(
    p: Prune, scores: Callable, keep: Callable, task, plan, mask: masks.Mask
) -> Callable:
    """The `prune` of the recipe."""
    if p.surgery != "none":
        made = surgery.by_surgery(p, task, plan, mask)
    elif p.cuts:
        made = surgery.by_cuts(p, scores)
    elif p.at == "early":
        made = _early(p, scores, keep)
    else:
        made = lottery.make_prune(scores, keep, **_words(p))
    if p.reestimate:
        settle = compose.objective(task, plan).reestimate
        made = surgery.reestimated(made, p.reestimate, settle)
    return _in_precision(p, made)


def _inverted(p: Prune, scores: Callable, keep: Callable) -> Callable:
    """The same, but the lowest scores of the early weights are kept."""
    return _in_precision(p, _early(p, scores, keep, changed=criteria.inverted))


def _early(p: Prune, scores: Callable, keep: Callable, **changed: Any) -> Callable:
    return lottery.make_prune_early(
        scores, keep, rounds=p.rounds, **_words(p), **changed
    )


def _words(p: Prune) -> dict[str, Any]:
    flows = p.criterion == "synflow" and p.precision == "float32"
    return {
        "exact": p.structure == "weight",
        "name": f" of --prune.criterion {p.criterion}",
        "advice": ": try --prune.precision float64" if flows else "",
    }


def _in_precision(p: Prune, prune: Callable) -> Callable:
    def precise(*args):
        with ranking.precision(p):
            return prune(*args)

    return precise


def _rewind(r: Rewind, tx) -> rewind.Rewind:
    """How one replicate is rewound; one that draws anew has `weights` here."""
    one = names.REWINDS.get(r.mode, rewind.weights)
    return rewind.make_fresh_moments(one, tx) if r.moments == "drop" else one


def _of_all(one: rewind.Rewind, drawn: Callable | None) -> Callable:
    """The `rewind` of the recipe; `drawn(keys)` gives fresh states, if they are."""

    def rewound(early, late, keys):
        if drawn is not None:
            return rewind.make_reinit(drawn, keys)(early, late)
        return jax.vmap(one)(early, late)

    return rewound


def _learned(learn: Learn, learned, task: tasks.Task, plan: devices.Plan, moves, tx):
    """What level 0 is, where it learns a mask."""
    init = partial(train.init_state, learned.model.init, moves)
    like = jax.eval_shape(init, jax.random.key(0))
    compose.check_memory(plan, like, f"masks by {learn.method}")
    task = learners.learned_task(learn, task, learned)
    return learners.make_first(learned, init, compose.programs(task, moves, plan), tx)


def times_of(
    t: Lengths, milestones: tuple[str, str], batch_size: int, epoch: int
) -> Times:
    """Turn lengths into steps: of the training, the rewind point, the measurements.

    Args:
      t: The lengths, as they are written.
      milestones: Those of the optimizer of weights and of scores, which are checked.
      batch_size: How many examples a step takes.
      epoch: How many steps go to an epoch.

    Returns:
      The steps, checked.
    """
    steps = parse.parse_steps(t.steps, epoch, "--steps")
    every = parse.parse_steps(t.eval_every, epoch, "--eval-every")
    to = parse.parse_steps(t.rewind_to, epoch, "--rewind.to")
    if steps < 1:
        raise ConfigError(f"--steps is at least 1it; got {t.steps}")
    if steps * batch_size >= 2**32:
        raise ConfigError(
            f"--steps times --batch-size stays below 2**32; got {steps} x {batch_size}"
        )
    if every < 1:
        raise ConfigError(f"--eval-every is at least 1it; got {t.eval_every}")
    if to >= steps:
        raise ConfigError(
            f"--rewind.to {t.rewind_to} (step {to}) is not before the end of training, "
            f"--steps {t.steps} (step {steps}): nothing would be left to retrain"
        )
    flags = "--optimizer.milestones", "--learn.optimizer.milestones"
    for flag, text in zip(flags, milestones, strict=True):
        for item in parse.split_list(text):
            if parse.parse_steps(item, epoch, flag) >= steps:
                raise ConfigError(
                    f"{flag} {item} is not before the end of training, --steps "
                    f"{t.steps} (step {steps})"
                )
    listed = {
        parse.parse_steps(item, epoch, "--checkpoint-at")
        for item in parse.split_list(t.checkpoint_at)
    }
    if max(listed, default=0) > steps:
        raise ConfigError(
            f"--checkpoint-at {max(listed)} is beyond the end of training, "
            f"--steps {t.steps} (step {steps})"
        )
    checkpoints = {compose.step_name(step): step for step in sorted(listed)}
    stops = (*range(every, steps, every), steps)
    return Times(steps, to, stops, {"init": 0, **checkpoints, "early": to})
