"""Branches: trainings that hang off a ticket, such as controls and ablations.

A `Branch` says where a training starts and under what mask, given the early state and a
ticket of the run. It is a function of one replicate; its randomness comes in as a key,
which depends on the branch's name, the replicate and the level alone. Each function
here makes one. `recipe.branches` maps names to them.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lth import masks
from lth.lottery import rewind as rewinding
from lth.lottery import starts
from lth.lottery.rewind import Rewind
from lth.train import TrainState


class Branch(NamedTuple):
    """Holds a training that hangs off a ticket, and never changes it."""

    # Of one replicate: (early, ticket, key) -> the state to start from, and its mask
    start: Callable[..., tuple[TrainState, masks.Mask]]
    title: str  # what tables and legends call it
    order: int = 0  # which data order; 0 is the trunk's
    # The recipe it trains by: other data, steps or measures. None: the run's own.
    changed: Callable[[Any], Any] | None = None
    # In place of the ticket's mask one of its own, of all replicates, from the ticket
    # of the level before: (recipe, early, before, density, keys [r]) -> mask or Pruned
    prune: Callable[..., Any] | None = None
    settings: Mapping[str, Any] = {}  # its amounts; a part of its id
    # Stored states of the dense training, by name, which `start` and `prune` are given
    # as one more argument: a dict by these names
    needs: tuple[str, ...] = ()


NO_STATES: Mapping[str, TrainState] = MappingProxyType({})


class Pruned(NamedTuple):
    """Holds what pruning gives where it is more than a mask."""

    mask: masks.Mask
    state: TrainState  # what the trained state is taken for from here on
    facts: Mapping[str, Any] = {}  # of `start`, in `ticket.metrics`: arrays [r, …]


class Frozen(NamedTuple):
    """Holds the stats of a network whose pruned weights are not 0 (mask-0 actions)."""

    inner: Any
    mask: masks.Mask
    frozen: masks.Params  # what the weights are where the mask prunes
    facts: Any = None


def rewound(rewind: Rewind = rewinding.weights) -> Branch:
    """Put the ticket's mask on the early weights."""

    def start(early, ticket, key):
        return rewind(early, early), ticket.mask

    return Branch(start, "initial weights trained")


def trained_on(rewind: Rewind = rewinding.weights) -> Branch:
    """Put the ticket's mask on its trained weights, under the early schedule."""

    def start(early, ticket, key):
        late = ticket.state
        moved = early._replace(params=late.params, stats=late.stats)
        return rewind(moved, moved), ticket.mask

    return Branch(start, "its weights trained")


def reinit(init: Callable[[jax.Array], TrainState], rewind_to: int = 0) -> Branch:
    """Put the ticket's mask on a new draw of the initialisation, `init(key)`.

    The optimizer's schedule stands where it does at the rewind point.
    """

    def start(early, ticket, key):
        if not rewind_to:  # a fresh state is one of step 0, whatever its optimizer
            return init(key), ticket.mask
        fresh = rewinding.make_reinit(init, key)
        return fresh(early, early), ticket.mask

    return Branch(start, "fresh initialisation")


def random_mask(rewind: Rewind = rewinding.weights) -> Branch:
    """Put a random mask on the early weights that keeps as many of each layer.

    That is what shuffling within layers draws; under a name of its own it is another
    draw of it.
    """
    return shuffled("layer", rewind)._replace(title="random mask, equal in each layer")


def shuffled(scope: str = "layer", rewind: Rewind = rewinding.weights) -> Branch:
    """Shuffle the ticket's mask, within layers or over all prunable weights.

    `scope` is `layer` or `global`; the early weights stay where they are.
    """

    def start(early, ticket, key):
        return rewind(early, early), masks.shuffle(ticket.mask, key, scope=scope)

    titles = {"layer": "mask shuffled in layers", "global": "mask shuffled globally"}
    return Branch(start, titles[scope])


def repruned(
    prune: Callable[..., masks.Mask], title: str, rewind: Rewind = rewinding.weights
) -> Branch:
    """Put another mask in the ticket's place, as many weights chosen by `prune`.

    `prune(early, ticket, density, keys)` is that of a recipe, of all replicates; the
    ticket it is given is that of the level before.
    """

    def chosen(recipe, *args):
        return prune(*args)

    return rewound(rewind)._replace(title=title, prune=chosen)


def acted(
    action: Callable[..., masks.Params],
    title: str,
    rewind: Rewind = rewinding.weights,
) -> Branch:
    """Start kept weights elsewhere: a mask-1 action of Zhou et al. (2019).

    `action(params, mask, key)` is one of `lottery.starts`; it is given the early
    weights.
    """

    def start(early, ticket, key):
        state = rewind(early, early)
        params = action(state.params, ticket.mask, key)
        return state._replace(params=masks.apply(params, ticket.mask)), ticket.mask

    return Branch(start, title)


def held(
    action: Callable[..., masks.Params],
    title: str,
    changed: Callable[[Any], Any],
    rewind: Rewind = rewinding.weights,
) -> Branch:
    """Hold pruned weights at values that are not 0: a mask-0 action of Zhou et al.

    What a weight did in training is seen in the ticket of the level before, where
    weights that were pruned earlier are 0, and so have shrunk.

    Args:
      action: `action(initial, final, mask, key)` gives the values of pruned weights.
      title: What tables and legends call it.
      changed: The recipe whose loss and measures know `Frozen` stats (`on_frozen`).
      rewind: How the kept weights are rewound.

    Returns:
      The branch.
    """

    def start(early, ticket, key):
        state = rewind(early, early)
        frozen = action(early.params, ticket.state.params, ticket.mask, key)
        stats = Frozen(state.stats, ticket.mask, frozen)
        return state._replace(stats=stats), ticket.mask

    return Branch(start, title, changed=changed, prune=_as_the_trunk)


def _as_the_trunk(recipe, early, before, density, keys) -> Pruned:
    """The ticket's own mask again, beside the state that it was chosen by."""
    return Pruned(recipe.prune(early, before, density, keys), before.state)


def on_frozen(loss: Callable, measure: Callable) -> tuple[Callable, Callable]:
    """Make loss and measure of a network those of one whose stats are `Frozen`."""

    def whole(params, stats):
        return starts.filled(params, stats.mask, stats.frozen)

    def lost(params, stats, *rest):
        value, (inner, metrics) = loss(whole(params, stats), stats.inner, *rest)
        return value, (stats._replace(inner=inner), metrics)

    def measured(params, stats, *rest):
        return measure(whole(params, stats), stats.inner, *rest)

    return lost, measured


def reordered(
    order: int = 1, rewind: Rewind = rewinding.weights, at: str = ""
) -> Branch:
    """Train the ticket again on the same data in another order.

    Two that differ in nothing but `order` are the children of one state (Frankle et al.
    2020, arXiv:1912.05671, section 3). The state is the early one, or that of a
    checkpoint of the dense training, under the ticket's mask.

    Args:
      order: Names the order of the data; 0 is the trunk's.
      rewind: What becomes of the early state.
      at: The name of a checkpoint, such as `step_37`; by default the rewind point.

    Returns:
      The branch.
    """

    def start(early, ticket, key, states=NO_STATES):
        state = states[at] if at else rewind(early, early)
        return state, ticket.mask

    where = f" from {at.replace('_', ' ')}" if at else ""
    title = f"data order {order}{where}"
    settings = {"order": order} | ({"at": at} if at else {})
    needs = (at,) if at else ()
    return Branch(start, title, order, settings=settings, needs=needs)


def rewound_to(at: str) -> Branch:
    """Put the ticket's mask on the weights of another step of the dense training.

    They are put at the place of the early state, step and schedule, so that whatever
    the step they come from, as many steps are trained, on the same batches and at the
    same rates. Moments are those of that step.
    """

    def start(early, ticket, key, states):
        source = states[at]
        opt_state = rewinding.with_schedule(source.opt_state, early.opt_state)
        return source._replace(step=early.step, opt_state=opt_state), ticket.mask

    return Branch(start, f"weights of {at.replace('_', ' ')}", needs=(at,))


def retrained(
    rewind: Rewind, title: str, init: Callable[[jax.Array], TrainState] | None = None
) -> Branch:
    """Retrain the ticket's mask as another mode of rewinding would have.

    The late state is that of the level before, by which the mask was chosen: all modes
    start from one training, and train as many steps (Renda et al. 2020,
    arXiv:2003.02389).

    Args:
      rewind: `(early, late) -> state`, such as `rewind.finetune`.
      title: What tables and legends call it.
      init: Draws the weights anew, in place of `rewind`.

    Returns:
      The branch; there is none of the dense network.
    """

    def start(early, ticket, key):
        chosen = rewinding.make_reinit(init, key) if init else rewind
        return chosen(early, ticket.state), ticket.mask

    return Branch(start, title, prune=_as_the_trunk)


def noisy(
    scale: float, relative: str = "travelled", rewind: Rewind = rewinding.weights
) -> Branch:
    """Add Gaussian noise to the kept early weights.

    Args:
      scale: Of the noise. With `travelled`, the norm of a layer's noise over that of
        the way which its kept weights went from the early state to the end; with
        `weights`, the deviation of the noise over that of the layer's kept early
        weights (Frankle et al. 2020, "The early phase of neural network training",
        arXiv:2002.10365, section 4.2, adds noise in multiples of the initial one).
      relative: `travelled` or `weights`.
      rewind: What becomes of the early state.

    Returns:
      The branch.

    Raises:
      ValueError: for another `relative`, or a scale below 0.
    """
    if relative not in ("travelled", "weights"):
        raise ValueError(f"relative is 'travelled' or 'weights'; got {relative!r}")
    if scale < 0:
        raise ValueError(f"scale is at least 0; got {scale}")

    def leaf(keep, w, late, key):
        drawn = jnp.where(keep, jax.random.normal(key, w.shape, w.dtype), 0)
        if relative == "travelled":
            way = jnp.linalg.norm(jnp.where(keep, late - w, 0).ravel())
            length = jnp.linalg.norm(drawn.ravel())
            size = way / jnp.maximum(length, jnp.finfo(w.dtype).tiny)
        else:
            count = jnp.maximum(jnp.sum(keep), 1)
            mean = jnp.sum(jnp.where(keep, w, 0)) / count
            size = jnp.sqrt(jnp.sum(jnp.where(keep, (w - mean) ** 2, 0)) / count)
        return w + scale * size * drawn

    def start(early, ticket, key):
        state = rewind(early, early)
        leaves, structure = jax.tree.flatten(state.params)
        rows = zip(
            structure.flatten_up_to(ticket.mask),
            leaves,
            structure.flatten_up_to(ticket.state.params),
            jax.random.split(key, len(leaves)),
            strict=True,
        )
        moved = [row[1] if row[0] is None else leaf(*row) for row in rows]
        params = masks.apply(jax.tree.unflatten(structure, moved), ticket.mask)
        return state._replace(params=params), ticket.mask

    of = "the way" if relative == "travelled" else "the weights"
    return Branch(start, f"noise {scale:g} of {of}")


def norms_swapped(late: bool, is_norm: Callable[[str], bool] | None = None) -> Branch:
    """Train with the normalisation of one end of the training on weights of the other.

    Args:
      late: Whether scales, shifts and averages of the end of training stand on the
        early weights; else those of the early state stand on the weights of the end.
        The schedule and the moments are the early ones.
      is_norm: Whether a leaf at a path belongs to a normalisation; by default those
        beside a leaf called `scale`, it included.

    Returns:
      The branch.

    Raises:
      ValueError: when it begins, for a network without a normalisation.
    """

    def start(early, ticket, key):
        paths = masks.paths(early.params)
        scaled = {p.rpartition("/")[0] for p in paths if p.endswith("scale")}
        chosen = is_norm or (lambda path: path.rpartition("/")[0] in scaled)
        if not any(map(chosen, paths)):
            raise ValueError("the network has no normalisation, no leaf called scale")
        ends = early, ticket.state
        weights, norms = ends if late else ends[::-1]

        def leaf(path, w, n):
            return n if chosen(masks.name(path)) else w

        params = jax.tree_util.tree_map_with_path(leaf, weights.params, norms.params)
        params = masks.apply(params, ticket.mask)
        return early._replace(params=params, stats=norms.stats), ticket.mask

    which = "late norms on early weights" if late else "early norms on late weights"
    return Branch(start, which)


def continued(rewind: Rewind = rewinding.finetune) -> Branch:
    """Train on from the end of the ticket's own training, under its mask.

    So a mask that was learned is continued from its weights. Weights, averages and
    moments are those of the end; the rate is the last one (`rewind.finetune`) or begins
    anew (`rewind.learning_rate`).
    """

    def start(early, ticket, key):
        return rewind(early, ticket.state), ticket.mask

    return Branch(start, "trained on")


def lasting(share: float, rewind: Rewind = rewinding.weights) -> Branch:
    """Retrain the ticket for another number of steps: `share` times as many.

    A schedule goes on as the optimizer has it: one that ends in a constant stays there,
    and fewer steps never see its end.

    Raises ValueError for a share that leaves no step.
    """
    if not share > 0:
        raise ValueError(f"share of the steps is above 0; got {share}")

    def changed(recipe):
        first, last = recipe.rewind_to, recipe.stops[-1]
        end = first + max(1, round(share * (last - first)))
        every = max(1, last - (recipe.stops[-2] if len(recipe.stops) > 1 else first))
        stops = (*recipe.stops, *range(last + every, end, every))
        return recipe._replace(stops=(*(s for s in stops if s < end), end))

    return rewound(rewind)._replace(title=f"{share:g} of the steps", changed=changed)
