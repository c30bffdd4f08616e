"""Several runs, cell by cell: the experiments of a study, stored and read as one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lth.lab import front
from lth.lab.config import Experiment
from lth.lab.stored import Run
from lth.lottery import Recipe

# An experiment, a preset's name with settings, or what makes a recipe once it is due
Cell = Experiment | tuple[str, Mapping[str, Any]] | Callable[[], Recipe]


def sweep(
    cells: Mapping[str, Cell],
    folder: str | Path,
    *,
    data_dir: str | Path | None = None,
    watch: Callable[[str, Any], Any] = lambda cell, progress: None,
) -> dict[str, Run]:
    """Train and store what is missing of each cell, one after another.

    Stopped at any moment, the same call goes on. A cell that is a function makes its
    recipe only when it is its turn, and its run lies in `folder`/cell.

    Args:
      cells: By name. An experiment; a preset's name and settings, as `lth.run` takes
        them; or a function that returns a recipe.
      folder: Where the runs lie.
      data_dir: Where data files are, of cells that come from names.
      watch: Is told the cell and where its run is, at each measurement.

    Returns:
      The runs, opened, by the names of their cells.
    """
    runs = {}
    for name, cell in cells.items():
        runs[name] = _run(name, cell, Path(folder), data_dir, _of(watch, name))
    return runs


def table(runs: Mapping[str, Run]) -> pd.DataFrame:
    """The rows of all cells; the column `run` has the names of the cells."""
    tables = [run.table.assign(run=name) for name, run in runs.items()]
    return pd.concat(tables, ignore_index=True)


def _run(name, cell, folder, data_dir, watch) -> Run:
    if isinstance(cell, Experiment):
        options = {"runs": folder, "data_dir": data_dir, "watch": watch}
        return front.run(cell, name=name, **options)
    if isinstance(cell, tuple):
        preset, settings = cell
        options = {"runs": folder, "data_dir": data_dir, "watch": watch}
        return front.run(preset, name=name, **options, **settings)
    return front.run(cell(), folder / name, watch=watch)


def _of(watch: Callable, name: str) -> Callable[[Any], Any]:
    return lambda progress: watch(name, progress)
