"""A winning sign: mask and signs of a solution put on any fresh initialisation.

Oh et al. (2025, arXiv:2504.05357): a fresh initialisation that is given the mask and
the signs of a network found by learning-rate rewinding (LRR) trains to a solution that
a line without a barrier joins to that network, and to what it reaches. With batch norm
their method also needs norms interpolated at random in LRR's training, so that the
basin does not hang on them; the network here has no norms, and this part is not tried.

    python experiments/winning_sign.py --data-dir DATA

LeNet-300-100 on 5 000 examples of MNIST, 500 steps of Adam under a cosine a level, 60 %
of each layer pruned (30 of the output), k = 0; masks and solutions are LRR's. Fresh
weights have the signs of the solution (`winning`), of LRR's initialisation (`first`) or
`own` ones; `first weights` are that initialisation itself. All train for 500 steps,
where LRR has trained for that much at each level. A barrier is the worst accuracy on
the line, below that of its ends mixed alike (Entezari et al. 2022). Two minutes on two
busy cores.

What it gave (n = 4, jax 0.10.2, 95 % intervals, points on test):

    density                        16 %           6.4 %           1.0 %
    less LRR's solution
      winning signs        -1.73 ± 0.15    -2.91 ± 0.36    -6.56 ± 3.19
      first signs          -1.81 ± 0.30    -2.96 ± 0.18    -6.87 ± 3.14
      own signs            -4.24 ± 0.32    -6.05 ± 0.33   -18.27 ± 7.75
      first weights        -0.84 ± 0.06    -1.91 ± 0.11    -5.29 ± 2.38
    barrier
      winning signs to LRR  0.00 ± 0.01     0.03 ± 0.08     0.24 ± 0.76
      own signs to LRR     20.03 ± 11.16   18.72 ± 2.71    26.16 ± 15.61
      two of winning signs  0.07 ± 0.05     0.07 ± 0.13     0.22 ± 0.37
      two of own signs     18.17 ± 9.31    21.51 ± 14.14   31.64 ± 11.53

That any fresh weights with the mask and signs end in the solution's basin holds at all
five densities, for two draws also with each other; with their own signs none does. What
the solution reaches they do not reach: signs make up for half or more of what the mask
alone lacks (0.90 ± 0.20 of 2.27 ± 0.42 points are left at 40 %). Sizes of weights count
too: the first weights are better than fresh ones with the same signs. And the signs are
hardly LRR's own: those of the initialisation do as well, since 97 % or more of the kept
weights have them to the end (see masks_signs_lrr.py).
"""

from functools import partial
from pathlib import Path

import elsewhere
import jax
import masks_signs_lrr
import pandas as pd
import study
from matplotlib.figure import Figure

import lth
from lth import lottery
from lth.analysis import overlap

SIGNS = {"winning": "late", "first": "early", "own": "own"}  # of the fresh weights
BRANCHES = ("winning signs", "winning signs again", "first signs", "own signs")
BRANCHES += ("own signs again", "first weights")  # again: of another draw
LINES = {f"{name} to LRR": name for name in BRANCHES if "again" not in name}
LINES |= {f"two of {s} signs": f"{s} signs,{s} signs again" for s in ("winning", "own")}


def made(flags: study.Flags) -> lottery.Recipe:
    """Make the recipe of learning-rate rewinding, with what hangs off its tickets."""
    recipe = masks_signs_lrr.made(flags, "LRR", "LRR")
    signs = {name: SIGNS[name.split()[0]] for name in BRANCHES[:-1]}
    branches = {name: elsewhere.fresh(recipe, by) for name, by in signs.items()}
    branches["first weights"] = lottery.branches.rewound()
    return recipe._replace(branches=branches)


def turned(recipe, early, ticket, stored) -> dict[str, jax.Array]:
    """Measure the share of kept weights whose sign is not that of the solution."""
    flips, late = jax.vmap(overlap.flips), ticket.state.params
    return {n: flips(late, stored(n).state.params, ticket.mask) for n in BRANCHES}


def beside(flags: study.Flags, folder: Path) -> pd.DataFrame:
    """Return barriers, called by their line, and the shares of other signs."""
    run = lth.open_run(folder / "LRR", made(flags))
    levels = range(1, max(run.levels) + 1)
    tables = [run.measure("turned", turned, levels)]
    for name, to in LINES.items():
        rows = run.measure("barrier", levels=levels, to=to, ends="line")
        rows = rows.query("metric == 'accuracy'")
        tables.append(rows.assign(split="barrier", metric=name))
    return pd.concat(tables).assign(run="LRR")


def found(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return how far branches fall behind, barriers, and which signs they end with."""
    ahead = {name: study.gaps(table, {"variant": name}, {}) for name in BRANCHES}
    signs = study.shares(table, "turned", ["metric"])
    return {
        "test accuracy less that of LRR's solution, in points": pd.DataFrame(ahead).T,
        "barrier on test, in points": study.shares(table, "barrier", ["metric"]),
        "kept weights of another sign than the solution's, %": signs,
    }


def figure(table: pd.DataFrame) -> Figure:
    """Draw how far branches fall behind, and the barriers, by density."""
    behind, barriers, _ = found(table).values()
    once = behind[~behind.index.str.endswith("again")]
    tables = {"less the solution of LRR": once, "barriers": barriers}
    return study.panels(study.by_level(tables, 0.4), "test accuracy (points)", "points")


if __name__ == "__main__":
    claims = partial(study.under_titles, found=found, beside=masks_signs_lrr.HEAD)
    more = {"beside": beside, "flags": masks_signs_lrr.FLAGS}
    study.main({"LRR": made}, claims, figure, "winning_sign", **more)
