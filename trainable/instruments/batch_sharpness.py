"""Batch sharpness: how curved the loss of a mini-batch is along its own gradient, which decides whether SGD's steps are stable.

Mean over mini-batches of g' H g / |g|^2, with gradient g and Hessian H of the mini-batch's own loss (Andreyev and Beneventano,
arXiv 2412.20553). It rises until it reaches 2 / learning rate and stays there; with momentum b the plateaus are
2 (1 - b) / learning rate for small batches and 2 (1 + b) / learning rate for large ones (arXiv 2604.14108).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from trainable.instrument import Column, EpochEnd, EpochInstrument

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainable.measuring.curvature import Loss

NUM_IMAGES = 512  # in as many batches as they fill, within these bounds
LEAST_BATCHES, MOST_BATCHES = 2, 16


def measure_batch_sharpness(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], loss: Loss | None = None
) -> tuple[float, float]:
    """Mean over `batches` (normalised images, labels) and its standard error, NaN of one batch. `loss`: as in trainable/measuring/curvature.py."""
    import torch

    from trainable.measuring.curvature import batch_loss, dot

    found = []
    for images, labels in batches:
        with batch_loss(model, images, labels, loss or torch.nn.functional.cross_entropy) as at:
            curved = dot(at.gradient, at.times_hessian(at.gradient)).sum()
            found.append(curved / dot(at.gradient, at.gradient).sum())
    values = torch.stack(found)
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), error


def measure_epoch(end: EpochEnd) -> dict[str, float | None]:
    """Of the batches that the next epoch begins with, augmented as it does."""
    from trainable.data.augmentation import first_batches
    from trainable.training.optimization import training_loss

    config = end.config.as_trained
    wanted = min(max(NUM_IMAGES // config.batch_size, LEAST_BATCHES), MOST_BATCHES)
    batches = first_batches(end.training_images, config, end.epoch + 1, wanted, end.device)
    mean, error = measure_batch_sharpness(end.model, batches, loss=partial(training_loss, config=config))
    return {
        "batch_sharpness": mean,
        "batch_sharpness_se": None if math.isnan(error) else error,
        "batch_sharpness_batches": len(batches),
    }


BATCH_SHARPNESS = EpochInstrument(
    name="batch_sharpness",
    columns=(
        Column("batch_sharpness", pa.float64(), "", "mean over mini-batches of g'Hg/|g|^2, of the next epoch's first batches, augmented; training mode, fp32"),
        Column("batch_sharpness_se", pa.float64(), "", "its standard error over these batches; null of one"),
        Column("batch_sharpness_batches", pa.int64(), "batches", "how many, of the trial's batch size"),
    ),
    every="batch_sharpness_every_epochs",
    measure=measure_epoch,
)  # fmt: skip
