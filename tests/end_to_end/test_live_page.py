"""The live page in a real browser: a real study watched from its start to its end, its driver killed and the study resumed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.end_to_end.browser import Browser, find_chromium, open_browser
from tests.support.faults import Workplace
from tests.unit.analysis.figure_studies import write_hostile_study, write_small_study

CHROMIUM = find_chromium()
pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)"),
]
GRID = """name = "watched"
title = "A watched study"
seeds = [0]
[base]
dataset = "synthetic"
epochs = 6
width = 4
train_limit = 1024
test_limit = 256
instrument_every_steps = 8
[grid]
batch_size = [64, 128]
"""
ONE_WORKER = ("--max-concurrent", "1")


@contextmanager
def serve(results: Path, *arguments: str) -> Iterator[str]:
    """`study serve` on these results; its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "study.serve", str(results), *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    assert CHROMIUM is not None
    (tmp_path / "browser").mkdir()
    with open_browser(CHROMIUM, tmp_path / "browser") as browser:
        browser.set_width(1280)
        yield browser


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a small study's page, for tests that change nothing of the study."""
    results = tmp_path_factory.mktemp("results")
    write_small_study(results / "small")
    with serve(results) as address:
        yield f"{address}studies/small"


def visit(browser: Browser, url: str) -> None:
    deadline = time.monotonic() + 60
    while True:  # the server prints its address before it answers
        browser.call("Page.navigate", url=url)
        browser.wait_for("Page.loadEventFired")
        if browser.run("document.querySelector('main') !== null"):
            return
        assert time.monotonic() < deadline
        time.sleep(0.5)


def wait_for(
    browser: Browser, expression: str, accept: Callable[[object], bool] = bool, timeout_s: float = 90.0
) -> object:
    deadline = time.monotonic() + timeout_s
    while not accept(found := browser.run(expression)):
        assert time.monotonic() < deadline, f"{expression} is still {found!r}"
        time.sleep(0.2)
    return found


def box_of(browser: Browser, panel: int) -> list[float]:
    """Left, top, width and height of where a panel of the curves takes the pointer."""
    place = f"document.querySelectorAll('#curves .panel')[{panel}].querySelector('.nsewdrag')"
    box: list[float] = browser.run(f"(r => [r.x, r.y, r.width, r.height])({place}.getBoundingClientRect())")
    return box


def point_at(browser: Browser, panel: int) -> object:
    """Move the pointer to the middle of a panel until it tells something: what it tells."""
    for number in range(100):  # parts that still load move the panel
        x, y, width, height = box_of(browser, panel)
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + width / 2 + number % 2, y=y + height / 2)
        time.sleep(0.2)
        if told := browser.run(TOLD):
            return told
    raise AssertionError("the pointer tells nothing")


def shown(browser: Browser, part: str) -> str:
    """The text of a part of the page, once it is there."""
    browser.run(f"document.querySelector('[data-part={part}]').scrollIntoView()")
    return str(wait_for(browser, f"document.querySelector('[data-part={part}]').textContent.trim()"))


TOLD = "[...document.querySelectorAll('.hoverlayer .hovertext')].map(t => t.textContent).join(' ')"
# The places for parts on the page are those that it would have if it were loaded now.
UP_TO_DATE = (
    "fetch(location.pathname).then(answer => answer.text()).then(text => { const places = page => "
    "String([...page.querySelectorAll('[data-part], [data-chart]')].map(place => place.dataset.part || place.dataset.chart)); "
    "return places(document) === places(new DOMParser().parseFromString(text, 'text/html')) })"
)
DRAWN = "document.querySelectorAll('#curves .panel .scatterlayer .trace').length"
POINTS = (
    "Math.max(0, ...[...document.querySelectorAll('#curves .panel')].flatMap(p => (p.data || []).map(t => "
    "t.customdata ? t.x.length : 0)))"
)


@pytest.mark.faults
def test_a_study_is_watched_from_start_to_end_over_a_killed_driver(tmp_path: Path, browser: Browser) -> None:
    place = Workplace(tmp_path, GRID)
    results = tmp_path / "results"
    results.mkdir()
    with serve(results) as address:
        visit(browser, address)
        wait_for(browser, "!document.getElementById('none').hidden")
        with place.start("watched", *ONE_WORKER) as driver:
            wait_for(browser, "document.querySelector('#studies a')?.textContent", lambda name: name == "watched")
            driver.wait_for(r"epoch 2/6")
            visit(browser, f"{address}studies/watched")
            browser.run("document.getElementById('curves').scrollIntoView()")
            wait_for(browser, POINTS, lambda number: isinstance(number, (int, float)) and number >= 1)
            wait_for(browser, "document.querySelector('#state .chip').textContent", lambda state: state == "running")
            os.kill(driver.process.pid, signal.SIGKILL)
            driver.wait()
        browser.run("window.marked = true")  # the same page, never loaded again
        with place.start("watched", *ONE_WORKER) as driver:
            assert driver.wait() == 0
        wait_for(browser, "document.querySelector('#state .chip').textContent", lambda state: state == "done")
        browser.run("document.getElementById('curves').scrollIntoView()")
        wait_for(browser, POINTS, lambda number: number == 6)
        assert browser.run("window.marked")
        for part, accept in (
            ("verdict", lambda text: "not final" not in text),
            ("trials", lambda text: "2 completed" in text),
        ):
            shown(browser, part)
            wait_for(browser, f"document.querySelector('[data-part={part}]').textContent", accept)
        wait_for(browser, UP_TO_DATE)
        assert browser.complaints() == []
        assert {url.split("/")[2] for url in browser.requests()} == {address.split("/")[2]}


def test_view_is_in_the_address(small: str, browser: Browser) -> None:
    visit(browser, small)
    browser.run("document.getElementById('curves').scrollIntoView()")
    wait_for(
        browser, DRAWN, lambda number: isinstance(number, int) and number >= 16
    )  # two lines with bands in four panels
    browser.run("document.querySelectorAll('#cells button')[1].click()")
    browser.run(
        "const axis = document.getElementById('axis'); axis.value = 'images'; axis.dispatchEvent(new Event('change'))"
    )
    browser.run("document.querySelectorAll('#curves .switches button')[0].click()")
    browser.run("document.getElementById('bands').click()")
    panel = "document.querySelectorAll('#curves .panel')[1]"
    wait_for(browser, f"{panel}.data.length", lambda number: number == 1)  # the line of a cell, without its band
    point_at(browser, 1)
    x, y, width, height = box_of(browser, 1)
    at = {"x": x + width / 2, "y": y + height / 2, "button": "left", "clickCount": 1}
    browser.call("Input.dispatchMouseEvent", type="mousePressed", **at)
    browser.call("Input.dispatchMouseEvent", type="mouseReleased", **at)
    wait_for(browser, "location.href.includes('pin=')")
    url = str(browser.run("location.href"))
    for part in ("hide=1", "x=images", "off=training_curves.train_loss", "bands=0", "pin="):
        assert part in url
    visit(browser, url)
    browser.run("document.getElementById('curves').scrollIntoView()")
    wait_for(browser, "document.querySelectorAll('#curves .panel .annotation').length", lambda number: number == 1)
    assert browser.run("document.querySelectorAll('#cells button')[1].getAttribute('aria-pressed')") == "false"
    assert browser.run("document.querySelectorAll('#curves .panel')[0].hidden")
    assert browser.run(f"{panel}.data.length") == 1
    assert browser.run(f"{panel}.data[0].x[0]") == 1280  # images after one epoch
    assert browser.complaints() == []


def test_an_address_that_is_none_shows_the_page(small: str, browser: Browser) -> None:
    for query in (
        "zoom={",
        "zoom=null&trial=../..",
        'zoom={"training_curves.train_loss":5}',
        "x=constructor&pin=x:y",
    ):
        visit(browser, f"{small}?{quote(query, safe='=&')}")
        browser.run("document.getElementById('curves').scrollIntoView()")
        wait_for(browser, DRAWN, lambda number: isinstance(number, int) and number >= 16)


@pytest.mark.faults
def test_an_open_page_goes_on_when_the_server_is_started_again(tmp_path: Path, browser: Browser) -> None:
    study = write_small_study(tmp_path / "small")
    with serve(tmp_path) as address:
        visit(browser, f"{address}studies/small")
        browser.run("window.marked = true")
        wait_for(
            browser,
            "document.querySelector('[data-part=trials]') && document.querySelector('#state .chip')?.textContent",
        )
    wait_for(browser, "document.getElementById('connection').textContent", lambda text: "Not connected" in str(text))
    (study.folder.path / "progress.json").write_text(json.dumps({"state": "interrupted", "num_trials": 6}))
    port = address.rstrip("/").rpartition(":")[2]
    with serve(tmp_path, "--port", port):
        wait_for(browser, "document.querySelector('#state .chip').textContent", lambda state: state == "interrupted")
        browser.run("document.getElementById('curves').scrollIntoView()")
        wait_for(browser, DRAWN, lambda number: isinstance(number, int) and number >= 16)
        shutil.rmtree(study.folder.path)
        wait_for(browser, "document.getElementById('connection').textContent", lambda text: "no study" in str(text))
    with serve(tmp_path, "--control", "--port", port):  # a token, which the page does not have
        wait_for(browser, "document.getElementById('connection').textContent", lambda text: "printed last" in str(text))
        assert browser.run("window.marked")


def test_more_tabs_than_a_browser_has_connections(tmp_path: Path, browser: Browser) -> None:
    study = write_small_study(tmp_path / "small")
    state = "document.querySelector('.chip')?.textContent"
    with serve(tmp_path) as address:
        first = browser.page
        visit(browser, f"{address}studies/small")
        wait_for(browser, state, lambda told: told == "done")
        for _ in range(7):
            browser.start_page()
            visit(browser, address)
            wait_for(browser, state, lambda told: told == "done")
        (study.folder.path / "progress.json").write_text(json.dumps({"state": "interrupted", "num_trials": 6}))
        wait_for(browser, state, lambda told: told == "interrupted")
        browser.show_page(first)
        wait_for(browser, state, lambda told: told == "interrupted")
        assert browser.complaints() == []


def test_pointer_tells_values_and_drag_zooms(small: str, browser: Browser) -> None:
    visit(browser, small)
    browser.run("document.getElementById('curves').scrollIntoView()")
    wait_for(browser, DRAWN, lambda number: isinstance(number, int) and number >= 16)
    told = point_at(browser, 0)
    x, y, width, height = box_of(browser, 0)
    assert "n = 3" in str(told)
    assert "±" in str(told)
    at = {"y": y + height / 2, "button": "left", "buttons": 1, "clickCount": 1}
    browser.call("Input.dispatchMouseEvent", type="mousePressed", x=x + width * 0.2, **at)
    for share in (0.3, 0.5, 0.7):
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + width * share, **at)
    browser.call("Input.dispatchMouseEvent", type="mouseReleased", x=x + width * 0.7, **at)
    wait_for(browser, "new URLSearchParams(location.search).get('zoom')")
    zoom = json.loads(str(browser.run("new URLSearchParams(location.search).get('zoom')")))
    low, high = zoom["training_curves.train_loss"][:2]
    assert 1 < low < high < 4


def test_a_hostile_study_runs_nothing(tmp_path: Path, browser: Browser) -> None:
    study = write_hostile_study(tmp_path / "hostile")
    with serve(tmp_path) as address:
        visit(browser, address)
        wait_for(browser, "document.querySelector('#studies a')?.textContent")
        visit(browser, f"{address}studies/hostile?trial={study.trials['trial_id'].iloc[0]}")
        for section in browser.run("[...document.querySelectorAll('section')].map(section => section.id)"):
            browser.run(f"document.getElementById('{section}').scrollIntoView()")
            browser.run("new Promise(done => setTimeout(done, 1000))")
        wait_for(browser, "document.querySelectorAll('.scatterlayer').length")
        assert browser.run("typeof window.hacked") == "undefined"
        assert browser.run("document.querySelectorAll('main script, main img:not([src^=\"data:\"])').length") == 0
        assert browser.complaints() == []


def test_narrow_and_dark_screens_show_all_of_it(small: str, browser: Browser) -> None:
    browser.set_width(390)
    browser.set_media(scheme="dark")
    visit(browser, small)
    browser.run("document.getElementById('curves').scrollIntoView()")
    wait_for(browser, DRAWN, lambda number: isinstance(number, int) and number >= 4)
    assert browser.run("document.documentElement.scrollWidth") == 390
    assert browser.run("document.querySelector('#curves .panel').data.at(-1).line.color") == "#ff7a2e"
