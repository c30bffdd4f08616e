"""Branches by name: each function makes one, and its parameters are its amounts.

The first parameter is what a branch of this run can start from, a `Start`; the others
are flags of `lth branch`, and a part of the branch's id.
"""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax

from lth.lab.build import naming
from lth.lottery import Branch, ablations, branches, early_bird, rewind
from lth.lottery import transfer as transfers
from lth.lottery.rewind import Rewind
from lth.train import TrainState


class Start(NamedTuple):
    """What a branch may start from."""

    init: Callable[[jax.Array], TrainState]  # of one replicate
    rewind: Rewind  # as tickets do
    rewind_to: int
    invert: Any = None  # prunes the early weights, lowest scores kept
    # The recipe whose loss and measures know stats that are `lottery.Frozen`
    frozen: Callable[[Any], Any] = lambda recipe: recipe
    tx: Any = None  # the optimizer
    # (data, classes) -> the recipe of the same settings on other data, and the digest
    # of those, where they come from names
    other: Callable[[str, str], tuple[Any, str]] | None = None


NOTHING: Mapping[str, Any] = MappingProxyType({})


def by_name(
    table: Mapping[str, Callable], name: str, amounts: Mapping[str, Any] = NOTHING
) -> tuple[Branch, str]:
    """Make a branch by its name; return it, its amounts set, and what it is called.

    Its amounts are those of the function that `table` has for the name, and a part of
    its id, also where they are usual. Raises ValueError for a name and an amount that
    are not there.
    """
    made, called = naming.made(table, name, amounts, "branch")
    if not isinstance(made, Branch):
        raise ValueError(f"{name} makes a branch; got {type(made).__name__}")
    known = naming.usual(table[name]) | naming.read(table[name], amounts)
    return made._replace(settings={**made.settings, **known}), called


def random_mask(s: Start) -> Branch:
    """Put a random mask on the early weights that keeps as many of each layer."""
    return branches.random_mask(s.rewind)


def order(s: Start, order: int = 1, at: str = "early") -> Branch:
    """Train the ticket again with the data in another order.

    Args:
      s: What there is to start from.
      order: Names the order; 0 is the trunk's.
      at: The step of the dense training to start from, such as 37it, if it is one of
        --checkpoint-at; or init, or early, the rewind point.

    Returns:
      The branch.
    """
    where = _state(at)
    return branches.reordered(order, s.rewind, "" if where == "early" else where)


def rewound_to(s: Start, at: str = "init") -> Branch:
    """Put the ticket's mask on weights of another step, at the place of the early ones.

    Args:
      s: What there is to start from.
      at: The step of the dense training, such as 37it, if it is one of
        --checkpoint-at; or init.

    Returns:
      The branch.
    """
    return ablations.rewound_to(_state(at))


def retrain(
    s: Start,
    mode: Literal[
        "weights", "learning_rate", "finetune", "weights_low_rate", "reinit"
    ] = "learning_rate",
    moments: Literal["keep", "drop"] = "keep",
) -> Branch:
    """Retrain the ticket's mask in another mode of rewinding.

    Args:
      s: What there is to start from.
      mode: As of --rewind.mode.
      moments: As of --rewind.moments.

    Returns:
      The branch.
    """
    title = f"retrained: {mode.replace('_', ' ')}"
    if mode == "reinit":
        return ablations.retrained(rewind.weights, title, s.init)
    one = getattr(rewind, mode)
    if moments == "drop":
        one, title = rewind.make_fresh_moments(one, s.tx), f"{title}, fresh moments"
    return ablations.retrained(one, title)


def noise(
    s: Start,
    scale: float = 0.1,
    relative: Literal["travelled", "weights"] = "travelled",
) -> Branch:
    """Add Gaussian noise to the kept early weights, layer by layer.

    Args:
      s: What there is to start from.
      scale: Of the noise, at least 0.
      relative: To the way which a layer's weights travelled, or to the deviation of the
        weights.

    Returns:
      The branch.
    """
    return ablations.noisy(scale, relative, s.rewind)


def norms_late(s: Start) -> Branch:
    """Train with batch-norm scales, shifts and averages of the end on early weights."""
    return ablations.norms_swapped(late=True)


def norms_early(s: Start) -> Branch:
    """Train with early batch-norm scales, shifts and averages on weights of the end."""
    return ablations.norms_swapped(late=False)


def continued(
    s: Start,
    schedule: Literal["last", "early"] = "last",
    moments: Literal["keep", "drop"] = "keep",
) -> Branch:
    """Train on from the end of the ticket's own training.

    Args:
      s: What there is to start from.
      schedule: Whether the rate is the last one, or begins anew.
      moments: Whether the optimizer's are those of the end, or 0. Those of a mask that
        was found in the first training are, and its rate begins anew.

    Returns:
      The branch.
    """
    one = rewind.finetune if schedule == "last" else rewind.learning_rate
    if moments == "drop":
        one = rewind.make_fresh_moments(one, s.tx)
    return ablations.continued(one)


def steps(s: Start, share: float = 0.5) -> Branch:
    """Retrain the ticket for another number of steps.

    Args:
      s: What there is to start from.
      share: Times as many, above 0.

    Returns:
      The branch.
    """
    return ablations.lasting(share, s.rewind)


def early_bird_mask(
    s: Start,
    at: str = "early",
    window: int = early_bird.WINDOW,
    close: float = early_bird.CLOSE,
) -> Branch:
    """Put the mask of an early step of the dense training on the early weights.

    Args:
      s: What there is to start from.
      at: The step, such as 37it, if it is one of --checkpoint-at; or init, or early,
        the rewind point. Of several, 10it,20it,…, the first whose mask has settled.
      window: Masks before it that it is compared with to say so, at least 1.
      close: The share of weights in which they differ less, in (0, 1].

    Returns:
      The branch.
    """
    steps = {_state(item.strip()) for item in at.split(",") if item.strip()}
    places = {"init": 0, "early": s.rewind_to}

    def step(name):
        return places[name] if name in places else int(name.removeprefix("step_"))

    return early_bird.early_bird(sorted(steps, key=step), s.rewind, window, close)


def transfer(
    s: Start,
    data: str = "",
    classes: str = "",
    head: Literal["same", "new", "random"] = "same",
    weights: Literal["early", "late", "none"] = "early",
) -> Branch:
    """Train the ticket on other data.

    Args:
      s: What there is to start from.
      data: Its name, as of --data.name; by default the same.
      classes: Which of its classes, such as 5,6,7; by default all.
      head: Whether the last layer may have another number of classes; it is then drawn
        anew, and kept whole (new) or at random as many in a hundred (random).
      weights: What is carried beside the mask.

    Returns:
      The branch.
    """
    if s.other is None:
        raise ValueError(
            "a run of functions of your own is transferred by "
            "lottery.transfer.transferred, which is given the other recipe"
        )
    if not data and not classes:
        raise ValueError("transfer needs --data or --classes, of what to train on")
    title = f"trained on {data or 'other classes'}"
    title += f", classes {classes}" if classes else ""
    other, digest = s.other(data, classes)
    made = transfers.transferred(lambda: other, title, head=head, weights=weights)
    return made._replace(settings={"digest": digest})


def _state(at: str) -> str:
    """The name of a stored state: 37, 37it and step_37 are one."""
    if at in ("init", "early"):
        return at
    step = re.fullmatch(r"(?:step_)?(\d+)(?:it)?", at)
    if not step:
        raise ValueError(f"at is a step such as 37it, init or early; got {at!r}")
    return f"step_{int(step[1])}"
