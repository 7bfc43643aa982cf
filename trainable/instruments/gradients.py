"""Size of the gradient of every parameter tensor, and of the whole gradient.

Measured after the backward pass and before the step, so weight decay and momentum, which the optimizer adds, are not in
it. This module must not know about schedules, epochs or records.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainable.packing import PackedTensors

Array = NDArray[np.float64]
NUM_SUMS = 5


def measure_gradients(work: PackedTensors, gradients: list[Tensor]) -> Tensor:
    """[5, tensors] on the device: of |g| the sum, maximum, minimum, square sum and square sum about its mean.

    Overwrites `work`.
    """
    work.load(gradients)
    work.take_magnitudes()
    total, largest, smallest, squares = work.sums(), work.maxima(), work.minima(), work.square_sums()
    work.subtract_means()
    return torch.stack([total, largest.double(), smallest.double(), squares, work.square_sums()])


def gradient_columns(sums: Array, num_elements: NDArray[np.int64]) -> dict[str, Array]:
    """Measurements [steps, 5, tensors] -> columns [steps, tensors]; the deviation of a single element is masked."""
    total, largest, smallest, squares, centered = np.moveaxis(sums, 1, 0)
    return {
        "gradient_mean_abs": total / num_elements,
        "gradient_max_abs": largest,
        "gradient_min_abs": smallest,
        "gradient_std_abs": unbiased_std(centered, num_elements),
        "gradient_l2": np.sqrt(squares),
    }


def global_gradient(columns: dict[str, Array]) -> dict[str, Array]:
    """Columns [steps, tensors] -> one value per step: both published 'norms', and the L2 norm of the whole gradient."""
    return {
        "gradient_mean_abs": columns["gradient_mean_abs"].mean(axis=1),
        "gradient_max_abs": columns["gradient_max_abs"].max(axis=1),
        "gradient_l2": np.sqrt(np.square(columns["gradient_l2"]).sum(axis=1)),
    }


def unbiased_std(centered_squares: Array, num_elements: NDArray[np.int64]) -> Array:
    """Square sums about the mean -> standard deviations with n - 1, as torch.std; masked where n is 1."""
    std: Array = np.sqrt(centered_squares / np.maximum(num_elements - 1, 1))
    return masked(std, num_elements == 1)


def masked(values: Array, undefined: NDArray[np.bool_]) -> Array:
    """`values`, masked where they are undefined: NaN is a measured value, which a diverging trial has."""
    return np.ma.masked_array(values, np.broadcast_to(undefined, values.shape))
