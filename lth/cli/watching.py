"""The commands that look: `watch`, while a run goes on, and `query`, for scripts."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.live import Live
from rich.table import Table

from lth.cli import flags as typed
from lth.cli import terminal

BARS = "▁▂▃▄▅▆▇█"


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
    """Draw where runs are: a row for each variant of each run, level by level."""
    table = Table(title=found[0].name if len(found) == 1 else f"{len(found)} runs")
    for name in ("run", "state", "done", "time left", "variant", "level"):
        table.add_column(name, no_wrap=name != "run")
    table.add_column("validation, level by level")
    table.add_column("this training")
    for one in found:
        head = [one.name, one.state, _share(one.done), _time(one.left)]
        if one.state == "silent":
            head[1] = f"silent for {_time(one.silent)}"
        for variant, scores in (one.scores or {"": {}}).items():
            now = variant == one.variant
            levels = [scores[level] for level in sorted(scores)]
            cells = [variant, str(max(scores, default=""))]
            cells += [_told(levels, one.metric)]
            cells += [_told(one.curve, one.metric) if now else ""]
            table.add_row(*head, *cells)
            head = [""] * 4
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


def _told(values: Sequence[float], metric: str) -> str:
    if not values:
        return ""
    said = f"{values[-1]:.4f}" if metric == "loss" else f"{100 * values[-1]:.2f} %"
    return f"{spark(values)} {said}"


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
