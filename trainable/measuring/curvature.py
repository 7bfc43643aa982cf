"""Products with the Hessian of a batch's loss, at weights that stay where they are.

What is differentiated is the mean cross-entropy in training mode, in fp32 whatever the trial's precision: batch norm takes the
statistics of this very batch, as it does in training, so the loss is a function of the weights alone. Weight decay, which the
optimizer adds, is not in it; it would add itself to every eigenvalue. Called beside the training path, which is left exactly as
it was: parameters, gradients, buffers, flags and random streams. Knows no loop and no instrument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from trainable.measuring.evaluation import full_fp32

Loss = Callable[[Tensor, Tensor], Tensor]


class BatchLoss:
    """The loss of one batch: its gradient, and products with its Hessian, as lists in the order of `parameters`."""

    def __init__(self, value: Tensor, parameters: list[Tensor]) -> None:
        self._parameters = parameters
        self._graph = list(torch.autograd.grad(value, parameters, create_graph=True))
        self.gradient = [part.detach() for part in self._graph]

    def times_hessian(self, vector: list[Tensor]) -> list[Tensor]:
        """H v. Takes about twice the time of a gradient; may be called as often as need be."""
        product = torch.autograd.grad(
            self._graph, self._parameters, vector, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return [part.detach() for part in product]


@contextmanager
def batch_loss(
    model: nn.Module, images: Tensor, labels: Tensor, loss: Loss = nn.functional.cross_entropy
) -> Iterator[BatchLoss]:
    """Within it the loss (a mean over the batch) of `model` can be asked for products with its Hessian."""
    parameters: list[Tensor] = [parameter for parameter in model.parameters() if parameter.requires_grad]
    twice = sdpa_kernel(SDPBackend.MATH)  # attention's other kernels cannot be differentiated twice
    with (
        set_aside(model, images.device) as buffers,
        full_fp32(),
        torch.autocast(images.device.type, enabled=False),
        twice,
    ):
        yield BatchLoss(loss(functional_call(model, buffers, (images,)), labels), parameters)


@contextmanager
def set_aside(model: nn.Module, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Within it the model is in training mode; yields copies of its buffers, for batch norm to write to."""
    flags = [(module, module.training) for module in model.modules()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            model.train()
            yield {name: buffer.clone() for name, buffer in model.named_buffers()}
        finally:
            for module, training in flags:
                module.training = training


def dot(left: list[Tensor], right: list[Tensor]) -> Tensor:
    """Products of tensors one by one, [tensors], in float64; their sum is the product of the vectors they make up."""
    return torch.stack([(a.double() * b.double()).sum() for a, b in zip(left, right, strict=True)])
