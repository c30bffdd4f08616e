"""The tidy table: one row per measured value, in `table.csv`."""

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

COLUMNS = (
    "run",
    "replicate",
    "variant",  # ticket, or the name of the branch
    "level",
    "density",
    "step",
    "split",
    "metric",
    "value",
)


TICKET = "ticket"
SCORES = ("accuracy", "r2")  # a run measures one of them, beside the loss


def rows(
    run: str, variant: str, level: int, replicates, density, metrics
) -> Iterator[tuple]:
    """Yield the rows of a level: of each replicate, step, split and metric.

    Args:
      run: its name.
      variant: `TICKET`, or a control.
      level: pruning rounds behind it.
      replicates: their seeds, [r].
      density: [r].
      metrics: the curves of `train.fit` with replicates in front, [r, stops], and
        `failed`, the first level at which a replicate did, or -1 in front. Those that
        failed have no rows.

    Yields:
      Values of the columns `COLUMNS`.
    """
    names = [name for name in metrics if name not in ("step", "diverged", "failed")]
    for i, replicate in enumerate(replicates):
        if metrics["failed"][i, 0] >= 0:
            continue
        share = float(density[i])
        for j, step in enumerate(metrics["step"][i]):
            for name in names:
                split, _, metric = name.partition("_")
                # str() of a float32 is the shortest text that reads back the same.
                measured = (int(step), split, metric, str(metrics[name][i, j]))
                yield (run, int(replicate), variant, level, share, *measured)


def append(path: Path, new: Iterable[tuple]) -> None:
    """Add rows to the table, written whole before this returns; no rows, no table."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(new)
    if not text.tell():
        return
    if not path.exists():
        path.write_text(",".join(COLUMNS) + "\n")
    with path.open("a") as file:
        file.write(text.getvalue())
        file.flush()
        os.fsync(file.fileno())


def digest(rows: Iterable[tuple]) -> str:
    """Return a hash of rows as the table has them, line by line."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return hashlib.sha256(text.getvalue().encode()).hexdigest()


def digests(path: Path, stored: set[int]) -> dict[int, str]:
    """Return the hash of the rows of each stored level, as `digest` has it.

    Raises ValueError for a line that is no row.
    """
    text = _whole_rows(path, stored) if path.exists() else ""
    lines: dict[int, list[str]] = {}
    at = COLUMNS.index("level")
    for line in text.splitlines(keepends=True)[1:]:
        (cells,) = csv.reader([line])
        lines.setdefault(int(cells[at]), []).append(line)
    return {
        level: hashlib.sha256("".join(found).encode()).hexdigest()
        for level, found in lines.items()
    }


def keep(path: Path, stored: set[int]) -> None:
    """Drop rows whose level is not `stored`, and a last line cut short.

    Rows are written before their ticket, so after a crash the table may be ahead of the
    tickets; it is never behind.
    """
    if not path.exists():
        return
    text = _whole_rows(path, stored)
    if not text:
        path.unlink()
    elif text != path.read_text():
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text)
        os.replace(temporary, path)


def _whole_rows(path: Path, stored: set[int]) -> str:
    """The table's text without what `keep` drops; empty when no row is left."""
    text = path.read_text()
    lines = text[: text.rfind("\n") + 1].splitlines(keepends=True)
    level = COLUMNS.index("level")
    kept = lines[:1]
    if kept and kept != [",".join(COLUMNS) + "\n"]:
        raise ValueError(f"line 1 is not {','.join(COLUMNS)}: {kept[0].strip()[:80]!r}")
    for number, line in enumerate(lines[1:], 2):
        (cells,) = csv.reader([line])
        if len(cells) != len(COLUMNS) or not cells[level].isdecimal():
            raise ValueError(f"line {number} is no row: {line.strip()[:80]!r}")
        if int(cells[level]) in stored:
            kept.append(line)
    return "".join(kept) if len(kept) > 1 else ""


def read(path: Path, stored: set[int]) -> pd.DataFrame:
    """Read the rows of stored levels, a data frame with the columns `COLUMNS`."""
    return from_text(_whole_rows(path, stored) if path.exists() else "")


def write_as(path: Path, table: pd.DataFrame) -> None:
    """Write a table of any columns, whole or not at all, as its suffix has it.

    Raises ValueError for a suffix that is neither .csv nor .parquet, ImportError where
    pandas finds nothing that writes Parquet (`lth[parquet]`).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    if path.suffix == ".csv":
        table.to_csv(temporary, index=False)
    elif path.suffix == ".parquet":
        table.to_parquet(temporary, index=False)
    else:
        raise ValueError(f"a table is written as .csv or .parquet; got {path.name}")
    os.replace(temporary, path)


def as_text(rows: Iterable[tuple]) -> str:
    """Write rows as a table in text, with its head."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    return text.getvalue()


def from_text(text: str) -> pd.DataFrame:
    """Read a table in text as a data frame with the columns `COLUMNS`, if any."""
    exact = {"density": float, "value": float}  # pandas' own parser may miss a last bit
    return pd.read_csv(
        io.StringIO(text or ",".join(COLUMNS)),
        converters={**exact, "run": str, "variant": str, "split": str, "metric": str},
    )
