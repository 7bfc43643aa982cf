"""Gradient alignment: the cosine between the gradient and that of the measured step before, in the same epoch.

Near 1 training goes on in one direction, near 0 gradients are noise to each other, below 0 it goes to and fro. An epoch's first
measurement has none before it, so that a trial that goes on measures what an uninterrupted one does. Weight decay and momentum
are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from trainable.instrument import Array, Column, StepTensors, TensorInstrument, TensorList, masked, measured_column

if TYPE_CHECKING:
    from torch import Tensor


def measure_alignment(step: StepTensors) -> Tensor:
    """[3, tensors]: the product with the gradient before, and both square sums; zeros where there is none before."""
    import torch

    work, before = step.work, step.gradients_before
    assert before is not None
    work.load(step.gradients)
    squares = work.square_sums()
    work.rows.mul_(before.rows)
    return torch.stack([work.sums(), squares, before.square_sums()])


def alignment_columns(sums: Array, tensors: TensorList) -> dict[str, Array]:
    """[steps, 3, tensors] -> the column, masked where either gradient is 0; `of_all` [steps] is of the whole gradient."""
    product, squares, before = np.moveaxis(sums, 1, 0)
    return {
        "gradient_alignment": _cosine(product, squares, before),
        "of_all": _cosine(product.sum(axis=1), squares.sum(axis=1), before.sum(axis=1)),
    }


def _cosine(product: Array, squares: Array, before: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return masked(product / np.sqrt(squares) / np.sqrt(before), (squares == 0) | (before == 0))


def whole_alignment(columns: Mapping[str, Array]) -> dict[str, Array]:
    """One value per step."""
    return {"gradient_alignment": columns["of_all"]}


GRADIENT_ALIGNMENT = TensorInstrument(
    name="gradient_alignment",
    columns=(
        measured_column("gradient_alignment", "cosine with the gradient of the measured step before; null at an epoch's first"),
    ),
    num_values=3,
    before_step=measure_alignment,
    finish=alignment_columns,
    step_columns=(
        Column("gradient_alignment", pa.float64(), "", "the same of the whole gradient"),
    ),
    summarise=whole_alignment,
)  # fmt: skip
