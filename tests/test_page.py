"""A report in a real browser: every control works, and nothing leaves the page."""

import io
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

import lth
from lth import results
from lth.cli import report
from lth.cli.report import data, script

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FIGURES = ("scores", "curves", "layers", "masks", "probes")
WORKED = (
    "[...document.querySelectorAll('button, select, input, summary, .view, .table')]"
)
SMALL = {"steps": "12it", "eval_every": "4it", "replicates": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of digits, one with a control and a probe."""
    if not script.ready():
        pytest.skip(f"{script.PACKAGE} is not installed, so figures do not answer")
    folder = tmp_path_factory.mktemp("runs")
    one = lth.run("digits", runs=folder, levels=3, controls=("reinit",), **SMALL)
    one.measure("overlap")
    return [one, lth.run("digits", runs=folder, levels=2, batch_size=30, **SMALL)]


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    return report.write(runs, path)


@pytest.fixture(scope="module")
def browser():
    sync = pytest.importorskip("playwright.sync_api", reason="Playwright is missing")
    where = next(filter(None, map(shutil.which, BROWSERS)), None)
    if where is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the path")
    with sync.sync_playwright() as started:
        found = started.chromium.launch(executable_path=where, args=["--no-sandbox"])
        yield found
        found.close()


class Opened:
    """A page in the browser, and what it said to its console or asked of a network."""

    def __init__(self, browser, path, drawn=True, **how):
        how = {"viewport": {"width": 1200, "height": 900}, **how}
        self.context = browser.new_context(accept_downloads=True, **how)
        self.tab, self.said = self.context.new_page(), []
        self.tab.on("console", lambda line: self.said.append(line.text))
        self.tab.on("pageerror", lambda error: self.said.append(str(error)))
        self.tab.on("request", self.asked)
        self.tab.goto(path.as_uri())
        if drawn:
            for name in FIGURES:
                self.drawn(name)

    def asked(self, request):
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.said.append(request.url)

    def drawn(self, name, turn=0):
        """Wait until a figure was drawn more often than so; how often it was."""
        figure = self.tab.locator(f"figure#{name}")
        figure.scroll_into_view_if_needed()
        self.tab.wait_for_function(
            f"Number(document.getElementById('{name}').dataset.drawn || 0) > {turn}"
        )
        return int(figure.get_attribute("data-drawn"))

    def after(self, name, act):
        """Do something to a figure, and wait until it is drawn anew."""
        turn = self.drawn(name)
        act()
        self.drawn(name, turn)

    def picture(self, name):
        """What is drawn, as its marks and the words of its axes and legends."""
        inside = self.tab.locator(f"figure#{name} .view svg").first.inner_html()
        return re.sub(r"clip\d+", "clip", inside)  # they are counted through


@pytest.fixture(scope="module")
def opened(browser, page):
    found = Opened(browser, page)
    yield found
    found.context.close()


def test_the_page_is_small_and_says_nothing_to_the_console(opened, page):
    assert page.stat().st_size <= 2e6
    assert opened.said == []
    for name in FIGURES:
        figure = opened.tab.locator(f"figure#{name}")
        assert figure.locator(".view svg").is_visible()
        assert not figure.locator(".still").is_visible()


@pytest.mark.parametrize("name", FIGURES)
def test_each_choice_draws_another_picture(opened, name):
    picks = opened.tab.locator(f"figure#{name} select")
    assert picks.count() > 0
    for at in range(picks.count()):
        pick = picks.nth(at)
        first = pick.input_value()
        words = pick.locator("option").all_inner_texts()
        assert len(words) > 1
        for word in words:
            if word != pick.input_value():
                before = opened.picture(name)
                opened.after(name, lambda w=word, p=pick: p.select_option(label=w))
                assert opened.picture(name) != before, (name, word)
        if first != pick.input_value():
            opened.after(name, lambda f=first, p=pick: p.select_option(f))
    assert opened.said == []


def test_lines_are_switched_off_and_on(opened):
    figure = opened.tab.locator("figure#scores")
    figure.locator("summary").click()
    boxes = figure.locator("input[type=checkbox]")
    # Two runs, two variants, four levels and two replicates.
    assert boxes.count() == 2 + 2 + 4 + 2
    whole = opened.picture("scores")
    for at in range(boxes.count()):
        opened.after("scores", boxes.nth(at).click)
        assert opened.picture("scores") != whole, at
        opened.after("scores", boxes.nth(at).click)
        assert opened.picture("scores") == whole, at
    none, every = (
        figure.get_by_role("button", name=name, exact=True).first
        for name in ("none", "all")
    )
    opened.after("scores", none.click)
    assert "Nothing is switched on" in figure.locator(".view").inner_text()
    opened.after("scores", every.click)
    assert opened.picture("scores") == whole
    assert opened.said == []


def test_zooming_by_buttons_keys_and_wheel(opened):
    figure = opened.tab.locator("figure#scores")
    whole = opened.picture("scores")
    for words in ("Closer", "Wider"):
        press = figure.get_by_role("button", name=words)
        opened.after("scores", press.click)
        assert opened.picture("scores") != whole
        opened.after("scores", figure.get_by_role("button", name="Show all").click)
        assert opened.picture("scores") == whole
    view = figure.locator(".view")
    view.focus()
    for key in ("+", "-", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"):
        opened.after("scores", lambda k=key: opened.tab.keyboard.press(k))
        assert opened.picture("scores") != whole
        opened.after("scores", lambda: opened.tab.keyboard.press("0"))
        assert opened.picture("scores") == whole
    box = view.bounding_box()
    assert box is not None
    opened.tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + 120)
    opened.tab.keyboard.down("Control")
    opened.tab.mouse.wheel(0, -200)
    opened.tab.keyboard.up("Control")
    opened.tab.wait_for_timeout(400)
    assert opened.picture("scores") != whole
    opened.after("scores", figure.get_by_role("button", name="Show all").click)
    assert opened.said == []


def test_a_point_that_is_hovered_over_tells_its_numbers(opened):
    opened.drawn("scores")
    point = opened.tab.locator("figure#scores .view .mark-symbol path[aria-label]")
    point.first.hover(force=True)
    tip = opened.tab.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    assert re.search(r"level\s+\d", tip.inner_text())
    assert "mean" in tip.inner_text()


def test_figures_are_saved(opened):
    for name in FIGURES:
        figure = opened.tab.locator(f"figure#{name}")
        for kind, begins in (("SVG", b"<svg"), ("PNG", b"\x89PNG")):
            with opened.tab.expect_download() as waited:
                figure.get_by_role("button", name=f"Save {kind}").click()
            assert waited.value.suggested_filename == f"{name}.{kind.lower()}"
            content = waited.value.path().read_bytes()
            assert content.startswith(begins)
            assert len(content) > 1000
    assert opened.said == []


def test_tables_are_sorted_by_mouse_and_by_key(opened):
    table = opened.tab.locator("section[aria-labelledby=results] table")
    densities = lambda: [  # noqa: E731
        float(text) for text in table.locator("td:nth-child(4)").all_inner_texts()
    ]
    head = table.get_by_role("button", name="density %")
    head.click()
    assert densities() == sorted(densities())
    head.focus()
    opened.tab.keyboard.press("Enter")
    assert densities() == sorted(densities(), reverse=True)
    assert table.locator("th[aria-sort=descending]").count() == 1
    assert "Sorted by density %, descending" in opened.tab.inner_text("#said")


def test_a_table_is_copied_as_csv_and_as_latex(browser, page, runs):
    found = Opened(browser, page, drawn=False)
    found.tab.evaluate(
        "Object.defineProperty(navigator, 'clipboard', {value: "
        "{writeText: async (text) => { window.copied = text; }}})"
    )
    section = found.tab.locator("section[aria-labelledby=results]")
    section.get_by_role("button", name="Copy as CSV").click()
    found.tab.wait_for_function("window.copied")
    copied = pd.read_csv(io.StringIO(found.tab.evaluate("copied")))
    wanted = sum(len(results.summary(run.table)) for run in runs)
    assert len(copied) == wanted
    assert copied["n"].eq(2).all()
    assert "Copied as CSV" in found.tab.inner_text("#said")
    section.get_by_role("button", name="Copy as LaTeX").click()
    found.tab.wait_for_function("window.copied.startsWith('\\\\begin{tabular}')")
    text = found.tab.evaluate("copied")
    assert text.count(r" \\") == wanted + 1
    assert r"density \% &" in text
    assert r"$\pm$" in text
    assert found.said == []
    found.context.close()


def test_on_a_phone_and_in_the_dark(browser, page):
    phone = {"width": 390, "height": 800}
    found = Opened(browser, page, viewport=phone, color_scheme="dark")
    assert found.tab.evaluate("document.documentElement.scrollWidth") == 390
    color = found.tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert color == "rgb(22, 24, 29)"
    assert "#a9afb8" in found.tab.locator("figure#scores .view").inner_html()
    found.tab.emulate_media(media="print")
    for name in FIGURES:  # what is printed is what lies beneath, on white
        figure = found.tab.locator(f"figure#{name}")
        assert figure.locator(".still svg").first.is_visible()
        assert not figure.locator(".live").is_visible()
    color = found.tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert color == "rgb(255, 255, 255)"
    assert found.said == []
    found.context.close()


def test_without_a_script_the_still_figures_and_all_numbers_are_there(browser, page):
    found = Opened(browser, page, drawn=False, java_script_enabled=False)
    for name in FIGURES:
        assert found.tab.locator(f"figure#{name} .still svg").first.is_visible()
    assert found.tab.locator("section[aria-labelledby=results] td").count() > 50
    found.context.close()


def test_everything_that_is_worked_has_a_name_and_is_reached_by_key(opened):
    nameless = opened.tab.evaluate(
        f"{WORKED}"
        ".filter((e) => !(e.getAttribute('aria-label') || e.textContent.trim() || "
        "e.closest('label')?.textContent.trim())).length"
    )
    assert nameless == 0
    unreached = opened.tab.evaluate(f"{WORKED}.filter((e) => e.tabIndex < 0).length")
    assert unreached == 0
    pictures = opened.tab.locator(".still svg")
    assert pictures.count() == opened.tab.locator(".still svg[aria-label]").count()
    assert opened.tab.locator("h1").count() == 1
    assert opened.tab.locator("main").count() == 1


def test_without_the_package_the_figures_are_still_and_it_is_said(
    runs, tmp_path, monkeypatch
):
    monkeypatch.setattr(script, "ready", lambda: False)
    text = report.write(runs[:1], tmp_path / "still.html").read_text()
    assert "pip install" in text
    assert "vegaEmbed=" not in text
    assert json.loads(re.findall(r"id='figures'>(.*?)</script>", text)[0]) == []
    monkeypatch.undo()
    monkeypatch.setattr(script, "_cache", lambda: tmp_path / "none")
    path = report.write(runs[:1], tmp_path / "end.html", make_script=False)
    assert "lth report makes them answer" in path.read_text()


def test_the_script_is_made_once(tmp_path, monkeypatch):
    if not script.ready():
        pytest.skip(f"{script.PACKAGE} is not installed")
    monkeypatch.setattr(script, "_cache", lambda: tmp_path / "kept")
    made = script.text()
    monkeypatch.setattr(script.importlib, "import_module", None)  # not asked again
    assert script.text(make=False) == made
    assert "</script" not in made


def test_the_curves_of_a_great_run_still_fit_the_page():
    """20 levels of 3 variants, 15 replicates, 200 measurements of 6 numbers."""
    shape = (20, 3, 15, 200)
    level, variant, replicate, at = (i.ravel() for i in np.indices(shape))
    rows = pd.DataFrame({"run": "r", "replicate": replicate, "level": level})
    rows["variant"] = np.array(["ticket", "reinit", "shuffle"])[variant]
    rows = rows.assign(density=0.8**level, step=100 * (at + 1), value=0.123456)
    parts = [
        rows.assign(split=split, metric=metric)
        for split in ("train", "validation", "test")
        for metric in ("loss", "accuracy")
    ]
    found = data.curves(pd.concat(parts, ignore_index=True))
    assert len(json.dumps(data.columns(found))) < 800_000
    assert (found["replicate"] == -1).all()  # means: not all of them fit
    for _, line in found.groupby(["variant", "level"]):
        assert line["step"].iloc[[0, -1]].tolist() == [100, 20000]
        assert 20 <= len(line) <= 60
    assert found["test accuracy"].to_numpy() == pytest.approx(12.3456)
    assert found["test loss"].to_numpy() == pytest.approx(0.123456)


def test_columns_come_back_as_rows_of_six_digits():
    frame = pd.DataFrame({"a": [1.23456789, np.nan, 3.0], "b": ["x", "y", "x"]})
    found = data.columns(frame)
    assert found == {
        "a": [1.23457, None, 3],
        "b": {"texts": ["x", "y"], "codes": [0, 1, 0]},
    }
