"""What masks have in common: replicates, criteria and learned masks against chance.

Frankle & Carbin (2019) ask whether tickets of different initialisations
share a structure; Paul et al. (2023, arXiv:2210.03044) find that masks of replicates
overlap hardly more than chance once the training is unstable. Zhou et al. (2019) and
Ramanujan et al. (2020) find masks without training weights.

    python experiments/overlap.py

The MLP on digits, three criteria and four replicates: the Jaccard index of the masks of
replicates, and of each criterion's with magnitude's for the same replicate, less that
of masks with as many weights in each layer: (jaccard - chance) / (1 - chance).

What it gave (two CPU cores, jax 0.10.2, n = 4, 95 % intervals; overlap beyond chance):

    density  magnitude, replicates  SNIP-like, replicates  SNIP-like and magnitude
       50 %          0.002 ± 0.003          0.105 ± 0.007            0.208 ± 0.031
     12.5 %          0.003 ± 0.003          0.030 ± 0.004            0.148 ± 0.007
      3.1 %          0.004 ± 0.004          0.008 ± 0.003            0.081 ± 0.012
      1.6 %          0.004 ± 0.004          0.009 ± 0.006            0.057 ± 0.019

Masks of random scores overlap by chance: within 0.003 of 0 at every density, as they
must. Tickets of different initialisations share nothing that their layers' densities
do not give them: the structure is one of the initialisation. |w dL/dw| finds weights in
common, those at the pixels that carry something, and a good part of magnitude's.
"""

import pandas as pd
import study
from matplotlib.figure import Figure

from lth import plot, results

SETTINGS = {
    "steps": "300it",
    "eval_every": "100it",
    "levels": 6,
    "prune.rate": 0.5,
    "prune.scope": "global",
    "prune.rates": "",
}
CRITERIA = ("magnitude", "weight_gradient", "random")
CELLS = {name: ("digits", SETTINGS | {"prune.criterion": name}) for name in CRITERIA}
PROBES = [("overlap", {"to": "replicates"})]


def beside(flags: study.Flags, folder) -> pd.DataFrame:
    """Return the overlap of each criterion's masks with magnitude's."""
    (magnitude,) = folder.glob("magnitude-*")
    tables = []
    for name in CRITERIA[1:]:
        run = study.opened(flags, folder, name)
        rows = run.measure("overlap", to="ticket", run=str(magnitude))
        tables.append(rows.assign(run=name, split="overlap-magnitude"))
    return pd.concat(tables)


def other(split: object) -> str:
    """Say what masks were compared with, as the split of their rows has it."""
    return str(split).rpartition("-")[2].replace("to=", "")


def claims(table: pd.DataFrame) -> str:
    """Write how far masks overlap beyond chance, by level."""
    found = table[table["metric"].isin(["jaccard", "beyond"])]
    found = found[found["level"] > 0]
    rows = []
    for (split, run, _), group in found.groupby(["split", "run", "level"]):
        row: dict[str, object] = {"of": f"{run}, {other(split)}"}
        row["density %"] = 100 * group["density"].mean()
        for metric, part in group.groupby("metric"):
            row[str(metric)], row[f"{metric}_ci"] = results.interval(part["value"])
        rows.append(row)
    n = table["replicate"].nunique()
    return f"n = {n}\n{results.text(pd.DataFrame(rows), 3)}"


def figure(table: pd.DataFrame) -> Figure:
    """Draw the overlap beyond chance by density."""
    drawn = Figure(figsize=(5.8, 4.0), layout="constrained")
    axes = drawn.subplots()
    found = table[(table["metric"] == "beyond") & (table["level"] > 0)]
    groups = found.groupby(["split", "run"], sort=False)
    for color, ((split, run), rows) in zip(plot.COLORS, groups, strict=False):
        means = rows.groupby("level")[["density", "value"]].mean()
        axes.plot(
            100 * means["density"],
            means["value"],
            "o-",
            ms=3,
            color=color,
            label=f"{run} and {other(split)}",
        )
    plot.density_axis(axes)
    axes.set(ylabel="overlap beyond chance")
    axes.legend(frameon=False, fontsize="x-small")
    return drawn


if __name__ == "__main__":
    options = {"probes": PROBES, "beside": beside}
    study.main(CELLS, claims, figure, "overlap", **options)
