"""Every table of whole studies: values by an independent way, and studies of unusual shape."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from analysis.records.frames import Study, load_study
from analysis.records.phases import picture_epochs, scale_phases, shown_epochs
from analysis.records.study_folder import StudyFolder
from analysis.records.study_json import Cell
from analysis.results.formats import to_html, to_latex, to_markdown, to_text, write_tables
from analysis.tables import build_tables, table_kinds
from tests.support.studies import PUBLISHED, Truth, build_cell, paper_cells, write_synthetic_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return write_synthetic_study(
        tmp_path_factory.mktemp("studies") / "tables", cells=paper_cells(instrument_every_steps=390)
    )


def test_comparison_has_measured_beside_published(folder: StudyFolder) -> None:
    frame = build_tables(folder, ["comparison"])["comparison"].frame
    assert frame["label"].tolist() == ["Experiment 1", "Experiment 2"]
    assert frame["batch_size"].tolist() == [64, 128]
    assert frame["learning_rate"].tolist() == [0.15, 0.2]
    assert frame["seeds"].tolist() == [3, 3]
    assert frame["steps_per_epoch_mean"].tolist() == [781, 390]
    for number, published in enumerate(PUBLISHED):
        for name, value in published.items():
            assert frame.loc[number, f"{name}_published"] == value
    assert frame["final_train_loss_published"].isna().tolist() == [False, True]


def test_comparison_values_follow_the_records(folder: StudyFolder) -> None:
    frame = build_tables(folder, ["comparison"])["comparison"].frame
    trials = {t["trial_id"]: t["cell_id"] for t in folder.read_records("trials").to_pylist()}
    final = [e for e in folder.read_records("epochs").to_pylist() if e["epoch"] == 25]
    for row in frame.to_dict("records"):
        values = [e["test_accuracy"] for e in final if trials[e["trial_id"]] == row["cell_id"]]
        assert row["final_test_accuracy_mean"] == pytest.approx(statistics.mean(values))
        assert row["final_test_accuracy_sd"] == pytest.approx(statistics.stdev(values))


def test_epochs_have_every_epoch_and_the_published_ones_beside(folder: StudyFolder) -> None:
    frame = build_tables(folder, ["epochs"])["epochs"].frame
    assert len(frame) == 2 * 25
    first = frame[frame["label"] == "Experiment 1"].set_index("epoch")
    assert first["seeds"].eq(3).all()
    assert first.loc[[1, 5, 10, 15, 20], "train_loss_published"].tolist() == [2.198, 0.916, 0.613, 0.463, 0.264]
    assert first.loc[[2, 3, 4], "train_loss_published"].isna().all()
    assert "val_loss_mean" not in frame
    assert first.loc[[1, 5, 25], "test_accuracy_published"].tolist() == [0.2859, 0.6359, 0.9310]
    last = first.loc[[25], ["train_loss_published", "train_accuracy_published", "test_loss_published"]]
    assert last.to_numpy().tolist() == [[0.0864, 0.9725, 0.2153]]
    second = frame[frame["label"] == "Experiment 2"].set_index("epoch")
    assert second.loc[[1, 25], "test_accuracy_published"].tolist() == [0.3543, 0.9239]
    assert second.loc[[2, 24], "test_accuracy_published"].isna().all()


def test_learning_rates_are_those_of_the_worksheet(folder: StudyFolder) -> None:
    frame = build_tables(folder, ["learning_rate"])["learning_rate"].frame
    printed = [0.1494, 0.1357, 0.0982, 0.0518, 0.0143, 0.0, 0.1992, 0.1809, 0.1309, 0.0691, 0.0191, 0.0]
    assert frame["epoch"].tolist() == [1, 5, 10, 15, 20, 25] * 2
    assert frame["learning_rate_after"].round(4).tolist() == printed
    assert frame["published"].tolist() == printed


def test_shown_epochs_and_phases_scale() -> None:
    assert shown_epochs(25) == [1, 5, 10, 15, 20, 25]
    assert shown_epochs(50) == [2, 10, 20, 30, 40, 50]
    assert shown_epochs(5) == [1, 2, 3, 4, 5]
    assert shown_epochs(1) == [1]
    assert picture_epochs(25) == shown_epochs(25)
    assert picture_epochs(32) == [1, 5, 10, 15, 20, 25, 30], "the published program does not scale them"
    assert picture_epochs(3) == [1]
    assert scale_phases(25) == {"early": (1, 5), "middle": (10, 20), "late": (20, 25)}
    assert scale_phases(100) == {"early": (4, 20), "middle": (40, 80), "late": (80, 100)}
    assert all(1 <= first <= last <= 3 for first, last in scale_phases(3).values())


def test_every_table_is_written_in_every_format(folder: StudyFolder) -> None:
    tables = build_tables(folder, list(table_kinds()))
    assert list(tables) == list(table_kinds())
    write_tables(tables, folder)
    written = {path.name for path in folder.tables.iterdir()}
    assert written == {f"{name}.{suffix}" for name in tables for suffix in ("csv", "md", "tex", "html")}


def test_an_unknown_table_is_refused(folder: StudyFolder) -> None:
    with pytest.raises(ValueError, match="no table 'comparisons'"):
        build_tables(folder, ["comparisons"])


HOSTILE = "</td><script>alert(1)</script>"
ODD_STUDIES: dict[str, dict[str, Any]] = {
    "nothing completed": {"outcomes": {(0, 0): "failed", (1, 0): "diverged"}, "seeds": [0]},
    "nothing started": {"outcomes": {(0, 0): "missing", (1, 0): "missing"}, "seeds": [0]},
    "one cell": {"cells": [build_cell("only", epochs=2)], "seeds": [0]},
    "no layer records": {"layers": False},
    "one epoch": {"cells": paper_cells(epochs=1, instrument_every_steps=390)},
    "no instruments": {"cells": paper_cells(epochs=3, instrument_every_steps=0)},
    "still running": {"outcomes": {(0, 0): "running", (1, 0): "pending"}, "cells": paper_cells(epochs=6)},
    "several widths and epochs": {
        "cells": [build_cell(f"{w} {e}", width=w, epochs=e, instrument_every_steps=390) for w in (4, 8) for e in (2, 5)]
    },
    "hostile label": {"cells": [Cell("x", HOSTILE, build_cell("", epochs=2, instrument_every_steps=390).config)]},
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_STUDIES)
def test_all_tables_of_odd_studies(name: str, tmp_path: Path) -> None:
    write_synthetic_study(tmp_path, **{"epochs": 2, "seeds": [0, 1], **ODD_STUDIES[name]})
    study = load_study(tmp_path)
    tables = build_tables(study, list(table_kinds()))  # also those that do not apply
    assert list(tables) == list(table_kinds())
    assert set(build_tables(study)) == {kind.name for kind in table_kinds().values() if kind.applies(study)}
    for table in tables.values():
        assert {column.name for column in table.columns} <= set(table.frame)
        assert len(table.frame) or table.notes
        texts = [to_text(table), to_markdown(table), to_html(table), to_latex(table)]
        assert "<script>" not in "".join(texts[1:3])


def test_a_study_that_ran_twice_on_changed_data_counts_each_seed_once(tmp_path: Path) -> None:
    cells = [build_cell("only", epochs=2, instrument_every_steps=0)]
    old = write_synthetic_study(tmp_path / "old", cells=cells, seeds=[0, 1], data={"fingerprint": "old"})
    new = write_synthetic_study(tmp_path / "new", cells=cells, seeds=[0], truths=[Truth(final_test_accuracy=0.5)])
    for kind in ("trials", "epochs"):
        tables = [folder.read_records(kind) for folder in (old, new)]
        new.write_records(kind, pa.concat_tables(tables))
    study: Study = load_study(new.path)
    assert study.trials["data_fingerprint"].tolist() == ["d" * 16, "old"]
    row = build_tables(study, ["comparison"])["comparison"].frame.iloc[0]
    assert row["seeds"] == 2
