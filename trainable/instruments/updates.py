"""The change that one step makes: its size, its size relative to the weights, and the angle it turns them by.

A convolution followed by batch norm computes the same whatever the norm of its weights, so of its update only the angle
counts (Wan et al. 2020, arXiv 2006.08419). This module must not know about schedules, epochs or records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trainable.instrument import Array, StepTensors, TensorInstrument, TensorList, masked, measured_column

if TYPE_CHECKING:
    from torch import Tensor


def measure_updates(step: StepTensors) -> Tensor:
    """[4, tensors]: square sums of the weights before, of those after and of the update u, and the product u . w after."""
    import torch

    work, before = step.work, step.weights_before
    assert before is not None
    work.load(step.weights)
    after_squares = work.square_sums()
    work.rows.sub_(before.rows)
    update_squares = work.square_sums()
    work.multiply(step.weights)
    return torch.stack([before.square_sums(), after_squares, update_squares, work.sums()])


def update_columns(sums: Array, tensors: TensorList) -> dict[str, Array]:
    """[steps, 4, tensors] -> columns; masked where a weight is 0, the angle also of anything but a convolution before a norm.

    The angle comes from the parts of u along and across w. Its cosine is 1 to seven digits below 5e-4, where angles late
    in training are; this form is exact there, and hides only angles below a thousandth of a change in length.
    """
    before_squares, after_squares, update_squares, product = np.moveaxis(sums, 1, 0)
    update_l2, before_l2, weight_l2 = np.sqrt(update_squares), np.sqrt(before_squares), np.sqrt(after_squares)
    with np.errstate(divide="ignore", invalid="ignore"):  # where there is no length: masked
        ratio = update_l2 / before_l2
        along = product / weight_l2
    across = np.sqrt(np.maximum(update_squares - np.square(along), 0.0))
    no_angle = (before_squares == 0) | (weight_l2 == 0) | ~tensors.scale_invariant
    return {
        "update_l2": update_l2,
        "update_ratio": masked(ratio, before_squares == 0),
        "angular_update": masked(np.arctan2(across, weight_l2 - along), no_angle),
    }


UPDATES = TensorInstrument(
    name="updates",
    columns=(
        measured_column("update_l2", "L2 norm of the change made by this one step"),
        measured_column("update_ratio", "update_l2 over the L2 norm of w before the step; null where that is 0"),
        measured_column(
            "angular_update", "angle between w before and after the step; conv followed by a norm only", unit="rad"
        ),
    ),
    num_values=4,
    after_step=measure_updates,
    finish=update_columns,
)
