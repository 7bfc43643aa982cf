"""Effective learning rate of scale-invariant weights: learning rate over their squared norm.

A convolution followed by batch norm computes the same whatever the norm of its weights, and its gradient falls with that norm, so
the learning rate over the square of the norm decides how far a step turns them (van Laarhoven 2017, arXiv 1706.05350).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from trainable.instrument import Array, Column, EpochEnd, EpochInstrument, masked, measured_column

if TYPE_CHECKING:
    from torch import nn


def effective_learning_rates(model: nn.Module, learning_rate: float) -> Array:
    """[tensors]; masked for tensors that are not scale-invariant, and without length."""
    import torch

    from trainable.measuring.parts import scale_invariant

    trained = {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
    squares = torch.stack([weights.double().square().sum() for weights in trained.values()]).cpu().numpy()
    invariant = scale_invariant(model)
    undefined = np.array([name not in invariant for name in trained]) | (squares == 0)
    return masked(learning_rate / np.where(undefined, 1.0, squares), undefined)


def measure_epoch(end: EpochEnd) -> dict[str, object]:
    """At the learning rate of the epoch's steps and the weights that they end with."""
    from trainable.training.schedule import scheduled_learning_rate

    rates = effective_learning_rates(end.model, scheduled_learning_rate(end.config.as_trained, end.epoch - 1))
    defined = np.ma.compressed(rates)
    return {
        "effective_learning_rate": float(np.exp(np.log(defined).mean())) if len(defined) else None,
        "layer_effective_learning_rate": rates,
    }


EFFECTIVE_LEARNING_RATE = EpochInstrument(
    name="effective_learning_rate",
    columns=(
        Column("effective_learning_rate", pa.float64(), "", "geometric mean over convolutions followed by a norm of learning rate / |w|^2"),
    ),
    layer_columns=(
        measured_column("layer_effective_learning_rate", "learning rate / |w|^2; conv followed by a norm only; at the epoch's last step"),
    ),
    every=1,
    measure=measure_epoch,
)  # fmt: skip
