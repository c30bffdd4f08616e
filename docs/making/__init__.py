"""Pages of the site that are made from the code and the results, so that none is old.

Each module gives pages as text by their names; `write` puts them where Sphinx reads.
"""

from collections.abc import Mapping
from pathlib import Path

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
MADE = DOCS / "made"  # never part of the repository


def write(pages: Mapping[str, str], folder: Path = MADE) -> None:
    """Write pages by their names below `folder`, and remove all others there.

    Those that are the same stay as old: Sphinx reads again what has another time.
    """
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    for path in folder.rglob("*.*"):
        if str(path.relative_to(folder)) not in pages:
            path.unlink()


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown; bars within cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)
