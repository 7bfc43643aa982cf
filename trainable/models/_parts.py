"""What several families of networks share: the addition of a residual, and the published initialisation."""

from __future__ import annotations

from torch import Tensor, nn


class ResidualSum(nn.Module):
    """The addition at the end of a block; a module of its own so that the table of layers can name and count it."""

    def forward(self, residual: Tensor, shortcut: Tensor) -> Tensor:
        """The sum, written into `residual`: batch norm, which made it, does not need it for its backward pass."""
        return residual.add_(shortcut)


def initialise(model: nn.Module) -> nn.Module:
    """As published: convolutions by He et al. (fan out), linear layers N(0, 0.01) without bias; of torch's global stream."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return model
