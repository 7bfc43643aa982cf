"""The report page in a real browser: it opens without complaint, sorts, downloads, and runs nothing that a study says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.records.frames import Study
from analysis.report.page import read_checked, write_report
from analysis.results.formats import to_csv
from analysis.tables import build_tables
from tests.end_to_end.browser import Browser, find_chromium, open_browser
from tests.unit.analysis.figure_studies import HOSTILE, write_hostile_study

CHROMIUM = find_chromium()
pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = write_hostile_study(tmp_path_factory.mktemp("study"))
    write_report(study.folder)
    return read_checked(study.folder)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert CHROMIUM is not None
    with open_browser(CHROMIUM, tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def page(study: Study, browser: Browser) -> Browser:
    """The report, freshly opened on a light desktop screen."""
    browser.set_media()
    browser.set_width(1280)
    browser.events.clear()
    browser.open(study.folder.report / "index.html")
    return browser


def test_page_opens_without_complaint_or_network(page: Browser, study: Study) -> None:
    page.run("new Promise(done => setTimeout(done, 300))")
    assert page.complaints() == []
    assert page.requests() == [(study.folder.report / "index.html").as_uri()]
    assert page.run("document.querySelectorAll('svg').length") >= 15
    assert page.run("document.querySelectorAll('table').length") >= 10


def test_a_button_hides_the_lines_of_a_cell(page: Browser) -> None:
    curves = "document.querySelector('#figure-training_curves')"
    assert page.run(f"{curves}.querySelectorAll('.switches button').length") == 2
    shown = f"[...{curves}.querySelectorAll('[data-cell]')].filter(e => e.getBoundingClientRect().width).map(e => e.dataset.cell)"
    assert set(page.run(shown)) == {"0", "1"}
    page.run(f"{curves}.querySelectorAll('.switches button')[0].click()")
    assert set(page.run(shown)) == {"1"}
    assert len(page.run(shown)) >= 8, "lines and bands of four panels"
    page.run(f"{curves}.querySelectorAll('.switches button')[0].click()")
    assert set(page.run(shown)) == {"0", "1"}


def test_names_from_the_study_are_shown_and_not_run(page: Browser) -> None:
    assert page.run("typeof window.hacked") == "undefined"
    shown = HOSTILE.replace("\u202e", "\ufffd")
    assert page.run("document.querySelector('h1').textContent") == shown
    assert page.run("document.title") == f"{shown}: report"
    assert page.run("document.scripts.length") == 1
    assert page.run("document.querySelectorAll('main img').length") == 0
    assert page.run("[...document.querySelectorAll('svg text')].some(t => t.textContent.includes('<script>'))")


def test_policy_stops_a_script_that_got_in(page: Browser) -> None:
    page.run(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hacked = 1'}));"
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked = 1\">')"
    )
    page.run("new Promise(done => setTimeout(done, 300))")
    assert page.run("typeof window.hacked") == "undefined"


def column(page: Browser, table: str, header: str) -> list[float | None]:
    """The raw numbers of a column, top to bottom."""
    values: list[float | None] = page.run(
        f"(() => {{ const t = document.getElementById('table-{table}');"
        f"const i = [...t.tHead.rows[0].cells].findIndex(c => c.textContent.trim() === '{header}');"
        "return [...t.tBodies[0].rows].map(r => r.cells[i].dataset.value === undefined ? null : +r.cells[i].dataset.value)"
        ".map(v => Number.isNaN(v) ? null : v) })()"
    )
    return values


HEAD = "[...document.querySelectorAll('#table-trials th')].find(h => h.textContent.trim() === 'final test accuracy, %')"


def test_table_sorts_by_click_in_both_directions(page: Browser) -> None:
    measured = [value for value in column(page, "trials", "final test accuracy, %") if value is not None]
    assert len(measured) == 4
    page.run(f"{HEAD}.querySelector('button').click()")
    assert column(page, "trials", "final test accuracy, %") == [*sorted(measured), None, None]
    assert page.run(f"{HEAD}.getAttribute('aria-sort')") == "ascending"
    page.run(f"{HEAD}.querySelector('button').click()")
    assert column(page, "trials", "final test accuracy, %") == [*sorted(measured, reverse=True), None, None]
    assert page.run(f"{HEAD}.getAttribute('aria-sort')") == "descending"
    assert page.run("document.getElementById('sorted').textContent") == (
        "Trials: sorted by final test accuracy, %, descending"
    )
    assert page.run("document.querySelectorAll('#table-trials th[aria-sort]:not([aria-sort=none])').length") == 1


def test_table_sorts_by_keyboard(page: Browser) -> None:
    before = column(page, "trials", "final test accuracy, %")
    page.run(f"{HEAD}.querySelector('button').focus()")
    page.press("Enter", 13, "\r")
    assert page.run(f"{HEAD}.getAttribute('aria-sort')") == "ascending"
    assert column(page, "trials", "final test accuracy, %") != before


def test_every_table_has_sortable_heads(page: Browser) -> None:
    missing = page.run(
        "[...document.querySelectorAll('table')].filter(t => [...t.tHead.rows[0].querySelectorAll('th')]"
        ".some(h => !h.querySelector('button') || !h.hasAttribute('aria-sort'))).map(t => t.id)"
    )
    assert missing == []


def test_skip_link_is_the_first_stop_of_the_keyboard(page: Browser) -> None:
    page.press("Tab", 9)
    assert page.run("document.activeElement.textContent") == "Skip to the verdict"
    page.press("Enter", 13, "\r")
    assert page.run("document.activeElement.id") == "verdict"


def test_download_is_the_table_as_written(page: Browser, study: Study, tmp_path: Path) -> None:
    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.run("document.querySelector('a[download=\"pairwise.csv\"]').click()")
    target = tmp_path / "pairwise.csv"
    deadline = time.monotonic() + 20
    while not target.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert target.read_text() == to_csv(build_tables(study, ["pairwise"])["pairwise"])


def test_dark_screens_get_dark_pages_and_figures(page: Browser) -> None:
    brightness = (
        "(e => getComputedStyle(e).getPropertyValue({0}).match(/[0-9]+/g).slice(0, 3).reduce((a, b) => a + +b, 0))({1})"
    )
    body = brightness.format("'background-color'", "document.body")
    text = brightness.format("'fill'", "document.querySelector('#figure-training_curves text')")
    paper = brightness.format("'fill'", "document.querySelector('#figure-training_curves svg path')")
    light = [page.run(script) for script in (body, text, paper)]
    page.set_media(scheme="dark")
    dark = [page.run(script) for script in (body, text, paper)]
    assert light[0] == light[2] == 3 * 255
    assert light[1] < 200
    assert dark[0] == dark[2] < 100
    assert dark[1] > 600
    page.set_media(media="print", scheme="dark")
    assert page.run(body) == 3 * 255  # paper stays white
    assert page.run("getComputedStyle(document.querySelector('nav')).display") == "none"


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_page_itself_never_scrolls_sideways(page: Browser, width: int) -> None:
    page.set_width(width)
    assert page.run("document.documentElement.scrollWidth") <= width
    wide = page.run(
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, pre, .hidden') && "
        f"e.getBoundingClientRect().right > {width} + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []


def test_tables_and_figures_scroll_in_their_box_by_keyboard(page: Browser) -> None:
    page.set_width(360)
    boxes = page.run(
        "[...document.querySelectorAll('.scroll')].filter(b => b.scrollWidth > b.clientWidth)"
        ".map(b => [b.tabIndex, b.getAttribute('role'), !!b.getAttribute('aria-label')])"
    )
    assert len(boxes) >= 5
    assert all(box == [0, "region", True] for box in boxes)


def test_paper_shows_what_is_folded_away(page: Browser) -> None:
    assert page.run("document.querySelectorAll('details:not([open])').length") > 0
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert page.run("document.querySelectorAll('details:not([open])').length") == 0
    page.run("dispatchEvent(new Event('afterprint'))")
    assert page.run("document.querySelectorAll('details:not([open])').length") > 0
    assert len(page.call("Page.printToPDF")["data"]) > 10_000
