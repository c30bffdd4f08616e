"""What is wrong with the way an experiment prunes."""

from typing import get_args

from lth.lab.config import ConfigError, Experiment, Moved
from lth.lab.config.parse import (
    parse_densities,
    parse_rates,
    parse_steps,
    parse_structure,
)

MOVED: tuple[str, ...] = get_args(Moved)
# Criteria that ask the loss on batches, and so may do it in either mode.
OF_LOSS = ("gradient_magnitude", "weight_gradient", "snip", "grasp", "hessian")
SIGNED = tuple(name for name in MOVED if name.endswith("_sign"))


def check(e: Experiment) -> None:
    """Refuse settings of `prune` that contradict one another or the rest."""
    p = e.prune
    kind, listed = parse_structure(p.structure), parse_densities(p.densities)
    transformer = e.model.name in ("vit", "transformer")
    for refused, why in (
        (
            parse_rates(p.rates) and p.scope != "layer",
            "--prune.rates gives layers rates of their own, but with --prune.scope "
            f"{p.scope} they have none; choose --prune.scope layer or --prune.rates ''",
        ),
        (
            parse_rates(p.rates) and listed,
            "--prune.rates and --prune.densities both say how many weights stay: give "
            "--prune.rates '' or --prune.densities ''",
        ),
        (
            p.dense and p.scope not in ("er", "erk"),
            "--prune.dense is of --prune.scope er and erk",
        ),
        (
            kind.name == "n_of_m" and (listed or p.scope != "global"),
            f"--prune.structure {p.structure} is a density in every group: it goes "
            "without --prune.densities and --prune.scope",
        ),
        (
            p.scope in ("er", "erk", "output") and p.structure != "weight",
            f"--prune.scope {p.scope} counts weights, and --prune.structure "
            f"{p.structure} units: choose scope global or layer, or structure weight",
        ),
        (
            kind.name in ("filter", "channel", "block") and p.criterion in SIGNED,
            f"--prune.criterion {p.criterion} excludes single weights, and "
            f"--prune.structure {p.structure} prunes them together",
        ),
        (
            kind.name in ("filter", "block")
            and p.criterion in ("mean_activation", "nonzero_share"),
            f"--prune.criterion {p.criterion} scores what a layer reads, alike for all "
            "its outputs: --prune.structure channel fits it",
        ),
        (
            p.criterion == "adam_second_moment"
            and p.at == "early"
            and parse_steps(e.rewind.to, 1, "--rewind.to") == 0,
            "--prune.criterion adam_second_moment reads what Adam has seen, and at "
            "--rewind.to 0 it has seen nothing",
        ),
        (p.rounds > 1 and p.at == "late", "--prune.rounds is of --prune.at early"),
        (
            p.at == "early" and e.rewind.mode != "weights",
            "--prune.at early prunes weights that are not trained yet: nothing but "
            f"--rewind.mode weights fits; got {e.rewind.mode}",
        ),
        (
            p.at == "early" and p.criterion in MOVED,
            f"--prune.criterion {p.criterion} compares weights before and after "
            "training, and with --prune.at early there is no training yet",
        ),
        (
            p.criterion in MOVED
            and e.rewind.mode not in ("weights", "weights_low_rate"),
            f"--prune.criterion {p.criterion} compares with the weights rewound to, so "
            f"--rewind.mode is weights or weights_low_rate; got {e.rewind.mode}",
        ),
        (
            p.criterion == "adam_second_moment" and e.optimizer.name != "adam",
            f"--prune.criterion {p.criterion} reads Adam's state; got "
            f"--optimizer.name {e.optimizer.name}",
        ),
        (
            p.criterion == "synflow" and transformer,
            f"--prune.criterion synflow needs a network of ReLUs; {e.model.name} "
            "centres its activations",
        ),
        (
            p.mode != "evaluation" and p.criterion not in OF_LOSS,
            f"--prune.mode {p.mode} is of --prune.criterion {', '.join(OF_LOSS)}, "
            f"which ask the loss on batches; got {p.criterion}",
        ),
        (
            p.precision != "float32" and p.criterion != "synflow",
            "--prune.precision is of --prune.criterion synflow",
        ),
    ):
        if refused:
            raise ConfigError(why)
