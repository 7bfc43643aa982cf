"""The report page as text: what is on it, that it refers to nothing outside, and that names cannot become markup."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest

from analysis.__main__ import BAD_INPUT, main
from analysis.comparison.words import describe_pair
from analysis.drawing.declaration import StudyFigure
from analysis.drawing.files import Picture
from analysis.metrics import list_metrics
from analysis.records.frames import Study, count_training_images, load_study
from analysis.records.study_folder import StudyFolder, StudyFolderError
from analysis.report.content import MAX_ROWS, build_page_table
from analysis.report.page import read_checked, render_page, write_figures, write_report
from analysis.results.formats import to_csv
from analysis.results.result_table import ResultTable
from analysis.tables import build_tables, table_kinds
from tests.unit.analysis.figure_studies import HOSTILE, rewrite, small_cells, write_hostile_study, write_small_study

VOID = {"meta", "link", "img", "br", "input", "hr"}
Figures = list[tuple[StudyFigure, Picture | None]]


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text of those that were closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append((tag, []))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        for _, pieces in self._open:
            pieces.append(data)

    def handle_endtag(self, tag: str) -> None:
        opened, pieces = self._open.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"
        self.texts.append((tag, "".join(pieces)))

    def values(self, attribute: str, tag: str | None = None) -> list[str]:
        return [a[attribute] or "" for name, a in self.elements if attribute in a and tag in (None, name)]

    def texts_of(self, tag: str) -> list[str]:
        return [" ".join(text.split()) for name, text in self.texts if name == tag]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = write_small_study(
        tmp_path_factory.mktemp("study"), outcomes={(0, 2): "diverged", (1, 1): "failed"}, layers=False,
        code={"fingerprint": "f1", "commit": "abc123", "diff_hash": "d9"},
        accepted_changes=({"what": "torch 2.10 to 2.11"},), title="A title",
    ).folder  # fmt: skip
    return read_checked(folder)


@pytest.fixture(scope="module")
def figures(study: Study) -> Figures:
    return write_figures(study)


@pytest.fixture(scope="module")
def text(study: Study, figures: Figures) -> str:
    return render_page(study, build_tables(study), figures)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_report_writes_page_tables_and_figures(tmp_path: Path) -> None:
    folder = write_small_study(tmp_path, layers=False, seeds=(0, 1), cells=small_cells()[:1]).folder
    stale, foreign = folder.figures / "gradient_flow-cell9.png", folder.figures / "mine.png"
    folder.figures.mkdir(parents=True)
    stale.write_bytes(b"")
    foreign.write_bytes(b"")
    path = write_report(folder)
    assert path == folder.report / "index.html"
    study = load_study(folder)
    names = [name for name, kind in table_kinds().items() if kind.applies(study)]
    assert {"comparison", "pairwise", "claims", "trials"} <= set(names)
    for name in names:
        for suffix in ("csv", "md", "tex", "html"):
            assert (folder.tables / f"{name}.{suffix}").is_file()
    for name in ("training_curves", "learning_rate", "samples"):
        assert (folder.figures / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder.figures / f"{name}.svg").read_bytes().startswith(b"<?xml")
    assert not stale.exists()
    assert foreign.exists()


@pytest.mark.parametrize("link", ["report", "report/figures", "report/tables", "trials/0123456789abcdef"])
def test_a_report_that_would_be_written_elsewhere_is_refused(
    tmp_path: Path, link: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A foreign study whose report leads to other files: none of them is written or removed."""
    folder = write_small_study(tmp_path / "study", layers=False, seeds=(0,), cells=small_cells(1)[:1]).folder
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("index.html", "learning_rate.png", "noise_scale-cell1.svg", "trials.csv"):
        (outside / name).write_text("precious")
    (folder.path / link).parent.mkdir(parents=True, exist_ok=True)
    (folder.path / link).symlink_to(outside)
    assert main([str(folder.path)]) == BAD_INPUT
    assert f"{folder.path / link}: is a link" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in outside.iterdir()} == dict.fromkeys(
        ("index.html", "learning_rate.png", "noise_scale-cell1.svg", "trials.csv"), "precious"
    )


def test_a_link_to_a_study_that_the_user_names_is_followed(tmp_path: Path) -> None:
    folder = write_small_study(tmp_path / "study", layers=False, seeds=(0,), cells=small_cells(1)[:1]).folder
    (tmp_path / "latest").symlink_to(folder.path)
    write_report(StudyFolder(tmp_path / "latest"))
    assert (folder.report / "index.html").is_file()


def test_same_study_gives_the_same_page(study: Study, figures: Figures, text: str) -> None:
    again = read_checked(study.folder)
    assert render_page(again, build_tables(again), figures) == text


def test_page_refers_to_nothing_outside_itself(page: Page) -> None:
    assert page.values("src") + page.values("srcset") + page.values("data") + page.values("action") == []
    for reference in page.values("href"):
        assert reference.startswith(("#", "data:"))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {reference[1:] for reference in page.values("href") if reference.startswith("#")} <= set(ids)
    for attribute in ("aria-labelledby", "aria-describedby"):
        assert {own for value in page.values(attribute) for own in value.split()} <= set(ids)


def test_policy_allows_only_the_pages_own_script(text: str, page: Page) -> None:
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = next(v for v in page.values("content", "meta") if "default-src" in v)
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_headings_are_in_order_and_sections_in_reading_order(text: str, page: Page) -> None:
    levels = [int(name[1]) for name in re.findall(r"<(h[1-6])\b", text)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
    titles = page.texts_of("h2")
    assert titles[:3] == ["Verdict", "Curves", "Comparison"]
    assert titles[-2:] == ["Trials", "Environment"]
    assert [title for title in titles if title in ("FLOPs", "Schedule", "Claims", "Confounds")] == [
        "FLOPs", "Schedule", "Claims", "Confounds",
    ]  # fmt: skip


def test_every_figure_has_a_name_and_a_text_for_readers(page: Page) -> None:
    pictures = [attributes for name, attributes in page.elements if name == "svg"]
    assert len(pictures) >= 6
    for picture in pictures:
        assert picture["role"] == "img"
        assert len((picture["aria-labelledby"] or "").split()) == 2
    assert all(caption for caption in page.texts_of("figcaption"))


def test_every_table_can_be_downloaded_as_written(study: Study, page: Page) -> None:
    links = {
        attributes["download"]: attributes["href"] or ""
        for name, attributes in page.elements if name == "a" and "download" in attributes
    }  # fmt: skip
    for name, table in build_tables(study).items():
        if len(table.frame):
            kind, _, content = links[f"{name}.csv"].partition("base64,")
            assert kind == "data:text/csv;charset=utf-8;"
            assert base64.b64decode(content).decode() == to_csv(table)


def test_verdict_stands_first_with_its_numbers(study: Study, text: str) -> None:
    pairs = build_tables(study)["pairwise"].frame
    row = pairs[pairs["metric"] == "final_test_accuracy"].iloc[0]
    verdict = " ".join(
        re.sub(r"<[^>]*>", " ", text[text.index('id="verdict"') : text.index('id="comparison"')]).split()
    )
    assert (
        f"{row['verdict']} Experiment 1 and Experiment 2 cannot be told apart: Experiment 1 less Experiment 2 is"
        in verdict
    )
    assert "; one seed: a difference cannot be told from the luck of the seed" in verdict
    assert "Judged by final test accuracy, the primary metric." in verdict
    assert "Of 6 trials: 4 completed, 1 diverged, 1 failed" in verdict
    assert "move together" in verdict
    assert "Trials that did not complete: 2" in verdict
    assert "made diverged for a test" in verdict


def test_a_study_without_test_accuracy_is_headed_by_validation(tmp_path: Path) -> None:
    folder = write_small_study(tmp_path, layers=False, seeds=(0, 1)).folder
    epochs = folder.read_records("epochs")
    rewrite(folder, "epochs", val_accuracy=epochs["test_accuracy"], test_accuracy=pa.nulls(len(epochs), pa.float64()))
    study = load_study(folder)
    page = Page(render_page(study, build_tables(study, ["pairwise"]), []))
    assert "Judged by final validation accuracy, the primary metric." in page.texts_of("p")
    assert any("Experiment 1 is better than Experiment 2 by" in text for text in page.texts_of("p"))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (12.0, "About 12 more seeds would probably settle it."),
        (1000.0, "1,000 more seeds or even more would probably settle it."),
    ],
)
def test_a_number_of_seeds_that_is_a_cap_is_said_to_be_one(more: float, words: str) -> None:
    row = {
        "difference": 0.001, "low": -0.01, "high": 0.012, "seeds": 3, "reason": "", "more_seeds": more, "margin": 0.005,
        "label_a": "a", "label_b": "b", "verdict": "undecided",
    }  # fmt: skip
    text = describe_pair(row, list_metrics()["final_test_accuracy"])
    assert text == f"a and b cannot be told apart: a less b is 0.1 points (95 % interval -1.0 to 1.2); 3 seeds. {words}"


def test_environment_names_code_data_hardware_and_changes(page: Page) -> None:
    values = dict(zip(page.texts_of("dt"), page.texts_of("dd"), strict=True))
    assert values["code commit"] == "abc123"
    assert values["code diff hash"] == "d9"
    assert values["data fingerprint"] == "d" * 16
    assert values["versions torch"] == "2.11.0"
    assert values["hardware"] == "NVIDIA H200"
    assert values["accepted change 1 what"] == "torch 2.10 to 2.11"


def test_missing_figures_say_why(page: Page) -> None:
    assert "Left out: no gradients were measured." in page.texts_of("p")


@pytest.mark.parametrize("names", [(), ("comparison",), ("claims", "trials"), ("epochs", "learning_rate")])
def test_page_works_with_some_of_the_tables(study: Study, names: tuple[str, ...]) -> None:
    page = Page(render_page(study, build_tables(study, names) if names else {}, []))
    shown = [value.removeprefix("block-") for value in page.values("id") if value.startswith("block-")]
    assert sorted(shown) == sorted(names)


def test_unknown_tables_have_a_place_too(study: Study) -> None:
    known = build_tables(study, ["comparison"])["comparison"]
    tables = {"novel": ResultTable("novel", known.title, known.frame, known.columns)}
    assert "Further tables" in Page(render_page(study, tables, [])).texts_of("h2")


def test_long_tables_are_cut_on_the_page_and_whole_in_the_csv(study: Study) -> None:
    table = build_tables(study, ["epochs"])["epochs"]
    frame = table.frame.loc[table.frame.index.repeat(200)].reset_index(drop=True)
    shown = build_page_table(type(table)(table.name, table.title, frame, table.columns))
    assert (shown.num_rows, shown.num_shown) == (len(frame), MAX_ROWS)
    assert shown.html.count("<tr>") == MAX_ROWS + 1
    content = base64.b64decode(shown.csv_url.partition("base64,")[2]).decode()
    assert content.count("\n") == len(frame) + 1


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    study = write_hostile_study(tmp_path, layers=False)
    page = Page(write_report(study.folder).read_text())
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert "iframe" not in [tag for tag, _ in page.elements]
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.values("src") == []
    shown = HOSTILE.replace("\u202e", "\ufffd")  # a character that turns the rest of a line around is shown as one
    assert page.texts_of("h1") == [shown]
    assert page.texts_of("title")[0] == f"{shown}: report"
    assert any(HOSTILE.split()[0] in text for text in page.texts_of("td"))
    assert any(HOSTILE.split()[0] in text for text in page.texts_of("dd"))


def test_study_without_any_completed_trial_is_reported(tmp_path: Path) -> None:
    outcomes = {(0, 0): "failed", (1, 0): "diverged"}
    study = write_small_study(tmp_path, seeds=(0,), outcomes=outcomes, layers=False)
    page = Page(write_report(study.folder).read_text())
    assert "Trials that did not complete: 2" in page.texts_of("h3")


def test_study_that_says_little_about_itself_is_reported(tmp_path: Path) -> None:
    folder = write_small_study(tmp_path, seeds=(0,), layers=False).folder
    data: dict[str, object] = {"dataset": "cifar10", "fingerprint": "d" * 16, "num_train": None, "class_names": []}
    info = dataclasses.replace(folder.read_study(), created_at="", environment={}, code={}, data=data)
    folder.write_study(info)
    study = read_checked(folder)
    for path in (study.folder.samples, study.folder.records("model"), study.folder.records("steps")):
        path.unlink()
    assert count_training_images(study) == 1_280
    page = Page(write_report(study.folder).read_text())
    assert "Left out: no sample images were kept." in page.texts_of("p")
    assert any("number of updates move together" in text for text in page.texts_of("p"))


def test_damaged_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StudyFolderError, match="nowhere"):
        write_report(StudyFolder(tmp_path / "nowhere"))
    folder = write_small_study(tmp_path / "study", seeds=(0,), layers=False).folder
    content = folder.study_json.read_text()
    folder.study_json.write_text(content.replace('"batch_size": 64', '"batch_size": "many"'))
    with pytest.raises(StudyFolderError, match=r"Experiment 1.*batch_size"):
        write_report(folder)
    folder.study_json.write_text(content.replace("A study made up", "\\ud800"))
    with pytest.raises(StudyFolderError, match=r"study\.json: .*hex escape"):
        write_report(folder)
    folder.study_json.write_text(content)
    folder.records("epochs").write_bytes(folder.records("epochs").read_bytes()[:200])
    with pytest.raises(StudyFolderError, match=r"epochs\.parquet"):
        write_report(folder)
