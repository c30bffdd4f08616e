"""Filters pruned in rounds: cats and dogs by a network that learned eight other things.

Molchanov et al. (2017, arXiv:1611.06440) fine-tune a large network on a small task and
then take its filters away in rounds, each followed by some training: by a Taylor
expansion of the loss, which they find better than the size of filters.
A well-known blog prunes a VGG-16 for cats against dogs so, and Li et al. (2017,
arXiv:1608.08710) by the L1 norm of filters.

    python experiments/filter_pruning.py --data-dir DATA --replicates 3

VGG-11 at a quarter of its width; 60 % of the filters go in five rounds of 50 steps
(n = 3, test data, 95 % intervals): dense 70.50 ± 0.43 %. Taylor: 6.78 ± 0.17 times
fewer weights, 2.75 ± 1.02 times faster at a batch of 64, at -1.25 ± 1.43 points. L1
loses 3.48 ± 3.60 points, batch-norm scale 1.58 ± 2.52, random filters 15.67 ± 10.56:
three replicates do not tell the first three apart.
"""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import pandas as pd
import study
from matplotlib.figure import Figure

import lth
from lth import plot, results
from lth.lab.build import filtering, names

EIGHT, PETS = (0, 1, 2, 4, 6, 7, 8, 9), (3, 5)  # 3 is a cat and 5 a dog
ROUNDS, KEEP = 5, 0.4  # each takes 12 % of the filters there were at first
SETTINGS: dict[str, Any] = {
    "model.name": "vgg11",
    "model.width": 0.25,
    "optimizer.milestones": "",
    "optimizer.warmup": "0",
    "optimizer.cosine": True,
    "batch_size": 64,
    "rewind.mode": "finetune",
}
CRITERIA = ("taylor", "filter_l1", "norm_scale", "random")
TITLES = {
    "taylor": "Taylor",
    "filter_l1": "L1 of filters",
    "norm_scale": "batch-norm scale",
    "random": "at random",
}


def build(flags: study.Flags, classes: tuple[int, ...], steps: int, **more) -> Any:
    """Make the recipe of some classes, trained for so many steps."""
    steps = flags.steps or steps
    return lth.build(
        "vgg16-fast",
        data_dir=flags.data_dir,
        replicates=flags.replicates,
        steps=f"{steps}it",
        eval_every=f"{steps}it",
        **{**SETTINGS, "data.classes": classes, **more},
    )


@cache
def carried(flags: study.Flags) -> lth.lottery.Recipe:
    """Make the recipe of cats and dogs that begins from a network of the eight."""
    first = build(flags, EIGHT, 400, levels=0, **{"rewind.to": "0"})
    run = lth.run(first, flags.runs / "filter_pruning" / "eight-classes")
    ticket = run.ticket(0)
    there = (ticket.params, ticket.stats)
    recipe = build(flags, PETS, 150, levels=ROUNDS, **{"rewind.to": "1it"})

    def init(keys):
        state = recipe.init(keys)

        def leaf(own, known):
            fits = own.shape[1:] == known.shape[1:]  # all but the last layer
            return jnp.asarray(known[: len(own)], own.dtype) if fits else own

        params, stats = jax.tree.map(leaf, (state.params, state.stats), there)
        return state._replace(params=params, stats=stats)

    return recipe._replace(init=init, rewind_to=recipe.stops[-1] * 2 // 3)


def cell(name: str):
    """Return what makes the recipe whose filters are pruned by a score."""

    def make(flags):
        densities = filtering.falling(KEEP, ROUNDS)
        score = names.CHANNELS[name]
        return filtering.filtered(carried(flags), name, score, densities, least=2)

    return make


CELLS = {name: cell(name) for name in CRITERIA}
PROBES = (("recovery", {}), ("shrunk", {"levels": (ROUNDS,)}))


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """Return, by score and round, accuracies in percent, and what slicing saves."""
    found = study.summary(table)
    stages = ("pruned", "reestimated", "retrained")
    names = {f"recovery_accuracy_{stage}": stage for stage in stages}
    names |= {f"shrunk_{n}": n for n in ("fewer_params", "fewer_macs", "faster", "ms")}
    names |= {f"{theirs}_ci": f"{ours}_ci" for theirs, ours in names.items()}
    shown = found[["run", "level", "density", *names]].rename(columns=names)
    percent = [n for n in shown.columns if n.removesuffix("_ci") in stages]
    shown[percent] *= 100
    gaps = []
    for _, row in found.iterrows():
        here = {"run": row["run"]}
        one, dense = here | {"level": row["level"]}, here | {"level": 0}
        gaps.append(results.gap(table, one, dense) if row["level"] else (0.0, 0.0))
    shown["less dense"], shown["less dense_ci"] = zip(*gaps, strict=True)
    return shown


def claims(table: pd.DataFrame) -> str:
    """Write what each round left of the accuracy, and the last one of the network."""
    shown = ends(table)
    shown["run"] = shown["run"].map(TITLES)
    dense = results.mean(table, {"run": CRITERIA[0], "level": 0})
    rounds, last = shown[shown["level"] > 0], shown[shown["level"] == ROUNDS]
    way = ["run", "level", "pruned", "reestimated", "retrained", "less dense"]
    saved = ["run", "fewer_params", "fewer_macs", "faster"]

    def written(rows, names):
        columns = [n for n in rows.columns if n.removesuffix("_ci") in names]
        return results.text(rows[columns])

    count = table["replicate"].nunique()
    return (
        f"dense: {results.around(*dense)} % on test data, n = {count}; in percent and "
        f"points\n{written(rounds, way)}\n\nafter {ROUNDS} rounds, times\n"
        f"{written(last, saved)}"
    )


def figure(table: pd.DataFrame) -> Figure:
    """Draw accuracy by round, and time saved against accuracy lost."""
    drawn, shown = Figure(figsize=(8.4, 3.4), layout="constrained"), ends(table)
    left, right = drawn.subplots(1, 2)
    for color, name in zip(plot.COLORS, CRITERIA, strict=False):
        rows: Any = shown[(shown["run"] == name) & (shown["level"] > 0)]
        kept = [100 * (1 - (1 - KEEP) * n / ROUNDS) for n in rows["level"]]
        bars = {"yerr": rows["retrained_ci"], "capsize": 2, "label": TITLES[name]}
        left.errorbar(kept, rows["retrained"], color=color, marker=".", **bars)
        left.plot(kept, rows["pruned"], color=color, ls=":")
        last = rows.iloc[-1]
        widths = {"xerr": last["faster_ci"], "yerr": last["less dense_ci"]}
        where = last["faster"], last["less dense"]
        right.errorbar(*where, **widths, color=color, marker="o", capsize=2)
    left.invert_xaxis()
    left.set(xlabel="filters left, %", ylabel="test accuracy, %")
    left.set_title("fine-tuned; dotted: just pruned", size=10)
    left.legend(frameon=False, fontsize="small")
    right.axhline(0, color="0.7", lw=0.8)
    right.set(xlabel="times faster, batch of 64", ylabel="points less dense")
    right.set_title(f"after {ROUNDS} rounds", size=10)
    return drawn


if __name__ == "__main__":
    study.main(CELLS, claims, figure, "filter_pruning", probes=PROBES, written=ends)
