"""Barriers between successive tickets: do they appear where tickets stop matching?

Paul et al. (2023, arXiv:2210.03044): the networks at the end of successive
levels of iterative magnitude pruning are joined by a line without an error barrier
exactly as long as the tickets match the dense network; where matching is lost, so is
the connection.

    python experiments/successive_barriers.py --data-dir DATA

The runs are those of `linear_connectivity.py`, if they are there: LeNet-300-100 on
MNIST, Adam at 0.01, a rewind point that is unstable (k = 0) and two that are not.
Barriers on test, in points, between the ends of level L - 1 and L, at 11 places.

What it gave (two CPU cores, jax 0.10.2, n = 5, 95 % intervals; `x` does not match):

     density        k = 0         k = 37       k = 150
     50.00 %  2.25 ± 1.53    0.30 ± 0.26   0.33 ± 0.36
     25.00 %  0.60 ± 0.42    0.23 ± 0.18   0.25 ± 0.17
     12.50 %  0.20 ± 0.13    0.24 ± 0.22   0.24 ± 0.22
      6.25 %  0.11 ± 0.10    0.14 ± 0.09   0.11 ± 0.08
      3.13 %  0.71 ± 0.32    0.61 ± 1.01   0.43 ± 0.30
      1.56 %  3.75 ± 4.80 x  1.81 ± 2.37 x 1.04 ± 0.57

With a limit of 0.5 points, connected and matching agree for 13 of 18 tickets. The two
that do not match are the two with the largest barriers but one, so that matching is
lost only where the connection is; but the first levels of k = 0 match without one. So
one half of "exactly" holds here, the other does not.
"""

import linear_connectivity as runs
import pandas as pd
import study
from matplotlib.figure import Figure

from lth import plot, results

LIMIT = 0.5  # of a barrier that counts as none, in points


def barriers(table: pd.DataFrame) -> pd.DataFrame:
    """Return the barrier to the level before, and whether the ticket matches."""
    rows = table[(table["split"] == "barrier") & (table["metric"] == "accuracy")]
    matching = results.matching(table).query("variant == 'ticket'")
    found = []
    for (run, level), group in rows.groupby(["run", "level"], sort=False):
        mean, half = results.interval(100 * group["value"])
        row = {"run": run, "density %": 100 * group["density"].mean()}
        row |= {"barrier": mean, "barrier_ci": half, "connected": mean < LIMIT}
        one = matching.query(f"run == {run!r} and level == {level}").iloc[0]
        row |= {"less dense": 100 * (one["accuracy"] - one["dense"])}
        found.append(row | {"matches": bool(one["matches"])})
    return pd.DataFrame(found)


def claims(table: pd.DataFrame) -> str:
    """Write the barriers, and for how many levels both say the same."""
    found = barriers(table)
    agree = int((found["connected"] == found["matches"]).sum())
    n = table["replicate"].nunique()
    return (
        f"n = {n}; barriers on test between the ends of a level and the one before\n"
        f"{results.text(found)}\n"
        f"connected (below {LIMIT} points) and matching agree for {agree} of "
        f"{len(found)} tickets"
    )


def figure(table: pd.DataFrame) -> Figure:
    """Draw barriers by density, a line for each rewind point; hollow: not matching."""
    drawn = Figure(figsize=(5.8, 4.0), layout="constrained")
    axes = drawn.subplots()
    groups = barriers(table).groupby("run", sort=False)
    for color, (run, rows) in zip(plot.COLORS, groups, strict=False):
        x, y, half = rows["density %"], rows["barrier"], rows["barrier_ci"]
        axes.errorbar(x, y, half, fmt="o-", ms=4, capsize=2, color=color, label=run)
        missed = rows[~rows["matches"]]
        axes.plot(missed["density %"], missed["barrier"], "o", ms=2, color="white")
    plot.density_axis(axes)
    axes.set(ylabel="barrier to the level before (points)", yscale="symlog")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize="small")
    return drawn


if __name__ == "__main__":
    flags = study.Flags(replicates=5)
    options = {"probes": [("barrier", {})], "flags": flags}
    options["folder"] = "linear_connectivity"
    study.main(runs.CELLS, claims, figure, "successive_barriers", **options)
