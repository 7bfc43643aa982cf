"""Size of the gradient of every parameter tensor, and of the whole gradient.

Measured after the backward pass and before the step, so weight decay and momentum, which the optimizer adds, are not in
it. This module must not know about schedules, epochs or records.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from trainable.instrument import (
    Array,
    Column,
    StepTensors,
    TensorInstrument,
    TensorList,
    measured_column,
    unbiased_std,
)

if TYPE_CHECKING:
    from torch import Tensor


def measure_gradients(step: StepTensors) -> Tensor:
    """[5, tensors]: of |g| the sum, maximum, minimum, square sum and square sum about its mean."""
    import torch

    work = step.work
    work.load(step.gradients)
    work.take_magnitudes()
    total, largest, smallest, squares = work.sums(), work.maxima(), work.minima(), work.square_sums()
    work.subtract_means()
    return torch.stack([total, largest.double(), smallest.double(), squares, work.square_sums()])


def gradient_columns(sums: Array, tensors: TensorList) -> dict[str, Array]:
    """[steps, 5, tensors] -> columns; the deviation of a single element is masked."""
    total, largest, smallest, squares, centered = np.moveaxis(sums, 1, 0)
    return {
        "gradient_mean_abs": total / tensors.num_elements,
        "gradient_max_abs": largest,
        "gradient_min_abs": smallest,
        "gradient_std_abs": unbiased_std(centered, tensors.num_elements),
        "gradient_l2": np.sqrt(squares),
    }


def global_gradient(columns: Mapping[str, Array]) -> dict[str, Array]:
    """Columns [steps, tensors] -> one value per step: both published 'norms', and the L2 norm of the whole gradient."""
    return {
        "gradient_mean_abs": columns["gradient_mean_abs"].mean(axis=1),
        "gradient_max_abs": columns["gradient_max_abs"].max(axis=1),
        "gradient_l2": np.sqrt(np.square(columns["gradient_l2"]).sum(axis=1)),
    }


GRADIENTS = TensorInstrument(
    name="gradients",
    columns=(
        measured_column("gradient_mean_abs", "mean |g|"),
        measured_column("gradient_max_abs", "max |g|"),
        measured_column("gradient_min_abs", "min |g|"),
        measured_column("gradient_std_abs", "standard deviation of |g|, unbiased"),
        measured_column("gradient_l2", "L2 norm of the gradient"),
    ),
    num_values=5,
    before_step=measure_gradients,
    finish=gradient_columns,
    step_columns=(
        Column("gradient_mean_abs", pa.float64(), "", "mean over tensors of mean |g|; published as avg_gradient_norm"),
        Column("gradient_max_abs", pa.float64(), "", "max over tensors of max |g|; published as max_gradient_norm"),
        Column("gradient_l2", pa.float64(), "", "L2 norm of the whole gradient"),
    ),
    summarise=global_gradient,
)
