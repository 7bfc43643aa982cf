"""How the early training of every searched trial went: the instruments' quantities, as one number per trial.

Early is the first fifth of the epochs, as in the published phases. Pruned trials have it too. Knows no Optuna.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.records.frames import Study
from analysis.records.phases import scale_phases
from analysis.search.history import Search

QUANTITIES = {
    "noise_scale": "gradient noise scale", "update_ratio": "update ratio", "angular_update": "angular update",
    "gradient_l2": "gradient norm", "gradient_max_abs": "largest gradient",
}  # fmt: skip


def measure_dynamics(search: Search) -> pd.DataFrame:
    """Columns `QUANTITIES`, indexed by the number of the trial; NaN where not measured, means over the early epochs."""
    study = search.study
    last_epoch = early_epochs(study)
    known = {
        trial: number for trial, number in zip(search.trials["trial_id"], search.trials["number"], strict=True) if trial
    }
    early = last_epoch.reindex(list(known)).fillna(0)
    frame = pd.DataFrame(index=pd.Index(list(known), name="trial_id"))
    epochs = _early(study.search_epochs, early).groupby("trial_id")
    parts = epochs[["gradient_covariance_trace", "gradient_l2_squared_unbiased"]].mean()
    noise = parts["gradient_covariance_trace"] / parts["gradient_l2_squared_unbiased"]
    frame["noise_scale"] = noise.where(noise > 0)
    layers = study.read_layers(["trial_id", "epoch", "update_ratio", "angular_update"], list(known))
    measured = _early(layers.assign(trial_id=layers["trial_id"].astype("str")), early).groupby("trial_id")
    frame[["update_ratio", "angular_update"]] = measured[["update_ratio", "angular_update"]].mean()
    steps = _early(study.search_steps, early).groupby("trial_id")
    frame[["gradient_l2", "gradient_max_abs"]] = steps[["gradient_l2", "gradient_max_abs"]].mean()
    return frame.rename(index=known).rename_axis("number").replace([np.inf, -np.inf], np.nan).astype(float)


def early_epochs(study: Study) -> pd.Series[float]:
    """The last early epoch of every searched trial, by its id."""
    trials = study.search_trials.set_index("trial_id")
    last = [scale_phases(int(epochs))["early"][1] for epochs in trials["config.epochs"]]
    return pd.Series(last, index=trials.index, dtype=float)


def _early(rows: pd.DataFrame, last_epoch: pd.Series[float]) -> pd.DataFrame:
    return rows[rows["epoch"] <= rows["trial_id"].map(last_epoch).astype(float)]  # without rows they map to texts
