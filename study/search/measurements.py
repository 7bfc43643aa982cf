"""What a searched trial left in its folder, as its objectives read it. Knows no Optuna."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow.parquet as pq

from analysis.records.study_folder import StudyFolder
from analysis.search.objectives import CompletedTrial, Objective
from trainable.trial_state import TrialState


def read_epochs(folder: StudyFolder, state: TrialState) -> list[dict[str, Any]]:
    """The rows of the epochs that the trial has completed, in order."""
    path = folder.trial(state.trial_id) / "epochs.parquet"
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return [row for row in rows if row["epoch"] <= state.epochs_completed]


def measure_objectives(folder: StudyFolder, state: TrialState, objectives: Sequence[Objective]) -> list[float]:
    """The objectives of a completed trial; NaN where one was not measured. Errors: StudyFolderError where its model is missing."""
    trial = CompletedTrial(state.config, read_epochs(folder, state), folder)
    return [objective.measure(trial) for objective in objectives]
