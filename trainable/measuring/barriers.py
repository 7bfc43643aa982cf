"""Loss along the straight line between the final weights of two trials, and the barrier on it.

Parameters are interpolated; the statistics of batch norm are not, as those in between belong to no network: at every point they are
computed anew, from the very images that the loss is then taken on (Jordan et al. 2022, arXiv 2211.08403). The barrier is the
largest rise of the loss above the line between the losses of both ends (Frankle et al. 2020, arXiv 1912.05671). Knows no study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainable.measuring.evaluation import full_fp32

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Barrier:
    """`height` in nats at the part `at` of the way; `losses` (points,) from the first end, at 0, to the second, at 1."""

    height: float
    at: float
    losses: tuple[float, ...]


def measure_barrier(
    model: nn.Module, first: State, second: State, batches: Sequence[tuple[Tensor, Tensor]], num_points: int
) -> Barrier:
    """Between the two states, on `batches` of normalised images and labels. `model` is left with the second state's weights."""
    places = np.linspace(0, 1, num_points)
    losses = np.array([loss_at(model, first, second, float(place), batches) for place in places])
    above = losses - ((1 - places) * losses[0] + places * losses[-1])
    highest = int(above.argmax())
    return Barrier(float(above[highest]), float(places[highest]), tuple(losses.tolist()))


def loss_at(
    model: nn.Module, first: State, second: State, place: float, batches: Sequence[tuple[Tensor, Tensor]]
) -> float:
    """The mean cross-entropy of the images at this part of the way, in evaluation mode with batch norm's statistics of these images."""
    with torch.no_grad(), full_fp32():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.lerp(first[name].to(parameter), second[name].to(parameter), place))
        model.eval()
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over the batches
            norm.train()
        for images, _ in batches if norms else ():
            model(images)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.eval()
        total = sum(
            float(nn.functional.cross_entropy(model(images), labels, reduction="sum")) for images, labels in batches
        )
    return total / sum(len(labels) for _, labels in batches)
