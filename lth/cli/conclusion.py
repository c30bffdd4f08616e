"""What the table of a run allows to say, in sentences."""

import itertools
from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd

from lth import plot, results
from lth.lab.config import identity


def meaning(table: pd.DataFrame) -> str:
    """Say what matching means, of the score that a table is compared by.

    Empty where there is nothing to match, or nothing that might.
    """
    if results.matching(table).empty:
        return ""
    return (
        f"A network matches where its mean test {results.score(table)} at the end of "
        "training is at most one standard deviation (over replicates) below the dense "
        "network's; a ticket that matches is a winning ticket."
    )


def sentences(
    table: pd.DataFrame,
    titles: Mapping[str, str] = plot.NONE,
    apart: Collection[str] = (),
) -> list[str]:
    """Say of one run down to which density its networks match the dense one.

    A sentence about the tickets and one about each control; none of a run that has
    pruned nothing yet. Branches of another task, `apart`, have a dense network of their
    own to match, at level 0, or none.
    """
    rows = results.matching(table, apart)
    if rows.empty:
        learned = (table["level"] == 0) & (table["density"] < 1)
        nothing = "No dense network was trained, so there is none to match."
        return [nothing] if learned.any() else []
    dense = _dense(rows.iloc[0], results.score(table))
    told = []
    for variant, group in rows.groupby("variant", sort=False):
        where = _where(group)
        if variant != results.TICKET:
            called = plot.name(str(variant), 1, 1, titles=titles)
            text = f"The control “{called}” matches it {where}"
            if variant in apart:
                own = _dense(group.iloc[0], results.score(table))
                text = f"“{called}” matches its own dense network ({own}) {where}"
        elif group["matches"].any():
            text = f"Tickets match the dense network ({dense}) {where}"
        else:
            text = f"No ticket matches the dense network ({dense})"
        told.append(f"{text}{_fewer(group)}.")
    alone = set(table["variant"]) & set(apart) - set(rows["variant"])
    told += [
        f"“{plot.name(variant, 1, 1, titles=titles)}” is of another task and has no "
        "dense network of its own to match: its level 0 is not trained."
        for variant in sorted(alone)
    ]
    return told


def cautions(run: Any) -> list[str]:
    """Say what a reader of a run's numbers has to know of where they come from."""
    told = []
    if run.config and run.content["id"] != identity.identity(run.config):
        told.append(
            f"Of each {run.config.prune.structure} only weights in kernels were "
            "pruned: its bias and its normalisation live on where they are not 0, so "
            "the network cut down to what is left may be another."
        )
    known = run.content.get("imported")
    if known and max(run.levels) >= len(known["kept"]):
        last = len(known["kept"]) - 1
        every = ",".join(map(str, range(last + 1)))
        told.append(
            f"Levels 0 to {last} were trained by {known['from']}, the others by lth, "
            "so what matches may be the program's doing: compare with the same levels "
            f"trained here, lth branch {run.path.name} order --levels {every}."
        )
    return told


def facts(run: Any) -> list[tuple[str, str, str]]:
    """Say what a run found in a few numbers: what it is, the number, its interval."""
    found = results.findings(run.table, run.apart)
    score, told = found["score"], []
    if dense := found["dense"]:
        told.append((f"Dense network, test {score}", *_scored(dense)))
    if tickets := found["tickets"]:
        told += _of_tickets(tickets, score)
    for variant, branch in found["branches"].items():
        if lag := branch["behind_from"]:
            called = plot.name(variant, 1, 1, titles=run.titles)
            value = f"from {_percent(lag['density'])} on"
            gap = results.around(100 * lag["difference"], 100 * lag["interval"])
            more = f"level {lag['level']}: {gap} points worse, n = {lag['n']}"
            told.append((f"Behind tickets: {called}", value, more))
    if (costs := run.costs()).size and tickets:
        told.append(
            _cost(costs, tickets["level"] if tickets["matches_down_to"] else None)
        )
    return told


def _scored(numbers: Mapping[str, Any]) -> tuple[str, str]:
    value, half, n = 100 * numbers["score"], numbers["interval"], numbers["n"]
    if half is None:
        return f"{value:.2f} %", f"n = {n}: no interval"
    return f"{value:.2f} %", f"± {100 * half:.2f} (95 %), n = {n}"


def _of_tickets(tickets: Mapping[str, Any], score: str) -> list[tuple[str, str, str]]:
    value, more = _scored(tickets)
    where, down = "there", _percent(tickets["density"])
    whole = tickets["matches_down_to"] is not None
    if not whole:
        alike = tickets["matching_levels"]
        levels = f"level{'s' * (len(alike) > 1)} {', '.join(map(str, alike))}"
        where, down = "at the last", f"only at {levels}" if alike else "at no density"
    at = f"level {tickets['level']}: test {score} {value} {where}, {more}"
    told = [("Tickets match " + "down to" * whole, down, at)]
    if steps := tickets["steps"]:
        half = steps["interval"]
        more = "n = 1" if half is None else f"± {half:.2f} (95 %)"
        said = f"of the dense network's, to the lowest validation loss; {more}"
        which = "That ticket" if whole else "The last ticket"
        value = f"{steps['share']:.2f} of the steps"
        told.append((f"{which} learns in", value, said))
    return told


def _cost(costs: pd.DataFrame, level: int | None) -> tuple[str, str, str]:
    """The trainings of tickets up to a level, or all of them."""
    rows = costs[costs["variant"] == results.TICKET]
    rows = rows if level is None else rows[rows["level"] <= level]
    trainings = rows["steps"].sum() / rows["steps"].max()
    what = "Cost of the search" if level is None else "Cost of finding it"
    seconds = rows["seconds"].sum(skipna=False)
    took = f"{seconds:.0f} s for all replicates, without compiling"
    if seconds != seconds:
        took = "some of them imported: their time is not known"
    return what, f"{trainings:.3g} dense trainings", took


def _dense(row: pd.Series, score: str) -> str:
    value, n = f"test {score} {100 * row['dense']:.2f}", row["dense_n"]
    if n == 1:
        return f"{value} %, n = 1: compared with the dense value itself"
    return f"{value} ± {100 * row['deviation']:.2f} %, one standard deviation, n = {n}"


def _where(rows: pd.DataFrame) -> str:
    """At which levels networks match: from the first on, down to where; then others."""
    stretches = [
        list(group)
        for matches, group in itertools.groupby(
            rows.to_dict("records"), lambda row: row["matches"]
        )
        if matches
    ]
    if not stretches:
        return "at no density"
    end = results.down_to(rows)
    if end is None:
        return "only " + " and ".join(map(_stretch, stretches))
    level, density = end
    text = f"down to a density of {_percent(density)} (level {level})"
    if level == rows["level"].max():
        return f"{text}, the last"
    again = " and ".join(map(_stretch, stretches[1:]))
    return f"{text}, and again {again}" if again else text


def _stretch(rows: list[dict]) -> str:
    first, last = rows[0], rows[-1]
    if first is last:
        return f"at {_percent(first['density'])} (level {first['level']})"
    return (
        f"from {_percent(first['density'])} to {_percent(last['density'])} (levels "
        f"{first['level']} to {last['level']})"
    )


def _percent(density: float) -> str:
    return f"{100 * density:.3g} %"


def _fewer(rows: pd.DataFrame) -> str:
    """Levels that have other replicates than the dense network, if any."""
    odd = rows[rows["n"] != rows["dense_n"]]
    listed = [
        f"n = {n} at level {level}" for level, n in odd[["level", "n"]].to_numpy()
    ]
    return f"; {', '.join(listed)}" if listed else ""
