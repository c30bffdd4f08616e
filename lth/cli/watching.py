"""The commands that look: `watch`, while a run goes on, and `query`, for scripts."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich import box
from rich.live import Live
from rich.table import Table

from lth.cli import flags as typed
from lth.cli import terminal

BARS = "▁▂▃▄▅▆▇█"
NARROW = 100  # columns of a terminal, below which several runs are told in brief


@dataclass(frozen=True)
class WatchFlags:
    """Levels, curves so far and time left of a run, or of the runs in a folder."""

    run: tyro.conf.Positional[Path]
    """A run directory, the name of a run, or a folder of runs."""
    every: float = 2.0
    """Seconds between two looks."""
    once: bool = False
    """Look once and leave; exit code 0 if all is finished, 4 if not."""
    runs: Path = Path("runs")
    """Where a run is looked for that is given by its name."""


@dataclass(frozen=True)
class QueryFlags:
    """What is known of a run: facts, findings, summary, matching and costs."""

    run: tyro.conf.Positional[Path]
    """A run directory, or the name of a run as 'lth list' prints it."""
    json: bool = False
    """Print it all as JSON, in which what is not known is null."""
    runs: Path = Path("runs")
    """Where a run is looked for that is given by its name."""


def watch(args: list[str]) -> int:
    """lth watch RUN"""
    read = typed.read(args, WatchFlags)
    flags = tyro.cli(WatchFlags, args=read, prog="lth watch")
    from lth.lab import following

    path = terminal.located(flags.run, flags.runs)
    found = following.standings(path)
    if flags.once or not terminal.output.is_terminal:
        terminal.output.print(drawn(found))
        return 0 if _over(found) else 4
    with Live(drawn(found), console=terminal.output, auto_refresh=False) as live:
        while not _over(found):
            time.sleep(flags.every)
            found = following.standings(path)
            live.update(drawn(found), refresh=True)
    return 0


def _over(found: Sequence[Any]) -> bool:
    return all(one.state == "finished" for one in found)


def drawn(found: Sequence[Any]) -> Table:
    """Draw where runs are: a row for each variant of each run.

    The scores on the validation set are of its tickets, level by level, and of the
    training under way.
    """
    several, width = len(found) > 1, terminal.output.width
    names = ["state", "done", "left", "variant", "level", "validation", "training"]
    names = ["run", *names] if several else names
    if several and width < NARROW:
        names = [name for name in names if name not in ("left", "training")]
    table = Table(
        title=f"{len(found)} runs" if several else found[0].name,
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for name in names:
        table.add_column(name, no_wrap=True, min_width=len(name))
    # What is left of a line beside words and numbers, for two rows of bars.
    longest = max(len(variant) for one in found for variant in ("", *one.scores))
    longest += max(len(one.name) for one in found) if several else 0
    bars = max(0, min(24, (width - longest - 60) // 2))
    for one in found:
        cells = {"run": one.name, "state": one.state}
        cells |= {"done": _share(one.done), "left": _time(one.left)}
        if one.state == "silent":
            cells["state"] = f"silent for {_time(one.silent)}"
        for variant, scores in (one.scores or {"": {}}).items():
            levels = [scores[level] for level in sorted(scores)]
            cells |= {"variant": variant, "level": str(max(scores, default=""))}
            cells["validation"] = _told(levels, one.metric, bars)
            if variant == one.variant:
                cells["training"] = _told(one.curve, one.metric, bars)
            table.add_row(*(cells.get(name, "") for name in names))
            cells = {}
    return table


def spark(values: Sequence[float], most: int = 24) -> str:
    """Return values as bars of text, from the least to the most of them."""
    values = [value for value in values if math.isfinite(value)]
    if len(values) > most:
        last = len(values) - 1
        values = [values[round(i * last / (most - 1))] for i in range(most)]
    low, high = min(values, default=0.0), max(values, default=0.0)
    span = (high - low) or 1.0
    return "".join(BARS[round((v - low) / span * (len(BARS) - 1))] for v in values)


def _told(values: Sequence[float], metric: str, bars: int) -> str:
    """The last of some values, and all of them as so many bars, if there is room."""
    if not values:
        return ""
    said = f"{values[-1]:.4f}" if metric == "loss" else f"{100 * values[-1]:.2f} %"
    return f"{spark(values, bars)} {said}" if bars > 4 else said


def _share(done: float | None) -> str:
    return "" if done is None else f"{100 * done:.0f} %"


def _time(seconds: float | None) -> str:
    """Seconds as h:mm:ss."""
    if seconds is None:
        return "not known"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def query(args: list[str]) -> int:
    """lth query RUN --json"""
    read = typed.read(args, QueryFlags)
    flags = tyro.cli(QueryFlags, args=read, prog="lth query")
    path = terminal.located(flags.run, flags.runs)
    from lth.lab import stored

    found = known(stored.open_run(path))
    if flags.json:
        text = json.dumps(found, indent=1, allow_nan=False)
        terminal.output.print(text, markup=False)
    else:
        for name, value in found["facts"].items():
            terminal.output.print(f"{name}: {value}", markup=False)
        told = json.dumps(found["findings"], indent=1)
        terminal.output.print(told, markup=False)
    return 3 if found["failed"] else 0


def known(run: Any) -> dict[str, Any]:
    """Return all that is known of a run, as JSON holds it."""
    from lth import results
    from lth.lab import following, runner

    at, table = following.standing(run.path), run.table
    failed = [
        {"variant": variant, "replicate": replicate, "level": level, "step": step}
        for (variant, replicate), (level, step) in runner.failures(run.path).items()
    ]
    facts = {
        "run": run.path.name,
        "path": str(run.path),
        "preset": run.preset or None,
        "state": at.state,
        "done": at.done,
        "levels": run.levels,
        "variants": run.variants,
        "replicates": run.replicates,
    }
    return _plain(
        {
            "facts": facts,
            "settings": run.settings,
            "findings": results.findings(table, run.apart),
            "summary": results.summary(table).to_dict("records"),
            "matching": results.matching(table, run.apart).to_dict("records"),
            "costs": run.costs().to_dict("records"),
            "savings": [{"level": n, **saved} for n, saved in run.savings().items()],
            "probes": run.measured.to_dict("records"),
            "failed": failed,
        }
    )


def _plain(value: Any) -> Any:
    """A value as JSON holds it: no NaN, no numbers of NumPy, no tuples."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(inner) for inner in value]
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    ours = isinstance(value, str | int | float | bool) or value is None
    return value if ours else str(value)
