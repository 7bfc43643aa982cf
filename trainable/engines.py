"""How the steps of an epoch are run on a device: forward and backward, then the optimizer, with room for instruments between.

Losses and correct counts of the steps stay on the device. Knows no schedule, no instruments and no records.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainable.config import TrialConfig
from trainable.evaluation import autocast


class EagerEngine:
    """Every operation as PyTorch runs it by itself."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: TrialConfig,
        device: torch.device,
        num_steps: int,
    ) -> None:
        self._model, self._optimizer, self._config, self._device = model, optimizer, config, device
        self.losses = torch.zeros(num_steps, device=device)  # of each step of the epoch, on the device
        self.correct = torch.zeros(num_steps, device=device)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Use `learning_rate` for every parameter from the next step on."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate

    def forward_backward(self, step: int, images: Tensor, labels: Tensor) -> None:
        """The gradients of step `step` of the epoch, its loss and its number of correct predictions."""
        self._optimizer.zero_grad(set_to_none=True)
        with autocast(self._config, self._device):
            logits = self._model(images)
            loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self.losses[step] = loss
            self.correct[step] = (logits.argmax(dim=1) == labels).sum()

    def update(self) -> None:
        """The optimizer's step."""
        self._optimizer.step()
