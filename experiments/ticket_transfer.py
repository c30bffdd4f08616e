"""Tickets on other data: does a mask found on some classes serve others?

Morcos et al. (2019, arXiv:1906.02773) and Mehta (2019,
arXiv:1905.07785): winning tickets of one data set train better on another than random
masks of equal density do, nearly as well as tickets found there.

    python experiments/ticket_transfer.py --data-dir DATA

LeNet-300-100; tickets of the digits 0 to 4 of MNIST (5 000 examples), trained on the
digits 5 to 9 under their own head (five classes both), from the early weights: the
ticket's mask, its mask shuffled within layers, and tickets found on 5 to 9 themselves.

What it gave (two CPU cores, jax 0.10.2, n = 4, 95 % intervals of differences within
replicates, test accuracy on 5 to 9 at the end, in points):

     density   carried - ticket of 5 to 9   carried - random mask
     50.00 %                -0.37 ± 0.47             +0.23 ± 0.07
     25.00 %                -0.84 ± 0.26             +0.53 ± 0.19
     12.50 %                -1.34 ± 0.41             +1.07 ± 0.36
      6.25 %                -2.05 ± 0.54             +0.59 ± 0.57
      3.13 %                -2.35 ± 1.40             +2.07 ± 1.32
      1.56 %                 -8.1 ± 11.0             +24.9 ± 20.6

Carried masks beat random ones at every density; nearly as good as tickets found there
they are only where half of the weights are kept.
"""

from typing import Any

import pandas as pd
import study
from matplotlib.figure import Figure

from lth import plot, results

SETTINGS: dict[str, Any] = {
    "data.examples": 5000,
    "prune.rate": 0.5,
    "prune.rates": "",
    "steps": "600it",
    "eval_every": "200it",
    "levels": 6,
    "controls": "shuffle",
}
HERE, THERE = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)
TITLES = {
    "carried": "ticket of 0 to 4",
    "ticket": "ticket of 5 to 9",
    "shuffle": "random mask",
}


def cell(classes: tuple[int, ...]):
    """Return the run of these classes."""
    return ("lenet-mnist", SETTINGS | {"data.classes": classes})


CELLS = {"0 to 4": cell(HERE), "5 to 9": cell(THERE)}


def beside(flags: study.Flags, folder: Any) -> pd.DataFrame:
    """Return the rows of the tickets of 0 to 4 trained on 5 to 9."""
    run = study.opened(flags, folder, "0 to 4")
    run.branch("transfer", classes=",".join(map(str, THERE)), name="carried")
    rows = run.table
    return rows[rows["variant"] == "carried"].assign(run="5 to 9")


def claims(table: pd.DataFrame) -> str:
    """Write the accuracy on 5 to 9, and differences within replicates."""
    there = table[table["run"] == "5 to 9"]
    ends = results.final(there)
    rows = []
    for level in sorted(set(ends["level"]) - {0}):
        row = {"density %": 100 * ends.query(f"level == {level}")["density"].mean()}
        mine = {"level": level, "variant": "carried"}
        for other in ("ticket", "shuffle"):
            gap = results.gap(ends, mine, {"level": level, "variant": other})
            name = f"carried - {TITLES[other]}"
            row[name], row[f"{name}_ci"] = gap
        rows.append(row)
    n = ends["replicate"].nunique()
    return (
        f"test accuracy on 5 to 9 at the end, differences in points, n = {n}\n"
        f"{results.text(pd.DataFrame(rows))}"
    )


def figure(table: pd.DataFrame) -> Figure:
    """Draw accuracy on 5 to 9 by density."""
    drawn = Figure(figsize=(5.6, 4.0), layout="constrained")
    there = table[table["run"] == "5 to 9"]
    axes = plot.accuracy(there, drawn.subplots(), titles=TITLES)
    axes.set_title(
        f"LeNet on MNIST 5 to 9, n = {there['replicate'].nunique()}", size=10
    )
    return drawn


if __name__ == "__main__":
    study.main(CELLS, claims, figure, "ticket_transfer", beside=beside)
