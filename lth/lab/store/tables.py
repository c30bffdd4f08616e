"""The tables of a unit: checked against its tickets, and those of its probes."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lth import results
from lth.lab.store import checkpoint
from lth.lab.store.checkpoint import StoreError, write, writing
from lth.lab.store.rundir import (
    facts,
    level_name,
    load_tree,
    mend_log,
    stored,
)


def reconcile(unit: Path) -> None:
    """Make a claimed unit whole again after a process that was killed.

    Rows whose tickets were not stored go; what is left is checked (`check_table`).
    """
    mend_log(unit)
    if (unit / "table.csv").exists():
        with writing(unit / "table.csv"):
            try:
                results.keep(unit / "table.csv", stored(unit))
            except ValueError as error:
                raise StoreError(_edited(unit, str(error))) from None
    check_table(unit)


def check_table(unit: Path) -> None:
    """Refuse a table that does not hold what the tickets measured.

    Raises StoreError, which names the level.
    """
    path, levels = unit / "table.csv", stored(unit)
    try:
        there = results.digests(path, levels)
    except (OSError, ValueError) as error:
        raise StoreError(_edited(unit, str(error))) from None
    for level in sorted(levels):
        rows = facts(unit, level_name(level)).get("rows")
        if rows is not None and there.get(level, results.digest([])) != rows:
            why = f"its rows of level {level} are not those that were measured"
            raise StoreError(_edited(unit, why))


def _edited(unit: Path, why: str) -> str:
    """What to say of a table that was changed from outside."""
    run = next(p for p in (unit, *unit.parents) if (p / "config.json").exists())
    return (
        f"{unit / 'table.csv'} was changed or lost: {why}\nThe tickets hold them too: "
        f"'lth repair {run}' writes the table anew"
    )


def read_table(unit: Path) -> Any:
    """The rows of stored tickets (`results.read`), which are what those measured.

    Raises StoreError.
    """
    check_table(unit)
    return results.read(unit / "table.csv", stored(unit))


def write_table(unit: Path, rows: Iterable[tuple]) -> bool:
    """Write the table of a claimed unit anew; return whether it was another one."""
    path, text = unit / "table.csv", results.as_text(rows)
    before = path.read_bytes() if path.exists() else b""
    if before == text.encode():
        return False
    write(path, text)
    return True


def append_rows(unit: Path, rows: Any) -> None:
    """Add rows to the table."""
    with writing(unit / "table.csv"):
        results.append(unit / "table.csv", rows)


def _measured(unit: Path, probe: str, level: int) -> Path:
    return unit / "probes" / probe / f"{level_name(level)}.csv"


def is_measured(unit: Path, probe: str, level: int) -> bool:
    """Whether the numbers of a probe are stored for a level."""
    return _measured(unit, probe, level).exists()


def measured(unit: Path) -> dict[str, list[int]]:
    """Return the levels of which the numbers of each probe are stored."""
    found: dict[str, list[int]] = {}
    for path in sorted((unit / "probes").glob("*/level_*.csv")):
        found.setdefault(path.parent.name, []).append(int(path.stem.split("_")[1]))
    return found


def save_measured(unit: Path, probe: str, level: int, rows: Any) -> None:
    """Store the rows of a probe for a level, whole or not at all.

    Args:
      unit: The folder of the run, or of its added replicates or a branch.
      probe: The name of the probe.
      level: Of which ticket it told.
      rows: The table.
    """
    path = _measured(unit, probe, level)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    text = results.as_text(rows)
    write(path, f"# {hashlib.sha256(text.encode()).hexdigest()}\n{text}")


def load_measured(unit: Path, probe: str, level: int) -> Any:
    """Read the rows of a probe for a level (`results.from_text`). Raises StoreError."""
    path = _measured(unit, probe, level)
    try:
        digest, _, text = path.read_text().partition("\n")
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} is damaged: {error}") from None
    if digest != f"# {hashlib.sha256(text.encode()).hexdigest()}":
        raise StoreError(f"{path} was changed: delete it, and it is measured anew")
    return results.from_text(text)


def contents(folder: Path) -> dict[str, str]:
    """Return what the runs in a folder, or a run, hold that a kill must not change.

    By paths from there: the text of each table, and a digest of each checkpoint of
    tickets and states.
    """
    found = {}
    for unit in sorted(path.parent for path in folder.rglob("tickets")):
        name = unit.relative_to(folder)
        if (unit / "table.csv").exists():
            found[str(name / "table.csv")] = (unit / "table.csv").read_text()
        for path in sorted((unit / "tickets").iterdir()):
            tree = load_tree(unit, path.name)
            found[str(name / path.name)] = checkpoint.digest(tree)
    return found
