"""The tables of a report, as HTML: results, what differs, savings and costs."""

import html
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import pandas as pd

from lth import plot, results
from lth.lab.stored import Run


def markup(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table that can be scrolled, sorted and copied; cells are plain text."""
    heads = "".join(f"<th scope='col'>{html.escape(name)}</th>" for name in head)
    lines = [
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    ]
    said = html.escape(caption, quote=True)
    return (
        f"<div class='table' role='region' aria-label='{said}' tabindex='0'>"
        f"<table><caption>{said}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def scores(table: pd.DataFrame, titles, apart) -> str:
    """Write the summary of a table."""
    name = results.score(table)
    head = ["run", "variant", "level", "density %", "n", f"test {name} at the end %"]
    head += ["early-stopping step", f"test {name} there %"]
    return markup("Means over n replicates ± 95 %", head, cells(table, titles, apart))


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


def differences(runs: Sequence[Run], called: dict[str, str]) -> str:
    """Write the settings in which runs differ, a column for each run."""
    known = [run.settings for run in runs]
    fields = list(dict.fromkeys(field for settings in known for field in settings))
    rows = [[f, *(_said(settings.get(f)) for settings in known)] for f in fields]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    head = ["setting", *(called[run.path.name] for run in runs)]
    return markup("Settings that are not the same in all runs", head, rows)


def _said(value: Any) -> str:
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return "none" if value in ("", None) else str(value)


def savings(runs: Sequence[Run], called: dict[str, str]) -> str:
    """Write weights left and multiplications saved: the axes to compare on."""
    head = ["run", "level", "weights left", "compression", "fewer multiplications"]
    rows = [
        [
            called[run.path.name],
            str(level),
            f"{saved['weights']:.0f}",
            f"{saved['compression']:.3g} x",
            f"{saved['speedup']:.3g} x".replace("nan x", "not known"),
        ]
        for run in runs
        for level, saved in run.savings().items()
    ]
    return (
        markup("Savings by level", head, rows)
        + "<p>Of the whole network, what is not prunable included. Multiplications are "
        "saved only where zeros are skipped, which dense arithmetic does not do.</p>"
    )


def costs(runs: Sequence[Run], called: dict[str, str]) -> str:
    """Write steps and seconds of each level's tickets, beside what they gained."""
    head = ["run", "level", "steps", "dense trainings so far", "seconds"]
    head += ["test score less that of level 0, points"]
    rows = []
    for run in runs:
        label, spent = called[run.path.name], run.costs().query("variant == 'ticket'")
        trainings = spent["steps"].cumsum() / spent["steps"].max()
        gains = _gains(run.table)
        rows += [
            [
                label,
                str(cost["level"]),
                str(cost["steps"]),
                f"{share:.2f}",
                f"{cost['seconds']:.1f}".replace("nan", "not known"),
                gains.get(cost["level"], ""),
            ]
            for cost, share in zip(spent.to_dict("records"), trainings, strict=True)
        ]
    return (
        markup("Cost by level", head, rows)
        + "<p>Of all replicates together, on the machine below, without compiling. Of "
        "a training that was killed and went on, the seconds after the last time.</p>"
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
