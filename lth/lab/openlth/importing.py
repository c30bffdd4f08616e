"""From the files of an OpenLTH run to a stored run, measured against its log."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lth import masks
from lth.compress import foreign
from lth.data.errors import DataError
from lth.lab import adopting, devices, front
from lth.lab.build import imported
from lth.lab.config import identity, openlth
from lth.lab.openlth import files, masking
from lth.lab.openlth.masking import Tensors
from lth.lottery import Recipe, Ticket
from lth.lottery import recipe as recipes
from lth.train import TrainState, optimizers
from lth.train.step import NEVER

OFF = 0.001  # of test accuracy: further off, the weights are not of that log
Convert = Callable[[Tensors, Mapping[str, str]], tuple[Any, Any]]


class Imported(NamedTuple):
    """Says what was imported, and how well it is known to be the same."""

    path: Path  # the run
    levels: list[int]  # that were added
    replicates: list[int]
    off: float  # the largest difference of a test accuracy from the log, measured here
    differs: tuple[str, ...]  # levels to come from OpenLTH's own, in sentences
    left_out: tuple[str, ...]  # in words


def import_run(
    folder: str | Path,
    runs: str | Path = front.RUNS,
    *,
    name: str = "openlth",
    validation: int = 0,
    data_dir: str | Path | None = None,
) -> Imported:
    """Import a run of OpenLTH as one of ours: opened, branched and continued alike.

    Its networks are measured on the test set, and must score what its log says. The
    numbers that are stored are those of the log. The same call again adds levels that
    OpenLTH has trained since.

    Args:
      folder: The folder `lottery_…` of the run.
      runs: Where run directories go.
      name: What to call the run, beside the hash that OpenLTH knows it by.
      validation: Training examples to hold out for the levels to come; 0: as many as
        leave an epoch as many iterations as it had.
      data_dir: Where the files of its data are.

    Returns:
      What was imported.

    Raises:
      ConfigError: for settings that have no counterpart.
      DataError: for files that are damaged or do not fit each other, and networks that
        score something else.
      StoreError: where the run cannot be written, or is another one.
    """
    source = _source(folder, validation)
    devices.use_cores(len(source.replicates))
    experiment, names = source.settings.experiment, source.settings.names
    known = {
        "from": "OpenLTH",
        "folder": Path(folder).resolve().name,
        "experiment": identity.as_dict(experiment),
        "kept": _kept(source),
        "counted": sum(source.early[0][name].size for name in source.settings.ignored),
        "differs": list(source.settings.differs),
    }

    def weights(recipe: Recipe) -> tuple[Any, Any]:
        convert = _converter(recipe)
        return _stacked([convert(tensors, names) for tensors in source.first])

    numbers = list(source.replicates)
    recipe = imported.known_recipe(known, numbers, weights, data_dir=data_dir)
    path = Path(runs) / _called(name, known["folder"])
    about = front.own_about(recipe, path.name, {"imported": known})
    convert = _converter(recipe)
    off = []

    def tickets() -> Iterator[Ticket]:
        for level in range(len(known["kept"])):
            start, end = source.settings.files
            trained = [
                files.read(path, level, start, end)
                for path in source.replicates.values()
            ]
            ticket = _ticket(source, recipe, drawn, convert, level, trained)
            off.append(_off(recipe, ticket, folder))
            yield ticket

    drawn = recipe.init(recipes.keys(recipe.replicates, recipes.INIT))
    early = _state(recipe, drawn, [convert(t, names) for t in source.early], "start")
    states = {"init": drawn, "early": early}
    added = adopting.adopt(recipe, path, about, states, tickets())
    return Imported(
        path,
        added,
        numbers,
        max(off, default=0.0),
        source.settings.differs,
        source.left_out,
    )


class _Source(NamedTuple):
    """What is read of a run before its levels are."""

    replicates: Mapping[int, Path]
    settings: openlth.Settings
    first: list[Tensors]  # weights at step 0, by replicate
    early: list[Tensors]  # at the rewind point
    masks: list[list[Tensors]]  # by replicate and level
    left_out: tuple[str, ...]


def _source(folder: str | Path, validation: int) -> _Source:
    found = files.find(folder)
    numbers = list(found.replicates)
    settings = openlth.read(found.settings, 0, numbers, validation)
    count, beyond = files.levels(found, *settings.files)
    settings = openlth.read(found.settings, count - 1, numbers, validation)
    first, early, ladders = [], [], []
    for path in found.replicates.values():
        main = path / "level_0" / "main"
        early.append(files.read_weights(main / settings.files[0]))
        first.append(early[-1])
        if settings.rewinds:
            before = path / "level_pretrain" / "main" / "model_ep0_it0.pth"
            first[-1] = files.read_weights(before)
        ladders.append(masking.ladder(path, count, early[-1], settings.ignored))
    left_out = (*found.left_out, *beyond)
    return _Source(found.replicates, settings, first, early, ladders, left_out)


def _kept(source: _Source) -> list[int]:
    """How many weights each level keeps, of those that may be pruned.

    Of replicates in which ties were pruned together, the fewest.
    """
    ignored = source.settings.ignored
    counts = [
        [
            sum(int(m.sum()) for name, m in mask.items() if name not in ignored)
            for mask in ladder
        ]
        for ladder in source.masks
    ]
    return [min(each) for each in zip(*counts, strict=True)]


def _converter(recipe: Recipe) -> Convert:
    """What puts PyTorch's tensors into the leaves of the recipe's networks."""
    like = recipes.shapes(recipe)
    params, stats = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), (like.params, like.stats)
    )
    assert recipe.objective is not None  # it comes from names
    example = next(recipe.objective.examples()).inputs
    inputs = jax.ShapeDtypeStruct((1, *example.shape[1:]), example.dtype)
    made = foreign.make_from_torch(recipe.objective.apply, params, stats, inputs)

    def convert(tensors: Tensors, names: Mapping[str, str]) -> tuple[Any, Any]:
        try:
            return made(tensors, names)
        except ValueError as error:
            raise DataError(f"the weights do not fit the network: {error}") from None

    return convert


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def _state(
    recipe: Recipe,
    drawn: TrainState,
    weights: Sequence[tuple[Any, Any]],
    at: Literal["start", "end"],
) -> TrainState:
    """Where trainings of tickets begin or end, with moments of 0."""
    step = recipe.rewind_to if at == "start" else recipe.stops[-1]
    params, stats = _stacked(weights)
    return TrainState(
        jnp.full_like(drawn.step, step),
        params,
        stats,
        optimizers.at_step(drawn.opt_state, step),
    )


def _ticket(
    source: _Source,
    recipe: Recipe,
    drawn: TrainState,
    convert: Convert,
    level: int,
    trained: Sequence[files.Trained],
) -> Ticket:
    """The ticket of a level, of all replicates."""
    names = source.settings.names
    masked, ends = [], []
    each = zip(source.replicates.values(), source.early, source.masks, strict=True)
    for (path, early, ladder), one in zip(each, trained, strict=True):
        masking.check_start(path, level, one.start, early, ladder[level])
        kept = {name: m.astype(np.float32) for name, m in ladder[level].items()}
        masked.append(convert({**one.end, **kept}, names)[0])
        ends.append(convert(one.end, names))
    mask = jax.tree.map(
        lambda m, keep: None if m is None else keep != 0,
        recipe.mask,
        _stacked(masked),
        is_leaf=lambda m: m is None,
    )
    state = _state(recipe, drawn, ends, "end")
    state = state._replace(params=masks.apply(state.params, mask))
    metrics = _curves([one.curves for one in trained], recipe, level)
    return Ticket(level, mask, state, metrics)


def _curves(curves: Sequence[Any], recipe: Recipe, level: int) -> dict[str, Any]:
    """The curves of a ticket, as `train.fit` has them: what the loggers say."""
    shared = [set(c[name]) for c in curves for name in files.METRICS]
    stops = sorted(set.intersection(*shared))
    if not stops or stops[-1] != recipe.stops[-1]:
        raise DataError(
            f"the loggers of level {level} end at iteration "
            f"{stops[-1] if stops else 'none'}, its training at {recipe.stops[-1]}"
        )
    count = len(curves)
    return {
        "step": np.array([stops] * count, np.int32),
        **{
            name: np.array([[c[name][at] for at in stops] for c in curves])
            for name in files.METRICS
        },
        "diverged": np.full(count, NEVER),
        "failed": np.full((count, 2), -1),
    }


def _off(recipe: Recipe, ticket: Ticket, folder: str | Path) -> float:
    """How far the test accuracies of the networks are from the log, at most.

    Raises DataError where that is too far.
    """
    found = np.asarray(recipe.measures["test"](ticket.state)["accuracy"])
    logged = ticket.metrics["test_accuracy"][:, -1]
    off = np.abs(found - logged)
    if off.max() > OFF:
        at = int(off.argmax())
        raise DataError(
            f"{folder}: the network of replicate {recipe.replicates[at]} at level "
            f"{ticket.level} scores {100 * found[at]:.2f} % on the test set here, and "
            f"{100 * logged[at]:.2f} % in its log: other data, or other weights"
        )
    return float(off.max())


def _called(name: str, folder: str) -> str:
    """What the run directory is called: by the hash that OpenLTH knows the run by."""
    known = re.sub(r"[^\w.-]+", "_", folder.removeprefix("lottery_"))[:10]
    return f"{name}-{known}"
