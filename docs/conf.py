"""How the site is built: `make docs`, or `sphinx-build -W docs docs/built/html`."""

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import lth  # noqa: E402
from making import presets, reference, studies, write  # noqa: E402

project = "lth"
copyright = "the authors of lth, Apache-2.0"
release = version = lth.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "making.mathml",
]
exclude_patterns = ["built", "making"]
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the tests run the notebooks; here are the stored outputs
nb_ipywidgets_js = {}  # those would be fetched, and no notebook has widgets
highlight_language = "none"
html_theme = "furo"
html_title = "lth"
html_static_path = ["static"]
html_css_files = ["lth.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 72
python_use_unqualified_type_names = True
# Names of types in signatures are as short as in the files, and some stand for two.
suppress_warnings = ["ref.python"]
toc_object_entries = False  # with them each page takes three times as long

KNOWN = frozenset(reference.documented())


def plain(app, what, name, obj, options, lines: list[str]) -> None:
    """Make of a docstring what Sphinx reads, before its sections are read."""
    module = name if what == "module" else getattr(obj, "__module__", None) or ""
    lines[:] = reference.escaped("\n".join(lines), module, KNOWN).split("\n")


def as_written(app, what, name, obj, options, signature, returns) -> tuple | None:
    """Give a function's signature as its file has it."""
    found = reference.signature(obj) if what in ("function", "method") else ("", "")
    return found if found[0] else None


def without_ways_back(app, pagename, templatename, context, doctree) -> None:
    """Take links from sources out: those of re-exported names lead to no place."""
    if pagename.startswith("_modules/"):
        back = r'<a class="viewcode-back".*?</a>'
        context["body"] = re.sub(back, "", context["body"], flags=re.S)


def setup(app: Sphinx) -> None:
    """Make the pages that are made, and let docstrings be plain text."""
    write(reference.pages() | presets.pages() | studies.pages())
    app.connect("html-page-context", without_ways_back)
    app.connect("autodoc-process-signature", as_written)
    app.connect("autodoc-process-docstring", plain, priority=100)  # napoleon's is 500
