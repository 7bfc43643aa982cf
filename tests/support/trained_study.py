"""A small study that was really trained, without Ray: two cells of one seed, each trained in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analysis.records.study_folder import StudyFolder
from study.folder.ledger import consolidate, register_trials
from tests.support.images import make_image_data
from tests.support.studies import build_cell, build_study, write_model
from trainable.config import TrialConfig
from trainable.records.trial_state import TrialState
from trainable.trial import Placement, run_trial

SETTINGS: dict[str, Any] = {
    "dataset": "synthetic", "width": 2, "learning_rate": 0.05, "noise_scale_every_epochs": 0, "epochs": 2,
    "log_every_steps": 2, "instrument_every_steps": 4, "batch_size": 16,
}  # fmt: skip


def train_study(folder: Path) -> StudyFolder:
    """Train two cells, the second one without instruments."""
    study_folder, data = StudyFolder(folder), make_image_data()
    plain = {**SETTINGS, "instrument_every_steps": 0}
    cells = [build_cell("measured", **SETTINGS), build_cell("bare", **plain)]
    study_folder.write_study(
        build_study(cells, [0], len(data.train_labels), {"fingerprint": data.fingerprint}, {"name": "trained"})
    )
    write_model(study_folder, [2])
    for cell in cells:
        config = TrialConfig.from_dict({**cell.config, "seed": 0})
        state = TrialState(config=config, data_fingerprint=data.fingerprint)
        register_trials(study_folder, [state])
        run_trial(config, data, study_folder.trial(state.trial_id), Placement(num_threads=1))
    consolidate(study_folder)
    return study_folder
