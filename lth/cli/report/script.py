"""The script that draws figures which answer: Vega-Lite's, kept by vl-convert.

Measured against Bokeh: Vega, Vega-Lite and Vega-Embed together are 0.9 MB in the page,
Bokeh with its tables and widgets 1.9 MB, of 2 MB that a report may have. Making the
script takes seconds, so it is made once and kept with the user's caches.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
from pathlib import Path

from lth.lab import store

PACKAGE, MODULE = "vl-convert-python", "vl_convert"
MISSING = (
    "These figures are still: with pip install 'lth[report]' those of lth report "
    "answer to hovering, zooming and switching lines off."
)
UNMADE = "These figures are still: lth report makes them answer."


def ready() -> bool:
    """Whether the package that has the script is installed."""
    return importlib.util.find_spec(MODULE) is not None


def text(make: bool = True) -> str:
    """Return the script, or an empty text where it is not to be had.

    With `make` false it is not made if it is not kept, which takes no time.
    """
    if not ready():
        return ""
    folder = store.private_folder(_cache())
    version = importlib.metadata.version(PACKAGE)
    path = folder / f"vega-{version}.js" if folder else None
    if path and path.is_file() and path.stat().st_size:
        return path.read_text()
    if not make:
        return ""
    made = importlib.import_module(MODULE).javascript_bundle()
    made = made.replace("</script", "<\\/script")
    if path:
        with contextlib.suppress(store.StoreError):  # then it is made anew each time
            store.write(path, made)
    return made


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "lth" / "scripts"
