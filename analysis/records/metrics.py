"""The metrics of a cell by name: one number per trial, used alike by grid files, tables, statistics and claims.

Knows no pandas, so that a command line can check names at once; summary.py computes the values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

MetricKind = Literal["accuracy", "points", "loss", "count", "seconds"]
CONVERGED_WITHIN = 0.05


@dataclass(frozen=True)
class Metric:
    """One number per trial; `better` says which direction is an improvement, empty where neither is."""

    name: str
    title: str
    kind: MetricKind
    meaning: str
    better: Literal["higher", "lower", ""] = ""
    compared: bool = True  # among the metrics that cells are compared by

    @property
    def in_percent(self) -> bool:
        """A fraction that people read as a percentage, and that the equivalence margin is about."""
        return self.kind in ("accuracy", "points")


_METRICS = (
    Metric("final_test_accuracy", "final test accuracy", "accuracy", "test accuracy after the last epoch", "higher"),
    Metric("final_train_accuracy", "final train accuracy", "accuracy", "running over the last epoch", "higher"),
    Metric("gap", "gap", "points", "final train accuracy less final test accuracy", "lower"),
    Metric("final_train_loss", "final train loss", "loss", "mean over the steps of the last epoch", "lower"),
    Metric("final_test_loss", "final test loss", "loss", "test loss after the last epoch", "lower"),
    Metric("epoch1_test_accuracy", "epoch 1 test accuracy", "accuracy", "test accuracy after epoch 1", "higher"),
    Metric(
        "best_test_accuracy", "best test accuracy", "accuracy", "highest of all epochs: chosen on the test set",
        "higher", compared=False,
    ),
    Metric("final_val_accuracy", "final validation accuracy", "accuracy", "on held-out training images", "higher"),
    Metric(
        "convergence_epoch", "convergence epoch", "count",
        "first epoch from which test accuracy stays within 5 points of its final value", "lower", compared=False,
    ),
    Metric("steps_per_epoch", "steps per epoch", "count", "optimiser steps of one epoch", compared=False),
    Metric(
        "train_time_s", "train time", "seconds", "augmentation and steps of all epochs, without evaluation", "lower",
        compared=False,
    ),
)  # fmt: skip
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _METRICS}
