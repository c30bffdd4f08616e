"""What the command shows in a terminal while it works, and of what it found."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
output = Console(soft_wrap=True, highlight=False)


@contextlib.contextmanager
def progress(quiet: bool) -> Iterator[Callable[[Any], None]]:
    """What shows the progress of a run: a bar in a terminal, else a line a training."""
    if quiet:
        yield lambda progress: None
        return
    started = time.monotonic()

    def line(p):
        if p.step == p.steps:
            errors.print(
                f"level {p.level:2d} {p.variant:<8} loss {p.loss:.4f}  "
                f"validation {p.metric} {100 * p.accuracy:.2f} %  "
                f"{time.monotonic() - started:.0f} s"
            )

    if not errors.is_terminal:
        yield line
        return
    text = "level {task.fields[level]} {task.fields[variant]}, step {task.fields[step]}"
    numbers = (
        "loss {task.fields[loss]:.4f}, "
        "{task.fields[metric]} {task.fields[accuracy]:.1f} %"
    )
    columns = (
        TextColumn(text),
        BarColumn(),
        TextColumn(numbers),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task(
            "",
            total=1.0,
            level=0,
            variant="starts",
            step=0,
            loss=0.0,
            metric="accuracy",
            accuracy=0.0,
        )

        def show_bar(p):
            bar.update(
                task,
                completed=p.fraction,
                level=p.level,
                variant=p.variant,
                step=p.step,
                loss=p.loss,
                metric=p.metric,
                accuracy=100 * p.accuracy,
            )

        yield show_bar


def print_summary(run: Any) -> None:
    """Print a run's results, and down to which density its tickets match."""
    from lth import conclusion, report

    table = Table(title=run.path.name)
    for name in ("", "level", "density %", "n", "test %", "early stop", "test % there"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for _, *cells in report.cells(run.table):
        table.add_row(*cells)
    Console(width=max(output.width, 100)).print(table)  # numbers are never cut
    told = *conclusion.sentences(run.table), conclusion.meaning(run.table)
    for sentence in filter(None, told):
        output.print(sentence, markup=False)
