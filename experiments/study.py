"""What studies share: flags, cells trained and measured, a table and figure written."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import optax
import pandas as pd
import tyro
from matplotlib.figure import Figure

import lth
from lth import data, masks, models, plot, results, train
from lth.lab import devices, sweep
from lth.lottery import Recipe

LENET = models.standardized(models.from_linen(models.MLP(), (28, 28, 1)), 0.0, 255.0)
Where = Mapping[str, Any]  # values of columns, as `results.gap` takes them
Pair = tuple[float, float]  # a mean, and half its interval


@dataclass(frozen=True)
class Flags:
    """Where things are, and how much to run."""

    data_dir: Path | None = None
    runs: Path = Path("runs")
    out: Path = Path(__file__).parent / "results"
    replicates: int = 4
    levels: int | None = None  # by default as many as the study has
    steps: int | None = None  # of each training; by default as the study has it


def main(
    cells,
    claims,
    figure,
    name,
    *,
    branches=(),
    probes=(),
    flags: Any = Flags,
    beside=None,
    written=None,
    folder="",
) -> None:
    """Run a study: print its claims, write `name`.csv and `name`.png.

    Args:
      cells: By name a preset with settings, or `make(flags) -> recipe`.
      claims: `(table) -> text`. The table has the rows of all cells and probes. None
        prints what is written.
      figure: `(table) -> figure`.
      name: Of the study; its runs lie in a folder of that name.
      branches: Of the tickets of all cells: pairs of a name and the arguments of
        `Run.branch`, such as `("order", {"levels": range(3)})`.
      probes: What is measured of those tickets: pairs of a name and a probe, or the
        arguments of `Run.measure`.
      flags: `Flags` with the defaults of the study, or a class that has more of them.
      beside: `(flags, folder) -> table`: more rows, of all cells together.
      written: `(table) -> table`, for `name`.csv; by default `summary`.
      folder: Where its runs lie, if it shares them with another study.
    """
    usual = flags() if isinstance(flags, type) else flags
    chosen = tyro.cli(type(usual), default=usual)
    place = chosen.runs / (folder or name)
    table = measured(cells, chosen, place, probes, branches)
    if beside:
        table = pd.concat([table, beside(chosen, place)], ignore_index=True)
    chosen.out.mkdir(parents=True, exist_ok=True)
    rows = (written or summary)(table)
    rows.round(5).to_csv(chosen.out / f"{name}.csv", index=False)
    figure(table).savefig(chosen.out / f"{name}.png", dpi=90)
    print(claims(table) if claims else results.text(rows))


def measured(
    cells: Mapping[str, Any], flags: Flags, folder: Path, probes=(), branches=()
) -> pd.DataFrame:
    """Return the table of all cells; what is stored in `folder` is not done again."""
    devices.use_cores(flags.replicates)  # before a cell makes its first array
    changes: dict[str, Any] = {"replicates": flags.replicates}
    changes |= {"levels": flags.levels} if flags.levels is not None else {}
    changes |= {"steps": f"{flags.steps}it"} if flags.steps else {}
    due: dict[str, Any] = {
        name: partial(cell, flags) if callable(cell) else (cell[0], cell[1] | changes)
        for name, cell in cells.items()
    }
    runs = lth.sweep(due, folder, data_dir=flags.data_dir, watch=_told)
    for name, run in runs.items():
        for branch, options in branches:
            run.branch(branch, watch=partial(_told, name), **options)
    tables = [sweep.table(runs)]
    for name, run in runs.items():
        for probe, what in probes.items() if isinstance(probes, dict) else probes:
            options = what if isinstance(what, Mapping) else {"probe": what}
            tables.append(run.measure(probe, **options).assign(run=name))
    return pd.concat(tables, ignore_index=True)


def preset(flags: Flags, name: str, **settings) -> Recipe:
    """Make the recipe of a preset with settings, and of as much as the flags say."""
    steps = f"{flags.steps}it"
    sizes = {"steps": steps, "eval_every": steps, "replicates": flags.replicates}
    sizes["levels"] = flags.levels
    return lth.build(name, data_dir=flags.data_dir, **(sizes | settings))


def mnist(flags: Flags, examples: int = 5000) -> data.Splits:
    """Read MNIST, of whose training images as many are left, drawn at random."""
    splits = data.load("mnist", flags.data_dir, 5000, 0)
    return splits._replace(train=data.subsample(splits.train, examples, 0))


def lenet(flags, tx: Any = None, **options) -> Recipe:
    """Make the recipe of LeNet-300-100 on 5 000 images of MNIST, in batches of 60.

    Without `tx` it trains by Adam at 1.2e-3; `options` are those of `lth.make_recipe`.
    """
    sizes = {"batch_size": 60, "steps": flags.steps, "eval_every": flags.steps // 2}
    sizes |= {"densities": (), "replicates": flags.replicates}
    parts = (*train.classification(LENET.apply), mnist(flags))
    return lth.make_recipe(LENET, tx or optax.adam(1.2e-3), *parts, **(sizes | options))


def opened(flags: Flags, folder: Path, cell: str):
    """Open the stored run of a cell that is a preset with settings."""
    (path,) = folder.glob(f"{cell}-*")
    return lth.open_run(path, data_dir=flags.data_dir)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return `results.summary`, with means of what probes measured beside it.

    Of what was measured on the way, such as the scores of particles, it is the end.
    """
    unit, found = ["run", "variant", "level"], results.summary(table)
    probed = table[~table["split"].isin(["train", "validation", "test", "mask"])]
    last = probed.groupby([*unit, "replicate", "split", "metric"])["step"]
    probed = probed[probed["step"] == last.transform("max")]
    for (split, metric), rows in probed.groupby(["split", "metric"], sort=False):
        pairs: Any = rows.groupby(unit)["value"].agg(results.interval)
        means = pairs.apply(pd.Series)
        means.columns = [f"{split}_{metric}", f"{split}_{metric}_ci"]
        found = found.merge(means.reset_index(), "left", unit)
    return found


def with_intervals(rows: pd.DataFrame, of: list[str]) -> pd.DataFrame:
    """Return the means of `value` for each of these columns, with half an interval."""
    pairs: Any = rows.groupby(of)["value"].agg(results.interval)
    means = pairs.apply(pd.Series).set_axis(["value", "value_ci"], axis=1)
    return means.reset_index()


def columns(pairs: Mapping[str, Pair]) -> dict[str, float]:
    """Return the means as columns of a row, each with its half beside it as `_ci`."""
    row = {}
    for name, (mean, half) in pairs.items():
        row |= {name: mean, f"{name}_ci": half}
    return row


def compared(table, own: Where, others: Mapping[str, Where], name="accuracy") -> dict:
    """Return a row of what a training reaches, as `name`, and has more than others.

    `own` says which it is, as in `results.gap`; so do `others`, by what each is called.
    """
    less = {f"less {n}": results.gap(table, own, at) for n, at in others.items()}
    pairs = {name: results.mean(table, own)} | less
    return {"n": table["replicate"].nunique()} | columns(pairs)


def gaps(table, one: Where, other: Where, levels=None) -> dict[int, Pair]:
    """Return by level, beyond the dense network, how far one training is ahead."""
    levels = levels or range(1, table["level"].max() + 1)
    both = {n: ({**one, "level": n}, {**other, "level": n}) for n in levels}
    return {n: results.gap(table, *pair) for n, pair in both.items()}


def shares(table: pd.DataFrame, split: str, of: list[str]) -> pd.DataFrame:
    """Return pairs in percent of what a probe measured: a row of each, by level."""
    rows = table[table["split"] == split]
    cells = rows.assign(value=100 * rows["value"]).groupby([*of, "level"], sort=False)
    return cells["value"].agg(results.interval).unstack("level")


def told(table, rows, head="dense {dense} %", digits: int = 2, **means: Where) -> str:
    """Write numbers, `rows(table)`, under a head; what is NaN is left blank.

    In the head `{n}` counts replicates; `means` say where the others are to be found.
    """
    reached = {name: results.mean(table, where) for name, where in means.items()}
    said: dict = {name: results.around(*pair) for name, pair in reached.items()}
    head = head.format(n=table["replicate"].nunique(), **said)
    return f"{head}\n{results.text(rows(table), digits).replace('nan', '   ')}"


def under_titles(table: pd.DataFrame, found: Callable, beside: str) -> str:
    """Write tables of pairs, `found(table)` by title, and n with words `beside` it."""
    text = f"n = {table['replicate'].nunique()}; {beside}"
    for title, pairs in found(table).items():
        cells = pairs.map(lambda pair: results.around(*pair), na_action="ignore")
        text += f"\n\n{title}:\n{cells.to_string(na_rep='')}"
    return text


def line(rows: pd.DataFrame, column: str, densities=None) -> dict[float, Pair]:
    """Return the pairs of a column by density in percent: a line of `panels`."""
    x = rows["density %"] if densities is None else densities
    pairs = zip(rows[column], rows[f"{column}_ci"], strict=True)
    return dict(zip(x, pairs, strict=True))


def by_level(tables: Mapping[str, pd.DataFrame], kept: float) -> dict[str, dict]:
    """Return what `panels` draws from tables of pairs, if each level keeps a share."""
    lines: dict = {title: {} for title in tables}
    for title, pairs in tables.items():
        for label, row in pairs.iterrows():
            lines[title][label] = {100 * kept**n: row[n] for n in row.index}
    return lines


def panels(lines, *labels, size=(9.6, 3.8), dotted=(), apart=0.0) -> Figure:
    """Draw panels of lines over density, with an interval at each point.

    A panel has a legend unless its lines are called as those of the panel before.

    Args:
      lines: By title of the panel, label of the line and density in percent: pairs.
      labels: Of the vertical axes, panel by panel; if it is one, they share the axis.
      size: Of the figure, in inches.
      dotted: The heights of a dotted line in each of the first panels.
      apart: How far each line is moved to the side, as a share of the density.
    """
    drawn, known = Figure(figsize=size, layout="constrained"), []
    each = drawn.subplots(1, len(lines), sharey=len(labels) == 1, squeeze=False)[0]
    for axes, (title, labelled) in zip(each, lines.items(), strict=True):
        for i, (style, label) in enumerate(zip(plot.styles(), labelled, strict=False)):
            x = [density * (1 + apart * i) for density in labelled[label]]
            pairs = zip(*labelled[label].values(), strict=True)
            axes.errorbar(x, *pairs, ms=3, capsize=2, label=label, **style)
        axes.set_title(title, size=10)
        plot.density_axis(axes)
        if known != (known := list(labelled)) and len(labelled) <= 6:
            axes.legend(frameon=False, fontsize="small")
    if len(known) > 6:  # more would hide what is drawn
        drawn.legend(known, loc="outside upper center", ncols=len(known), fontsize=8)
    for axes, height in zip(each, dotted, strict=False):
        axes.axhline(height, color="0.5", lw=0.8, ls=":")
    for axes, label in zip(each, labels, strict=False):
        axes.set_ylabel(label)
    return drawn


def points(found, kinds: pd.Series, of: list[str], labels, named="") -> Figure:
    """Draw rows as points over a logarithmic axis, with an interval at each.

    `of` are the columns of both axes; the points of the kind `named` show their cells.
    """
    drawn = Figure(figsize=(6.0, 3.9), layout="constrained")
    axes, (x, y) = drawn.subplots(), of
    for kind, rows in found.groupby(kinds):
        axes.errorbar(rows[x], rows[y], rows[f"{y}_ci"], fmt="o", label=kind)
    for _, row in found[kinds == named].iterrows():
        axes.annotate(row["cell"], (row[x], row[y]), fontsize=6)
    axes.set(xlabel=labels[0], ylabel=labels[1], xscale="log")
    axes.legend(frameon=False, fontsize="small")
    return drawn


def weights(recipe, early, ticket) -> dict[str, jax.Array]:
    """Measure how many weights a ticket has."""
    return {"weights": jax.vmap(masks.count)(ticket.mask)}


def particles(table: pd.DataFrame, which: str) -> pd.DataFrame:
    """Return the rows of an averaged run with particles in the place of their mean.

    `which` is `mean`, `best` (on test data), or a number of theirs.
    """
    rows = table[table["metric"] == f"accuracy_{which}"]
    return rows.assign(split="test", metric="accuracy")


def seconds(cells, flags, folder: Path) -> pd.DataFrame:
    """Return how long each level of each cell took from the end of the one before.

    The clock of the log is read; levels 0 and 1 are left out, for they compile.
    """
    rows = []
    for cell in cells:
        lines = (folder / cell / "log.jsonl").read_text().splitlines()
        told = [e for e in map(json.loads, lines) if e["event"] == "measured"]
        ends = {e["level"]: e["time"] for e in told}
        for level in range(2, max(ends) + 1):
            took = ends[level] - ends[level - 1]
            rows.append((cell, 0, "ticket", level, 0, 0, "clock", "seconds", took))
    return pd.DataFrame(rows, columns=list(results.COLUMNS))


def _told(cell: str, at) -> None:
    if at.step == at.steps:
        where = f"{cell}, level {at.level} {at.variant}"
        print(f"{where}: {at.metric} {at.accuracy:.4f} on validation", flush=True)
