"""The network of a trial: built and initialised from its configuration.

This module must not know how a network is trained or measured.
"""

from __future__ import annotations

import hashlib
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from trainable.config import PUBLISHED_MODEL, TrialConfig
from trainable.models import InputShape, find_builder
from trainable.models.resnet import ResNet18
from trainable.user_code import is_reference, source_hash

NUM_CLASSES, INPUT_SHAPE = 10, (3, 32, 32)  # of the published data


def build_model(width: int, seed: int, num_classes: int = NUM_CLASSES, channels: int = 3) -> ResNet18:
    """The initialised model on the CPU, decided by its arguments alone; global random streams are neither read nor moved."""
    with torch.device("meta"):  # shapes only: torch's own initialisation would draw from the global stream
        model = ResNet18(width, num_classes, channels)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(stable_seed("model initialisation", seed))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01, generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()  # weight 1, bias 0, and the running statistics; nothing random
    return model


def build_network(config: TrialConfig, num_classes: int, input_shape: InputShape) -> nn.Module:
    """The initialised network of a configuration on the CPU, for images of (channels, height, width).

    The published one is `build_model`'s. Any other is built by its function, with torch's global random stream set by the seed
    meanwhile and put back. Errors: ValueError where the code of a user's function is not what the configuration names, or what it
    returns does not train; whatever that function raises.
    """
    if config.model == PUBLISHED_MODEL:
        return build_model(config.width, config.seed, num_classes, input_shape[0])
    build = find_builder(config.model)
    if is_reference(config.model) and (found := source_hash(config.model)) != config.model_source:
        raise ValueError(
            f"{config.model}: its source is {found} here, not {config.model_source}, which the trial is of"
        )
    width = {"width": config.width} if "width" in signature(build).parameters else {}
    with torch.random.fork_rng([]):
        torch.manual_seed(stable_seed("model initialisation", config.seed))
        model = build(num_classes, input_shape, **width, **dict(config.model_fields))
        _check_model(model, config.model, num_classes, input_shape)
    return model  # type: ignore[no-any-return]


def _check_model(model: Any, called: str, num_classes: int, input_shape: InputShape) -> None:
    """Errors: ValueError in one line where `model` is no network that turns images into logits."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"{called} returned {type(model).__name__}, not a torch.nn.Module")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"{called} has no parameter that can be trained")
    model.eval()
    with torch.no_grad():
        logits = model(torch.zeros(2, *input_shape))
    model.train()
    if not isinstance(logits, Tensor) or logits.shape != (2, num_classes):
        found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"{called} makes {found} of 2 images; needed are logits [2, {num_classes}]")


def stable_seed(purpose: str, seed: int) -> int:
    """One stream per purpose and seed, the same in every process and version (Python's own hash is neither)."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{seed}".encode()).digest()[:8], "little")
