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

import jax
import numpy as np
import pandas as pd
import study
from matplotlib.figure import Figure

from lth import masks, results
from lth.masks import schedules

DENSITY, BEST = 0.2, "25% to 75%"
PARTS = itertools.combinations((0.0, 0.25, 0.5, 0.75), 2)  # of the training
NAMES = {f"{begin:.0%} to {end:.0%}": (begin, end) for begin, end in PARTS}


def times(part: tuple[float, float], steps: int) -> tuple[int, int, int]:
    """Return the first and the last update of a mask, and how far they are apart."""
    return max(1, round(part[0] * steps)), round(part[1] * steps), 10


def trained(flags, width=0.25, part: tuple[float, float] | None = None):
    """Make the recipe of one training, pruned in a part of it or not at all."""
    moving: dict = {}
    if part:
        when = zip(("begin", "end", "every"), times(part, flags.steps), strict=True)
        # Embeddings start far smaller than kernels: early on, a common threshold would
        # take nearly all of them.
        moving = {"rule": "gradual", "density": DENSITY, "scope": "layer"}
        moving |= {name: f"{steps}it" for name, steps in when}
    rate = {"learning_rate": 3e-3, "warmup": f"{flags.steps // 10}it"}
    settings = {"optimizer": rate, "model": {"depth": 1, "width": width}, "levels": 0}
    settings |= {"data": {"length": 32}, "rewind": {"to": "0it"}, "batch_size": 32}
    return study.preset(flags, "transformer-text-fast", dynamic=moving, **settings)


CELLS: dict = {f"dense {w}": partial(trained, width=w) for w in (0.1, 0.15, 0.25)}
CELLS |= {name: partial(trained, part=part) for name, part in NAMES.items()}


def kept(recipe, early, ticket) -> dict[str, jax.Array]:
    """Measure how many weights there are in the end."""
    return {"weights": jax.vmap(masks.count)(ticket.mask)}


def average(name: str, steps: int) -> float:
    """Return the mean over a training of how many times as many weights there are."""
    if name not in NAMES:
        return 1.0
    schedule = schedules.cubic(1 - DENSITY, *times(NAMES[name], steps))
    kept = [schedules.in_force(schedule, step) for step in range(steps)]
    return float(np.mean(kept)) / DENSITY


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """Return losses on test, and sizes in the end and in the mean of the training."""
    finals = results.final(table, metric="loss")
    loss = finals.pivot(index="replicate", columns="run", values="value")
    sizes = table[table["metric"] == "weights"].groupby("run")["value"].mean()
    steps, rows = int(table["step"].max()), []
    for name in CELLS:
        row = {"cell": name, "n": len(loss), "weights": sizes[name]}
        row["average"] = sizes[name] * average(name, steps)
        pairs = {"loss": results.interval(loss[name])}
        pairs[f"less {BEST}"] = results.interval(loss[name] - loss[BEST])
        rows.append(row | study.columns(pairs))
    found = pd.DataFrame(rows)
    dense = found[~found["cell"].isin(NAMES)]
    law = np.polyfit(np.log(dense["average"]), dense["loss"], 1)
    for size in ("average", "weights"):
        found[f"by {size}"] = np.polyval(law, np.log(found[size]))
    return found


def claims(table: pd.DataFrame) -> str:
    """Write losses, and those that a law of dense networks gives for two sizes."""
    found = ends(table)
    text, pruned = results.text(found, 3), found[found["cell"].isin(NAMES)]
    for size in ("average", "weights"):
        off = (pruned["loss"] - pruned[f"by {size}"]).abs().mean()
        text += f"\nthe law is off by {off:.3f} on average, by {size}"
    return text


def figure(table: pd.DataFrame) -> Figure:
    """Draw loss against the average number of weights, and the law of dense ones."""
    drawn, found = Figure(figsize=(6.0, 3.9), layout="constrained"), ends(table)
    axes, pruned = drawn.subplots(), found["cell"].isin(NAMES)
    for label, of in (("dense", found[~pruned]), ("pruned", found[pruned])):
        axes.errorbar(of["average"], of["loss"], of["loss_ci"], fmt="o", label=label)
    for _, row in found[pruned].iterrows():
        axes.annotate(row["cell"], (row["average"], row["loss"]), fontsize=6)
    line = found.sort_values("average")
    axes.plot(line["average"], line["by average"], ":", color="0.5")
    axes.set(xlabel="weights, in the mean of the steps", xscale="log")
    axes.set(ylabel="test loss (nats a character)")
    axes.legend(frameon=False, fontsize="small")
    return drawn


if __name__ == "__main__":
    more = {"probes": {"kept": kept}, "flags": study.Flags(replicates=3, steps=400)}
    study.main(CELLS, claims, figure, "when_to_prune", written=ends, **more)
