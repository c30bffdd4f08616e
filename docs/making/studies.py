"""A page for each study, of its docstring, figure and file; claims; notebooks."""

import ast
import re

from making import MADE, ROOT

EXPERIMENTS = ROOT / "experiments"
# What is no study: what they share, and tests that take hours.
OTHERS = (
    "study",
    "elsewhere",
    "tasks",
    "claims",
    "kill_test",
    "damage_test",
    "crash_points",
)


def names() -> list[str]:
    """Return the names of the studies, and of the two examples beside them."""
    return sorted(p.stem for p in EXPERIMENTS.glob("*.py") if p.stem not in OTHERS)


def pages() -> dict[str, str]:
    """Return the page of each study, that of the claims, and the notebooks."""
    each = {f"studies/{name}.md": study(name) for name in names()}
    books = sorted((ROOT / "notebooks").glob("*.ipynb"))
    tutorials = {f"tutorials/{path.name}": path.read_text() for path in books}
    return {"studies/index.md": claims(), **each, **tutorials}


def study(name: str) -> str:
    """Return the page of a study."""
    source = (EXPERIMENTS / f"{name}.py").read_text()
    tree = ast.parse(source)
    told = ast.get_docstring(tree) or ""
    after = tree.body[1].lineno
    title, _, rest = told.partition("\n\n")
    up = "../" * len((MADE / "studies").relative_to(ROOT).parts)
    picture = f"experiments/results/{name}.png"
    parts = [f"# {' '.join(title.split()).removesuffix('.')}", markdown(rest)]
    if (ROOT / picture).exists():
        parts.append(f"![What the study gave, as a figure]({up}{picture})")
    parts.append(f"## The file\n\n`experiments/{name}.py`, below its docstring:")
    options = f":language: python\n:lines: {after}-"
    parts.append(f"```{{literalinclude}} {up}experiments/{name}.py\n{options}\n```")
    return "\n\n".join(parts) + "\n"


def claims() -> str:
    """Return the table of claims, its links to the pages of studies."""
    text = (EXPERIMENTS / "README.md").read_text()
    text = re.sub(r"\]\((\w+)\.py\)", r"](\1.md)", text)
    listed = "\n".join(names())
    text = text.replace("# Studies", "# Studies, and the claims they test", 1)
    toc = f"```{{toctree}}\n:hidden:\n\n{listed}\n```\n"
    head = "| study | "
    before, after = text.split(head, 1)
    # The table is wider than a page: it scrolls by itself.
    whole = f":::{{container}} wide\n\n{head}{after.rstrip()}\n\n:::\n"
    return f"{before}{whole}\n{toc}"


def markdown(text: str) -> str:
    """Make Markdown of a docstring: what is indented is code, a list stays a list."""
    parts = re.split(r"\n{2,}", text.strip("\n"))
    blocks: list[str] = []
    for part in parts:
        if part.startswith("    "):
            lines = [line.removeprefix("    ") for line in part.split("\n")]
            fenced = "```text\n" + "\n".join(lines) + "\n```"
            # Two blocks of code that stand beside each other are one.
            if blocks and blocks[-1].startswith("```text"):
                fenced = blocks.pop().removesuffix("\n```") + "\n\n" + fenced[8:]
            blocks.append(fenced)
        else:
            blocks.append(_plain(part))
    return "\n\n".join(blocks)


def _plain(text: str) -> str:
    """Escape, outside of code, what Markdown would read as something else."""
    parts = re.split(r"(`[^`]+`)", text)
    parts[::2] = [re.sub(r"([*<$])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)
