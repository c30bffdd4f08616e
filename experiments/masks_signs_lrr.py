"""Masks, signs and learning-rate rewinding: who trains which mask better, and why.

Gadhikar & Burkholz (2024, arXiv:2402.19262): learning-rate rewinding (LRR), which goes
on from trained weights, beats iterative magnitude pruning (IMP), which goes back to the
first ones, on its own masks, on those of IMP and on random ones, because it flips signs
early and bears it when they are turned round.

    python experiments/masks_signs_lrr.py --data-dir DATA

LeNet-300-100 on 5 000 examples of MNIST, 500 steps of Adam under a cosine a level, 60 %
of each layer pruned (30 of the output), k = 0. Each rule trains level after level under
each rule's masks, that is, LRR its weights of the level before under IMP's next mask.
LRR's weights have trained for 500 steps a level more each time, IMP's for 500 in all:
that is in the comparison. Two minutes on two busy cores.

What it gave (n = 4, jax 0.10.2, 95 % intervals; test accuracy, LRR less IMP, points):

    density        16 %         6.4 %         2.6 %         1.0 %
    IMP masks      1.07 ± 0.22  1.65 ± 0.16  1.95 ± 0.45   2.79 ± 0.71
    LRR masks      0.84 ± 0.06  1.91 ± 0.11  3.42 ± 0.64   5.29 ± 2.38
    random masks   1.81 ± 0.40  2.46 ± 0.37  5.41 ± 3.53  14.19 ± 5.65

    kept weights of another sign than at first, in percent
    IMP on random masks   24.6 ± 0.3  28.9 ± 0.7  26.0 ± 0.9  11.0 ± 1.4
    LRR on random masks   27.6 ± 0.3  32.4 ± 0.8  34.0 ± 0.8  34.6 ± 0.5
    LRR on its own         0.9 ± 0.0   1.4 ± 0.1   2.1 ± 0.3   2.8 ± 0.4

LRR is ahead on all masks: that holds. Signs are one reason, on random masks: they are
flipped in the first levels (20 % after the first) and kept, and in a training more of
the ticket of 6.4 % its initial signs cost 1.76 ± 0.20 points, where LRR's lead is 2.46
(30 % turned at random cost as much, 1.85 ± 0.28). On masks of magnitude they are not:
in none of LRR's trainings after the dense one do more than 0.3 % of the kept weights
change sign, and the initial signs cost nothing at 40 % and 0.13 ± 0.10 points at 6.4 %:
its lead there comes from elsewhere. Signs turned at random cost LRR no more than IMP at
40 % (10 %: -0.09 ± 0.19 against 0.42 ± 0.23; 30 %: 0.53 ± 0.45, 1.26 ± 0.17), and as
much at 6.4 % (0.49 ± 0.30, 0.71 ± 0.36; 2.56 ± 0.28, 2.28 ± 0.31).
"""

import itertools
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pandas as pd
import study
from matplotlib.figure import Figure

import lth
from lth import lottery, masks, plot, results
from lth.lottery import recipe as recipes
from lth.lottery import rewind

NAME = "masks_signs_lrr"
MODES = {"IMP": "weights", "LRR": "learning_rate"}
PRUNE = {"rate": 0.6, "rates": "output=0.3"}
MASKS = ("IMP", "LRR", "random")  # who chooses them
TITLE = "{} on {} masks"
SHARES = (0.0, 0.1, 0.3, -1.0)  # of the signs, that turn


def made(flags: study.Flags, by: str, chosen: str) -> lottery.Recipe:
    """Make the recipe of training by a mode of rewinding under masks of another."""
    steps, random = f"{flags.steps or 500}it", chosen == "random"
    recipe = lth.build(
        "lenet-mnist", data_dir=flags.data_dir, data={"examples": 5000},
        prune=PRUNE | {"criterion": "random" if random else "magnitude"},
        rewind={"mode": MODES[by]}, optimizer={"cosine": True}, steps=steps,
        eval_every=steps, levels=flags.levels or 5, replicates=flags.replicates,
    )  # fmt: skip
    if random or chosen == by:
        return recipe
    prune = partial(carried, flags.runs / NAME / TITLE.format(chosen, chosen))
    return recipe._replace(prune=prune, stamp={**recipe.stamp, "masks": chosen})


def carried(path: Path, early, ticket, density, keys):
    """Return the masks of another run, of the replicates that have these keys."""
    run, level = lth.open_run(path), ticket.level + 1
    known = lottery.keys(run.replicates, recipes.PRUNE, level)
    known, wanted = (jax.random.key_data(k).tolist() for k in (known, keys))
    rows = jnp.array([known.index(key) for key in wanted])
    return jax.tree.map(lambda m: jnp.asarray(m)[rows], run.ticket(level).mask)


# Own masks come first: others borrow them.
EACH = sorted(itertools.product(MODES, MASKS), key=lambda each: each[0] != each[1])
CELLS = {TITLE.format(b, c): partial(made, by=b, chosen=c) for b, c in EACH}
TURNED = [("IMP", "IMP"), ("LRR", "LRR"), ("LRR", "random")]


def turned(share: float, by: str) -> lottery.Branch:
    """Train a ticket once more, the signs of a share of its weights turned round.

    A share of -1 gives all of them the signs that they had at initialisation.
    """

    def start(early, ticket, key):
        state = getattr(rewind, MODES[by])(early, ticket.state)

        def leaf(w, first):
            turn = jnp.sign(w) != jnp.sign(first)
            if share >= 0:
                turn = jax.random.bernoulli(key, share, w.shape)
            return jnp.where(turn, -w, w) if w.ndim > 1 else w  # a bias

        params = jax.tree.map(leaf, state.params, early.params)
        return state._replace(params=masks.apply(params, ticket.mask)), ticket.mask

    title = f"{share:.0%} turned" if share >= 0 else "initial signs"
    return lottery.Branch(start, title, settings={"share": share})


def beside(flags: study.Flags, folder: Path) -> pd.DataFrame:
    """Return the rows of what becomes of tickets whose signs are turned."""
    tables = []
    for each in TURNED:
        run = lth.open_run(folder / TITLE.format(*each), made(flags, *each))
        for share in SHARES:
            run.branch(turned(share, each[0]), (1, 3))
        tables.append(
            run.table.query("variant != 'ticket'").assign(run=TITLE.format(*each))
        )
    return pd.concat(tables)


def gaps(table: pd.DataFrame, chosen: str) -> dict[int, tuple[float, float]]:
    """Return at each level by how much LRR is ahead of IMP on the masks of one."""
    lrr, imp = ({"run": TITLE.format(by, chosen)} for by in ("LRR", "IMP"))
    levels = {n: {"level": n} for n in range(1, table["level"].max() + 1)}
    return {n: results.gap(table, lrr | at, imp | at) for n, at in levels.items()}


def flips(table: pd.DataFrame) -> pd.DataFrame:
    """Return how many kept weights changed sign, in percent, by run and level."""
    signs = table[table["split"] == "signs"].assign(value=100 * table["value"])
    cells = signs.groupby(["run", "metric", "level"], sort=False)["value"]
    return cells.agg(results.interval).unstack("level")


def losses(table: pd.DataFrame) -> pd.DataFrame:
    """Return what turned signs cost, against as many steps without, by level."""
    rows: dict = {}
    for unit in itertools.product(TURNED, SHARES[1:], (1, 3)):
        where = {"run": TITLE.format(*unit[0]), "level": unit[2]}
        kept, other = (where | {"variant": turned(n, "").title} for n in (0, unit[1]))
        row = rows.setdefault((where["run"], other["variant"]), {})
        row[unit[2]] = results.gap(table, kept, other)
    return pd.DataFrame(rows).T


def claims(table: pd.DataFrame) -> str:
    """Write by how much LRR is ahead, what changes sign, and what that costs."""
    ahead = pd.DataFrame({f"{chosen} masks": gaps(table, chosen) for chosen in MASKS})
    told = {
        "LRR less IMP in test accuracy, in points": ahead.T,
        "kept weights that changed sign, in percent": flips(table),
        "points that turned signs cost, of a training more": losses(table),
    }
    text = f"n = {table['replicate'].nunique()}; by level, 40 % are kept in each"
    for title, rows in told.items():
        cells = rows.map(lambda p: results.around(*p), na_action="ignore")
        text += f"\n\n{title}:\n{cells.to_string(na_rep='')}"
    return text


def figure(table: pd.DataFrame) -> Figure:
    """Draw what LRR gains, and how many kept weights changed sign, by density."""
    drawn = Figure(figsize=(9.6, 3.8), layout="constrained")
    left, right = drawn.subplots(1, 2)
    lines = [(left, f"{c} masks", gaps(table, c).values()) for c in MASKS]
    turns = flips(table).xs("flipped", level="metric").drop(columns=0)
    lines += [(right, run, list(row)) for run, row in turns.iterrows()]
    for color, (axes, label, pairs) in zip(2 * plot.COLORS, lines, strict=False):
        x = [40 * 0.4**n for n in range(len(pairs))]
        y, half = zip(*pairs, strict=True)
        axes.errorbar(x, y, half, fmt="o-", ms=3, capsize=2, color=color, label=label)
        axes.legend(frameon=False, fontsize="x-small", ncols=2)
        plot.density_axis(axes)
    left.set(ylabel="LRR less IMP (points)", yscale="symlog")
    right.set(ylabel="changed their sign (%)", yscale="log", ylim=(0.03, 60))
    return drawn


if __name__ == "__main__":
    options = {"probes": [("signs", {})], "beside": beside}
    study.main(CELLS, claims, figure, NAME, **options)
