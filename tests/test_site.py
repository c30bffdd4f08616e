"""The built site asks for nothing from elsewhere, and its links lead somewhere.

`make docs` builds it; where it is not built there is nothing to look at, but in CI.
"""

import os
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

SITE = Path(__file__).parents[1] / "docs" / "built" / "html"
BUILT = SITE.exists() or bool(os.environ.get("CI"))
pytestmark = pytest.mark.skipif(not BUILT, reason="`make docs` builds the site")
# Attributes by which a page has a browser fetch something.
FETCHED = {
    **dict.fromkeys(("script", "img", "iframe", "source", "audio", "video"), "src"),
    **{"link": "href", "object": "data", "embed": "src", "image": "href"},
}
ELSEWHERE = re.compile(r"^(\w+:)?//")


class Page(HTMLParser):
    """What a page fetches, leads to, and can be led to."""

    def __init__(self, text: str):
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.bare: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = {name: value or "" for name, value in attrs}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in FETCHED and FETCHED[tag] in found:
            self.fetched.append(found[FETCHED[tag]])
        if tag == "img" and not found.get("alt"):
            self.bare.append(found.get("src", ""))
        self.fetched += [
            part.split()[0] for part in found.get("srcset", "").split(",") if part
        ]
        self.ids |= {found[n] for n in ("id", "name") if n in found}


def remote(page: Page) -> list[str]:
    """Return what a page fetches from elsewhere."""
    return [url for url in page.fetched if ELSEWHERE.match(url)]


def remote_in_styles(text: str) -> list[str]:
    """Return what a style fetches from elsewhere; a comment fetches nothing."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    urls = re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s;]+)""", text)
    return [url for url in urls if ELSEWHERE.match(url)]


@cache
def page(path: Path) -> Page:
    return Page(path.read_text())


def every() -> list[Path]:
    found = sorted(SITE.rglob("*.html"))
    assert len(found) > 60
    return found


def test_what_is_fetched_from_elsewhere_is_seen():
    text = '<img src="//a/b.png" alt="b"><script src="https://c/d.js"></script>'
    assert remote(Page(text)) == ["//a/b.png", "https://c/d.js"]
    assert remote(Page('<a href="https://a">b</a><img src="c.png" alt="c">')) == []
    assert remote_in_styles("a{b:url('https://c/d')} /* url(https://e) */")
    assert remote_in_styles('@import "//a/b.css";') == ["//a/b.css"]
    assert not remote_in_styles("a{b:url(data:image/svg+xml;x)}")


def test_no_request_leaves_a_page():
    for path in every():
        assert not remote(page(path)), path
        assert not remote_in_styles(path.read_text()), path
    for path in SITE.rglob("*.css"):
        assert not remote_in_styles(path.read_text()), path


def test_no_script_asks_for_anything_from_elsewhere():
    asks = re.compile(r"""(?:fetch|import|open|src\s*=)\s*\(?\s*["'`](?:https?:)?//""")
    assert asks.search('fetch("https://a")')
    for path in SITE.rglob("*.js"):
        assert not asks.search(path.read_text()), path


def leads(path: Path, link: str) -> bool:
    """Say whether a link of a page has a file, and the place in it, to lead to."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return True
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        return False
    inside = parts.fragment and target.suffix == ".html"
    return not inside or unquote(parts.fragment) in page(target).ids


def test_links_lead_somewhere():
    lost = [(p, link) for p in every() for link in page(p).links if not leads(p, link)]
    assert not lost
    assert not leads(every()[0], "nowhere.html")
    assert not leads(SITE / "index.html", "start.html#nowhere")


def test_pictures_say_what_they_show():
    """Pages of notebooks have pictures that their code beside them tells of."""
    for path in every():
        if "tutorials" not in path.parts:
            assert not page(path).bare, path


def test_formulas_are_drawn_by_the_browser():
    text = (SITE / "choosing.html").read_text()
    assert text.count("<math") > 30
    assert "MathJax" not in text
    assert "merror" not in text
