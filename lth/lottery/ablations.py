"""Branches that change one thing: weights, rate, moments, noise, norms, or the steps.

Each function makes one; see `branches` for what a `Branch` is.
"""

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lth import masks
from lth.lottery import rewind as rewinding
from lth.lottery.branches import Branch, as_the_trunk, rewound
from lth.lottery.rewind import Rewind
from lth.train import TrainState


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

    return Branch(start, title, prune=as_the_trunk)


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
      ValueError: for another `relative`, or a scale that is no number from 0 on.
    """
    if relative not in ("travelled", "weights"):
        raise ValueError(f"relative is 'travelled' or 'weights'; got {relative!r}")
    if not 0 <= scale < math.inf:
        raise ValueError(f"scale of the noise is at least 0; got {scale}")

    def leaf(keep, w, late, key):
        drawn = jax.random.normal(key, (w.size,), w.dtype).reshape(w.shape)
        drawn = jnp.where(keep, drawn, 0)
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


def norms_swapped(
    late: bool, is_norm: Callable[[str, jax.Array], bool] | None = None
) -> Branch:
    """Train with the normalisation of one end of the training on weights of the other.

    Args:
      late: Whether scales, shifts and averages of the end of training stand on the
        early weights; else those of the early state stand on the weights of the end.
        The schedule and the moments are the early ones.
      is_norm: `(path, leaf)` says whether a leaf belongs to a normalisation; by default
        a leaf called `scale` does, and what lies beside one and is no kernel. Averages
        are all that `stats` hold.

    Returns:
      The branch.

    Raises:
      ValueError: when it begins, for a network without a normalisation.
    """

    def start(early, ticket, key):
        ends = early, ticket.state
        weights, norms = ends if late else ends[::-1]
        chosen = is_norm or _beside_a_scale(masks.paths(early.params))
        leaves = jax.tree_util.tree_leaves_with_path(early.params)
        known = {masks.name(p) for p, w in leaves if chosen(masks.name(p), w)}
        if not known:
            raise ValueError("the network has no normalisation, no leaf called scale")

        def leaf(path, w, n):
            return n if masks.name(path) in known else w

        params = jax.tree_util.tree_map_with_path(leaf, weights.params, norms.params)
        params = masks.apply(params, ticket.mask)
        return early._replace(params=params, stats=norms.stats), ticket.mask

    which = "late norms on early weights" if late else "early norms on late weights"
    return Branch(start, which)


def _beside_a_scale(paths: list[str]) -> Callable[[str, jax.Array], bool]:
    scaled = {p.rpartition("/")[0] for p in paths if p.rpartition("/")[2] == "scale"}

    def is_norm(path, leaf):
        return path.rpartition("/")[0] in scaled and not masks.is_kernel(path, leaf)

    return is_norm


def continued(rewind: Rewind = rewinding.finetune) -> Branch:
    """Train on from the end of the ticket's own training, under its mask.

    So a mask that was learned is continued from its weights. Weights, averages and
    moments are those of the end; the rate is the last one (`rewind.finetune`) or begins
    anew (`rewind.learning_rate`). The optimizer of a ticket whose mask was found in the
    first training stands at its beginning, so moments are fresh there and the rate
    begins anew in either case. Batches are those from the rewind point on.
    """

    def start(early, ticket, key):
        return rewind(early, ticket.state), ticket.mask

    return Branch(start, "trained on")


def lasting(share: float, rewind: Rewind = rewinding.weights) -> Branch:
    """Retrain the ticket for another number of steps: `share` times as many.

    A schedule is the optimizer's own function of the step and is not stretched: fewer
    steps never see its end, and more go on behind it, at the last rate after
    milestones, at 0 after a cosine. It is measured where the trunk is, and after its
    end as far apart.

    Raises ValueError for a share that leaves no step.
    """
    if not 0 < share < math.inf:
        raise ValueError(f"share of the steps is above 0; got {share}")

    def changed(recipe):
        first, last = recipe.rewind_to, recipe.stops[-1]
        end = first + max(1, round(share * (last - first)))
        every = max(b - a for a, b in itertools.pairwise((0, *recipe.stops)))
        stops = (*recipe.stops, *range(last + every, end, every))
        return recipe._replace(stops=(*(s for s in stops if s < end), end))

    return rewound(rewind)._replace(title=f"{share:g} of the steps", changed=changed)
