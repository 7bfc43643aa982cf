"""ResNet18 for 32x32 images, its initialisation and the names of its parts.

Three differences from the ImageNet network: a 3x3 stem without stride, no max-pooling, and `width` channels in the first
stage (64 is the published model). Parameters are named as torchvision names them, so that either loads the other's
state dict; one of the published program, which names the projections `shortcut`, loads too. This module must not know how the model is trained or measured.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

NUM_STAGES = 4
BLOCKS_PER_STAGE = 2
NUM_CLASSES = 10


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

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
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


def build_model(width: int, seed: int, num_classes: int = NUM_CLASSES) -> ResNet18:
    """The initialised model on the CPU, decided by its arguments alone; global random streams are neither read nor moved."""
    with torch.device("meta"):  # shapes only: torch's own initialisation would draw from the global stream
        model = ResNet18(width, num_classes)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(_stable_seed("model initialisation", seed))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01, generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()  # weight 1, bias 0, and the running statistics; nothing random
    return model


def layer_group(parameter_or_module_name: str) -> str:
    """stem, layer1, layer2, layer3, layer4 or fc; the average pool belongs to fc. Errors: ValueError."""
    top = parameter_or_module_name.partition(".")[0]
    if top in ("conv1", "bn1", "relu"):
        return "stem"
    if top in ("avgpool", "fc"):
        return "fc"
    if top in [f"layer{stage}" for stage in range(1, NUM_STAGES + 1)]:
        return top
    raise ValueError(f"{parameter_or_module_name!r} is not the name of a parameter or module of ResNet18")


def parameter_kinds(model: nn.Module) -> dict[str, str]:
    """Each parameter's name -> 'conv', 'bn' or 'linear', in the order of `model.named_parameters()`."""
    kinds = {}
    for name, _ in model.named_parameters():
        module = model.get_submodule(name.rpartition(".")[0])
        kinds[name] = module_kind(module)
    return kinds


def module_kind(module: nn.Module) -> str:
    """conv, bn, relu, add, pool or linear; ValueError for a module that ResNet18 does not have."""
    for kind, module_type in _MODULE_KINDS.items():
        if isinstance(module, module_type):
            return kind
    raise ValueError(f"{type(module).__name__} is not a layer of ResNet18")


_MODULE_KINDS: dict[str, type[nn.Module]] = {
    "conv": nn.Conv2d,
    "bn": nn.BatchNorm2d,
    "relu": nn.ReLU,
    "add": ResidualSum,
    "pool": nn.AdaptiveAvgPool2d,
    "linear": nn.Linear,
}


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


def _stable_seed(purpose: str, seed: int) -> int:
    """One stream per purpose and seed, the same in every process and version (Python's own hash is neither)."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{seed}".encode()).digest()[:8], "little")
