"""A plain training loop on drawn images, and the weights and gradients around each of its steps as float64 arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainable.measuring.probe import LayerProbe
from trainable.model import build_model
from trainable.models.resnet import ResNet18

WIDTH = 8
Array = NDArray[np.float64]
Snapshot = dict[str, Array]


@dataclass(frozen=True)
class SeenStep:
    """What a step did, copied out in float64."""

    gradients: Snapshot
    weights_before: Snapshot
    weights_after: Snapshot


@dataclass(frozen=True)
class Training:
    """A model in training: what the loop needs at every step."""

    model: ResNet18
    optimizer: torch.optim.Optimizer
    generator: torch.Generator

    def backward(self) -> None:
        """Gradients of the next drawn batch of 16 images."""
        device = self.model.conv1.weight.device
        images = torch.randn(16, 3, 32, 32, generator=self.generator).to(device)
        labels = torch.randint(10, (16,), generator=self.generator).to(device)
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(images), labels).backward()  # type: ignore[no-untyped-call]


def build_training(learning_rate: float = 0.1, width: int = WIDTH, device: str = "cpu") -> Training:
    """Model and optimizer as the study trains them, channels_last as the real loop has it."""
    model = build_model(width, seed=1).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9, weight_decay=5e-4)
    return Training(model, optimizer, torch.Generator().manual_seed(0))


def build_probe(training: Training, measurements: int) -> LayerProbe:
    """A probe whose initial weights are the present ones."""
    return LayerProbe(training.model, [p.detach() for p in training.model.parameters()], measurements)


def run_steps(
    training: Training, probe: LayerProbe, num_steps: int, after_backward: Callable[[], None] = lambda: None
) -> list[SeenStep]:
    """Train with the probe at every step; `after_backward` may change the gradients."""
    seen = []
    for _ in range(num_steps):
        training.backward()
        after_backward()
        gradients, before = copy_gradients(training.model), copy_weights(training.model)
        probe.before_step()
        training.optimizer.step()
        probe.after_step()
        seen.append(SeenStep(gradients, before, copy_weights(training.model)))
    return seen


def copy_weights(model: nn.Module) -> Snapshot:
    """Every parameter by name, flat."""
    return {name: _copied(parameter) for name, parameter in model.named_parameters()}


def copy_gradients(model: nn.Module) -> Snapshot:
    """Every gradient by the name of its parameter, flat."""
    return {name: _copied(p.grad) for name, p in model.named_parameters() if p.grad is not None}


def _copied(tensor: Tensor) -> Array:
    return tensor.detach().cpu().numpy().astype(np.float64).reshape(-1)
