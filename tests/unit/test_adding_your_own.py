"""Every example of docs/adding-your-own.md, added as the page says, does what the page says; nothing else is touched."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.claims.claim import ClaimsError
from analysis.claims.claims_file import load_claims
from analysis.claims.verdicts import check_claims
from analysis.figures import draw_study_figures, figure_kinds, summary_figures
from analysis.metrics import list_metrics
from analysis.records.frames import Study, load_study
from analysis.report.page import write_report
from analysis.tables import build_tables, table_kinds
from study.page.watched import WatchedStudy
from study.spec.grid_file import parse_grid
from study.tracking.summary_run import summary_tables
from tests.support.page_examples import added, read_examples
from tests.unit.analysis.figure_studies import small_cells, write_small_study

FIGURE, TABLE = "analysis/figures/generalisation_gap.py", "analysis/tables/epoch_times.py"
CHART = "analysis/figures/epoch_time.py"
METRIC, CLAIM = "analysis/metrics/epochs_to_half.py", "analysis/claims/kinds/ratio.py"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    cells = small_cells(2)
    return write_small_study(tmp_path_factory.mktemp("study"), layers=False, seeds=(0, 1), cells=cells)


@pytest.fixture(scope="module")
def page(study: Study, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report with the figure, once more in a section of its own, and with the table."""
    folder = tmp_path_factory.mktemp("added")
    with added(folder, FIGURE, TABLE):
        text = read_examples()[FIGURE].replace('section="curves"', 'section="over_fitting"')
        (folder / "generalisation_gap" / "once_more.py").write_text(text.replace('"generalisation_gap"', '"once_more"'))
        return write_report(study.folder).read_text()


def test_no_example_of_the_page_is_left_out() -> None:
    assert {n for n in read_examples() if n.startswith("analysis/") and not n.startswith("analysis/search/")} == {
        FIGURE,
        CHART,
        TABLE,
        METRIC,
        CLAIM,
    }


def test_every_function_of_an_example_has_annotations() -> None:
    """So that `make lint` takes the examples as they are."""
    for name, text in read_examples().items():
        for node in ast.walk(ast.parse(text)) if name.endswith(".py") else ():
            if isinstance(node, ast.FunctionDef):
                assert all((node.returns, *(argument.annotation for argument in node.args.args))), (name, node.name)


def test_a_figure(study: Study, page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with added(tmp_path, FIGURE):
        with pytest.raises(SystemExit, match="0"):
            main(["--figures"])
        assert "generalisation_gap-cell1" not in summary_figures(study), "a figure of one cell is in no summary"
    listed = capsys.readouterr().out
    assert "generalisation_gap     curves       Generalisation gap" in listed
    assert "gap, points" in listed
    for name in ("generalisation_gap-cell1", "generalisation_gap-cell2"):
        assert (study.folder.figures / f"{name}.png").exists()
        assert f'id="figure-{name}"' in page[page.index('<section id="curves"') : page.index('<section id="dynamics"')]
    assert page.index("training_curves-cell2") < page.index("generalisation_gap-cell1"), "its position is a later one"
    assert "Train accuracy less test accuracy, mean over seeds." in page
    assert "Generalisation gap, Experiment 1" in (study.folder.figures / "generalisation_gap-cell1.svg").read_text()
    assert "generalisation_gap" not in figure_kinds()


def test_a_chart(study: Study, tmp_path: Path) -> None:
    with added(tmp_path, CHART):
        drawn = {figure.name: figure for figure in draw_study_figures(study)}["epoch_time"]
        watched = WatchedStudy(study.folder)
        watched.look()
        sent = watched.chart("epoch_time", 0)
    assert drawn.figure is not None
    assert [pytest.approx(np.asarray(line.get_ydata()).tolist(), rel=1e-5) for line in drawn.figure.axes[0].lines] == [
        [mean for mean, cell in zip(sent["rows"]["mean"], sent["rows"]["cell"], strict=True) if cell == index]
        for index in (0, 1)
    ], "paper and page show the same numbers"
    assert "images" in sent["axes"]


def test_a_section_of_its_own(page: str) -> None:
    assert "<h2>Over fitting</h2>" in page
    assert '<li><a href="#over_fitting">Over fitting</a></li>' in page


def test_a_table(study: Study, page: str, tmp_path: Path) -> None:
    with added(tmp_path, TABLE):
        assert "epoch_times" in summary_tables()
    frame = pd.read_csv(study.folder.tables / "epoch_times.csv")
    epochs = study.epochs.merge(study.trials, on="trial_id")
    for row in frame.to_dict("records"):
        own = epochs.loc[epochs["cell_id"] == row["cell_id"], "train_time_s"]
        assert (row["mean"], row["longest"]) == (pytest.approx(own.mean()), pytest.approx(own.max()))
    assert {path.suffix for path in study.folder.tables.glob("epoch_times.*")} == {".csv", ".md", ".tex", ".html"}
    schedule = page[page.index('<section id="schedule"') : page.index('<section id="claims"')]
    assert schedule.index('id="block-learning_rate"') < schedule.index('id="block-epoch_times"')
    assert 'title="mean and standard deviation over epochs and seeds">an epoch, s</th>' in schedule
    assert ">the longest, s</th>" in schedule
    assert "Times of training, without evaluation." in schedule
    assert "epoch_times" not in table_kinds()


def test_a_metric(study: Study, tmp_path: Path) -> None:
    grid = "[[cells]]\nbatch_size = 64\n[[published]]\ncell = { batch_size = 64 }\nepochs_to_half = 2\n"
    with added(tmp_path, METRIC):
        comparison = build_tables(study, ["comparison"])["comparison"]
        pairwise = build_tables(study, ["pairwise"])["pairwise"].frame
        assert parse_grid(f'name = "g"\nseeds = [0]\n{grid}', "g.toml").published
    epochs = study.epochs[study.epochs["test_accuracy"] >= 0.5].groupby("trial_id")["epoch"].min()
    expected = epochs.groupby(study.trials.set_index("trial_id")["cell_id"]).mean()
    shown = comparison.frame.set_index("cell_id")["epochs_to_half_mean"]
    assert shown.to_dict() == expected.to_dict()
    assert "epochs to 50 %" in [column.title for column in comparison.columns]
    assert "epochs_to_half" not in set(pairwise["metric"]), "it is not among those that cells are compared by"
    assert "epochs_to_half" not in list_metrics()


def test_a_kind_of_claim(study: Study, tmp_path: Path) -> None:
    claims = tmp_path / "mine.toml"
    claims.write_text(read_examples()["mine.toml"])
    with added(tmp_path, CLAIM):
        (checked,) = check_claims(load_study(study.folder, claims))
        assert (checked.verdict, checked.value, checked.num_seeds) == ("reproduced", 2.0, 2)
    with pytest.raises(ClaimsError, match="kind 'ratio' is not one of"):
        load_claims(claims)


def test_lists_need_no_study() -> None:
    for option, names in (
        ("--tables", ("comparison", "search_winners")),
        ("--figures", ("noise_scale", "search_contour")),
    ):
        run = subprocess.run([sys.executable, "-m", "analysis", option], capture_output=True, text=True, timeout=120)
        assert run.returncode == 0
        assert {line.split()[0] for line in run.stdout.splitlines()} >= set(names)
