"""Gradient noise scale: how many images a step needs before its gradient is more signal than noise.

McCandlish et al. 2018 (arXiv 1812.06162), appendix A.1, from microbatches at fixed weights. A batch of B images has an
expected squared gradient norm of |G|^2 + tr(S) / B, so raw norms at two batch sizes compare nothing; the two estimates
here do. Batch norm normalises over a microbatch, as it does in training over a batch: the gradient meant is the one of
batches of that size. Called beside the training path, which it leaves exactly as it was; it must not know the loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from trainable.instrument import Column, EpochEnd, EpochInstrument

if TYPE_CHECKING:
    from torch import Tensor, nn

MICROBATCH_SIZE = 32
NUM_MICROBATCHES = 8


@dataclass(frozen=True)
class NoiseScale:
    """tr(S) / |G|^2 in images, None where the estimate of |G|^2 is not positive, and its two unbiased parts."""

    noise_scale: float | None
    gradient_l2_squared_unbiased: float
    gradient_covariance_trace: float


def measure_noise_scale(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    microbatch_size: int = MICROBATCH_SIZE,
) -> NoiseScale:
    """The noise scale of `model` on `images` (normalised, as in training), cut into microbatches in the order given.

    `loss` is a mean over a batch; without one it is the cross-entropy. Parameters, their gradients, buffers, training flags and random streams are left as
    they were. Errors: ValueError where the images do not fill two or more microbatches exactly.
    """
    import torch
    from torch.func import functional_call

    from trainable.measuring.curvature import set_aside

    loss = loss or torch.nn.functional.cross_entropy
    num_microbatches, rest = divmod(len(images), microbatch_size)
    if num_microbatches < 2 or rest:
        raise ValueError(f"{len(images)} images do not fill two or more microbatches of {microbatch_size}")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    total: list[Tensor] = []
    squares = []
    with set_aside(model, images.device) as buffers:
        for batch, targets in zip(images.chunk(num_microbatches), labels.chunk(num_microbatches), strict=True):
            batch_loss = loss(functional_call(model, buffers, (batch,)), targets)
            gradients = list(torch.autograd.grad(batch_loss, parameters))
            squares.append(_square_sum(gradients))
            if total:
                torch._foreach_add_(total, gradients)
            else:
                total = gradients
    small, large = torch.stack([torch.stack(squares).mean(), _square_sum(total) / num_microbatches**2]).tolist()
    return _estimate(small, large, microbatch_size, microbatch_size * num_microbatches)


def measure_epoch(end: EpochEnd) -> dict[str, float | None]:
    """The columns of this epoch, measured on the images of its first steps; none where there are not two microbatches."""
    import torch

    from trainable.data.augmentation import draw_order, normalise
    from trainable.training.optimization import training_loss

    split = end.training_images
    num_images = min(NUM_MICROBATCHES, len(split.labels) // MICROBATCH_SIZE) * MICROBATCH_SIZE
    if num_images < 2 * MICROBATCH_SIZE:
        return {}
    chosen = draw_order(len(split.labels), end.config, end.epoch)[:num_images].numpy()
    images = normalise(torch.from_numpy(split.images[chosen]).to(end.device), split.normalisation)
    labels, loss = torch.from_numpy(split.labels[chosen]).to(end.device), partial(training_loss, config=end.config)
    return asdict(measure_noise_scale(end.model, images, labels, loss))


def _estimate(small: float, large: float, small_batch: int, large_batch: int) -> NoiseScale:
    """Squared gradient norms at two batch sizes -> the estimates, equations A.1 and A.2 of the paper."""
    signal = (large_batch * large - small_batch * small) / (large_batch - small_batch)
    noise = (small - large) / (1 / small_batch - 1 / large_batch)
    scale = noise / signal if signal > 0 else math.nan
    return NoiseScale(scale if math.isfinite(scale) else None, signal, noise)


def _square_sum(tensors: list[Tensor]) -> Tensor:
    import torch

    return torch.stack(torch._foreach_norm(tensors)).double().square().sum()


NOISE_SCALE = EpochInstrument(
    name="noise_scale",
    columns=(
        Column("noise_scale", pa.float64(), "images", "gradient noise scale tr(S)/|G|^2 (McCandlish 2018); null if undefined"),
        Column("gradient_l2_squared_unbiased", pa.float64(), "", "|G|^2 corrected for batch size; an estimate, may be negative"),
        Column("gradient_covariance_trace", pa.float64(), "", "tr(S): variance of one image's gradient, summed over parameters"),
    ),
    every="noise_scale_every_epochs",
    measure=measure_epoch,
    num_images=MICROBATCH_SIZE * NUM_MICROBATCHES,
)  # fmt: skip
