"""Settings that nothing would look at: they are refused, for they change a run's id."""

from collections.abc import Callable
from typing import Any

from lth.lab.config import Optimizer, Prune, Rewind, needs
from lth.lab.config.parse import parse_steps, parse_structure
from lth.lab.config.validate.pruning import WITHOUT_NORM


def _moments_are_rewound(o: Optimizer, r: Rewind, p: Prune) -> bool:
    """Whether there are moments when a ticket starts: before step 0 they are 0."""
    some = o.name == "adam" or o.momentum > 0
    trained = r.mode in ("learning_rate", "finetune")
    at_start = parse_steps(r.to, 1, "--rewind.to") == 0
    early = r.mode in ("weights", "weights_low_rate") and not at_start
    return some and (trained or early) and p.at == "late"


# Of fields that not every experiment looks at: when one does, in words, the sections
# that say so, and as a test of these.
# Those of `learn`, and some whose use is a matter of two fields, have checks elsewhere.
EFFECTS: dict[str, tuple[str, tuple[str, ...], Callable[..., Any]]] = {
    "data.split_seed": (
        "draws examples, and the validation part of a text is its end",
        ("data",),
        lambda d: d.name != "tinyshakespeare" or d.examples,
    ),
    "data.pixels": (
        "is of images",
        ("data",),
        lambda d: d.name not in ("tinyshakespeare", "regression"),
    ),
    "data.length": (
        "is of --data.name tinyshakespeare",
        ("data",),
        lambda d: d.name == "tinyshakespeare",
    ),
    "data.size": (
        "is of --data.name images",
        ("data",),
        lambda d: d.name == "images",
    ),
    "model.widths": (
        "is of --model.name mlp; other networks have --model.width",
        ("model",),
        lambda m: m.name == "mlp",
    ),
    "model.norm_scale": (
        "is of networks that normalise",
        ("model",),
        lambda m: m.name not in WITHOUT_NORM,
    ),
    "optimizer.drop": (
        "is of --optimizer.milestones",
        ("optimizer",),
        lambda o: o.milestones,
    ),
    "optimizer.milestones": (
        "needs --optimizer.drop below 1",
        ("optimizer",),
        lambda o: o.drop < 1,
    ),
    "learn.optimizer.drop": (
        "is of --learn.optimizer.milestones",
        ("learn",),
        lambda learn: learn.optimizer.milestones,
    ),
    "learn.optimizer.milestones": (
        "needs --learn.optimizer.drop below 1",
        ("learn",),
        lambda learn: learn.optimizer.drop < 1,
    ),
    "prune.batches": (
        f"is of --prune.criterion {', '.join(needs.needing('examples'))}, and of "
        "--prune.surgery",
        ("prune",),
        lambda p: needs.has(p.criterion, "examples") or p.surgery != "none",
    ),
    "prune.rate": (
        "goes without --prune.densities, --prune.cuts and --prune.structure N:M, which "
        "say how many weights stay",
        ("prune",),
        lambda p: (
            not (p.densities or p.cuts)
            and parse_structure(p.structure).name != "n_of_m"
        ),
    ),
    "shrink": (
        "is of --prune.structure filter and channel",
        ("prune",),
        lambda p: parse_structure(p.structure).name in ("filter", "channel"),
    ),
    "rewind.moments": (
        "is of tickets that start with moments: of adam, or sgd with momentum, rewound "
        "to a step above 0 or trained on, with --prune.at late",
        ("optimizer", "rewind", "prune"),
        _moments_are_rewound,
    ),
}
