"""What the command shows in a terminal while it works, and of what it found."""

import contextlib
import glob
import json
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from lth.lab.config import ConfigError, identity, presets
from lth.lab.config.fields import EXTENDING

CAPTION = (
    "means over n replicates ± 95 % interval; early stop: the step of the lowest\n"
    "validation loss, and test % there"
)
AMOUNTS = {*EXTENDING, "replicates", "first_replicate"}
errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
output = Console(soft_wrap=True, highlight=False)


def refuse(message: str, code: int) -> int:
    """Say why something cannot be done; the exit code."""
    errors.print(f"lth: {message}")
    return code


def located(run: Path, folder: Path) -> Path:
    """The directory of a run: as it is given, or by its name, or a part of it.

    The start of a name goes before what is in its middle, such as the id.
    Of several, a preset's name is of the run of which nothing but the preset was asked.
    """
    if run.exists() or len(run.parts) > 1:
        return run
    name = glob.escape(run.name.rstrip("…"))
    found = sorted(path.parent for path in folder.glob(f"{name}*/config.json"))
    found = found or sorted(p.parent for p in folder.glob(f"*{name}*/config.json"))
    if folder / run.name in found:
        return folder / run.name
    plain = [path for path in found if _is_plain(path, run.name)]
    if len(plain) == 1:
        return plain[0]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ConfigError(f"{run} may be {names}: give more of its name")
    if not found:
        from lth.lab.store import StoreError

        raise StoreError(
            f"there is no run {run}: neither here nor, by that name or a part of it, "
            f"in {folder}{os.sep}; `lth list` shows those that are there"
        )
    return found[0]


def _is_plain(path: Path, name: str) -> bool:
    """Whether a run is a preset's, and differs from it in how much was asked alone."""
    preset = presets.named(name)
    if preset is None:
        return False
    try:
        content = json.loads((path / "config.json").read_text())
        told = identity.as_dict(identity.from_dict(content["config"]))
        changed = identity.apart(told, identity.as_dict(preset.experiment))
        return content["preset"] == name and not set(changed) - AMOUNTS
    except (OSError, ValueError, LookupError, TypeError):
        return False  # whoever opens it says why


@contextlib.contextmanager
def progress(quiet: bool, first: str = "dense") -> Iterator[Callable[[Any], None]]:
    """Show how far a run is: a bar in a terminal, else a line a training.

    `first` is what level 0 is called: the dense network, or a mask that is learned.
    """
    if quiet:
        yield lambda progress: None
    elif errors.is_terminal:
        with _bar() as bar:
            yield partial(_show, bar, first)
    else:
        yield partial(_line, time.monotonic(), first)


def _line(started: float, first: str, p: Any) -> None:
    if p.step == p.steps:
        errors.print(
            f"level {p.level:2d} {_variant(p, first):<14} loss {p.loss:.4f}  "
            f"validation {p.metric} {100 * p.accuracy:.2f} %  "
            f"{time.monotonic() - started:.0f} s"
        )


@contextlib.contextmanager
def _bar() -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as bar:
        bar.add_task("starting", total=1.0, numbers="compiling")
        yield bar


def _show(bar: Progress, first: str, p: Any) -> None:
    bar.update(
        bar.task_ids[0],
        completed=p.fraction,
        description=f"level {p.level} {_variant(p, first)}, step {p.step}",
        numbers=f"loss {p.loss:.4f}, {p.metric} {100 * p.accuracy:.1f} %",
    )


def _variant(p: Any, first: str) -> str:
    return first if p.level == 0 and p.variant == "ticket" else p.variant


def print_summary(run: Any) -> None:
    """Print a run's results, and down to which density its tickets match."""
    from lth.cli import conclusion, report

    table = Table(title=run.path.name, caption=CAPTION, caption_justify="left")
    for name in ("", "level", "density %", "n", "test %", "early stop", "test % there"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    rows = report.cells(run.table, run.titles, run.apart)
    for _, *cells in rows:
        table.add_row(*cells)
    widest = max(len(cells[1]) for cells in rows)
    Console(width=max(output.width, 75 + widest)).print(table)  # nothing is cut
    said = conclusion.sentences(run.table, run.titles, run.apart)
    told = *said, conclusion.meaning(run.table), *conclusion.cautions(run)
    for sentence in filter(None, told):
        output.print(sentence, markup=False)


def print_measured(rows: Any, title: str) -> None:
    """Print what a probe found: a mean over replicates for each level and metric."""
    means = rows.groupby(["level", "metric"], sort=False)["value"].mean()
    width = max((len(metric) for _, metric in means.index), default=0)
    output.print(title, markup=False)
    for (level, metric), value in means.items():
        output.print(f"  level {level:2d}  {metric:{width}}  {value:.6g}", markup=False)


def print_facts(facts: list[tuple[str, str]]) -> None:
    """Print what is known of a run before it is trained."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        output.print(f"{name:{width}}  {value}", markup=False)


def print_runs(folder: Path) -> None:
    """Print the runs in a folder: when, what differs from the preset, how far."""
    paths = sorted(path.parent for path in folder.glob("*/config.json"))
    output.print(f"runs in {folder}{os.sep}", markup=False)
    if not paths:
        output.print("  none yet", markup=False)
        return
    from lth.lab import store, stored

    for path in paths:
        try:
            told = "  ".join(stored.open_run(path).described())
        except store.StoreError as error:
            told = str(error).removeprefix(f"{path} ")
        output.print(f"  {path.name}: {told}", markup=False)
