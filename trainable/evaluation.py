"""Loss and accuracy of a model on a set of images. Knows nothing of training."""

from __future__ import annotations

import threading

import torch
from torch import nn

from trainable.augmentation import EvaluationBatches
from trainable.config import TrialConfig


def evaluate(
    model: nn.Module, batches: EvaluationBatches, config: TrialConfig, stop: threading.Event | None = None
) -> tuple[float, float] | None:
    """(loss, accuracy) in evaluation mode; None when asked to stop.

    The loss is the mean over batches of `config.batch_size` images of the batch loss, as published, whatever the
    larger batches are that the images really go through the model in.
    """
    model.eval()
    losses, correct = [], []
    with torch.inference_mode():
        for images, labels in batches:
            if stop is not None and stop.is_set():
                return None
            with autocast(config, images.device):
                logits = model(images).float()
            losses.append(nn.functional.cross_entropy(logits, labels, reduction="none"))
            correct.append((logits.argmax(dim=1) == labels).sum())
        batch_means = [chunk.mean() for chunk in torch.split(torch.cat(losses).double().cpu(), config.batch_size)]
        return float(torch.stack(batch_means).mean()), int(torch.stack(correct).sum()) / batches.num_images


def autocast(config: TrialConfig, device: torch.device) -> torch.autocast:
    """bf16 autocast where the configuration asks for it; fp32 weights and optimizer either way."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16")
