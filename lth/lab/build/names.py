"""Every table from a name to a function: what may be asked for by name.

Plain dicts, and small adapters that give their functions one signature. A new name is a
function, a word in a `Literal` of `lab.config.fields`, and a line here; tests hold the
three to each other. Data sets by name are `data.SOURCES`.
"""

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lth import criteria, dynamic, masks, models, supermask
from lth.criteria import channels, history
from lth.data import augment
from lth.dynamic import forward
from lth.lab import config
from lth.lab.build import branching, filtering, inspecting, probing, sizing
from lth.lab.build.branching import Start
from lth.lab.config import needs
from lth.lottery import Branch, branches, mix, rewind, starts
from lth.lottery.rewind import Rewind
from lth.masks import Density, Mask, Params, Scores, schedules
from lth.models import Model
from lth.supermask import Supermask
from lth.train import TrainState


class Examples(NamedTuple):
    """What a network takes and gives."""

    shape: tuple[int, ...]  # of one example
    classes: int  # 1 for a number


def _family(module: Callable[..., nn.Module], **fields: Any) -> Callable[..., Any]:
    """What builds a family of networks from the fields of a configuration.

    `module` is given those among them that it has.
    """

    def build(m: config.Model, examples: Examples, dtype: Any) -> nn.Module:
        given = {
            "classes": examples.classes,
            "widths": m.widths,
            "width": m.width,
            "initialiser": m.initialiser,
            "norm_scale": m.norm_scale,
            "dtype": dtype,
            "remat": m.remat,
            "length": examples.shape[0],
        }
        known = module.__dataclass_fields__  # type: ignore[attr-defined]
        deep = {"depth": m.depth} if m.depth else {}
        return module(**{n: v for n, v in given.items() if n in known} | fields | deep)

    return build


NETWORKS = {
    "mlp": _family(models.MLP),
    "lenet5": _family(models.LeNet5),
    **{f"conv{n}": _family(models.Conv, depth=n) for n in (2, 4, 6, 8)},
    **{f"vgg{n}": _family(models.VGG, depth=n) for n in (11, 13, 16, 19)},
    **{f"resnet{n}": _family(models.ResNet, depth=n) for n in (20, 32, 44, 56, 110)},
    "wrn16_4": _family(models.WideResNet, depth=16, widen=4),
    "wrn22_2": _family(models.WideResNet, depth=22, widen=2),
    **{
        f"resnet{n}_imagenet": _family(models.ImageNetResNet, depth=n) for n in (18, 50)
    },
    "vit": _family(models.ViT),
    "transformer": _family(models.Transformer),
}


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
    **{name: _moved(getattr(history, name)) for name in needs.MOVED},
}


# Movement pruning begins after a tenth of its steps and ends a fifth before the last,
# as Sanh et al. have it on SQuAD.
RAMP = (0.1, 0.8)


def _bernoulli(learn: config.Learn, model: Model, steps: int, prunable: Any):
    logit = math.log(learn.start / (1 - learn.start))
    return supermask.bernoulli(
        model, start=logit, rescale=learn.rescale, prunable=prunable
    )


def _highest(make: Callable[..., Supermask]) -> Callable[..., Supermask]:
    def build(learn: config.Learn, model: Model, steps: int, prunable: Any):
        return make(
            model,
            learn.keep,
            rank=jnp.abs if learn.rank == "magnitude" else lambda s: s,
            scope=learn.scope,
            every=learn.every,
            scale=learn.rescale,
            prunable=prunable,
        )

    return build


def _hard_concrete(learn: config.Learn, model: Model, steps: int, prunable: Any):
    return supermask.hard_concrete(model, start=learn.start, prunable=prunable)


def _continuous(learn: config.Learn, model: Model, steps: int, prunable: Any):
    return supermask.continuous(model, steps=steps, prunable=prunable)


def _movement(learn: config.Learn, model: Model, steps: int, prunable: Any):
    return supermask.movement(
        model,
        _ramp(1 - learn.keep, steps),
        scope=learn.scope,
        every=learn.every,
        prunable=prunable,
    )


def _movement_soft(learn: config.Learn, model: Model, steps: int, prunable: Any):
    threshold = _ramp(learn.threshold, steps)
    return supermask.movement_soft(model, threshold, prunable=prunable)


def _ramp(sparsity: float, steps: int) -> schedules.Schedule:
    begin, end = (round(part * steps) for part in RAMP)
    return schedules.cubic(sparsity, begin, max(end, begin + 1), 1)


LEARNERS: dict[str, Callable[..., Supermask]] = {
    "bernoulli": _bernoulli,
    "edge_popup": _highest(supermask.edge_popup),
    "multi_prize": _highest(supermask.multi_prize),
    "hard_concrete": _hard_concrete,
    "continuous": _continuous,
    "movement": _movement,
    "movement_soft": _movement_soft,
}


class Moves(NamedTuple):
    """What a rule that changes a mask in training is given, as numbers."""

    begin: int
    end: int
    every: int
    steps: int  # of the training
    density: Density


def _gradual(d: config.Dynamic, at: Moves) -> dynamic.Rule:
    def schedule(density):
        return schedules.cubic(1 - density, at.begin, at.end, at.every)

    if d.scope == "global":
        return dynamic.gradual(schedule(d.density), at.steps)
    paths, each = masks.paths(at.density), jax.tree.leaves(at.density)
    if all(share == d.density for share in each):
        by_layer = partial(masks.keep_top, scope="layer")
        return dynamic.gradual(schedule(d.density), at.steps, keep=by_layer)
    rules = {
        f"^{re.escape(path)}$": schedule(share)
        for path, share in zip(paths, each, strict=True)
    }
    whole = schedules.by_path(at.density, schedule(d.density), rules)
    return dynamic.gradual(whole, at.steps)


RULES: dict[str, Callable[[config.Dynamic, Moves], dynamic.Rule]] = {
    "static": lambda d, at: dynamic.static(at.density),
    "gradual": _gradual,
    "rigl": lambda d, at: dynamic.rigl(
        at.density,
        begin_step=at.begin,
        end_step=at.end,
        frequency=at.every,
        drop=dynamic.cosine_drop(d.drop, begin_step=at.begin, end_step=at.end),
    ),
    "sparse_evolution": lambda d, at: dynamic.sparse_evolution(
        at.density,
        begin_step=at.begin,
        end_step=at.end,
        frequency=at.every,
        drop=dynamic.constant_drop(d.drop),
    ),
    "ac_dc": lambda d, at: dynamic.ac_dc(
        d.density, phase=at.every, warmup=at.begin, steps=at.steps
    ),
}


def _scope(d: config.Dynamic, at: Moves) -> dict[str, Any]:
    scope = "global" if d.scope == "global" else "layer"
    return {"scope": scope, "every": at.every}


def _straight_through(d: config.Dynamic, model: Model, at: Moves, prunable: Any):
    options = {**_scope(d, at), "prunable": prunable}
    made, final = forward.straight_through(model, at.density, **options)
    return made, final, None


def _top_kast(d: config.Dynamic, model: Model, at: Moves, prunable: Any):
    wider = jax.tree.map(lambda x: max(x, d.backward), at.density)
    options = {**_scope(d, at), "prunable": prunable}
    return forward.top_kast(model, at.density, wider, **options)


def _soft_threshold(d: config.Dynamic, model: Model, at: Moves, prunable: Any):
    made, final = forward.soft_threshold(model, d.start, prunable)
    return made, final, None


# Each gives a model, its `final(params, stats)`, and a penalty or None.
FORWARDS: dict[str, Callable[..., tuple[Model, Callable, Callable | None]]] = {
    "straight_through": _straight_through,
    "top_kast": _top_kast,
    "soft_threshold": _soft_threshold,
}

AUGMENTATIONS: dict[str, Callable[[int], list[Callable]]] = {  # of the size to crop to
    "none": lambda size: [],
    "flip": lambda size: [augment.flip()],
    "crop_flip": lambda size: [augment.crop(4), augment.flip()],
    "resized_crop_flip": lambda size: [augment.resized_crop(size), augment.flip()],
}

REWINDS: dict[str, Rewind] = {  # beside reinit, which draws
    "weights": rewind.weights,
    "learning_rate": rewind.learning_rate,
    "finetune": rewind.finetune,
    "weights_low_rate": rewind.weights_low_rate,
}


def _signs_kept(s: Start) -> Branch:
    def action(params, mask, key):
        return starts.signs_kept(s.init(key).params, params)

    return branches.acted(action, "drawn anew, signs kept", s.rewind)


def _acted(function: Callable, title: str, drawn: bool = True):
    def action(params, mask, key):
        return function(params, mask, *[key] * drawn)

    return lambda s: branches.acted(action, title, s.rewind)


def _held(action: Callable, title: str):
    return lambda s: branches.held(action, title, s.frozen, s.rewind)


def _zero_reshuffled(initial, final, mask, key):
    frozen = starts.freeze_init_zero_shrunk(initial, final, mask)
    return starts.freeze_init_zero_reshuffled(initial, frozen, mask, key)


# Each makes a probe; its parameters are flags of `lth measure`.
PROBES: dict[str, Callable[..., probing.Probe]] = {
    "densities": probing.densities,
    "distance": probing.distance,
    "barrier": probing.barrier,
    "overlap": probing.overlaps,
    "signs": probing.signs,
    "paths": probing.paths,
    "degrees": probing.degrees,
    "sharpness": inspecting.sharpness,
    "spectrum": inspecting.spectrum,
    "gradient": inspecting.gradient,
    "el2n": inspecting.el2n,
    "forgetting": inspecting.forgetting,
    "recovery": sizing.recovery,
    "shrunk": sizing.shrunk,
}

# Scores of channels, by which `lth prune-filters` removes them.
CHANNELS: dict[str, filtering.Score] = {
    "taylor": filtering.asked(channels.taylor),
    "taylor_batch": filtering.asked(channels.taylor_batch),
    "taylor_squared": filtering.asked(channels.taylor_squared),
    "taylor_abs": filtering.asked(channels.taylor_abs),
    "fisher": filtering.asked(channels.fisher),
    "obd": filtering.asked(channels.obd),
    "filter_l1": filtering.weighed(channels.filter_l1),
    "filter_l2": filtering.weighed(channels.filter_l2),
    "norm_scale": filtering.weighed(channels.norm_scale),
    "mean_activation": filtering.read(channels.mean_activation),
    "nonzero_share": filtering.read(channels.nonzero_share),
    "random": filtering.drawn,
}

# Each makes a branch of what there is to start from; its other parameters are flags of
# `lth branch`.
CONTROLS: dict[str, Callable[..., Branch]] = {
    "reinit": lambda s: branches.reinit(s.init, s.rewind_to),
    "shuffle": lambda s: branches.shuffled("layer", s.rewind),
    "invert": lambda s: branches.repruned(s.invert, "lowest scores kept", s.rewind),
    "rewind": lambda s: branches.rewound(s.rewind),
    "train": lambda s: branches.trained_on(s.rewind),
    "shuffle_global": lambda s: branches.shuffled("global", s.rewind),
    "signs_kept": _signs_kept,
    "permuted": _acted(starts.permuted, "weights permuted"),
    "reshuffled": _acted(starts.reshuffled, "kept weights permuted"),
    "reshuffled_signs_kept": _acted(
        starts.reshuffled_signs_kept, "kept sizes permuted, signs kept"
    ),
    "signed_constant": _acted(starts.signed_constant, "signs times a constant", False),
    "random_signed_constant": _acted(
        starts.random_signed_constant, "random signs times a constant"
    ),
    "rescaled": _acted(starts.rescaled, "weights rescaled", False),
    "freeze_init": _held(
        lambda i, f, m, k: starts.freeze_init(i, m), "pruned weights frozen"
    ),
    "freeze_init_zero_shrunk": _held(
        lambda i, f, m, k: starts.freeze_init_zero_shrunk(i, f, m),
        "pruned weights frozen, shrunk ones 0",
    ),
    "freeze_init_zero_grown": _held(
        lambda i, f, m, k: starts.freeze_init_zero_grown(i, f, m),
        "pruned weights frozen, grown ones 0",
    ),
    "freeze_init_zero_reshuffled": _held(
        _zero_reshuffled, "pruned weights frozen, as many 0 at random"
    ),
    "mix": lambda s: mix.mixed(s.init, s.frozen, s.rewind),
    "random_mask": branching.random_mask,
    "order": branching.order,
    "noise": branching.noise,
    "norms_late": branching.norms_late,
    "norms_early": branching.norms_early,
    "continued": branching.continued,
    "steps": branching.steps,
    "early_bird": branching.early_bird_mask,
}

# And those that say nothing until they are given their amounts.
BRANCHES: dict[str, Callable[..., Branch]] = {
    **CONTROLS,
    "rewound_to": branching.rewound_to,
    "retrain": branching.retrain,
    "transfer": branching.transfer,
}
