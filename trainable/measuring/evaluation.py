"""Loss and accuracy of a model on a set of images, and the precision it computes them in. Knows nothing of training."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trainable.config import TrialConfig
from trainable.data.augmentation import EvaluationBatches


class Scores(NamedTuple):
    """What a model makes of images: mean loss in nats, fraction correct (None of no images), which ones (images,)."""

    loss: float | None
    accuracy: float | None
    correct: NDArray[np.bool_]

    def correct_bits(self) -> bytes | None:
        """`correct` as one bit an image, in the order of the images; numpy.unpackbits reads it."""
        return np.packbits(self.correct).tobytes() if len(self.correct) else None


def evaluate(
    model: nn.Module, batches: EvaluationBatches, config: TrialConfig, stop: threading.Event | None = None
) -> Scores | None:
    """Scores in evaluation mode; None when asked to stop.

    The loss is the mean over batches of `config.batch_size` images of the batch loss, as published, whatever the
    larger batches are that the images really go through the model in.
    """
    if not batches.num_images:
        return Scores(None, None, np.empty(0, dtype=bool))
    model.eval()
    losses, correct = [], []
    with torch.inference_mode():
        for images, labels in batches:
            if stop is not None and stop.is_set():
                return None
            with autocast(config, images.device):
                logits = model(images).float()
            losses.append(nn.functional.cross_entropy(logits, labels, reduction="none"))
            correct.append(logits.argmax(dim=1) == labels)
        batch_means = [chunk.mean() for chunk in torch.split(torch.cat(losses).double().cpu(), config.batch_size)]
        right = torch.cat(correct).cpu().numpy()
        return Scores(float(torch.stack(batch_means).mean()), int(right.sum()) / batches.num_images, right)


def autocast(config: TrialConfig, device: torch.device) -> torch.autocast:
    """bf16 autocast where the configuration asks for it; fp32 weights and optimizer either way."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16")


def fp32_of(config: TrialConfig) -> AbstractContextManager[None]:
    """What the configuration's precision makes of CUDA's fp32: as torch has it where it is `published`, else full fp32."""
    return nullcontext() if config.precision == "published" else full_fp32()


@contextmanager
def full_fp32() -> Iterator[None]:
    """Within it CUDA computes fp32 in fp32: torch's default for convolutions is TF32, which keeps 10 of its 23 bits.

    The settings belong to the process, so they are put back; on the CPU they do nothing. By the names that inductor reads too:
    after `fp32_precision` was set for convolutions alone, reading `allow_tf32` raises.
    """
    kinds: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [kind.allow_tf32 for kind in kinds]
    try:
        for kind in kinds:
            kind.allow_tf32 = False
        yield
    finally:
        for kind, allowed in zip(kinds, before, strict=True):
            kind.allow_tf32 = allowed
