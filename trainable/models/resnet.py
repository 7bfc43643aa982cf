"""Residual networks for small images, of which ResNet18 is the published one.

Three differences from the ImageNet networks: a 3x3 stem without stride, no max-pooling, and `width` channels in the first
stage (64 is the published model). Parameters are named as torchvision names them, so that either loads the other's
state dict; one of the published program, which names the projections `shortcut`, loads too.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from trainable.models import ModelKind

NUM_STAGES = 4
BLOCKS_PER_STAGE = 2


class ResidualSum(nn.Module):
    """The addition at the end of a block; a module of its own so that the table of layers can name and count it."""

    def forward(self, residual: Tensor, shortcut: Tensor) -> Tensor:
        """The sum, written into `residual`: batch norm, which made it, does not need it for its backward pass."""
        return residual.add_(shortcut)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut, projected by a 1x1 convolution where shapes differ."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        self.add = ResidualSum()
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, out, H/stride, W/stride]."""
        residual = self.relu1(self.bn1(self.conv1(features)))
        residual = self.bn2(self.conv2(residual))
        shortcut = features if self.downsample is None else self.downsample(features)
        return self.relu2(self.add(residual, shortcut))  # type: ignore[no-any-return]


class ResNet18(nn.Module):
    """Stem, four stages of two basic blocks with width, 2, 4 and 8 times width channels, average pool, linear layer."""

    def __init__(self, width: int, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _build_stage(width, width, stride=1)
        self.layer2 = _build_stage(width, 2 * width, stride=2)
        self.layer3 = _build_stage(2 * width, 4 * width, stride=2)
        self.layer4 = _build_stage(4 * width, 8 * width, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width, num_classes)
        self.register_load_state_dict_pre_hook(_rename_projections)  # type: ignore[no-untyped-call]

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [N, 3, 32, 32] -> logits [N, classes]."""
        features = self.relu(self.bn1(self.conv1(images)))
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        return self.fc(self.avgpool(features).flatten(1))  # type: ignore[no-any-return]


def build_resnet18(num_classes: int, input_shape: tuple[int, int, int], *, width: int = 64) -> nn.Module:
    """The published network."""
    return ResNet18(width, num_classes, input_shape[0])


def _build_stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    blocks = [BasicBlock(in_channels, out_channels, stride)]
    blocks += [BasicBlock(out_channels, out_channels, 1) for _ in range(BLOCKS_PER_STAGE - 1)]
    return nn.Sequential(*blocks)


def _rename_projections(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give the entries of the published program's projections their names here; torch hands over a copy of the state dict."""
    for name in [name for name in state if name.startswith(prefix) and ".shortcut." in name]:
        ours = name.replace(".shortcut.", ".downsample.")
        if ours not in state:  # else strict loading says what is there twice
            state[ours] = state.pop(name)


RESNET18 = ModelKind(
    name="resnet18", meaning="two basic blocks in each of four stages, as published", build=build_resnet18
)
