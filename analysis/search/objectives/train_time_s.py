"""Time spent training."""

from __future__ import annotations

from analysis.search.objectives import Objective

OBJECTIVE = Objective(
    name="train_time_s",
    title="train time",
    meaning="seconds of training in all epochs, evaluation left out",
    direction="minimize",
    kind="seconds",
    of_trial=lambda trial: sum(row["train_time_s"] for row in trial.epochs),
)
