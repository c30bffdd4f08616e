"""Runs whose levels prune filters: `lth prune-filters`."""

from pathlib import Path
from typing import Literal

from lth.lab import front
from lth.lab.build import filtering, names
from lth.lab.config import ConfigError, parse
from lth.lottery import Recipe

SOURCE = f"{__name__}:prune_filters"


def prune_filters(
    preset: str,
    criterion: str = "taylor",
    keep: float = 0.4,
    rounds: int = 5,
    retrain: int = 0,
    rewind: Literal["finetune", "learning_rate", "weights"] = "finetune",
    scope: Literal["global", "layer"] = "global",
    least: int = 1,
    batches: int = 4,
    flops: float = 0,
    steps: str = "",
    width: float = 0,
    replicates: int = 0,
    shrink: bool = False,
    data_dir: Path | None = None,
) -> Recipe:
    """Make the recipe of a preset's network whose filters are pruned in rounds.

    A filter goes with its bias, its norm and the weights that read it; each round
    removes as many, and trains what is left. `lth measure RUN recovery` tells the
    accuracy on the way, and `lth measure RUN shrunk` what slicing saves.

    Args:
      preset: Whose network, data and training are taken.
      criterion: What ranks channels, such as taylor, filter_l1, norm_scale or random.
      keep: Share of the channels that is left in the end, in (0, 1].
      rounds: How many rounds there are.
      retrain: Steps of training after each round; 0: from the preset's rewind point on.
      rewind: From where on: its weights at their last rate (finetune) or at the early
        rates (learning_rate), or the early weights.
      scope: What channels compete with: all, or those of their layer.
      least: How many channels a layer keeps at least.
      batches: Of training data, by which channels are scored.
      flops: What each million multiply-accumulates of a channel takes from its score,
        whose layers are of norm 1; the paper on Taylor's scores has 1e-3.
      steps: Of the dense training, such as 2ep or 500it; else the preset's.
      width: Of the network, 1 being the usual; 0: the preset's.
      replicates: How many seeds; 0: the preset's.
      shrink: Whether to train what is left in the shapes that are left.
      data_dir: Where data files are; else LTH_DATA, else a cache.

    Returns:
      The recipe.

    Raises:
      ConfigError: for a criterion that is not there, and all that a preset refuses.
    """
    if criterion not in names.CHANNELS:
        raise ConfigError(
            f"--criterion is one of {', '.join(names.CHANNELS)}; got {criterion!r}"
            f"{parse.perhaps(criterion, names.CHANNELS)}"
        )
    densities = filtering.falling(keep, rounds)
    # Masks of this structure cover biases and norms too.
    changes: dict = {"prune.structure": "filter", "prune.scope": "global"}
    changes |= {"prune.rates": "", "prune.exclude": "", "prune.densities": ""}
    changes |= {"levels": rounds, "rewind.mode": rewind, "shrink": shrink}
    changes |= {"steps": steps} if steps else {}
    changes |= {"model.width": width} if width else {}
    changes |= {"replicates": replicates} if replicates else {}
    recipe = front.build(preset, data_dir=data_dir, **changes)
    last = recipe.stops[-1]
    if not 0 <= retrain <= last:
        raise ConfigError(
            f"--retrain is of the {last} steps of training at most; got {retrain}"
        )
    if retrain:
        recipe = recipe._replace(rewind_to=last - retrain)
    score = names.CHANNELS[criterion]
    options: dict = {"scope": scope, "least": least, "batches": batches}
    options |= {"flops": flops}
    return filtering.filtered(recipe, criterion, score, densities, **options)
