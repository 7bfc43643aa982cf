"""The trials of a grid without Ray and without anything that happens to them: what a study with faults is held against."""

from __future__ import annotations

from pathlib import Path

from analysis.records.study_folder import StudyFolder
from study.folder.ledger import consolidate
from study.spec.grid_file import load_grid
from study.spec.study_spec import build_spec
from trainable.config import trial_id
from trainable.data.data_set import load_data
from trainable.trial import Placement, run_trial


def run_alone(grid: Path | str, folder: Path) -> StudyFolder:
    """Train a grid of drawn images in this process, one trial after the other, with one thread; returns its study folder."""
    study, data = StudyFolder(folder), load_data("synthetic")
    for config in build_spec(load_grid(str(grid)), defaults={"precision": "fp32"}).trial_configs():
        run_trial(config, data, study.trial(trial_id(config, data.fingerprint)), Placement(num_threads=1))
    consolidate(study)
    return study
