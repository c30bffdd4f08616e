"""What the command shows in a terminal while it works, and of what it found."""

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
output = Console(soft_wrap=True, highlight=False)


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

    table = Table(title=run.path.name)
    for name in ("", "level", "density %", "n", "test %", "early stop", "test % there"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for _, *cells in report.cells(run.table):
        table.add_row(*cells)
    Console(width=max(output.width, 100)).print(table)  # numbers are never cut
    told = *conclusion.sentences(run.table), conclusion.meaning(run.table)
    for sentence in filter(None, told):
        output.print(sentence, markup=False)
