"""What a run found, in numbers: how far tickets match, who falls behind, how fast."""

from collections.abc import Collection
from typing import Any

import pandas as pd

from lth.results.statistics import (
    down_to,
    early_stop,
    final,
    interval,
    matching,
    paired,
    score,
)
from lth.results.table import TICKET

Numbers = dict[str, Any]  # as JSON has them: no NaN, None where there is no number


def behind(table: pd.DataFrame, variant: str) -> pd.DataFrame:
    """Return how much worse a branch ends than tickets, level by level.

    One row per level that both have: density, n, `difference` (tickets less the
    branch, within replicates), `difference_ci`, and `behind`: whether the whole 95 %
    interval is above 0, which a single replicate never shows. Empty where they share
    none.
    """
    ours = table[table["variant"] == TICKET]
    theirs = table[table["variant"] == variant].assign(variant=TICKET)
    columns = ["level", "density", "n", "difference", "difference_ci", "behind"]
    try:
        rows = paired(ours, theirs, score(table))
    except ValueError:
        return pd.DataFrame(columns=columns)
    rows = rows.assign(behind=rows["difference"] - rows["difference_ci"] > 0)
    return rows.sort_values("level", ignore_index=True)[columns]


def behind_from(rows: pd.DataFrame) -> pd.Series | None:
    """Return the first row of `behind` from which on every one is; None without."""
    without_gap = rows[rows["behind"][::-1].cumprod()[::-1].astype(bool)]
    return None if without_gap.empty else without_gap.iloc[0]


def speed(table: pd.DataFrame, variant: str = TICKET) -> pd.DataFrame:
    """Return how soon networks learn, as a share of the dense network's steps.

    The steps are those to the lowest validation loss (`early_stop`), the share is taken
    within replicates. One row per level beyond the dense one: density, n, `share` and
    `share_ci`. Empty where no dense network was trained.
    """
    stops = early_stop(table)
    is_dense = (stops["variant"] == TICKET) & (stops["level"] == 0)
    dense = stops[is_dense & (stops["density"] == 1)].set_index("replicate")["step"]
    found = []
    rows = stops[(stops["variant"] == variant) & ~is_dense]
    for level, group in rows.groupby("level"):
        of_dense = group["replicate"].map(dense)
        shares = (group["step"] / of_dense)[of_dense > 0]
        if len(shares):
            mean, half = interval(shares)
            row = {"level": level, "density": group["density"].mean()}
            found.append(row | {"n": len(shares), "share": mean, "share_ci": half})
    return pd.DataFrame(found, columns=["level", "density", "n", "share", "share_ci"])


def findings(table: pd.DataFrame, apart: Collection[str] = ()) -> Numbers:
    """Return what the table of one run says, as numbers that JSON holds.

    `dense` has the score of the dense network. `tickets` and each of `branches` have
    `matches_down_to`, the last level and density down to which they match it without a
    gap. Tickets have score, interval and share of its steps there, or at their last
    level, and all `matching_levels`; branches have from which level on they are behind
    tickets. What there is none of is None.
    """
    ends, rows = final(table), matching(table, apart)
    is_dense = (ends["level"] == 0) & (ends["density"] == 1)
    dense = ends[is_dense & (ends["variant"] == TICKET)]
    names = [name for name in table["variant"].unique() if name != TICKET]
    found: Numbers = {"score": score(table), "dense": None, "tickets": None}
    if len(dense):
        found["dense"] = _scored(dense) | {"deviation": _deviation(dense["value"])}
    tickets = rows[rows["variant"] == TICKET]
    if len(tickets):
        found["tickets"] = _tickets(ends, tickets, speed(table))
    found["branches"] = {
        name: {
            "matches_down_to": _place(rows[rows["variant"] == name]),
            "behind_from": None if name in apart else _lag(behind(table, name)),
        }
        for name in names
    }
    return found


def _tickets(ends: pd.DataFrame, rows: pd.DataFrame, shares: pd.DataFrame) -> Numbers:
    end = down_to(rows)
    level = end[0] if end else int(rows["level"].max())
    at = ends[(ends["variant"] == TICKET) & (ends["level"] == level)]
    told: Numbers = {"matches_down_to": _place(rows), "level": level}
    told |= {"density": float(at["density"].mean()), **_scored(at), "steps": None}
    told["matching_levels"] = [int(n) for n in rows.loc[rows["matches"], "level"]]
    for row in shares[shares["level"] == level].to_dict("records"):
        told["steps"] = {"share": row["share"], "interval": _known(row["share_ci"])}
    return told


def _place(rows: pd.DataFrame) -> Numbers | None:
    end = down_to(rows) if len(rows) else None
    return {"level": end[0], "density": end[1]} if end else None


def _lag(rows: pd.DataFrame) -> Numbers | None:
    row = behind_from(rows)
    if row is None:
        return None
    return {
        "level": int(row["level"]),
        "density": float(row["density"]),
        "difference": float(row["difference"]),
        "interval": _known(row["difference_ci"]),
        "n": int(row["n"]),
    }


def _scored(rows: pd.DataFrame) -> Numbers:
    mean, half = interval(rows["value"])
    return {"score": mean, "interval": _known(half), "n": len(rows)}


def _deviation(values: pd.Series) -> float | None:
    off = values - values.iloc[0]  # of equal values exactly 0
    return float(off.std(ddof=1)) if len(values) > 1 else None


def _known(value: float) -> float | None:
    return None if value != value else float(value)
