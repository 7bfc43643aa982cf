"""Residual networks for small images, of which ResNet18 is the published one.

Three differences from the ImageNet networks: a 3x3 stem without stride, no max-pooling, and `width` channels in the first
stage (64 is the published model). Parameters are named as torchvision names them, so that either loads the other's
state dict; one of the published program, which names the projections `shortcut`, loads too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from trainable.config import PUBLISHED_MODEL
from trainable.models import InputShape, ModelKind
from trainable.models._parts import ResidualSum, initialise

NUM_STAGES = 4


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut, projected by a 1x1 convolution where shapes differ."""

    expansion = 1

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = _build_projection(in_channels, out_channels, stride)
        self.add = ResidualSum()
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, out, H/stride, W/stride]."""
        residual = self.relu1(self.bn1(self.conv1(features)))
        residual = self.bn2(self.conv2(residual))
        shortcut = features if self.downsample is None else self.downsample(features)
        return self.relu2(self.add(residual, shortcut))  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution to four times as many channels, each with batch norm, and a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = self.expansion * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _build_projection(in_channels, out_channels, stride)
        self.add = ResidualSum()
        self.relu3 = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, 4 channels, H/stride, W/stride]."""
        residual = self.relu1(self.bn1(self.conv1(features)))
        residual = self.relu2(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        shortcut = features if self.downsample is None else self.downsample(features)
        return self.relu3(self.add(residual, shortcut))  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """Stem, four stages of blocks with width, 2, 4 and 8 times width channels, average pool, linear layer."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        depths: Sequence[int],
        width: int,
        num_classes: int,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        before = width
        for stage, depth in enumerate(depths):
            blocks = []
            for number in range(depth):
                blocks.append(block(before, 2**stage * width, stride=2 if stage and not number else 1))
                before = block.expansion * 2**stage * width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(before, num_classes)
        self.register_load_state_dict_pre_hook(_rename_projections)  # type: ignore[no-untyped-call]

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [N, channels, H, W] -> logits [N, classes]."""
        features = self.relu(self.bn1(self.conv1(images)))
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        return self.fc(self.avgpool(features).flatten(1))  # type: ignore[no-any-return]

    def groups(self) -> dict[str, list[str]]:
        """The stem, the four stages, and the linear layer, to which the average pool belongs."""
        stages = {f"layer{stage}": [f"layer{stage}"] for stage in range(1, NUM_STAGES + 1)}
        return {"stem": ["conv1", "bn1", "relu"], **stages, "fc": ["avgpool", "fc"]}


class ResNet18(ResNet):
    """The published network: two basic blocks in each stage."""

    def __init__(self, width: int, num_classes: int, channels: int = 3) -> None:
        super().__init__(BasicBlock, (2, 2, 2, 2), width, num_classes, channels)


def build_resnet18(num_classes: int, input_shape: InputShape, *, width: int = 64) -> nn.Module:
    """The published network."""
    return initialise(ResNet18(width, num_classes, input_shape[0]))


def build_resnet34(num_classes: int, input_shape: InputShape, *, width: int = 64) -> nn.Module:
    """3, 4, 6 and 3 basic blocks."""
    return initialise(ResNet(BasicBlock, (3, 4, 6, 3), width, num_classes, input_shape[0]))


def build_resnet50(num_classes: int, input_shape: InputShape, *, width: int = 64) -> nn.Module:
    """3, 4, 6 and 3 bottlenecks."""
    return initialise(ResNet(Bottleneck, (3, 4, 6, 3), width, num_classes, input_shape[0]))


def _build_projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """The shortcut's 1x1 convolution with batch norm, where shapes differ."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


def _rename_projections(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give the entries of the published program's projections their names here; torch hands over a copy of the state dict."""
    for name in [name for name in state if name.startswith(prefix) and ".shortcut." in name]:
        ours = name.replace(".shortcut.", ".downsample.")
        if ours not in state:  # else strict loading says what is there twice
            state[ours] = state.pop(name)


RESNET18 = ModelKind(
    name=PUBLISHED_MODEL, meaning="two basic blocks in each of four stages, as published", build=build_resnet18
)
RESNET34 = ModelKind(name="resnet34", meaning="3, 4, 6 and 3 basic blocks in four stages", build=build_resnet34)
RESNET50 = ModelKind(name="resnet50", meaning="3, 4, 6 and 3 bottlenecks in four stages", build=build_resnet50)
