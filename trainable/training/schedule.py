"""The learning rate of a configuration, epoch by epoch. Imports no torch: records are read and plans are made with it too."""

from __future__ import annotations

import math

from trainable.config import TrialConfig


def scheduled_learning_rate(config: TrialConfig, finished_epochs: int) -> float:
    """The learning rate after so many epochs; the schedule steps once per epoch, as published.

    With w = warmup_epochs: epoch k <= w trains at learning_rate * k / (w + 1), equal steps up to learning_rate, which
    epoch w + 1 is the first to use; from there the schedule takes the n = epochs - w others. It is torch's SequentialLR of
    LinearLR(1 / (w + 1), 1, w) and, stepped per epoch, of CosineAnnealingLR(n) (the published one, with w = 0), ConstantLR(1),
    LinearLR(1, 0, n), or StepLR(step_every_epochs, step_factor). Computed in closed form, so that an epoch's rate follows from
    its number alone: torch's classes multiply from epoch to epoch and round differently.
    """
    rate, warmup = config.learning_rate, config.warmup_epochs
    if finished_epochs < warmup:
        return rate * (finished_epochs + 1) / (warmup + 1)
    done, epochs = finished_epochs - warmup, config.epochs - warmup
    match config.schedule:
        case "cosine":
            return rate * (1 + math.cos(math.pi * done / epochs)) / 2
        case "linear":
            return rate * (1 - done / epochs)
        case "step":
            return rate * config.step_factor ** (done // (config.step_every_epochs or math.ceil(epochs / 3)))
        case "constant":
            return rate
