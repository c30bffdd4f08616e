"""What is wrong with the way an experiment prunes."""

from lth.lab.config import ConfigError, Model, Optimizer, Prune, Rewind, needs
from lth.lab.config.parse import (
    parse_cuts,
    parse_densities,
    parse_rates,
    parse_steps,
    parse_structure,
)

OF_LOSS = ", ".join(needs.needing("loss"))
WITHOUT_NORM = ("mlp", "lenet5", "conv2", "conv4", "conv6", "conv8")


def _surgery(p: Prune, r: Rewind, m: Model, on: bool) -> list[tuple[bool, str]]:
    """What is wrong with optimal brain surgery, if it is asked for."""
    if p.surgery == "none":
        return []
    called = f"--prune.surgery {p.surgery}"
    return [
        (
            not on,
            f"{called} moves the weights that stay: --rewind.mode learning_rate or "
            f"finetune goes on from there; got {r.mode}",
        ),
        (m.name != "mlp", f"{called} is of dense kernels: --model.name mlp"),
        (
            p.criterion != "magnitude" or p.structure != "weight" or p.at == "early",
            f"{called} ranks weights itself: it goes without --prune.criterion, "
            "--prune.structure and --prune.at",
        ),
        (
            p.scope in ("er", "erk", "output") or bool(p.cuts),
            f"{called} prunes layer by layer: --prune.scope is layer or global",
        ),
    ]


def check(p: Prune, r: Rewind, o: Optimizer, m: Model) -> None:
    """Refuse settings of `prune` that contradict one another or the rest.

    Args:
      p: The settings.
      r: How kept weights are rewound.
      o: The optimizer, which some criteria ask.
      m: The network, which not all structures fit.
    """
    kind, listed = parse_structure(p.structure), parse_densities(p.densities)
    transformer = m.name in ("vit", "transformer")
    asked = needs.NEEDS[p.criterion].__contains__
    parse_cuts(p.cuts)
    units = kind.name in ("block", "filter", "channel")
    on = r.mode in ("learning_rate", "finetune")
    for refused, why in (
        *_surgery(p, r, m, on),
        (
            p.pool != "default" and not units,
            "--prune.pool is of --prune.structure block, filter and channel",
        ),
        (
            p.along != "inputs" and kind.name != "n_of_m",
            "--prune.along is of --prune.structure N:M",
        ),
        (
            p.cuts and (listed or parse_rates(p.rates) or p.structure != "weight"),
            "--prune.cuts says which weights stay: it goes without --prune.densities, "
            "--prune.rates '' and --prune.structure",
        ),
        (
            p.cuts and (p.scope not in ("global", "layer") or p.at == "early"),
            "--prune.cuts goes with --prune.scope global or layer, and --prune.at late",
        ),
        (
            "sd" in p.cuts and p.criterion != "magnitude",
            "--prune.cuts in standard deviations are of --prune.criterion magnitude",
        ),
        (
            p.reestimate > 0 and (not on or m.name in WITHOUT_NORM),
            "--prune.reestimate takes averages of batch norm anew, of networks that "
            "have them, and --rewind.mode learning_rate or finetune keeps them",
        ),
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
            kind.name in ("filter", "channel", "block") and asked("weights"),
            f"--prune.criterion {p.criterion} excludes single weights, and "
            f"--prune.structure {p.structure} prunes them together",
        ),
        (
            kind.name in ("filter", "block") and asked("channels"),
            f"--prune.criterion {p.criterion} scores what a layer reads, alike for all "
            "its outputs: --prune.structure channel fits it",
        ),
        (
            asked("adam")
            and p.at == "early"
            and parse_steps(r.to, 1, "--rewind.to") == 0,
            f"--prune.criterion {p.criterion} reads what Adam has seen, and at "
            "--rewind.to 0 it has seen nothing",
        ),
        (
            kind.name in ("filter", "channel") and bool(p.include),
            f"--prune.structure {p.structure} prunes all that belongs to a channel: it "
            "goes without --prune.include",
        ),
        (p.rounds > 1 and p.at == "late", "--prune.rounds is of --prune.at early"),
        (
            p.at == "early" and r.mode != "weights",
            "--prune.at early prunes weights that are not trained yet: nothing but "
            f"--rewind.mode weights fits; got {r.mode}",
        ),
        (
            p.at == "early" and asked("training"),
            f"--prune.criterion {p.criterion} compares weights before and after "
            "training, and with --prune.at early there is no training yet",
        ),
        (
            asked("training") and r.mode not in ("weights", "weights_low_rate"),
            f"--prune.criterion {p.criterion} compares with the weights rewound to, so "
            f"--rewind.mode is weights or weights_low_rate; got {r.mode}",
        ),
        (
            asked("adam") and o.name != "adam",
            f"--prune.criterion {p.criterion} reads Adam's state; got "
            f"--optimizer.name {o.name}",
        ),
        (
            asked("relu") and transformer,
            f"--prune.criterion {p.criterion} needs a network of ReLUs; {m.name} "
            "centres its activations",
        ),
        (
            p.mode != "evaluation" and not asked("loss"),
            f"--prune.mode {p.mode} is of --prune.criterion {OF_LOSS}, "
            f"which ask the loss on batches; got {p.criterion}",
        ),
        (
            p.precision != "float32" and not asked("float64"),
            "--prune.precision is of --prune.criterion synflow",
        ),
    ):
        if refused:
            raise ConfigError(why)
