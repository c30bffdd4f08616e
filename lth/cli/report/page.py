"""The page of a report: what was found, figures, tables, and what was run."""

import dataclasses
import html
import json
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from lth import plot, results
from lth.cli import conclusion
from lth.cli.report import data, firsts, live, script, still, tables
from lth.lab import store
from lth.lab.config import ConfigError, presets
from lth.lab.stored import Run, labels

# Nothing leaves the page, and nothing is fetched by it.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'unsafe-inline'; img-src data: blob:"
)


def write(runs: list[Run], path: Path, *, make_script: bool = True) -> Path:
    """Write the report of one or several runs to `path`.

    Several are called by what differs among them. With `make_script` false its figures
    answer only if the script that draws them was made before, which takes seconds.
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
    drawing = script.text(make_script)
    shown = _figures(runs, table, called, titles, apart, bool(drawing))
    found = [_found(run, called[run.path.name]) for run in runs]
    parts = [_section("found", "What was found", "".join(found))]
    if not drawing:
        why = script.UNMADE if script.ready() else script.MISSING
        parts.append(f"<p class='note'>{html.escape(why)}</p>")
    parts += [_section(*figure.section, figure.markup) for figure in shown]
    meaning = f"<p>{html.escape(conclusion.meaning(table))}</p>"
    listed = tables.scores(table, titles, apart) + meaning
    parts.append(_section("results", "Results", listed))
    if len(runs) > 1:
        listed = tables.differences(runs, called)
        parts.append(_section("differences", "What differs between the runs", listed))
    parts += [
        _section("savings", "What tickets save", tables.savings(runs, called)),
        _section("costs", "What the search cost", tables.costs(runs, called)),
        _section("run", "What was run", "".join(map(_details, runs))),
    ]
    answering = [figure.live for figure in shown if figure.live and drawing]
    text = _page(", ".join(names), parts, answering, drawing)
    store.write(path, text, advice="Choose another file with --out of 'lth report'")
    return path


def _page(title: str, parts: list[str], figures: list[dict], drawing: str) -> str:
    """The whole page, with its style and scripts in it."""
    files = resources.files("lth.cli.report")
    style, act = (files.joinpath(f"page.{kind}").read_text() for kind in ("css", "js"))
    numbers = json.dumps(figures, separators=(",", ":"), allow_nan=False)
    scripts = f"<script>{drawing}</script>" if drawing else ""
    said = html.escape(title)
    links = "".join(
        f"<li><a href='#{name}'>{heading}</a></li>"
        for name, heading in _headings(parts)
    )
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{said}</title><style>{style}</style></head><body>"
        "<a class='skip' href='#found'>Skip to what was found</a>"
        f"<header><h1>{said}</h1><nav aria-label='Sections'><ul>{links}</ul></nav>"
        f"</header><main>{''.join(parts)}</main>"
        "<p id='said' class='note' role='status' aria-live='polite'></p>"
        "<script type='application/json' id='figures'>"
        + numbers.replace("<", "\\u003c")
        + f"</script>{scripts}<script>{act}</script></body></html>\n"
    )


def _section(name: str, heading: str, inside: str) -> str:
    return (
        f"<section aria-labelledby='{name}'><h2 id='{name}'>{html.escape(heading)}</h2>"
        f"{inside}</section>"
    )


def _headings(parts: list[str]) -> list[tuple[str, str]]:
    """The id and the words of each section's heading."""
    found = []
    for part in parts:
        _, mark, rest = part.partition("<h2 id='")
        if mark:
            name, _, rest = rest.partition("'>")
            found.append((name, rest.partition("</h2>")[0]))
    return found


def _found(run: Run, label: str) -> str:
    """What was found of one run: numbers first, then sentences."""
    preset = presets.named(run.preset)
    title = preset.title if preset else run.name
    n = len(run.replicates)
    told = conclusion.sentences(run.table, run.titles, run.apart)
    told += conclusion.cautions(run)
    called = f" ({label})" if label != run.path.name else ""
    facts = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd><b>{html.escape(value)}</b>"
        f"<small>{html.escape(more)}</small></dd></div>"
        for name, value, more in conclusion.facts(run)
    )
    return (
        f"<div class='found'><p><b>{html.escape(run.path.name)}</b>"
        f"{html.escape(called)}: {html.escape(title)}. "
        f"{n} replicate{'s' * (n > 1)}, {html.escape(_how(run))}.</p>"
        f"<dl>{facts}</dl><p>{html.escape(' '.join(told))}</p></div>"
    )


def _how(run: Run) -> str:
    e = run.config
    if known := run.content.get("imported"):
        last = len(known["kept"]) - 1
        return f"levels 0 to {max(run.levels)}, up to {last} from {known['from']}"
    if e is None:
        return f"levels 0 to {max(run.levels)}, functions of one's own"
    if e.learn.method != "none":
        return f"masks learned for {e.steps}"
    if e.dynamic.rule != "none":
        return f"a mask that changes in training, by {e.dynamic.rule}"
    return f"levels 0 to {max(run.levels)}, rewinding {e.rewind.mode} to {e.rewind.to}"


@dataclasses.dataclass(frozen=True)
class _Shown:
    """A figure: its section, its markup, and what makes it answer, if anything does."""

    section: tuple[str, str]
    markup: str
    live: dict[str, Any] | None


def _figures(runs, table, called, titles, apart, answers: bool) -> list[_Shown]:
    """Draw all figures, still and, where `answers`, with what makes them answer."""
    score = results.score(table)

    def shown(name: str, heading: str, caption: str, draw, made: Callable) -> _Shown:
        inside = still.panels(draw, caption)
        markup = (
            f"<figure id='{name}'><div class='still'>{inside}</div>"
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
        told = made()._asdict() | {"title": caption} if answers else None
        return _Shown((f"{name}-figure", heading), markup, _plain(told))

    figures = [
        shown(
            "scores",
            f"{score.capitalize()} against density",
            _SCORES.format(score=score),
            still.scores(table, titles, apart),
            lambda: live.scores(data.ends(table, runs, called), score, titles),
        ),
        shown(
            "curves",
            "Training curves",
            _CURVES.format(what=_trained(runs)),
            still.curves(runs),
            lambda: live.curves(data.curves(table), score, plot.spread(table), titles),
        ),
    ]
    if any(run.densities() for run in runs):
        figures.append(
            shown(
                "layers",
                "Where the weights went",
                "The density of each layer at each level, mean over replicates.",
                still.layers(runs),
                lambda: live.layers(data.layers(runs, called)),
            )
        )
    levels = [n for n in plot.spread(runs[0].table) if n in runs[0].levels]
    first = firsts.first(runs[0], levels)
    if first is not None:
        figures.append(
            shown(
                "masks",
                first.title,
                f"What masks of {called[runs[0].path.name]} keep of {first.path}: "
                f"{first.what}, mean over replicates.",
                still.masks(first),
                lambda: live.masks(data.masks(first, levels), first),
            )
        )
    tables_of = [run.measured for run in runs]
    if any(map(len, tables_of)):
        measured = pd.concat([t for t in tables_of if len(t)], ignore_index=True)
        measured["run"] = measured["run"].map(called)
        figures.append(
            shown(
                "probes",
                "What probes measured",
                "Numbers about stored tickets, such as barriers and overlaps; mean "
                "over replicates and 95 % interval.",
                still.probes(measured),
                lambda: live.probes(data.probes(measured), titles),
            )
        )
    return figures


_SCORES = (
    "Test {score} at the end of training and at the step of the lowest validation "
    "loss, and that step: lower learns faster. Lines are means over replicates, bands "
    "their 95 % confidence intervals."
)
_CURVES = "{what}, mean over replicates, by density."


def _trained(runs: Sequence[Run]) -> str:
    if any(run.finds_mask for run in runs):
        return "The mask, and trainings under it"
    return "Training of tickets"


def _plain(told: Any) -> Any:
    """Named tuples as the dictionaries that a script reads."""
    if hasattr(told, "_asdict"):
        told = told._asdict()
    if isinstance(told, dict):
        return {name: _plain(value) for name, value in told.items()}
    if isinstance(told, list | tuple):
        return [_plain(value) for value in told]
    return told


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
    if known := run.content.get("imported"):
        said = html.escape(" ".join(known["differs"]))
        note = f"<p>Levels to come differ from those of {known['from']}. {said}</p>"
    return (
        f"{note}<details><summary>Configuration of "
        f"{html.escape(run.path.name)}</summary>"
        f"<pre>{html.escape(fields)}</pre></details>"
        f"<details><summary>Where it ran, session by session</summary>"
        f"<pre>{html.escape(sessions)}</pre></details>"
    )


def _sessions(path: Path) -> str:
    """Where a run ran, as it is stored; a report does without."""
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        return f"not known: {path.name}: {error.strerror}"
