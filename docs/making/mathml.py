"""Formulas as MathML, which browsers draw themselves: no script, nothing fetched."""

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.application import Sphinx

# As pairs, bars stand close to what is between them.
PAIRS = {
    r"\lvert": r"\left|",
    r"\rvert": r"\right|",
    r"\lVert": r"\left\|",
    r"\rVert": r"\right\|",
}


def drawn(formula: str, **options: bool) -> str:
    """Return a formula of TeX as MathML."""
    for name, pair in PAIRS.items():
        formula = formula.replace(name, pair)
    return latex2mathml.tex2mathml(formula, **options)


def inline(self, node: nodes.math) -> None:
    """Write a formula within a line."""
    self.body.append(drawn(node.astext()))
    raise nodes.SkipNode


def block(self, node: nodes.math_block) -> None:
    """Write a formula in lines of its own."""
    formula = drawn(node.astext(), as_block=True)
    self.body.append(f'<div class="math">{formula}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Let Sphinx draw formulas so."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
