"""The claims that the studies test, as one table: experiments/README.md.

    python experiments/claims.py            # writes it, from experiments/claims/*.csv
    python experiments/claims.py --check    # or says that it is another

A study's rows are what its docstring says: the claim, the published figure where it is
known, ours with n and 95 % interval, and whether the claim holds.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tyro

HERE = Path(__file__).parent
VERDICTS = ("holds", "does not hold", "not at this size")
COLUMNS = ["study", "paper", "where", "claim", "published", "ours", "n", "verdict"]
INTRODUCTION = """\
# Studies

Each file here is a study: its docstring says what is claimed, by whom, and what came of
it on this project's machine, two CPU cores. `python experiments/NAME.py --help` lists
its flags. A study may be stopped, and goes on where it was. Data are looked for in
`--data-dir`, in `LTH_DATA`, or in a cache.

The table has every published claim that a study tests: {count} of them, of which
{held}.
Claims are in our words; where in the paper one stands is said where it was looked up.
Ours are means with 95 % intervals over n replicates, on the study's task, which is
smaller than the paper's: "not at this size" is said where it is too small to tell. The
table is written by `python experiments/claims.py` from `claims/`.

"""


@dataclass(frozen=True)
class Flags:
    """Whether to write the table, or to compare it."""

    check: bool = False
    """Exit with 1 if the table is not what the rows give."""


def rows() -> pd.DataFrame:
    """Return the rows of all studies, in the order of their names."""
    paths = sorted((HERE / "claims").glob("*.csv"))
    return pd.concat([pd.read_csv(path, keep_default_na=False) for path in paths])


def text() -> str:
    """Return the page."""
    table = rows()
    counts = table["verdict"].value_counts()
    held = ", ".join(f"{counts[v]} {v.replace('holds', 'hold')}" for v in VERDICTS)
    held = held.replace("does not hold", "do not hold").replace(
        " not at this size", " cannot be told at this size"
    )
    page = INTRODUCTION.format(count=len(table), held=held)
    heads = [*COLUMNS, "command", "minutes"]
    page += f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}\n"
    for _, row in table.iterrows():
        cells = [str(row[name]).replace("|", "\\|") for name in heads]
        cells[0] = f"[{cells[0]}]({cells[0]}.py)"
        cells[8] = f"`{cells[8]}`"
        page += f"| {' | '.join(cells)} |\n"
    return page


def main() -> None:
    flags, path = tyro.cli(Flags), HERE / "README.md"
    if not flags.check:
        path.write_text(text())
    elif not path.exists() or path.read_text() != text():
        sys.exit(f"{path} is not what experiments/claims/ gives: run {__file__}")


if __name__ == "__main__":
    main()
