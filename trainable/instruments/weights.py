"""Size of every parameter tensor after the step, and its distance from where training began.

The distance from the initial weights is what the worksheet publishes as weight change; the change by one step is in
updates.py. This module must not know about schedules, epochs or records.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainable.instruments.gradients import Array, unbiased_std
from trainable.packing import PackedTensors

NUM_SUMS = 7


def measure_weights(work: PackedTensors, weights: list[Tensor], initial: PackedTensors) -> Tensor:
    """[7, tensors] on the device: of |w| sum, maximum, square sum; square sum of w about its mean; of |w - w0| sum, maximum, square sum.

    Overwrites `work`.
    """
    work.load(weights)
    squares = work.square_sums()
    work.subtract_means()
    centered = work.square_sums()
    work.load(weights)
    work.take_magnitudes()
    total, largest = work.sums(), work.maxima()
    work.load(weights)
    work.rows.sub_(initial.rows)
    work.take_magnitudes()
    return torch.stack(
        [total, largest.double(), squares, centered, work.sums(), work.maxima().double(), work.square_sums()]
    )


def weight_columns(sums: Array, num_elements: NDArray[np.int64]) -> dict[str, Array]:
    """Measurements [steps, 7, tensors] -> columns [steps, tensors]; the deviation of a single element is masked."""
    total, largest, squares, centered, moved, moved_most, moved_squares = np.moveaxis(sums, 1, 0)
    return {
        "weight_mean_abs": total / num_elements,
        "weight_max_abs": largest,
        "weight_std": unbiased_std(centered, num_elements),
        "weight_l2": np.sqrt(squares),
        "displacement_mean_abs": moved / num_elements,
        "displacement_max_abs": moved_most,
        "displacement_l2": np.sqrt(moved_squares),
    }
