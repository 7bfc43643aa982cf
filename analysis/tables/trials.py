"""The table `trials`: what became of every trial."""

from __future__ import annotations

from analysis.records.frames import Study
from analysis.records.summary import hardware_of, summarize_trials
from analysis.results.cell_columns import add_factors, factor_columns
from analysis.results.result_table import TableColumn, TableContent, TableKind


def build_trials(study: Study) -> TableContent:
    """One row per trial, whatever became of it."""
    summary, trials = summarize_trials(study), study.trials
    frame = summary[["cell_id", "seed", "status", "reason", "epochs_completed", "final_test_accuracy", "train_time_s"]]
    frame = frame.assign(hardware=hardware_of(trials), trial_id=summary["trial_id"])
    columns = (
        *factor_columns(study), TableColumn("seed", "seed", "count"), TableColumn("status", "status"), TableColumn("reason", "reason"),
        TableColumn("epochs_completed", "epochs", "count"),
        TableColumn("final_test_accuracy", "final test accuracy", "accuracy"),
        TableColumn("train_time_s", "train time", "seconds"), TableColumn("hardware", "hardware"), TableColumn("trial_id", "trial"),
    )  # fmt: skip
    return TableContent(add_factors(study, frame), columns)


TABLE = TableKind(name="trials", section="trials", position=10, title="Trials", build=build_trials)
