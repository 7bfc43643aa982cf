"""Floating-point operations of training: images seen times those of the trial's model."""

from __future__ import annotations

from analysis.records.study_folder import StudyFolderError
from analysis.search.objectives import CompletedTrial, Objective


def _count_flops(trial: CompletedTrial) -> int:
    """Errors: StudyFolderError where model.parquet lacks the model."""
    import pyarrow.compute as pc

    model = trial.folder.read_records("model", filters=pc.field("width") == trial.config.width)
    if model.num_rows == 0:
        raise StudyFolderError(f"{trial.folder.records('model')}: the model of width {trial.config.width} is missing")
    images = trial.epochs[-1]["step"] * trial.config.batch_size
    return int(images * pc.sum(model["flops_two_per_mac_training"]).as_py())


OBJECTIVE = Objective(
    name="train_flops",
    title="training FLOPs",
    meaning="floating-point operations of all training steps, two per multiply-accumulate",
    direction="minimize",
    kind="flops",
    of_trial=_count_flops,
    reads_model=True,
)
