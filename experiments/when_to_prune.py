"""When to prune a language model in training, and what its average size tells.

Jin et al. (ICLR 2025, "The Journey Matters"), on language models of 58M to 468M weights
and 80 schedules: gradual pruning is best from a quarter to three quarters of the
compute, and the scaling law of dense models fits sparse ones too once size is the
average number of weights over the training.

    python experiments/when_to_prune.py --data-dir DATA

A transformer of one block of 32 on the characters of Shakespeare (windows of 32, 400
iterations of 32, 41 % of the text; Adam at 3e-3, 40 steps of warmup, along a cosine to
0), each layer pruned to 20 % of its 16 448 prunable weights along a cubic, every 10
steps; beside it dense blocks of fewer units; 3 replicates: 7 minutes on a busy core.
Stopped, it continues where it was. Writes a table and a figure to experiments/results/.

What it gave (two CPU cores, jax 0.10.2, n = 3, 95 % intervals): test loss in nats a
character, and less that of pruning from 25 to 75 %, within replicates; the prunable
weights in the mean of the steps; and the loss that dense networks of so many have, or
of as many as are left in the end, by a line in the logarithm of three sizes.

                     loss    less 25 to 75 %  average  by average  by the end
    dense   2.620 ± 0.043      0.066 ± 0.026    3 288
            2.475 ± 0.038     -0.079 ± 0.047    7 400
            2.356 ± 0.021     -0.198 ± 0.043   16 448
     0-25 % 2.709 ± 0.087      0.155 ± 0.059    4 310       2.572       2.616
     0-50 % 2.621 ± 0.036      0.067 ± 0.024    5 128       2.543       2.616
     0-75 % 2.577 ± 0.032      0.023 ± 0.042    5 949       2.519       2.616
    25-50 % 2.578 ± 0.031      0.024 ± 0.026    7 575       2.479       2.616
    25-75 % 2.554 ± 0.057                       8 394       2.462       2.616
    50-75 % 2.653 ± 0.052      0.099 ± 0.091   10 865       2.420       2.616

From 25 to 75 % has the least loss of these six, clearly less than what begins or ends
early (0 to 50 %) or begins late; 0 to 75 and 25 to 50 % are too near to be told apart.
Ends after 75 % were not tried. The law does not hold at this size: dense networks of
the average size are better than every sparse one (by 0.12 on average, and most of all
where pruning is late, at 50 to 75 %), and the size in the end is the better guess, off
by 0.05. So short a training leaves no time to recover, which the law takes for granted.
The embeddings are pruned here as well, and one layer as much as another: with one
threshold for all, early pruning took nearly all of the embeddings, which start small.
"""

import itertools
from functools import partial

import numpy as np
import pandas as pd
import study
from matplotlib.figure import Figure

from lth import results
from lth.masks import schedules

DENSITY, BEST = 0.2, "25% to 75%"
PARTS = itertools.combinations((0.0, 0.25, 0.5, 0.75), 2)  # of the training
NAMES = {f"{begin:.0%} to {end:.0%}": (begin, end) for begin, end in PARTS}


def gradual(part: tuple[float, float], steps: int) -> schedules.Schedule:
    """Return the schedule of pruning in a part of the training, every 10 steps."""
    begin, end = (round(share * steps) for share in part)
    return schedules.cubic(1 - DENSITY, max(1, begin), end, 10)


def trained(flags, width=0.25, part: tuple[float, float] | None = None):
    """Make the recipe of one training, pruned in a part of it or not at all."""
    rate = {"learning_rate": 3e-3, "warmup": f"{flags.steps // 10}it"}
    settings = {"optimizer": rate, "model": {"depth": 1, "width": width}, "levels": 0}
    settings |= {"data": {"length": 32}, "rewind": {"to": "0it"}, "batch_size": 32}
    if part:  # all layers alike: a common threshold takes embeddings, which start small
        when = zip(("begin", "end", "every"), gradual(part, flags.steps), strict=False)
        moving = {"rule": "gradual", "density": DENSITY, "scope": "layer"}
        settings["dynamic"] = moving | {name: f"{steps}it" for name, steps in when}
    return study.preset(flags, "transformer-text-fast", **settings)


CELLS: dict = {f"dense {w}": partial(trained, width=w) for w in (0.1, 0.15, 0.25)}
CELLS |= {name: partial(trained, part=part) for name, part in NAMES.items()}


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """Return losses on test, and sizes in the end and in the mean of the training."""
    finals, steps = results.final(table, metric="loss"), range(table["step"].max())
    loss = finals.pivot(index="replicate", columns="run", values="value")
    sizes = table[table["metric"] == "weights"].groupby("run")["value"].mean()
    found = pd.DataFrame({"n": len(loss), "weights": sizes[[*CELLS]]})
    each = {cell: gradual(part, len(steps)) for cell, part in NAMES.items()}
    kept = {c: [schedules.in_force(s, n) for n in steps] for c, s in each.items()}
    found["average"] = sizes.mul(pd.DataFrame(kept).mean() / DENSITY, fill_value=1)
    for name, less in {"loss": 0.0, f"less {BEST}": loss[BEST]}.items():
        found[[name, f"{name}_ci"]] = loss.sub(less, axis=0).apply(results.interval).T
    dense, logs = found.drop(index=[*NAMES]), np.log(found[["average", "weights"]])
    law = np.polyfit(np.log(dense["average"]), dense["loss"], 1)
    found[["by average", "by weights"]] = np.polyval(law, logs)
    return found.reset_index(names="cell")


def claims(table: pd.DataFrame) -> str:
    """Write losses, and how far a law of dense networks is off, by two sizes."""
    found = ends(table)
    off = found.filter(like="by ").sub(found["loss"], axis=0)[found["cell"].isin(NAMES)]
    text = results.text(found, 3)
    for by, mean in off.abs().mean().items():
        text += f"\nthe law is off by {mean:.3f} on average, {by}"
    return text


def figure(table: pd.DataFrame) -> Figure:
    """Draw loss against the average number of weights, and the law of dense ones."""
    found = ends(table).sort_values("average")
    kinds = found["cell"].isin(NAMES).map({False: "dense", True: "pruned"})
    labels = ("weights, in the mean of the steps", "test loss (nats a character)")
    drawn = study.points(found, kinds, ["average", "loss"], labels, named="pruned")
    drawn.axes[0].plot(found["average"], found["by average"], ":", color="0.5")
    return drawn


if __name__ == "__main__":
    more = {"probes": {"kept": study.weights}, "written": ends}
    more["flags"] = study.Flags(replicates=3, steps=400)
    study.main(CELLS, claims, figure, "when_to_prune", **more)
