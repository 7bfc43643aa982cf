"""Largest eigenvalue of the Hessian of the loss on a fixed part of the training images, with the residual of its vector.

Lanczos iteration with full reorthogonalisation. `top_eigenvalue_residual` is |H v - l v| / |l| of the Ritz pair l, v: some
eigenvalue lies within that share of l, and l itself is never above the largest one. The images are one batch
(`trainable.data.augmentation.fixed_images`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from trainable.instrument import Column, EpochEnd, EpochInstrument

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainable.measuring.curvature import Loss

NUM_IMAGES = 256
MOST_ITERATIONS = 20
TOLERANCE = 0.03  # of the residual: the eigenvalue is then known far better, to about its square


@dataclass(frozen=True)
class TopEigenvalue:
    """The largest Ritz value, the residual of its vector as a share of it, and the Hessian products it took."""

    value: float
    residual: float
    iterations: int


def measure_top_eigenvalue(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    loss: Loss | None = None,
    most_iterations: int = MOST_ITERATIONS,
    tolerance: float = TOLERANCE,
) -> TopEigenvalue:
    """That of `model` on these images (normalised). `loss`: as in trainable/measuring/curvature.py."""
    import torch

    from trainable.measuring.curvature import batch_loss

    with batch_loss(model, images, labels, loss or torch.nn.functional.cross_entropy) as at:
        sizes = [part.numel() for part in at.gradient]

        def multiply(vector: Tensor) -> Tensor:
            parts = [part.view_as(like) for part, like in zip(torch.split(vector, sizes), at.gradient, strict=True)]
            return torch.cat([part.reshape(-1) for part in at.times_hessian(parts)])

        start = torch.randn(sum(sizes), generator=torch.Generator().manual_seed(0)).to(at.gradient[0])
        return iterate(multiply, start, most_iterations, tolerance)


def iterate(
    multiply: Callable[[Tensor], Tensor], start: Tensor, most_iterations: int, tolerance: float
) -> TopEigenvalue:
    """Lanczos from `start` (n,) with a symmetric `multiply` until the residual is within the tolerance or the space is used up."""
    import torch

    basis = [start / start.norm()]
    projected = torch.zeros(most_iterations + 1, most_iterations + 1, dtype=torch.float64)
    for step in range(most_iterations):
        product = multiply(basis[-1])
        projected[step, step] = float(product.double() @ basis[-1].double())
        space = torch.stack(basis)
        for _ in range(2):
            product = product - space.T @ (space @ product)
        norm = float(product.double().norm())
        values, vectors = torch.linalg.eigh(projected[: step + 1, : step + 1])
        value = float(values[-1])
        residual = norm * abs(float(vectors[-1, -1])) / abs(value) if value else float("inf")
        if not residual > tolerance or step + 1 == len(start):
            break
        projected[step, step + 1] = projected[step + 1, step] = norm
        basis.append(product / norm)
    return TopEigenvalue(value, residual, step + 1)


def measure_epoch(end: EpochEnd) -> dict[str, float | None]:
    """The columns of this epoch."""
    from trainable.data.augmentation import fixed_images
    from trainable.training.optimization import training_loss

    images, labels = fixed_images(end.training_images, NUM_IMAGES, end.device)
    found = measure_top_eigenvalue(end.model, images, labels, loss=partial(training_loss, config=end.config))
    return {
        "top_eigenvalue": found.value,
        "top_eigenvalue_residual": found.residual,
        "top_eigenvalue_iterations": found.iterations,
        "top_eigenvalue_images": len(labels),
    }


TOP_EIGENVALUE = EpochInstrument(
    name="top_eigenvalue",
    columns=(
        Column("top_eigenvalue", pa.float64(), "", "largest eigenvalue of the Hessian of the loss on a fixed part of the training images, not augmented; training mode, fp32"),
        Column("top_eigenvalue_residual", pa.float64(), "", "|Hv - lv| / |l| of its eigenvector"),
        Column("top_eigenvalue_iterations", pa.int64(), "", "products with the Hessian that it took (Lanczos)"),
        Column("top_eigenvalue_images", pa.int64(), "images", "in one batch"),
    ),
    every="top_eigenvalue_every_epochs",
    measure=measure_epoch,
    num_images=NUM_IMAGES,
)  # fmt: skip
