"""Supermasks: networks whose weights are never trained, only their mask.

Zhou et al. (2019, arXiv:1905.01067), section 5: a mask learned for an untrained
LeNet-300-100 classifies MNIST; more so when the weights that stay are rescaled by how
many they are, and when all of a layer have one magnitude (signed constants). The paper
has about 95 % for a learned mask and about 98 % with both (recalled from its table, to
be checked against it). Edge-popup (Ramanujan et al. 2020, arXiv:1911.13299) stands
beside it, and the same network with trained weights.

    python experiments/supermask.py --data-dir DATA [--steps N] [--replicates 3]

Weights start by Glorot's normal distribution, or as constants of sqrt(2 / fan_in) with
random signs (in the paper: the deviation of Glorot's distribution, about nine tenths of
that here); biases are 0 and frozen. Masks: SGD with momentum 0.9, batch 250; weights:
Adam, 1.2e-3. The paper trains masks for 2 000 epochs; the default here is 45.
Edge-popup chooses its mask every 3 steps, and with signed constants scales them. About
ten minutes on two cores. What is trained is stored in runs/supermask, and a call that
was stopped goes on there; a table and a figure go to experiments/results/.

What an earlier form of this study gave, with other draws (two CPU cores, jax 0.10.2,
n = 3; test accuracy in % with 95 % intervals, of masks as they are drawn, ten for each
network, and of the rounded mask):

                                  drawn         rounded      density
    mask                      91.38 ± 0.27   91.73 ± 0.13     51.1 %
    mask, rescaled            95.79 ± 0.32   96.65 ± 0.30     48.9 %
    mask, signed constants    93.30 ± 0.26   93.25 ± 0.40     51.4 %
    mask, both                95.90 ± 0.20   96.34 ± 0.71     49.4 %
    edge-popup                93.46 ± 0.24                    50.0 %
    … with signed constants   97.52 ± 0.11                    50.0 %
    trained weights           98.33 ± 0.08

Without a mask, and with the masks that training starts from, the networks are at
chance. Rescaling helps most, as in the paper; constants help only where nothing is
rescaled. Nine epochs gave 87.3, 92.3, 89.3 and 92.7 % of drawn masks, so the paper's
98 % may be a matter of its 2 000 epochs; 95 % is reached with rescaling, not without.
Untrained networks under masks that training found rather than learning reach 91 %, at
26 % of the weights (large_final_same_sign, in zhou_criteria.py).
"""

from dataclasses import dataclass
from typing import Any

import jax
import pandas as pd
import study
from matplotlib.figure import Figure

from lth import lottery, masks, plot, results
from lth.lottery import recipe as recipes

SGD = {"name": "sgd", "momentum": 0.9, "cosine": True}
LENGTH = {"steps": 10_000, "eval_every": 1000}


def bernoulli(initialiser: str, rescale: bool) -> tuple:
    learn = {"rescale": rescale, "optimizer": {**SGD, "learning_rate": 20.0}}
    return "lenet-mnist-bernoulli", {
        **LENGTH,
        "model.initialiser": initialiser,
        "learn": learn,
    }


def edge_popup(initialiser: str, scale: bool) -> tuple:
    settings = {"model.initialiser": initialiser, "learn.rescale": scale}
    return "lenet-mnist-edge_popup", LENGTH | settings


CELLS = {
    "mask": bernoulli("glorot_normal", False),
    "mask, rescaled": bernoulli("glorot_normal", True),
    "mask, signed constants": bernoulli("signed_constant", False),
    "mask, both": bernoulli("signed_constant", True),
    "edge-popup": edge_popup("glorot_normal", False),
    "edge-popup, signed constants": edge_popup("signed_constant", True),
    "trained weights": ("lenet-mnist", {**LENGTH, "batch_size": 250, "levels": 0}),
}


@dataclass(frozen=True)
class Flags(study.Flags):
    """Where things are, and how much to run."""

    replicates: int = 3


def untrained(recipe, early, ticket) -> dict[str, jax.Array]:
    """Measure what no training has touched: the network, and a mask such as scores
    begin with, a random one.
    """
    keys = lottery.keys(recipe.replicates, recipes.SHUFFLE)
    mask = recipe.each(masks.shuffle)(ticket.mask, keys)
    start = early._replace(params=recipe.each(masks.apply)(early.params, mask))
    test = recipe.measures["test"]
    return {
        "network": 100 * test(early)["accuracy"],
        "random_mask": 100 * test(start)["accuracy"],
    }


def claims(table: pd.DataFrame) -> str:
    """Write test accuracy in % of drawn and of rounded masks, and their density."""
    found = table[table["variant"] == results.TICKET]
    ends = {"drawn": results.final(found)}
    ends["rounded"] = results.final(found, metric="rounded_accuracy")
    rows = []
    for name in CELLS:
        row: dict[str, Any] = {"network": name}
        for column, values in ends.items():
            of = values.loc[values["run"] == name, "value"]
            row[column], row[f"{column}_ci"] = results.interval(100 * of)
        density = found.loc[found["run"] == name, "density"]
        rows.append(row | {"density": 100 * density.mean()})
    return results.text(pd.DataFrame(rows))


def figure(table: pd.DataFrame) -> Figure:
    """Draw test accuracy against the step, a line for each network."""
    drawn = Figure(figsize=(6.4, 3.9), layout="constrained")
    axes = drawn.subplots()
    rows = table[(table["split"] == "test") & (table["metric"] == "accuracy")]
    for name, style in zip(CELLS, [*plot.COLORS, "0.4"], strict=True):
        curve = rows[rows["run"] == name].groupby("step")["value"].mean()
        axes.plot(curve.index, 100 * curve, "o-", ms=3, color=style, label=name)
    axes.set(xlabel="step", ylabel="test accuracy (%)", ylim=(80, 99.5))
    axes.legend(frameon=False, fontsize="small")
    n = table["replicate"].nunique()
    axes.set_title(f"LeNet-300-100 on MNIST, n = {n}", size=11)
    return drawn


if __name__ == "__main__":
    study.main(
        CELLS, claims, figure, "supermask", probes={"before": untrained}, flags=Flags
    )
