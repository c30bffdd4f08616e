"""Masks learned and masks pruned: do they keep the same weights, and which are better?

Of one initialisation of LeNet-300-100 on MNIST, at densities of 50, 20 and 5 %: the
mask that edge-popup learns for the untrained weights (Ramanujan et al. 2020), the one
that movement pruning ends with (Sanh et al. 2020; weights trained beside it), and the
one of iterative magnitude pruning (Frankle & Carbin 2019, three rounds). How much they
overlap (Jaccard), beside two random masks of the same layers' densities; the accuracy
of each with the initial weights as they are, and trained from them, beside its mask
shuffled within layers. And iterative pruning that starts from the learned mask of 50 %
in place of the dense network.

    python experiments/learned_or_pruned.py --data-dir DATA [--steps 2000]

Signed constants, batch 60, as many steps for each training and each learning (Adam,
1.2e-3; scores by SGD, 0.5 along a cosine, momentum 0.9; movement's by Adam, 1e-2); all
methods share the initialisation of a replicate, all trainings their batches and all
learnings theirs. Five minutes on two cores. What is trained is stored in
runs/learned_or_pruned, and a call that was stopped goes on there; a table and a figure
go to experiments/results/.

What an earlier form of this study gave, with other draws and one order of the batches
for all (two CPU cores, jax 0.10.2, n = 3): test accuracy in %, of the initial weights
under the mask, trained under it, and trained under its shuffle; the overlap with the
pruned mask, and with a random one. Dense 97.1 ± 0.8.

    density                          untrained  trained  shuffled  pruned  chance
       50 %  edge-popup                  96.2     97.4      97.0    0.36    0.33
             movement                    92.0     97.9      97.0    0.62    0.33
             pruned                      79.3     97.8      97.0            0.33
       20 %  edge-popup                  96.1     97.1      95.6    0.13    0.11
             movement                    92.1     97.9      95.6    0.43    0.11
             pruned                      68.1     97.9      95.7            0.11
             edge-popup, then pruned     69.5     97.7      95.7    0.19    0.11
        5 %  edge-popup                  13.1     22.1      92.5    0.03    0.03
             movement                    93.5     97.4      92.4    0.23    0.03
             pruned                      29.9     96.6      92.5            0.03
             edge-popup, then pruned     45.5     96.8      92.3    0.08    0.03

Edge-popup finds masks of another kind than pruning: they overlap with it hardly more
than chance, are far better on weights as they are, and no better to train. At 5 % it
failed: the mask it ended with does not train either. Movement, whose weights train as
the mask is learned, keeps much of what pruning keeps, and is at least as good to train
at each density; and at 5 % its mask alone makes the initial weights read 93 % of the
digits. Pruning that starts from a learned mask ends as well as from the dense network.
"""

from dataclasses import dataclass
from functools import partial

import jax
import optax
import pandas as pd
import study
from matplotlib.figure import Figure

import lth
from lth import data, masks, models, plot, results, supermask, train
from lth.masks import schedules

DENSITIES, STEPS, ROUNDS = (0.5, 0.2, 0.05), 2000, 3
PRUNED = "pruned"
NETWORK = models.from_linen(models.MLP(initialiser="signed_constant"), (28, 28, 1))
MODEL = models.standardized(NETWORK, 0.0, 255.0)


@dataclass(frozen=True)
class Flags(study.Flags):
    """Where things are, and how much to run."""

    replicates: int = 3
    steps: int = STEPS


def made(flags, densities=(), learn=None, learn_tx=None) -> lth.lottery.Recipe:
    """Make the recipe of one way to a mask; what trains under masks is the same."""
    splits = data.load("mnist", flags.data_dir, 5000, 0)
    # What is pruned has been trained under its mask.
    branches = ("shuffle",) if densities else ("shuffle", "rewind")
    return lth.make_recipe(
        MODEL, optax.adam(1.2e-3), *train.classification(MODEL.apply), splits,
        batch_size=60, steps=flags.steps, densities=densities, branches=branches,
        replicates=flags.replicates, keep=partial(masks.keep_top, scope="layer"),
        learn=learn, learn_tx=learn_tx,
        learn_by=learn and train.classification(learn.model.apply),
    )  # fmt: skip


def popped(flags, density: float = 0.5, densities=()) -> lth.lottery.Recipe:
    learn = supermask.edge_popup(MODEL, density, every=3, scale=True)
    rate = optax.cosine_decay_schedule(0.5, flags.steps)
    return made(flags, densities, learn, optax.sgd(rate, momentum=0.9))


def moved(flags, density: float) -> lth.lottery.Recipe:
    ramp = flags.steps // 10, 7 * flags.steps // 10, 20
    learn = supermask.movement(MODEL, schedules.cubic(1 - density, *ramp))
    rates: dict = {"weights": optax.adam(1.2e-3), "gates": optax.adam(1e-2)}
    tx = optax.partition(rates, supermask.Gated("weights", "gates"))
    return made(flags, (), learn, tx)


def rounds(density: float, begin: float = 1.0) -> list[float]:
    """Return the densities of three rounds by equal factors."""
    return [begin * (density / begin) ** (i / ROUNDS) for i in range(1, ROUNDS + 1)]


EACH = {
    **{("edge-popup", d): partial(popped, density=d) for d in DENSITIES},
    **{("movement", d): partial(moved, density=d) for d in DENSITIES},
    **{(PRUNED, d): partial(made, densities=rounds(d)) for d in DENSITIES},
    **{
        (f"edge-popup, then {PRUNED}", d): partial(popped, densities=rounds(d, 0.5))
        for d in DENSITIES[1:]
    },
}
CELLS: dict = {f"{way}, {share:.0%}": make for (way, share), make in EACH.items()}


def untrained(recipe, early, ticket) -> dict[str, jax.Array]:
    """Measure the initial weights under a ticket's mask."""
    state = early._replace(params=recipe.each(masks.apply)(early.params, ticket.mask))
    return {"accuracy": recipe.measures["test"](state)["accuracy"]}


def overlaps(flags, folder) -> pd.DataFrame:
    """Compare the last masks of all cells: rows as probes have them."""
    runs, rows = {name: lth.open_run(folder / name) for name in CELLS}, []
    last = {name: run.ticket(max(run.levels)).mask for name, run in runs.items()}
    for name, run in runs.items():
        level, pruned = max(run.levels), f"{PRUNED}, {name.rpartition(', ')[2]}"
        others = {"chance": run.ticket(level, "shuffle").mask, PRUNED: last[pruned]}
        for metric, mask in others.items():
            values = jax.vmap(masks.overlap)(last[name], mask).tolist()
            row = {"run": name, "level": level, "metric": metric, "value": values}
            rows.append(pd.DataFrame({"replicate": run.replicates, **row}))
    return pd.concat(rows).assign(variant="ticket", split="overlap")


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """Return accuracies and overlaps in % of the last mask of each cell."""
    rows = []
    for name in CELLS:
        of = table[table["run"] == name]
        of = of[of["level"] == of["level"].max()]
        way, _, density = name.rpartition(", ")
        row = {"mask": way, "density %": float(density.rstrip("%"))}
        trained = "ticket" if PRUNED in way else "rewind"
        score = results.final(of, metric="accuracy").set_index("variant")["value"]
        for column, values in {
            "untrained": of.loc[of["split"] == "untrained", "value"],
            "trained": score[trained],
            "shuffled": score["shuffle"],
            **dict(iter(of[of["split"] == "overlap"].groupby("metric")["value"])),
        }.items():
            row[column], row[f"{column}_ci"] = results.interval(100 * values)
        rows.append(row)
    return pd.DataFrame(rows)


def claims(table: pd.DataFrame) -> str:
    """Write accuracies and overlaps, and what a dense network has."""
    dense = table[(table["run"] == f"{PRUNED}, 50%") & (table["level"] == 0)]
    score = results.interval(100 * results.final(dense, metric="accuracy")["value"])
    return f"dense {results.around(*score)} %\n{results.text(ends(table))}"


def figure(table: pd.DataFrame) -> Figure:
    """Draw accuracies and overlaps against density, a line for each way to a mask."""
    drawn = Figure(figsize=(11, 3.6), layout="constrained")
    ways = ends(table).groupby("mask", sort=False)
    shadows = {"untrained": "untrained", "trained": "shuffled", PRUNED: "chance"}
    for i, (column, shadow) in enumerate(shadows.items(), 1):
        axes = drawn.add_subplot(1, 3, i)
        for color, (way, of) in zip(plot.COLORS, ways, strict=False):
            line = of[["density %", column, f"{column}_ci"]].to_numpy().T
            axes.errorbar(*line, fmt="o-", ms=3, color=color, label=way)
            axes.plot(line[0], of[shadow], ":", color=color)
        plot.density_axis(axes)
        axes.set_title(f"{column} (dotted: {shadow})", size=9)
    drawn.axes[0].set_ylabel("test accuracy, and overlap (%)")
    drawn.axes[0].legend(frameon=False, fontsize="small")
    return drawn


if __name__ == "__main__":
    more = {"probes": {"untrained": untrained}, "beside": overlaps, "written": ends}
    study.main(CELLS, claims, figure, "learned_or_pruned", flags=Flags, **more)
