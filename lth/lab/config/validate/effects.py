"""Settings that nothing would look at: they are refused, for they change a run's id."""

from collections.abc import Callable
from typing import Any

from lth.lab.config import ConfigError, Experiment
from lth.lab.config.parse import parse_steps, parse_structure

ON_DATA = (  # criteria that look at training examples
    "gradient_magnitude",
    "weight_gradient",
    "snip",
    "grasp",
    "fisher",
    "hessian",
    "wanda",
    "activation_magnitude",
    "mean_activation",
    "nonzero_share",
)
WITHOUT_NORM = ("mlp", "lenet5", "conv2", "conv4", "conv6", "conv8")


def _starts_at_0(e: Experiment) -> bool:
    return parse_steps(e.rewind.to, 1, "--rewind.to") == 0


def _moments_are_rewound(e: Experiment) -> bool:
    """Whether there are moments when a ticket starts: before step 0 they are 0."""
    some = e.optimizer.name == "adam" or e.optimizer.momentum > 0
    trained = e.rewind.mode in ("learning_rate", "finetune")
    early = e.rewind.mode in ("weights", "weights_low_rate") and not _starts_at_0(e)
    return some and (trained or early) and e.prune.at == "late"


# Of fields that not every experiment looks at: when one does, in words and as a test.
# Those of `learn`, and some whose use is a matter of two fields, have checks elsewhere.
EFFECTS: dict[str, tuple[str, Callable[[Experiment], Any]]] = {
    "data.split_seed": (
        "draws examples, and the validation part of a text is its end",
        lambda e: e.data.name != "tinyshakespeare" or e.data.examples,
    ),
    "data.pixels": (
        "is of images",
        lambda e: e.data.name not in ("tinyshakespeare", "regression"),
    ),
    "data.length": (
        "is of --data.name tinyshakespeare",
        lambda e: e.data.name == "tinyshakespeare",
    ),
    "data.size": ("is of --data.name images", lambda e: e.data.name == "images"),
    "model.widths": (
        "is of --model.name mlp; other networks have --model.width",
        lambda e: e.model.name == "mlp",
    ),
    "model.norm_scale": (
        "is of networks that normalise",
        lambda e: e.model.name not in WITHOUT_NORM,
    ),
    "optimizer.drop": (
        "is of --optimizer.milestones",
        lambda e: e.optimizer.milestones,
    ),
    "optimizer.milestones": (
        "needs --optimizer.drop below 1",
        lambda e: e.optimizer.drop < 1,
    ),
    "learn.optimizer.drop": (
        "is of --learn.optimizer.milestones",
        lambda e: e.learn.optimizer.milestones,
    ),
    "learn.optimizer.milestones": (
        "needs --learn.optimizer.drop below 1",
        lambda e: e.learn.optimizer.drop < 1,
    ),
    "prune.batches": (
        f"is of --prune.criterion {', '.join(ON_DATA)}",
        lambda e: e.prune.criterion in ON_DATA,
    ),
    "prune.rate": (
        "goes without --prune.densities and without --prune.structure N:M, which say "
        "how many weights stay",
        lambda e: (
            not e.prune.densities
            and parse_structure(e.prune.structure).name != "n_of_m"
        ),
    ),
    "rewind.moments": (
        "is of tickets that start with moments: of adam, or sgd with momentum, rewound "
        "to a step above 0 or trained on, with --prune.at late",
        _moments_are_rewound,
    ),
}


def check(e: Experiment) -> None:
    """Refuse a field that differs from its default where it has no effect."""
    default = Experiment()
    for path, (when, looked_at) in EFFECTS.items():
        value, usual = field(e, path), field(default, path)
        if value != usual and not looked_at(e):
            flag = f"--{path.replace('_', '-')}"
            if isinstance(usual, tuple):
                usual = ",".join(map(str, usual))
            raise ConfigError(
                f"{flag} {when}: here nothing would look at it. Leave it out, or give "
                f"{flag} {usual or repr(usual)}"
            )


def field(e: Experiment, path: str) -> Any:
    """The field of an experiment under names with dots."""
    value: Any = e
    for name in path.split("."):
        value = getattr(value, name)
    return value
