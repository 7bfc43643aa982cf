"""The loss of a configuration and its optimizer, by torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainable.config import TrialConfig


def training_loss(logits: Tensor, labels: Tensor, config: TrialConfig) -> Tensor:
    """The mean cross-entropy of a batch in nats, with the configuration's label smoothing."""
    return nn.functional.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)


def build_optimizer(model: nn.Module, config: TrialConfig) -> torch.optim.Optimizer:
    """torch's optimizer as the configuration says, over all parameters of the model."""
    parameters, rate, decay = model.parameters(), config.learning_rate, config.weight_decay
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, betas=(config.momentum, config.beta2), weight_decay=decay)
    return torch.optim.SGD(parameters, lr=rate, momentum=config.momentum, weight_decay=decay, nesterov=config.nesterov)
