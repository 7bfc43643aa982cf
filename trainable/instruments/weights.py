"""Size of every parameter tensor after the step, and its distance from where training began.

The distance from the initial weights is what the worksheet publishes as weight change; the change by one step is in
updates.py. This module must not know about schedules, epochs or records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trainable.instrument import Array, StepTensors, TensorInstrument, TensorList, measured_column, unbiased_std

if TYPE_CHECKING:
    from torch import Tensor


def measure_weights(step: StepTensors) -> Tensor:
    """[7, tensors]: of |w| sum, maximum, square sum; square sum of w about its mean; of |w - w0| sum, maximum, square sum."""
    import torch

    work = step.work
    work.load(step.weights)
    squares = work.square_sums()
    work.subtract_means()
    centered = work.square_sums()
    work.load(step.weights)
    work.take_magnitudes()
    total, largest = work.sums(), work.maxima()
    work.load(step.weights)
    work.rows.sub_(step.initial.rows)
    work.take_magnitudes()
    return torch.stack(
        [total, largest.double(), squares, centered, work.sums(), work.maxima().double(), work.square_sums()]
    )


def weight_columns(sums: Array, tensors: TensorList) -> dict[str, Array]:
    """[steps, 7, tensors] -> columns; the deviation of a single element is masked."""
    total, largest, squares, centered, moved, moved_most, moved_squares = np.moveaxis(sums, 1, 0)
    return {
        "weight_mean_abs": total / tensors.num_elements,
        "weight_max_abs": largest,
        "weight_std": unbiased_std(centered, tensors.num_elements),
        "weight_l2": np.sqrt(squares),
        "displacement_mean_abs": moved / tensors.num_elements,
        "displacement_max_abs": moved_most,
        "displacement_l2": np.sqrt(moved_squares),
    }


WEIGHTS = TensorInstrument(
    name="weights",
    columns=(
        measured_column("weight_mean_abs", "mean |w| after the step"),
        measured_column("weight_max_abs", "max |w| after the step"),
        measured_column("weight_std", "standard deviation of w after the step, unbiased"),
        measured_column("weight_l2", "L2 norm of w after the step"),
        measured_column("displacement_mean_abs", "mean |w - w0|, w0 the initial weights; published as weight change"),
        measured_column("displacement_max_abs", "max |w - w0|"),
        measured_column("displacement_l2", "L2 norm of w - w0"),
    ),
    num_values=7,
    after_step=measure_weights,
    finish=weight_columns,
)
