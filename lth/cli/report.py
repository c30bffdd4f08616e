"""A report of runs: one HTML file that needs nothing beside it."""

import dataclasses
import html
import io
import json
from collections.abc import Collection
from functools import partial
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from lth import plot, results
from lth.cli import conclusion
from lth.lab import store
from lth.lab.config import ConfigError, parse, presets
from lth.lab.stored import Run, labels

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1080px;
       margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
figure { margin: 1rem 0; } figcaption { color: #555; font-size: .9rem; }
svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
details { margin: .6rem 0; }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; }
"""


def write(runs: list[Run], path: Path) -> Path:
    """Write the report of one or several runs to `path`.

    Several are called by what differs among them.
    """
    names = [run.path.name for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two runs are called {name}; rename one of the folders")
    called = dict(zip(names, labels(runs), strict=True))
    table = pd.concat([run.table for run in runs], ignore_index=True)
    table["run"] = table["run"].map(called)
    titles = {name: title for run in runs for name, title in run.titles.items()}
    apart = {name for run in runs for name in run.apart}
    try:
        results.score(table)
    except ValueError as error:
        raise ConfigError(f"no report of {', '.join(names)}: {error}") from None
    title = ", ".join(run.path.name for run in runs)
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        *(_what(run, called[run.path.name]) for run in runs),
        *_figures(runs, table, titles, apart),
    ]
    parts += ["<h2>Results</h2>", _results(table, titles, apart)]
    parts += [f"<p>{html.escape(conclusion.meaning(table))}</p>"]
    parts += [
        "<h2>What tickets save</h2>",
        _savings(runs, called),
        "<h2>What the search cost</h2>",
        _costs(runs, called),
        "<h2>What was run</h2>",
    ]
    parts += [_details(run) for run in runs]
    store.write(
        path,
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
        + "\n".join(parts)
        + "</html>\n",
        advice="Choose another file with --out of 'lth report'",
    )
    return path


def _sessions(path: Path) -> str:
    """Where a run ran, as it is stored; a report does without."""
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        return f"not known: {path.name}: {error.strerror}"


def _what(run: Run, label: str) -> str:
    preset = presets.named(run.preset)
    title = preset.title if preset else run.name
    n = len(run.replicates)
    told = [*conclusion.sentences(run.table, run.titles, run.apart), *_cautions(run)]
    called = f" ({label})" if label != run.path.name else ""
    return (
        f"<p><b>{html.escape(run.path.name)}</b>{html.escape(called)}: "
        f"{html.escape(title)}. "
        f"{n} replicate{'s' * (n > 1)}, {html.escape(_how(run))}. "
        f"{html.escape(' '.join(told))}</p>"
    )


def _cautions(run: Run) -> list[str]:
    """What a reader of a run's densities has to know of how it was pruned."""
    structure = run.config.prune.structure if run.config else "weight"
    if parse.parse_structure(structure).name not in ("filter", "channel"):
        return []
    return [
        f"Of each {structure} only weights in kernels are pruned: its bias and its "
        "normalisation live on where they are not 0, so the network cut down to what "
        "is left may be another."
    ]


def _how(run: Run) -> str:
    e = run.config
    if e is None:
        return f"levels 0 to {max(run.levels)}, functions of one's own"
    if e.learn.method != "none":
        return f"masks learned for {e.steps}"
    if e.dynamic.rule != "none":
        return f"a mask that changes in training, by {e.dynamic.rule}"
    return f"levels 0 to {max(run.levels)}, rewinding {e.rewind.mode} to {e.rewind.to}"


def _figures(runs: list[Run], table: pd.DataFrame, titles, apart) -> list[str]:
    n = "95 % confidence intervals of the mean over replicates"
    left, right = _axes(2)
    plot.accuracy(table, left, titles=titles, apart=apart)
    plot.accuracy(table, right, at="stop_accuracy", titles=titles)
    parts = [
        f"<h2>{results.score(table).capitalize()} against density</h2>",
        _figure(
            left.figure,
            f"Test {results.score(table)} at the end of training and at the step of "
            f"the lowest validation loss; bands are {n}, a dotted line is a dense "
            "network. On the left a filled point matches the dense network and a "
            "hollow one does not; the grey strip is one standard deviation.",
        ),
    ]
    left, right = _axes(2)
    plot.stopping(table, left, titles)
    plot.layers(runs[0].densities(), right)
    parts += [
        "<h2>Speed of learning, and where the weights went</h2>",
        _figure(
            left.figure,
            "Step of the lowest validation loss (lower is faster), and the density of "
            f"each layer at each level of {runs[0].path.name}.",
        ),
        "<h2>Training curves</h2>",
    ]
    for run in runs:
        left, right = _axes(2)
        levels = plot.spread(run.table)
        what, draw = "Tickets", partial(plot.curves, levels=levels)
        if _learns(run):
            what = "The mask, and trainings under it,"
            draw = partial(plot.beside, titles=run.titles)
        draw(run.table, left)
        draw(run.table, right, split="validation", metric="loss")
        caption = f"{what} of {run.path.name}, mean over replicates."
        parts.append(_figure(left.figure, caption))
    return parts


def _learns(run: Run) -> bool:
    return run.finds_mask


def _axes(n: int):
    figure = Figure(figsize=(5.4 * n, 3.8), layout="constrained")
    return figure.subplots(1, n)


def _figure(figure, caption: str) -> str:
    image = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "lth"}):  # the same ids each time
        figure.savefig(image, format="svg", metadata={"Date": None})
    svg = image.getvalue()
    svg = svg[svg.index("<svg") :]
    return f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _results(table: pd.DataFrame, titles, apart) -> str:
    name = results.score(table)
    head = ["run", "variant", "level", "density %", "n", f"test {name} at the end %"]
    head += ["early-stopping step", f"test {name} there %"]
    rows = ["".join(f"<th>{name}</th>" for name in head)]
    rows += [
        "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        for row in cells(table, titles, apart)
    ]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"


def cells(
    table: pd.DataFrame, titles=plot.NONE, apart: Collection[str] = ()
) -> list[list[str]]:
    """Return the summary of a table as text, in the columns of the report's results."""
    unit = ["run", "variant", "level"]
    matches = results.matching(table, apart).set_index(unit)["matches"].to_dict()
    return [
        [
            row["run"],
            plot.name(
                row["variant"],
                row["level"],
                row["density"],
                matches.get(tuple(row[name] for name in unit), False),
                titles,
            ),
            str(row["level"]),
            f"{100 * row['density']:.3g}",
            str(row["n"]),
            results.around(100 * row["accuracy"], 100 * row["accuracy_ci"]),
            results.around(row["stop"], row["stop_ci"], 0),
            results.around(100 * row["stop_accuracy"], 100 * row["stop_accuracy_ci"]),
        ]
        for row in results.summary(table).to_dict("records")
    ]


def _savings(runs: list[Run], called: dict[str, str]) -> str:
    """Weights left and multiplications saved, by level: the axes to compare on."""
    head = ["run", "level", "weights left", "compression", "fewer multiplications"]
    rows = ["".join(f"<th>{name}</th>" for name in head)]
    for run in runs:
        for level, saved in run.savings().items():
            row = [
                html.escape(called[run.path.name]),
                str(level),
                f"{saved['weights']:.0f}",
                f"{saved['compression']:.3g} x",
                f"{saved['speedup']:.3g} x".replace("nan x", "not known"),
            ]
            rows.append("".join(f"<td>{cell}</td>" for cell in row))
    return (
        "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"
        "<p>Of the whole network, what is not prunable included. Multiplications are "
        "saved only where zeros are skipped, which dense arithmetic does not do.</p>"
    )


def _costs(runs: list[Run], called: dict[str, str]) -> str:
    """Steps and seconds of each level's tickets, beside what they gained."""
    head = ["run", "level", "steps", "dense trainings so far", "seconds"]
    head += ["test score less that of level 0, points"]
    rows = ["".join(f"<th>{name}</th>" for name in head)]
    for run in runs:
        label, costs = called[run.path.name], run.costs().query("variant == 'ticket'")
        trainings = costs["steps"].cumsum() / costs["steps"].max()
        gains = _gains(run.table)
        for cost, share in zip(costs.to_dict("records"), trainings, strict=True):
            row = [
                html.escape(label),
                str(cost["level"]),
                str(cost["steps"]),
                f"{share:.2f}",
                f"{cost['seconds']:.1f}",
                gains.get(cost["level"], ""),
            ]
            rows.append("".join(f"<td>{cell}</td>" for cell in row))
    return (
        "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"
        "<p>Of all replicates together, on the machine below, without compiling. Of a "
        "training that was killed and went on, the seconds after the last time.</p>"
    )


def _gains(table: pd.DataFrame) -> dict[int, str]:
    """By level, how much better tickets end than the first network, in points."""
    tickets = table[table["variant"] == results.TICKET]
    ends = results.final(tickets).pivot(index="replicate", columns="level")["value"]
    if 0 not in ends:
        return {}
    gains = 100 * ends.sub(ends[0], axis=0).drop(columns=0)
    told = {level: results.interval(gains[level].dropna()) for level in gains}
    return {int(level): results.around(*pair) for level, pair in told.items()}


def _details(run: Run) -> str:
    fields = json.dumps(run.content, indent=1)
    if run.config:
        fields = json.dumps(dataclasses.asdict(run.config), indent=1)
    sessions = _sessions(run.path / "environment.json")
    preset = presets.named(run.preset)
    note = (
        f"<p>Differs from its source: {html.escape(preset.differs)}.</p>"
        if preset
        else ""
    )
    return (
        f"{note}<details><summary>Configuration of "
        f"{html.escape(run.path.name)}</summary>"
        f"<pre>{html.escape(fields)}</pre></details>"
        f"<details><summary>Where it ran, session by session</summary>"
        f"<pre>{html.escape(sessions)}</pre></details>"
    )
