"""The optimizer of a configuration and its learning rate, epoch by epoch."""

from __future__ import annotations

import math

import torch
from torch import nn

from trainable.config import TrialConfig


def build_optimizer(model: nn.Module, config: TrialConfig) -> torch.optim.Optimizer:
    """SGD as the configuration says."""
    return torch.optim.SGD(
        model.parameters(), lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
    )


def scheduled_learning_rate(config: TrialConfig, finished_epochs: int) -> float:
    """The learning rate after so many epochs; the schedule steps once per epoch, as published.

    With w = warmup_epochs: epoch k <= w trains at learning_rate * k / (w + 1), equal steps up to learning_rate, which
    epoch w + 1 is the first to use; from there cosine annealing to 0 with T_max = epochs - w. w = 0 is the published schedule.
    It is torch's SequentialLR of LinearLR(1 / (w + 1), 1, w) and CosineAnnealingLR(epochs - w), stepped per epoch.
    """
    warmup = config.warmup_epochs
    if finished_epochs < warmup:
        return config.learning_rate * (finished_epochs + 1) / (warmup + 1)
    return config.learning_rate * (1 + math.cos(math.pi * (finished_epochs - warmup) / (config.epochs - warmup))) / 2
