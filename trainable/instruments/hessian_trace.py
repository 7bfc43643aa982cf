"""Trace of the Hessian of every parameter tensor, by Hutchinson's estimator: the mean curvature over all directions.

For a vector z of independent signs, z' H z has the trace as its mean; its part that belongs to a tensor has the trace of that
tensor's diagonal block (Hutchinson 1989; probes as in PyHessian, arXiv 1912.07145). The loss is that of a fixed part of the
training images in one batch (`trainable.data.augmentation.fixed_images`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from trainable.instrument import Array, Column, EpochEnd, EpochInstrument, measured_column

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainable.measuring.curvature import Loss

NUM_IMAGES = 256
NUM_PROBES = 8


def measure_traces(
    model: nn.Module, images: Tensor, labels: Tensor, seed: int, num_probes: int = NUM_PROBES, loss: Loss | None = None
) -> Array:
    """[num_probes, tensors]: an unbiased estimate of each tensor's trace by each probe. `loss`: as in trainable/measuring/curvature.py."""
    import torch

    from trainable.measuring.curvature import batch_loss, dot

    generator = torch.Generator().manual_seed(seed)  # on the CPU, so that every device has the same probes
    found = []
    with batch_loss(model, images, labels, loss or torch.nn.functional.cross_entropy) as at:
        for _ in range(num_probes):
            signs = [
                (2.0 * torch.randint(0, 2, part.shape, generator=generator) - 1.0).to(part) for part in at.gradient
            ]
            found.append(dot(signs, at.times_hessian(signs)))
    estimates: Array = torch.stack(found).cpu().numpy()
    return estimates


def measure_epoch(end: EpochEnd) -> dict[str, object]:
    """The whole trace, and that of every tensor, each with its standard error over the probes."""
    from trainable.data.augmentation import fixed_images
    from trainable.model import stable_seed
    from trainable.training.optimization import training_loss

    images, labels = fixed_images(end.training_images, NUM_IMAGES, end.device)
    seed = stable_seed(f"Hessian probes of epoch {end.epoch}", end.config.seed)
    traces = measure_traces(end.model, images, labels, seed=seed, loss=partial(training_loss, config=end.config))
    root = np.sqrt(NUM_PROBES)
    total = traces.sum(axis=1)
    return {
        "hessian_trace": float(total.mean()),
        "hessian_trace_se": float(total.std(ddof=1) / root),
        "hessian_trace_probes": NUM_PROBES,
        "hessian_trace_images": len(labels),
        "layer_hessian_trace": traces.mean(axis=0),
        "layer_hessian_trace_se": traces.std(axis=0, ddof=1) / root,
    }


HESSIAN_TRACE = EpochInstrument(
    name="hessian_trace",
    columns=(
        Column("hessian_trace", pa.float64(), "", "trace of the Hessian of the loss on a fixed part of the training images, not augmented; training mode, fp32"),
        Column("hessian_trace_se", pa.float64(), "", "its standard error over the probes"),
        Column("hessian_trace_probes", pa.int64(), "probes", "vectors of signs (Hutchinson's estimator)"),
        Column("hessian_trace_images", pa.int64(), "images", "in one batch"),
    ),
    layer_columns=(
        measured_column("layer_hessian_trace", "trace of the Hessian's block of this tensor, as hessian_trace; at the epoch's last step"),
        measured_column("layer_hessian_trace_se", "its standard error over the probes"),
    ),
    every="hessian_trace_every_epochs",
    measure=measure_epoch,
    num_images=NUM_IMAGES,
)  # fmt: skip
