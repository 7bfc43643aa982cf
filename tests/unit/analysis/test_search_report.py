"""A study with a search through every command of the analysis: report, pull, compare; and bad journals there."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from analysis.__main__ import main
from analysis.drawing.declaration import Subject
from analysis.figures import figure_kinds
from analysis.records.frames import load_study
from analysis.records.study_folder import StudyFolder
from analysis.report.page import read_checked, render_page
from analysis.sources.compare import merge_studies
from analysis.tables import build_tables
from tests.support.search_studies import write_search_study
from tests.unit.analysis.figure_studies import rewrite, small_cells, write_small_study

SEARCH_TABLES = ("search_winners", "search_importances", "search_trials")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """A search with too few completed trials for importances, which take seconds."""
    return write_search_study(tmp_path_factory.mktemp("search") / "made", num_trials=7)


@pytest.fixture
def folder(made: StudyFolder, tmp_path: Path) -> StudyFolder:
    return StudyFolder(shutil.copytree(made.path, tmp_path / "made"))


def titles(page: str) -> list[str]:
    return re.findall(r"<h2>([^<]*)</h2>", page)


def test_report_has_a_section_on_the_search(folder: StudyFolder, capsys: pytest.CaptureFixture[str]) -> None:
    folder.figures.mkdir(parents=True)
    stale = folder.figures / "search_pareto.svg"
    stale.write_text("of an earlier report")
    assert main([str(folder.path)]) == 0
    page = (folder.report / "index.html").read_text()
    assert titles(page)[:3] == ["Verdict", "Search", "Curves"]
    for name in SEARCH_TABLES:
        assert {path.suffix for path in folder.tables.glob(f"{name}.*")} == {".csv", ".md", ".tex", ".html"}
        assert f'id="block-{name}"' in page
    assert (folder.figures / "search_contour.png").read_bytes().startswith(b"\x89PNG")
    assert not stale.exists()
    assert "tpe sampler, median pruner; asked: 7 trials. 7 trials:" in page
    assert "Searched before:" in page


def test_values_of_unlike_schedules_come_with_a_warning(folder: StudyFolder) -> None:
    """A longer warm-up makes the first epochs look bad, which is not what a pruner should judge by."""
    study = load_study(folder)
    caption = figure_kinds(search=True)["search_curves"].caption
    assert callable(caption)
    assert "All trials run the same schedule" in caption(study, Subject())
    assert study.info.search is not None
    space = {**study.info.search["space"], "warmup_epochs": {"low": 0, "high": 2}}
    warmed = replace(study, info=replace(study.info, search={**study.info.search, "space": space}))
    assert "Trials differ in warmup epochs" in caption(warmed, Subject())


def test_page_of_a_study_without_search_says_nothing_of_one(tmp_path: Path) -> None:
    study = write_small_study(tmp_path, layers=False, seeds=(0,), cells=small_cells(2)[:1])
    page = render_page(study, build_tables(study), [])
    assert "Search" not in titles(page)
    assert "Searched before" not in page


def test_searched_trials_are_not_among_the_unfinished_ones(folder: StudyFolder) -> None:
    roles = folder.read_records("trials")["role"].to_pylist()
    statuses = ["diverged" if role == "search" else "completed" for role in roles]
    rewrite(folder, "trials", status=pa.array(statuses, pa.string()))
    study = read_checked(folder)
    assert study.search_trials["status"].eq("diverged").all()
    assert "Trials that did not complete" not in render_page(study, build_tables(study, ["pairwise"]), [])


def test_pull_fetches_the_journal_and_checks_it(
    folder: StudyFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pull", str(folder.path), "--to", str(tmp_path / "elsewhere")]) == 0
    fetched = StudyFolder(tmp_path / "elsewhere")
    assert fetched.search_journal.read_bytes() == folder.search_journal.read_bytes()
    ours = build_tables(fetched, ["search_trials"])["search_trials"].frame
    assert ours.equals(build_tables(folder, ["search_trials"])["search_trials"].frame)
    folder.search_journal.write_bytes(b"not a journal\n")
    capsys.readouterr()
    assert main(["pull", str(folder.path), "--to", str(tmp_path / "other")]) == 2
    assert capsys.readouterr().err.startswith("error: search.journal: line 1 is not JSON")
    assert not (tmp_path / "other").exists()


def test_compare_takes_the_confirmed_cells_and_leaves_the_search(folder: StudyFolder, tmp_path: Path) -> None:
    other = write_search_study(tmp_path / "second", num_trials=7, seed=5)
    assert main(["compare", str(folder.path), str(other.path)]) == 0
    merge_studies([folder, other], tmp_path / "merged")
    merged = load_study(tmp_path / "merged")
    assert merged.info.search is None
    assert merged.search_trials.empty
    assert set(merged.trials["role"]) == {"confirmation"}
    assert set(merged.cells) == set(load_study(folder).cells) | set(load_study(other).cells)
    assert "Search" not in titles(render_page(merged, build_tables(merged, ["comparison"]), []))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"{}\n", "not an entry of Optuna's journal"),
        (b"", "the search of another study: it holds no study"),
        (None, "missing, but study.json says that the study is a search"),
    ],
)
def test_a_bad_journal_is_one_line_and_status_2(
    folder: StudyFolder, capsys: pytest.CaptureFixture[str], content: bytes | None, named: str
) -> None:
    if content is None:
        folder.search_journal.unlink()
    else:
        folder.search_journal.write_bytes(content)
    assert main([str(folder.path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {folder.search_journal}: ")
    assert named in error
    assert error.count("\n") == 1


def test_the_journal_of_another_study_is_refused(folder: StudyFolder, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(folder.study_json.read_text())
    folder.study_json.write_text(json.dumps({**content, "name": "mine"}))
    moved = StudyFolder(folder.path.rename(folder.path.parent / "mine"))
    assert main([str(moved.path)]) == 2
    assert "the search of another study: it holds made" in capsys.readouterr().err


def test_a_report_of_the_same_search_is_the_same(folder: StudyFolder) -> None:
    studies = [load_study(folder.path) for _ in range(2)]
    first, second = (render_page(study, build_tables(study), []) for study in studies)
    assert first == second
