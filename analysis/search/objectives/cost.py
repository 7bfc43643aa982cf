"""What training takes: floating-point operations, which are images seen times those of the trial's model, and time."""

from __future__ import annotations

from analysis.records.study_folder import StudyFolderError
from analysis.search.objectives import CompletedTrial, Objective
from trainable.config import model_name


def _count_flops(trial: CompletedTrial) -> int:
    """Errors: StudyFolderError where model.parquet lacks the model."""
    import pyarrow.compute as pc

    name = model_name(trial.config.to_dict())
    of_width = trial.folder.read_records("model", filters=pc.field("width") == trial.config.width)
    model = of_width.filter(pc.equal(pc.coalesce(of_width["model"], f"width {trial.config.width}"), name))
    if model.num_rows == 0:
        raise StudyFolderError(f"{trial.folder.records('model')}: the network of {name} is missing")
    images = trial.epochs[-1]["step"] * trial.config.batch_size
    return int(images * pc.sum(model["flops_two_per_mac_training"]).as_py())


FLOPS = Objective(
    name="train_flops", title="training FLOPs", direction="minimize", kind="flops", of_trial=_count_flops, reads_model=True,
    meaning="floating-point operations of all training steps, two per multiply-accumulate",
)  # fmt: skip
TIME = Objective(
    name="train_time_s", title="train time", direction="minimize", kind="seconds",
    meaning="seconds of training in all epochs, evaluation left out",
    of_trial=lambda trial: sum(row["train_time_s"] for row in trial.epochs),
)  # fmt: skip
