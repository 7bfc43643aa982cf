"""The page of a study with a search in a real browser: its section, its tables, and texts of somebody else's journal."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import pytest

from analysis.records.frames import Study, load_study
from analysis.records.study_folder import StudyFolder, StudyFolderError
from analysis.records.study_json import Cell
from analysis.report.page import write_report
from analysis.search import importances as importances_module
from analysis.search.history import load_search
from tests.end_to_end.browser import Browser, find_chromium, open_browser
from tests.support.search_studies import write_search_study
from tests.unit.analysis.figure_studies import HOSTILE

CHROMIUM = find_chromium()
pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)"),
]
REASON = "loss not finite in epoch 2, first at step 12"


@pytest.fixture(scope="module", autouse=True)
def few_forests() -> Iterator[None]:
    """Importances from 3 resamples instead of 24, which take seconds: that they are right is in test_search_tables.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importances_module, "NUM_RESAMPLES", 3)
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A search in which every text that can be one is an attack."""
    folder = write_search_study(tmp_path_factory.mktemp("search") / "made", num_trials=16)
    journal = folder.search_journal.read_text()
    assert REASON in journal
    folder.search_journal.write_text(journal.replace(json.dumps(REASON), json.dumps(HOSTILE)))
    info = folder.read_study()
    search = {**(info.search or {}), "sampler": HOSTILE, "pruner": HOSTILE}
    cells = tuple(Cell(c.cell_id, f"{HOSTILE} {n}", c.config, c.published) for n, c in enumerate(info.cells))
    folder.write_study(dataclasses.replace(info, search={**search, "trials": HOSTILE}, cells=cells))
    with pytest.raises(StudyFolderError, match=r"trials .* should be a valid integer"):
        write_report(StudyFolder(folder.path))
    folder.write_study(dataclasses.replace(info, search=search, cells=cells))
    write_report(StudyFolder(folder.path))
    return load_study(folder)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert CHROMIUM is not None
    with open_browser(CHROMIUM, tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def page(study: Study, browser: Browser) -> Browser:
    browser.set_media()
    browser.set_width(1280)
    browser.events.clear()
    browser.open(study.folder.report / "index.html")
    return browser


def test_the_search_has_its_section_and_nothing_in_it_runs(page: Browser, study: Study) -> None:
    page.run("new Promise(done => setTimeout(done, 300))")
    assert page.complaints() == []
    assert page.requests() == [(study.folder.report / "index.html").as_uri()]
    assert page.run("typeof window.hacked") == "undefined"
    assert page.run("document.querySelectorAll('nav a')[1].getAttribute('href')") == "#search"
    figures = page.run("[...document.querySelectorAll('#search figure')].map(f => f.id)")
    assert figures == [
        f"figure-search_{name}" for name in ("history", "importances", "contour", "slices", "parallel", "curves")
    ]
    assert page.run("document.querySelectorAll('#search figure svg').length") >= 5
    shown = HOSTILE.replace("\u202e", "\ufffd")
    cells = page.run("[...document.querySelectorAll('#table-search_trials td')].map(c => c.textContent)")
    assert shown in cells  # the reason of a trial that diverged
    assert shown.split()[0] in page.run("document.querySelector('#search > p').textContent")


def test_the_tables_of_the_search_hold_every_trial_and_winner(page: Browser, study: Study) -> None:
    search = load_search(study)
    rows = page.run("document.querySelectorAll('#table-search_trials tbody tr').length")
    assert rows == len(search.trials) + len(study.trials)
    best = search.completed["objective_1"].max()
    first = page.run(
        "[...document.querySelectorAll('#table-search_winners tbody tr')[0].cells].map(c => c.dataset.value)"
    )
    assert any(value is not None and float(value) == pytest.approx(best) for value in first)


def test_trials_sort_by_what_they_reached(page: Browser) -> None:
    head = "[...document.querySelectorAll('#table-search_trials th')].find(h => h.textContent.startsWith('validation'))"
    page.run(f"{head}.querySelector('button').click(); {head}.querySelector('button').click()")
    values = page.run(
        f"(() => {{ const i = {head}.cellIndex; return [...document.querySelectorAll('#table-search_trials tbody tr')]"
        ".map(r => r.cells[i].dataset.value).filter(v => v !== undefined && v !== 'nan').map(Number) })()"
    )
    assert len(values) >= 5
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("width", [360, 1280])
def test_the_section_never_scrolls_the_page_sideways(page: Browser, width: int) -> None:
    page.set_width(width)
    assert page.run("document.documentElement.scrollWidth") <= width
