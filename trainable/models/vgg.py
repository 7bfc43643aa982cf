"""VGG networks for small images (Simonyan and Zisserman 2015, arXiv 1409.1556), with a linear layer behind an average pool.

A stage ends in a 2x2 max-pool as long as there is something to halve, so images of any size go through.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from trainable.models import InputShape, ModelKind
from trainable.models._parts import initialise

_CHANNELS = (1, 2, 4, 8, 8)  # of the stages, in units of width
_VGG11, _VGG16 = (1, 1, 2, 2, 2), (2, 2, 3, 3, 3)  # convolutions of the stages


class VGG(nn.Module):
    """Stages of 3x3 convolutions, an average pool, a linear layer."""

    def __init__(
        self, depths: tuple[int, ...], num_classes: int, input_shape: InputShape, width: int, batch_norm: bool
    ) -> None:
        super().__init__()
        channels, size = input_shape[0], min(input_shape[1:])
        self.num_stages = len(depths)
        for number, (depth, times) in enumerate(zip(depths, _CHANNELS, strict=True), 1):
            stage: OrderedDict[str, nn.Module] = OrderedDict()
            for layer in range(1, depth + 1):
                stage[f"conv{layer}"] = nn.Conv2d(channels, times * width, 3, padding=1, bias=not batch_norm)
                channels = times * width
                if batch_norm:
                    stage[f"bn{layer}"] = nn.BatchNorm2d(channels)
                stage[f"relu{layer}"] = nn.ReLU(inplace=True)
            if size >= 2:
                stage["pool"], size = nn.MaxPool2d(2), size // 2
            self.add_module(f"stage{number}", nn.Sequential(stage))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [N, channels, H, W] -> logits [N, classes]."""
        features = images
        for number in range(1, self.num_stages + 1):
            features = self.get_submodule(f"stage{number}")(features)
        return self.fc(self.avgpool(features).flatten(1))  # type: ignore[no-any-return]


def build_vgg11(num_classes: int, input_shape: InputShape, *, width: int = 64, batch_norm: bool = True) -> nn.Module:
    """Eight convolutions."""
    return initialise(VGG(_VGG11, num_classes, input_shape, width, batch_norm))


def build_vgg16(num_classes: int, input_shape: InputShape, *, width: int = 64, batch_norm: bool = True) -> nn.Module:
    """Thirteen convolutions."""
    return initialise(VGG(_VGG16, num_classes, input_shape, width, batch_norm))


VGG11 = ModelKind(name="vgg11", meaning="eight 3x3 convolutions in five stages", build=build_vgg11)
VGG16 = ModelKind(name="vgg16", meaning="thirteen 3x3 convolutions in five stages", build=build_vgg16)
