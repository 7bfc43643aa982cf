"""Summaries of trials and cells against plain Python over the records, and what a reader is told first."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from analysis import load_study
from analysis.records.frames import Study
from analysis.records.study_folder import StudyFolder
from analysis.records.summary import (
    count_outcomes,
    study_notes,
    summarize_cells,
    summarize_trials,
    time_hardware,
    timed_trials,
    timing_note,
)
from tests.support.studies import paper_cells, write_synthetic_study
from trainable.records.tables import build_table


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    cells = paper_cells(epochs=4, dataset="synthetic", instrument_every_steps=0)
    outcomes = {(0, 3): "diverged", (1, 1): "failed", (1, 3): "missing"}
    folder = tmp_path_factory.mktemp("studies") / "summary"
    write_synthetic_study(folder, cells=cells, seeds=range(4), outcomes=outcomes)
    return load_study(folder)


def _rows(study: Study, kind: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = study.folder.read_records(kind).to_pylist()
    return rows


def test_every_metric_is_what_the_records_say(study: Study) -> None:
    epochs = _rows(study, "epochs")
    for row in summarize_trials(study).to_dict("records"):
        own = sorted((e for e in epochs if e["trial_id"] == row["trial_id"]), key=lambda e: int(e["epoch"]))
        if row["status"] != "completed":
            assert math.isnan(row["final_test_accuracy"])
            continue
        first, last = own[0], own[-1]
        expected = {
            "final_test_accuracy": last["test_accuracy"], "final_train_accuracy": last["train_accuracy"],
            "gap": last["train_accuracy"] - last["test_accuracy"], "final_train_loss": last["train_loss"],
            "final_test_loss": last["test_loss"], "epoch1_test_accuracy": first["test_accuracy"],
            "best_test_accuracy": max(e["test_accuracy"] for e in own), "steps_per_epoch": last["step"] / 4,
            "train_time_s": sum(e["train_time_s"] for e in own),
        }  # fmt: skip
        assert {name: row[name] for name in expected} == pytest.approx(expected)
        settled = 1 + max(e["epoch"] for e in own if abs(e["test_accuracy"] - last["test_accuracy"]) > 0.05)
        assert row["convergence_epoch"] == settled
        assert math.isnan(row["final_val_accuracy"])


def test_without_test_accuracy_there_is_no_convergence(tmp_path: Path) -> None:
    cells = paper_cells(epochs=2, dataset="synthetic", instrument_every_steps=0)
    folder = write_synthetic_study(tmp_path, cells=cells, seeds=[0])
    rows = [{**row, "test_accuracy": None} for row in folder.read_records("epochs").to_pylist()]
    folder.write_records("epochs", build_table("epochs", rows))
    assert summarize_trials(load_study(folder.path))["convergence_epoch"].isna().all()


def test_cells_are_means_and_sample_deviations_over_completed_seeds(study: Study) -> None:
    trials = [row for row in summarize_trials(study).to_dict("records") if row["status"] == "completed"]
    cells = summarize_cells(study).to_dict("records")
    assert [(row["label"], row["seeds"]) for row in cells] == [("Experiment 1", 3), ("Experiment 2", 2)]
    for row in cells:
        values = [t["gap"] for t in trials if t["cell_id"] == row["cell_id"]]
        assert row["gap_mean"] == pytest.approx(statistics.mean(values))
        assert row["gap_sd"] == pytest.approx(statistics.stdev(values))


def test_outcomes_count_what_did_not_complete(study: Study) -> None:
    assert count_outcomes(study) == {"completed": 5, "diverged": 1, "failed": 1, "missing": 1}
    notes = " ".join(study_notes(study))
    assert "Synthetic data" in notes
    assert "Of 8 trials: 5 completed, 1 diverged, 1 failed, 1 missing" in notes


def test_a_complete_study_has_nothing_to_say(tmp_path: Path) -> None:
    write_synthetic_study(tmp_path, cells=paper_cells(epochs=1, instrument_every_steps=0), seeds=[0])
    assert study_notes(load_study(tmp_path)) == ()


def test_reductions_and_mixed_code_are_said(tmp_path: Path) -> None:
    reductions = ("width: 8 instead of 64",)
    cells = paper_cells(epochs=1, instrument_every_steps=0)
    folder = write_synthetic_study(tmp_path, cells=cells, seeds=[0, 1], reductions=reductions)
    _change_trials(folder, 1, code_fingerprint="other")
    notes = " ".join(study_notes(load_study(tmp_path)))
    assert "Reduced or changed run: width: 8 instead of 64" in notes
    assert "do not share their code" in notes


def test_times_come_from_one_kind_of_hardware_and_trials_alone_on_it(tmp_path: Path) -> None:
    cells = paper_cells(epochs=2, instrument_every_steps=0)
    folder = write_synthetic_study(tmp_path, cells=cells, seeds=[0, 1, 2])
    _change_trials(folder, 0, timing_exclusive=False)
    _change_trials(folder, 4, hardware="Tesla T4")
    study = load_study(tmp_path)
    trials = study.trials["trial_id"].tolist()
    assert time_hardware(study) == "NVIDIA H200"
    assert timed_trials(study) == [trials[n] for n in (1, 2, 3, 5)]
    times = summarize_trials(study)["train_time_s"]
    assert times.isna().tolist() == [True, False, False, False, True, False]
    assert "2 trials that shared their device or ran elsewhere are left out" in timing_note(study)


def test_cpus_with_other_numbers_of_threads_are_other_hardware(tmp_path: Path) -> None:
    cells = paper_cells(epochs=2, instrument_every_steps=0)
    folder = write_synthetic_study(tmp_path, cells=cells, seeds=[0], hardware="A CPU")
    _change_trials(folder, 0, gpu_share=0.0, num_threads=2)
    _change_trials(folder, 1, gpu_share=0.0, num_threads=1)
    study = load_study(tmp_path)
    assert len(timed_trials(study)) == 1
    assert str(time_hardware(study)).startswith("A CPU, ")


def test_no_exclusive_trial_means_no_times(tmp_path: Path) -> None:
    cells = paper_cells(epochs=1, instrument_every_steps=0)
    folder = write_synthetic_study(tmp_path, cells=cells, seeds=[0])
    for number in range(2):
        _change_trials(folder, number, timing_exclusive=False)
    study = load_study(tmp_path)
    assert time_hardware(study) is None
    assert summarize_cells(study)["train_time_s_n"].tolist() == [0, 0]
    assert timing_note(study).startswith("No times")


def _change_trials(folder: StudyFolder, number: int, **values: Any) -> None:
    rows = folder.read_records("trials").to_pylist()
    rows[number] |= values
    folder.write_records("trials", build_table("trials", rows))
