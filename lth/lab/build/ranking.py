"""From the names in a configuration to scores and to masks of them."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lth import criteria, masks, models, train
from lth.lab.build import networks, tasks
from lth.lab.config import parse
from lth.masks import structure
from lth.lab.config.validate.pruning import MOVED
from lth.lab.config import ConfigError, Experiment
from lth.criteria import history
from lth.masks import Mask, Params, Scores
from lth.train import TrainState

GRASP_TEMPERATURE = 200  # of the logits, in the code of Wang et al.


class Inputs(NamedTuple):
    """What a criterion may look at, of one replicate."""

    initial: Params  # where the training began
    state: TrainState  # where it ended; its weights are ranked
    mask: Mask
    key: jax.Array
    batches: Callable  # () -> training examples [b, n, ...]
    loss: Callable  # (params, batch) -> the mean loss, in the mode asked for
    cool: Callable  # the same with cooled logits
    inputs: Callable  # () -> what meets each kernel
    flow: Callable  # params -> the scores of SynFlow


def _moved(function: Callable) -> Callable[[Inputs], Scores]:
    return lambda v: function(v.initial, v.state.params)


def _asked(function: Callable) -> Callable[[Inputs], Scores]:
    return lambda v: function(v.loss, v.state.params, v.batches())


def _fisher(v: Inputs) -> Scores:
    diagonal = criteria.empirical_fisher(v.loss, v.state.params, v.batches())
    return criteria.obd(v.state.params, diagonal)


def _hessian(v: Inputs) -> Scores:
    found = criteria.hutchinson(v.loss, v.state.params, v.batches(), v.key, probes=8)
    return criteria.obd(v.state.params, found)


def _adam(v: Inputs) -> Scores:
    diagonal = criteria.adam_second_moment(v.state.opt_state)
    return criteria.obd(v.state.params, diagonal)


def _weights(function: Callable) -> Callable[[Inputs], Scores]:
    return lambda v: function(v.state.params)


def _inputs(function: Callable) -> Callable[[Inputs], Scores]:
    def scores(v):
        params = v.state.params
        found = function(*_covered(params, v.inputs(), v.mask))
        return jax.tree.map(
            lambda w, s: jnp.zeros_like(w) if s is None else s, params, found
        )

    return scores


def _covered(params: Params, inputs: Any, mask: Mask) -> tuple[Params, Any]:
    """Without the leaves of which nothing is pruned and nothing seen."""

    def out(x, keep):
        return keep is None and (x is None or isinstance(x, models.Unseen))

    kept = jax.tree.map(lambda w, x, m: None if out(x, m) else w, params, inputs, mask)
    return kept, jax.tree.map(
        lambda w, x, m: None if out(x, m) else x, params, inputs, mask
    )


CRITERIA: dict[str, Callable[[Inputs], Scores]] = {
    "magnitude": _weights(criteria.magnitude),
    "normalised_magnitude": _weights(criteria.normalised_magnitude),
    "standardised_magnitude": _weights(criteria.standardised_magnitude),
    "lamp": _weights(criteria.lamp),
    "random": lambda v: criteria.random(v.state.params, v.key),
    "gradient_magnitude": _asked(criteria.gradient_magnitude),
    "weight_gradient": _asked(criteria.weight_gradient),
    "snip": lambda v: criteria.snip(v.loss, v.state.params, v.mask, v.batches()),
    "grasp": lambda v: criteria.grasp(v.cool, v.state.params, v.mask, v.batches()),
    "synflow": lambda v: v.flow(v.state.params),
    "fisher": _fisher,
    "hessian": _hessian,
    "adam_second_moment": _adam,
    "wanda": _inputs(criteria.wanda),
    "activation_magnitude": _inputs(criteria.activation_magnitude),
    "mean_activation": _inputs(criteria.mean_activation),
    "nonzero_share": _inputs(criteria.nonzero_share),
    **{name: _moved(getattr(history, name)) for name in MOVED},
}
OF_INPUTS = ("wanda", "activation_magnitude", "mean_activation", "nonzero_share")


def make_scores(e: Experiment, task: tasks.Task) -> Callable[..., Scores]:
    """`scores(initial, state, mask, key, data)` of one replicate, by `e.prune`.

    `data` is what `task.sample` takes: `e.prune.batches` batches are drawn from it.
    """
    p = e.prune
    flow = _make_flow(e, task)

    def loss_of(objective, stats, key):
        """The mean loss of a batch; what training would make of `stats` is dropped."""
        loss, measure = objective
        if p.mode == "training":
            return lambda params, batch: loss(params, stats, batch, key)[0]
        return lambda params, batch: jnp.mean(measure(params, stats, batch)["loss"])

    def scores(initial, state, mask, key, data):
        order, noise = jax.random.split(key)
        # One dropout for all batches, so that a loss is one function of the weights.
        dropout = jax.random.fold_in(key, 2)
        params = masks.apply(state.params, mask)

        def batches():
            def draw(step):
                return task.sample(order, step, data)

            return jax.lax.map(draw, jnp.arange(p.batches, dtype=jnp.int32))

        def inputs():
            # All batches as one: [b, n, ...] to [b * n, ...].
            together = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batches())
            assert task.model.intermediates is not None  # all of `networks` have it
            found, _ = task.model.intermediates(params, state.stats, together.inputs)
            _check_inputs(found, mask, p.criterion)
            return found

        view = Inputs(
            initial=masks.apply(initial, mask),
            state=state._replace(params=params),
            mask=mask,
            key=noise,
            batches=batches,
            loss=loss_of((task.loss, task.measure), state.stats, dropout),
            cool=loss_of(_cooled(task), state.stats, dropout),
            inputs=inputs,
            flow=lambda params: flow(params, state.stats),
        )
        return CRITERIA[p.criterion](view)

    return scores


def _make_flow(e: Experiment, task: tasks.Task) -> Callable[[Params, Any], Scores]:
    """SynFlow of the network itself, on ones and at the precision asked for."""
    dtype = jnp.dtype(e.prune.precision)
    exact = replace(e.model, compute=e.prune.precision, remat=False)
    network = networks.network(exact, task.examples)

    def flow(params, stats):
        params, stats = jax.tree.map(lambda x: x.astype(dtype), (params, stats))
        inputs = jnp.ones((1, *task.examples.shape), dtype)
        with jax.default_matmul_precision("highest"):  # GPUs may round to fewer bits
            return criteria.synflow(network.apply, params, stats, inputs)

    return flow


def _cooled(task: tasks.Task) -> tuple[train.Loss, Callable]:
    """`task.loss` and `.measure` with logits over GraSP's temperature, if any."""
    if task.examples.classes == 1:
        return task.loss, task.measure

    def apply(*args):
        outputs, stats = task.model.apply(*args)
        return outputs / GRASP_TEMPERATURE, stats

    return train.classification(apply)


def _check_inputs(found: Any, mask: Mask, criterion: str) -> None:
    def unseen(keep, x):
        return keep if x is None or isinstance(x, models.Unseen) else None

    covered = jax.tree.map(unseen, mask, found)
    if jax.tree.leaves(covered):
        raise ConfigError(
            f"--prune.criterion {criterion} looks at the inputs of kernels, and "
            f"{', '.join(masks.paths(covered))} has none: --prune.exclude it"
        )


def make_keep(e: Experiment) -> Callable[[Scores, Mask, Any], Mask]:
    """`keep(scores, mask, density)` for the structure and scope of `e.prune`."""
    if e.prune.scope == "output":
        return structure.keep_within
    scope = "global" if e.prune.scope == "global" else "layer"
    kind = parse.parse_structure(e.prune.structure)
    if kind.name == "n_of_m":
        n, m = kind.sizes
        return lambda scores, mask, density: structure.keep_n_of_m(scores, mask, n, m)
    if kind.name == "weight":
        return lambda scores, mask, density: masks.keep_top(
            scores, mask, density, scope
        )
    unit = unit_of(e)
    return lambda scores, mask, density: structure.keep_top(
        scores, mask, density, scope, unit=unit
    )


def unit_of(e: Experiment) -> structure.Unit:
    """What is pruned as a unit, where units compete."""
    kind = parse.parse_structure(e.prune.structure)
    if kind.name == "block":
        return structure.block(kind.sizes)
    if kind.name in ("filter", "channel"):
        # The sum, which for sizes of weights is Li et al.'s L1, respects signs. Scores
        # of activations are of a whole channel already: their mean is theirs.
        pool = "mean" if e.prune.criterion in OF_INPUTS else "sum"
        along = structure.outputs if kind.name == "filter" else structure.inputs
        return along(pool)
    return structure.weight()


def competitors(e: Experiment, mask: Mask) -> list[int]:
    """How many units each prunable leaf has."""
    tiles = structure.shapes(mask, unit_of(e))
    return [
        math.prod(-(-n // size) for n, size in zip(leaf.shape, tile, strict=True))
        for leaf, tile in zip(jax.tree.leaves(mask), tiles, strict=True)
    ]


def precision(e: Experiment) -> contextlib.AbstractContextManager:
    """Within it, arrays can be of the precision the experiment ranks in."""
    if e.prune.precision == "float64":
        return jax.enable_x64(True)
    return contextlib.nullcontext()
