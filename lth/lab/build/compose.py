"""From functions and data to a recipe, spread over the devices there are."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lth import criteria, data, lottery, masks, train
from lth.analysis import batchnorm, cost
from lth.lab import devices
from lth.lab.build import branching, changing, learners, names
from lth.lab.build.tasks import Task, resident
from lth.lab.devices import memory
from lth.lab.store import checkpoint
from lth.lottery import Branch, Recipe, rewind
from lth.lottery import recipe as recipes
from lth.models import Model
from lth.supermask import Supermask
from lth.train import TrainState


def make_recipe(
    model: Model,
    tx: Any,
    loss: train.Loss,
    measure: Callable,
    splits: Any,
    *,
    batch_size: int,
    steps: int,
    densities: Iterable[masks.Density],
    replicates: int | Sequence[int] = 5,
    eval_every: int | None = None,
    rewind_to: int = 0,
    checkpoints: Sequence[int] = (),
    augment: Callable | None = None,
    sample: Callable | None = None,
    prunable: Callable[[str, jax.Array], bool] = masks.is_kernel,
    criterion: Callable[..., masks.Scores] | None = None,
    keep: Callable[..., masks.Mask] = masks.keep_top,
    rewind: Callable[[TrainState, TrainState], TrainState] = rewind.weights,
    branches: Mapping[str, Branch] | Sequence[str] = (),
    learn: Supermask | None = None,
    learn_tx: Any = None,
    learn_by: tuple[train.Loss, Callable] | None = None,
    over: str = "replicates",
    precision: str = "default",
) -> Recipe:
    """Make a recipe of functions of your own: no configuration, no names.

    The functions are of one replicate. Raises ValueError for parts that do not fit each
    other, before anything is compiled.

    Args:
      model: Such as `models.from_linen`, `models.from_nnx` or `models.Model` gives.
      tx: The optimizer. A function of a key that gives `dynamic.sparsify(…, key=key)`
        makes level 0 a mask that changes in training, drawn for each replicate by a
        key of its own.
      loss: `(params, stats, batch, key) -> (value, (stats, metrics))`, such as
        `train.classification(model.apply)` gives beside `measure`.
      measure: `(params, stats, batch) -> {metric: one number for each example}`: the
        `loss`, and what runs are compared by, higher is better; `accuracy` or `r2` if
        there is one, else the first. It is shown in percent.
      splits: Data by split: `data.Splits`, or a mapping with the key `train` and at
        least one more. Of each split any tree of arrays, examples in front.
      batch_size: Examples in a batch.
      steps: Of the dense training; a ticket trains from `rewind_to` to here.
      densities: Of levels 1, 2, …, such as `masks.schedules.geometric(0.8, 12)`:
        fractions of the prunable weights, or a tree of them by layer.
      replicates: How many, or their numbers.
      eval_every: Measure so often, in steps, and at the end; by default 10 times.
      rewind_to: The step of the dense training that tickets are rewound to.
      checkpoints: Other steps of it to store.
      augment: `(key, inputs) -> inputs`, of batches that have `inputs`.
      sample: `(key, step, data) -> batch` of the training data, of `batch_size`
        examples; by default each epoch has every example once (`data.make_sample`).
      prunable: Which leaves a mask covers, by path and leaf.
      criterion: `(early, late, mask, key) -> scores` of the weights of `late`, both
        of them states; by default their magnitudes.
      keep: `(scores, mask, density) -> mask`.
      rewind: One of `lottery.rewind`, or `(early, late) -> state`.
      branches: By name; or names of controls, such as reinit and shuffle.
      learn: Learns the mask of level 0, over `model`; in place of the dense training.
        Levels after it are pruned from there.
      learn_tx: The optimizer of what `learn` trains.
      learn_by: The loss and the measure of `learn.model`, as `loss` and `measure` are
        of `model`, such as `train.classification(learn.model.apply)`.
      over: What several devices share: `replicates`, or each `batch`.
      precision: Of products of float32 numbers: `float32`, or what else
        `jax.default_matmul_precision` takes; `default` is TF32 on NVIDIA GPUs.

    Returns:
      The recipe: change any field of it with `_replace`.
    """
    if isinstance(replicates, int):
        replicates = range(replicates)
    numbers = tuple(replicates)
    devices.use_cores(len(numbers))
    if not numbers:
        raise ValueError("replicates are at least 1; got none")
    optimizer = None if isinstance(tx, tuple) else tx
    tx = tx if optimizer is None else optimizer(jax.random.key(0))
    plan = devices.plan(len(numbers), over, precision)
    task = own_task(model, loss, measure, splits, batch_size, augment, plan, sample)
    init = partial(train.init_state, model.init, tx)
    like = _shapes_of(init, task)
    every = eval_every or max(1, steps // 10)
    step, measures = programs(task, tx, plan)
    each = each_on(plan)
    states = {step_name(at): at for at in sorted(set(checkpoints))}
    first, known = None, stamp(task)
    if learn is not None:
        learning = partial(train.init_state, learn.model.init, learn_tx)
        own = _learned_task(task, learn, learn_tx, learn_by)
        known["learned"] = _told(_shapes_of(learning, own))
        first = learners.make_first(learn, learning, programs(own, learn_tx, plan), tx)
    frozen = make_frozen(task, tx, plan)
    start = names.Start(init, rewind, rewind_to, None, frozen, tx)
    if not isinstance(branches, Mapping):
        branches = {name: control(name, start) for name in branches}
    recipe = Recipe(
        replicates=numbers,
        init=jax.jit(jax.vmap(init)),
        mask=whole_mask(masks.ones(like.params, prunable), len(numbers)),
        train=step,
        measures=measures,
        stops=(*range(every, steps, every), steps),
        rewind_to=rewind_to,
        checkpoints={"init": 0, **states, "early": rewind_to},
        densities=tuple(densities),
        prune=lottery.make_prune(
            each(criterion or magnitude), keep, exact=keep is masks.keep_top
        ),
        rewind=lambda early, late, keys: jax.vmap(rewind)(early, late),
        first=first,
        branches=branches,
        offers=offers(start, [n for n in names.CONTROLS if n != "invert"]),
        each=each,
        stamp=known,
        work=partial(work, task, like),
        objective=objective(task, plan),
        piece=task.piece,
    )
    if optimizer is not None:
        recipe = changing.changing_mask(recipe, model, optimizer)
    recipes.check(recipe)
    return recipe


def _learned_task(task: Task, learn: Supermask, tx: Any, by: Any) -> Task:
    """The task as what learns the mask sees it."""
    if tx is None or by is None:
        raise ValueError(
            "`learn` needs `learn_tx`, an optimizer of what it trains, and `learn_by`, "
            "such as train.classification(learn.model.apply)"
        )
    loss, measure = by
    return task._replace(model=learn.model, loss=loss, measure=measure)


def magnitude(early, late, mask, key) -> masks.Scores:
    """Score by |w| of the trained weights.

    Args:
      early: Is not looked at.
      late: The trained state.
      mask: Is not looked at.
      key: Is not looked at.

    Returns:
      The scores.
    """
    return criteria.magnitude(late.params)


def offers(start: names.Start, controls: Sequence[str]) -> dict[str, Callable]:
    """What makes branches by name, of a run that these controls go with."""
    there = {n for n in names.BRANCHES if n not in names.CONTROLS or n in controls}
    return {n: partial(make, start) for n, make in names.BRANCHES.items() if n in there}


def control(name: str, start: names.Start) -> Branch:
    """Return a control by its name. Raises ValueError for one that is not there."""
    there = [n for n in names.CONTROLS if n != "invert" or start.invert]
    table = {n: partial(names.CONTROLS[n], start) for n in there}
    return branching.by_name(table, name)[0]


def step_name(step: int) -> str:
    """What the checkpoint of a step of the dense training is called."""
    return f"step_{step}"


def whole_mask(mask: masks.Mask, replicates: int) -> masks.Mask:
    """Return all ones, with the axis of replicates in front."""
    return jax.tree.map(lambda m: jnp.ones((replicates, *m.shape), bool), mask)


def each_on(plan: devices.Plan) -> Callable[[Callable], Callable]:
    """Make `each` of a recipe: a function of one replicate becomes one of all."""

    @lru_cache(maxsize=64)
    def each(function):
        made: dict[int, Callable] = {}

        def call(*args):
            count = len(args)
            if count not in made:
                made[count] = devices.spread(plan, function, (0,) * count)
            return made[count](*recipes.given_to_each(args))

        return call

    return each


def programs(task: Task, tx: optax.GradientTransformation, plan: devices.Plan):
    """Return what is compiled: `train` and `measures`, as a recipe has them."""
    sample = devices.split_batch(plan, task.sample)
    step = devices.spread(
        plan,
        train.make_train(task.loss, sample, tx),
        (0, 0, None, 0, None, 0),
        donate=True,
    )
    # What a chunk of images becomes inside a network fits a CPU's cache so.
    chunk = 250 if jax.default_backend() == "cpu" else 1000
    measure = train.make_evaluate(task.measure, chunk)
    evaluate = devices.spread(plan, measure, (0, 0, None))

    none = _no_sums(task)

    def held(state, mask, n, order, sums=None):
        at = train.step_of(state)
        ((block, _),) = task.blocks(order[0], at, at + n)
        sums = none(state, block) if sums is None else sums
        return step(state, mask, block, order, np.int32(n), sums)

    def streamed(state, mask, n, order, sums=None):
        at = train.step_of(state)
        for block, length in task.blocks(order[0], at, at + n):
            state, new = step(
                state, mask, block, order, np.int32(length), none(state, block)
            )
            sums = new if sums is None else train.add_sums(sums, new)
        return state, sums

    def one_by_one(state, mask, n, order, sums=None):
        """Each network by itself, for what is streamed comes in one order at a time."""
        rows = []
        for i in range(len(order)):
            one: Any = _of(i, (state, mask, sums))
            rows.append(streamed(one[0], one[1], n, order[i : i + 1], one[2]))
        return _joined(rows)

    def measured(split, state):
        values = [
            (evaluate(state.params, state.stats, part), _length(part))
            for part in task.parts[split]()
        ]
        return train.weighted_mean(values)

    trained = one_by_one if task.streams else held
    return trained, {name: partial(measured, name) for name in task.parts}


def _of(i: int, tree: Any) -> Any:
    """What a tree holds of one replicate, whose axis stays."""
    return jax.tree.map(lambda x: x[i : i + 1], tree)


def _joined(trees: list) -> Any:
    return jax.tree.map(lambda *x: jnp.concatenate(x), *trees)


def objective(task: Task, plan: devices.Plan) -> recipes.Objective:
    """Return what a recipe tells of what its networks learn, for what looks at them."""

    def drawn(order, data, steps):
        return jax.vmap(lambda step: task.sample(order, step, data))(steps)

    def settled(state, order, data, steps):
        return batchnorm.reestimate(task.loss, task.sample, state, data, order, steps)

    draw = devices.spread(plan, drawn, (0, None, None))
    settle = devices.spread(plan, settled, (0, 0, None, None))

    def pieces(order, n):
        """The blocks of n steps, each with the numbers of its steps."""
        at = 0
        for block, length in task.blocks(order[0], 0, n):
            yield block, np.arange(at, at + length)
            at += length

    def batches(order, n):
        if task.streams and len(order) > 1:
            return _joined([batches(order[i : i + 1], n) for i in range(len(order))])
        parts = [draw(order, *piece) for piece in pieces(order, n)]
        return jax.tree.map(lambda *x: jnp.concatenate(x, 1), *parts)

    def reestimate(state, order, n):
        if task.streams and len(order) > 1:
            parts: Any = [_of(i, (state, order)) for i in range(len(order))]
            return _joined([reestimate(row, key, n) for row, key in parts])
        for piece in pieces(order, n) if jax.tree.leaves(state.stats) else ():
            state = settle(state, order, *piece)
        return state

    return recipes.Objective(
        task.model.apply, task.loss, task.measure, batches, reestimate, task.learned
    )


def _no_sums(task: Task) -> Callable[[TrainState, Any], train.Metrics]:
    """Make `none(state, block)`: the sums of training before its first step."""
    made: dict[int, train.Metrics] = {}

    def none(state, block):
        count = len(jax.tree.leaves(state.params)[0])
        if count not in made:
            key = jax.eval_shape(lambda: jax.random.key(0))
            batch = jax.eval_shape(task.sample, key, np.int32(0), block)
            one = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype),
                (state.params, state.stats),
            )
            _, (_, metrics) = jax.eval_shape(task.loss, *one, batch, key)
            made[count] = train.no_sums(metrics, (count,))
        return made[count]

    return none


def make_frozen(task: Task, tx: Any, plan: devices.Plan) -> Callable:
    """Make what changes a recipe to one whose pruned weights need not be 0.

    Its programs are made when they are first asked for, once for all levels.
    """

    @cache
    def made():
        loss, measure = lottery.branches.on_frozen(task.loss, task.measure)
        frozen = task._replace(loss=loss, measure=measure)
        return *programs(frozen, tx, plan), objective(frozen, plan).reestimate

    def changed(recipe):
        step, measures, settle = made()
        known = recipe.objective and recipe.objective._replace(reestimate=settle)
        return recipe._replace(train=step, measures=measures, objective=known)

    return changed


def check_memory(plan: devices.Plan, like: TrainState, what: str) -> None:
    """Refuse a network whose weights alone fill the memory of a device."""

    def size(tree):
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

    # A device holds the early state, the last ticket's and the one in training, of all
    # replicates (see `devices`), and the gradients of those it trains.
    trained = plan.replicates
    if plan.over == "replicates":
        trained = math.ceil(plan.replicates / plan.mesh.size)
    memory.check_bytes(
        3 * plan.replicates * size(like) + trained * size(like.params),
        f"training {what} ({plan.replicates} replicates)",
    )


def work(task: Task, like: TrainState) -> dict[str, int]:
    """Multiply-accumulates of one example, by path; none where they are not known."""
    example = task.example
    if not hasattr(example, "inputs"):
        return {}
    inputs = example.inputs
    shape, ones = inputs.shape[1:], masks.ones(like.params, lambda path, leaf: True)
    try:
        found = cost.work(
            task.model, like.params, like.stats, shape, ones, np.dtype(inputs.dtype)
        )
    except (ValueError, TypeError, AttributeError, LookupError, NotImplementedError):
        # It reads weights, or its data, in a way that is not followed.
        return {}
    return dict(found.dense)


def _length(part: Any) -> int:
    return len(jax.tree.leaves(part)[0])


def own_task(
    model, loss, measure, splits, batch_size, augment, plan, sample=None
) -> Task:
    """Make the Task of data that a device holds, under functions of the user's own.

    Args:
      model: The network.
      loss: What it is trained on.
      measure: What is measured of it.
      splits: The data by name: `train`, and at least one more to measure on.
      batch_size: How many examples a step takes.
      augment: What happens to a batch first, or None.
      plan: The devices.
      sample: What draws a batch; by default epochs without replacement.

    Returns:
      The task.

    Raises:
      ValueError where splits, batches, loss and measure do not fit each other.
    """
    parts = splits._asdict() if isinstance(splits, data.Splits) else dict(splits)
    if "train" not in parts or len(parts) < 2:
        raise ValueError(
            "splits hold `train` and at least one more to measure on; got "
            f"{', '.join(parts) or 'none'}"
        )
    for name, part in parts.items():
        lengths = {len(x) for x in jax.tree.leaves(part)}
        if len(lengths) != 1 or not min(lengths):
            raise ValueError(
                f"all arrays of the split {name} have as many examples, at least 1; "
                f"got {sorted(lengths) or 'no array'}"
            )
    count = _length(parts["train"])
    sample = sample or data.make_sample(batch_size, count, augment)

    def place(part):
        return devices.share(plan, jax.tree.map(jnp.asarray, part))

    return Task(
        examples=None,
        size=count,
        digest=checkpoint.digest(parts),
        model=model,
        loss=loss,
        measure=measure,
        sample=sample,
        **resident(parts, place),
    )


def _shapes_of(init: Callable, task: Task) -> TrainState:
    """The shapes of a state, once loss and measure have been tried on them."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    batch, _ = next(task.blocks(jax.random.key(0), 0, 1))
    what = "the model's `init`"
    try:
        like = jax.eval_shape(init, key)
        shapes = jax.eval_shape(task.sample, key, jnp.int32(0), batch)
        what = f"the loss on a batch {_told(shapes)}"
        returned = jax.eval_shape(task.loss, like.params, like.stats, shapes, key)
        what = f"the measure on a batch {_told(shapes)}"
        measured = jax.eval_shape(task.measure, like.params, like.stats, shapes)
    except Exception as error:  # a library's own kind, such as Flax's, among them
        raise ValueError(f"{what} fails: {error}") from error
    try:
        value, (stats, metrics) = returned
    except (TypeError, ValueError):
        raise ValueError(
            f"the loss returns (value, (stats, metrics)); got {returned}"
        ) from None
    size = _length(shapes)
    odd = {n: v.shape for n, v in measured.items() if v.shape != (size,)}
    for fits, why in (
        (value.shape == (), f"the loss is one number; got {value.shape}"),
        (
            jax.tree.structure(stats) == jax.tree.structure(like.stats),
            "the loss returns stats of the structure that `init` gives",
        ),
        (
            isinstance(metrics, dict) and "loss" in metrics,
            "the loss returns metrics as a dict, with a `loss`",
        ),
        (not odd, f"the measure gives [{size}], a number an example; got {odd}"),
        ("loss" in measured, "the measure has a `loss`, by which training is stopped"),
        (
            len(measured) > 1,
            "the measure has a metric beside `loss`, by which runs are compared, the "
            "higher the better",
        ),
    ):
        if not fits:
            raise ValueError(why)
    return like


def _told(shapes: Any) -> str:
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    return ", ".join(
        f"{jax.tree_util.keystr(path, simple=True)} {leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    )


def stamp(task: Task) -> dict[str, str]:
    """Digests of the data, and of the first batches: of their order and changes.

    The shapes of a batch are told beside them: two digests do not say what differs.
    """
    data, _ = next(task.blocks(jax.random.key(0), 0, 1))
    key, draw = jax.random.key(0), jax.jit(task.sample)
    drawn = [draw(key, jnp.int32(step), data) for step in range(2)]
    batches = {"batch": _told(drawn[0]), "batches": checkpoint.digest(drawn)}
    return {"data": task.digest, **batches}
