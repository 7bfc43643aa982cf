"""What theory predicts of a cell from its configuration alone, and what its trials settled at.

Batch sharpness settles at 2 / learning rate without momentum (arXiv 2412.20553); with momentum b at 2 (1 - b) / learning rate for
small batches and 2 (1 + b) / learning rate for large ones (arXiv 2604.14108). The angle that a step turns a scale-invariant
weight by settles at sqrt(2 lr wd / (1 + b)) (arXiv 2006.08419). All of plain SGD at a constant learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.records.frames import Study

SETTLED = 0.5  # of a trial's epochs: what is measured later counts as settled


def is_plain_sgd(config: Mapping[str, Any]) -> bool:
    """Whether the predictions are about the optimizer: SGD, with or without momentum, not Nesterov's."""
    return config.get("optimizer", "sgd") == "sgd" and not config.get("nesterov")


def is_constant_sgd(config: Mapping[str, Any]) -> bool:
    """Whether the plateaus are about the training: plain SGD whose learning rate stays what the configuration says."""
    constant = config.get("schedule", "cosine") == "constant" and not config.get("warmup_epochs")
    return is_plain_sgd(config) and constant


def plateaus(config: Mapping[str, Any]) -> dict[str, float]:
    """The predicted batch sharpness of `small` and of `large` batches; without momentum both are 2 / learning rate. NaN: none."""
    if not is_constant_sgd(config):
        return {"small": math.nan, "large": math.nan}
    rate, momentum = float(config["learning_rate"]), float(config["momentum"])
    return {"small": 2 * (1 - momentum) / rate, "large": 2 * (1 + momentum) / rate}


def angular_equilibrium(config: Mapping[str, Any]) -> float:
    """The predicted angle of a step in radians, at the learning rate of the configuration."""
    decay, momentum = float(config["weight_decay"]), float(config["momentum"])
    return math.sqrt(2 * float(config["learning_rate"]) * decay / (1 + momentum))


def settled_sharpness(study: Study) -> pd.DataFrame:
    """Columns trial_id, cell_id, seed, num (measurements) and value: the mean batch sharpness of the later half of the epochs of
    every completed trial that has measured it."""
    trials = study.trials.loc[
        study.trials["trial_id"].isin(study.completed_ids), ["trial_id", "cell_id", "seed", "epochs_completed"]
    ]
    rows = study.epochs[["trial_id", "epoch", "batch_sharpness"]].dropna()
    rows = rows.astype({"trial_id": str}).merge(trials, on="trial_id")
    late = rows[rows["epoch"] > SETTLED * rows["epochs_completed"]]
    found = late.groupby(["trial_id", "cell_id", "seed"])["batch_sharpness"].agg(value="mean", num="count")
    return found.reset_index()


def settled_angles(study: Study) -> pd.DataFrame:
    """Columns trial_id, cell_id, seed and value: the mean angular update of the later half of the epochs, in radians."""
    ids = list(study.completed_ids)
    rows = study.read_layers(["trial_id", "epoch", "angular_update"], ids).dropna()
    trials = study.trials[["trial_id", "cell_id", "seed", "epochs_completed"]]
    rows = rows.astype({"trial_id": str}).merge(trials, on="trial_id")
    late = rows[rows["epoch"] > SETTLED * rows["epochs_completed"]]
    found = late.groupby(["trial_id", "cell_id", "seed"])["angular_update"].mean()
    return found.rename("value").reset_index()
