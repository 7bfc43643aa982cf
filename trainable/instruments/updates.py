"""The change that one step makes: its size, its size relative to the weights, and the angle it turns them by.

A convolution followed by batch norm computes the same whatever the norm of its weights, so of its update only the angle
counts (Wan et al. 2020, arXiv 2006.08419). This module must not know about schedules, epochs or records.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trainable.instruments.gradients import Array, masked
from trainable.packing import PackedTensors

NUM_SUMS = 3


def measure_updates(before: PackedTensors, weights: list[Tensor]) -> Tensor:
    """[3, tensors] on the device: square sums of the weights before and of the update u, and the product u . w after.

    `before` holds the weights of before the step and is overwritten.
    """
    before_squares = before.square_sums()
    before.subtract(weights)  # now -u
    update_squares = before.square_sums()
    before.multiply(weights)
    return torch.stack([before_squares, update_squares, -before.sums()])


def update_columns(sums: Array, weight_l2: Array) -> dict[str, Array]:
    """Measurements [steps, 3, tensors] and norms after the step -> columns [steps, tensors]; masked where a weight is 0.

    The angle comes from the parts of u along and across w. Its cosine is 1 to seven digits below 5e-4, where angles late
    in training are; this form is exact there, and hides only angles below a thousandth of a change in length.
    """
    before_squares, update_squares, product = np.moveaxis(sums, 1, 0)
    no_length = (before_squares == 0) | (weight_l2 == 0)
    update_l2, before_l2 = np.sqrt(update_squares), np.sqrt(before_squares)
    with np.errstate(divide="ignore", invalid="ignore"):  # where there is no length: masked
        ratio = update_l2 / before_l2
        along = product / weight_l2
    across = np.sqrt(np.maximum(update_squares - np.square(along), 0.0))
    return {
        "update_l2": update_l2,
        "update_ratio": masked(ratio, before_squares == 0),
        "angular_update": masked(np.arctan2(across, weight_l2 - along), no_length),
    }
