"""Records -> what a W&B run holds: names, units and axes of worksheet.md section 8. Knows no wandb and no Ray.

Per-step and per-epoch series have axes of their own, the metrics `step`, which counts from 0, and `epoch`. Each step has the
published program's count too, `train/step`: there epochs count from 1, so the first of 781 steps an epoch is 781. W&B's internal `_step` must rise
from row to row and decides on resumption what is there already, so it follows from the record alone: a row of step s in
epoch e has `_step` s + e - 1, which leaves one place for the epoch's own row between its last step and the next epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trainable.config import model_name
from trainable.records.columns import EPOCH_INSTRUMENTS, TENSOR_INSTRUMENTS
from trainable.records.trial_state import TrialState

STEP_AXIS, EPOCH_AXIS, PUBLISHED_STEP_AXIS = "step", "epoch", "train/step"

# W&B name -> column of the record. Accuracies are percentages there.
STEP_METRICS = {
    "train/batch_loss": "batch_loss", "train/batch_acc": "running_accuracy", "train/learning_rate": "learning_rate",
    "train/avg_gradient_norm": "gradient_mean_abs", "train/max_gradient_norm": "gradient_max_abs",
}  # fmt: skip
_OF_STEPS = [column.name for one in TENSOR_INSTRUMENTS for column in one.step_columns]
STEP_METRICS |= {f"instruments/{name}": name for name in _OF_STEPS if name not in STEP_METRICS.values()}
EPOCH_METRICS = {
    "train/epoch_loss": "train_loss", "train/epoch_acc": "train_accuracy", "test/loss": "test_loss",
    "test/acc": "test_accuracy", "val/loss": "val_loss", "val/acc": "val_accuracy",
    "learning_rate": "learning_rate",  # after the scheduler's step, as in the published Figure 7
    **{f"instruments/{column.name}": column.name for one in EPOCH_INSTRUMENTS for column in one.columns},
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One row of a run's history at its `_step`."""

    wandb_step: int
    values: dict[str, float]


def expand_epoch(epoch: Mapping[str, Any], steps: Iterable[Mapping[str, Any]]) -> list[Row]:
    """The rows of one epoch in order: one per step record, then that of the epoch record."""
    number = int(epoch["epoch"])
    steps_per_epoch = int(epoch["step"]) // number
    rows = [
        Row(
            int(step["step"]) + number - 1,
            _axes(step["step"], number)
            | {PUBLISHED_STEP_AXIS: int(step["step"]) + steps_per_epoch}
            | _metrics(step, STEP_METRICS),
        )
        for step in steps
    ]
    own = _axes(epoch["step"], number) | _metrics(epoch, EPOCH_METRICS)
    return [*rows, Row(int(epoch["step"]) + number - 1, own)]


def final_values(
    test_accuracies: Sequence[float | None], final_train_accuracy: float, measured: Mapping[str, float | None]
) -> dict[str, float]:
    """What a completed run ends with: accuracies in percent, none of the test set for a trial that never saw it, and what
    instruments have `measured` of the trial."""
    values = {f"instruments/{name}": value for name, value in measured.items() if value is not None}
    values["final/final_train_acc"] = 100 * final_train_accuracy
    if tested := [accuracy for accuracy in test_accuracies if accuracy is not None]:
        values |= {"final/best_test_acc": 100 * max(tested), "final/final_test_acc": 100 * tested[-1]}
    return values


def build_run_config(state: TrialState, study: str, label: str, model: pa.Table) -> dict[str, Any]:
    """The flat configuration of a trial's run; `model` is the study's layer table, of all its widths."""
    layers = model.filter(pc.field("width") == state.config.width)
    layers = layers.filter(
        pc.equal(pc.coalesce(layers["model"], f"width {state.config.width}"), model_name(state.config.to_dict()))
    )
    config: dict[str, Any] = {
        **state.config.to_dict(), "study": study, "cell": label, "trial_id": state.trial_id,
        "data_fingerprint": state.data_fingerprint, "code_fingerprint": state.code_fingerprint,
        "num_workers": 0,  # of a data loader, as the published runs name it: batches are made in the training process
    }  # fmt: skip
    if layers.num_rows:
        parameters, flops = (pc.sum(layers[name]).as_py() for name in ("num_parameters", "flops_worksheet"))
        config |= {"total_parameters": parameters, "trainable_parameters": parameters}
        if flops is not None:  # the published convention is defined for the network
            config |= {"total_flops": flops, "gflops": flops / 1e9, "mflops": flops / 1e6}
    return config


def _axes(step: Any, epoch: int) -> dict[str, float]:
    return {STEP_AXIS: int(step), EPOCH_AXIS: epoch}


def _metrics(record: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, float]:
    """The measured ones; accuracies in percent."""
    return {
        name: record[column] * (100 if column.endswith("_accuracy") else 1)
        for name, column in names.items()
        if record.get(column) is not None
    }
