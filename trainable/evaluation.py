"""Loss and accuracy of a model on a set of images, and the precision it computes them in. Knows nothing of training."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def full_fp32() -> Iterator[None]:
    """Within it CUDA computes fp32 in fp32: torch's default for convolutions is TF32, which keeps 10 of its 23 bits.

    The settings belong to the process, so they are put back; on the CPU they do nothing. Untested on a device.
    """
    kinds = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision
