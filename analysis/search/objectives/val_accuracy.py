"""Accuracy on the training images that a searched trial does not learn from."""

from __future__ import annotations

from analysis.search.objectives import Objective

OBJECTIVE = Objective(
    name="val_accuracy",
    title="validation accuracy",
    meaning="fraction of the held-out training images that are right after the last epoch",
    direction="maximize",
    kind="accuracy",
    of_epoch=lambda row: row.get("val_accuracy"),
)
