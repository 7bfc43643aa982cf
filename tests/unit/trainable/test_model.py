"""The model against torchvision's ResNet18 with a 3x3 stem and no max-pool, and its initialisation against its definition."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock

from trainable.measuring.parts import layer_groups, parameter_kinds
from trainable.model import build_model


class _NarrowResNet(ResNet):  # type: ignore[misc]
    """torchvision's network with any width: its constructor fixes the first stage to 64 channels."""

    def __init__(self, width: int) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=10)
        self.inplanes = width
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.Identity()
        self.layer1 = self._make_layer(BasicBlock, width, 2)
        self.layer2 = self._make_layer(BasicBlock, 2 * width, 2, stride=2)
        self.layer3 = self._make_layer(BasicBlock, 4 * width, 2, stride=2)
        self.layer4 = self._make_layer(BasicBlock, 8 * width, 2, stride=2)
        self.fc = nn.Linear(8 * width, 10)


@pytest.mark.parametrize("width", [8, 64])
def test_outputs_gradients_and_buffers_equal_torchvision(width: int) -> None:
    ours, theirs = build_model(width, seed=3), _NarrowResNet(width)
    theirs.load_state_dict(ours.state_dict())  # strict: the same names and shapes
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(4)
    losses = [nn.functional.cross_entropy(model(images), labels) for model in (ours, theirs)]
    for loss in losses:
        loss.backward()  # type: ignore[no-untyped-call]
    assert torch.equal(*losses)
    for ours_parameter, theirs_parameter in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(_gradient(ours_parameter), _gradient(theirs_parameter))
    for (name, mine), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(mine, other), name
    assert torch.equal(ours.eval()(images), theirs.eval()(images))


def test_a_state_dict_of_the_published_naming_loads() -> None:
    """The published program names the projections `shortcut`: 18 entries. Strictly, and the outputs are the same bits."""
    theirs, ours = _NarrowResNet(8), build_model(8, seed=5)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    theirs(images)  # moves the batch statistics
    published = {name.replace(".downsample.", ".shortcut."): value for name, value in theirs.state_dict().items()}
    assert sum(".shortcut." in name for name in published) == 18
    names = list(published)
    ours.load_state_dict(published)
    assert list(published) == names, "the caller's dict is left as it is"
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for training in (True, False):
        assert torch.equal(ours.train(training)(images), theirs.train(training)(images))


def test_a_state_dict_of_neither_naming_is_refused() -> None:
    state = build_model(8, seed=5).state_dict()
    with pytest.raises(RuntimeError, match=r"Unexpected key.*layer2\.0\.bypass\.0\.weight"):
        build_model(8, seed=5).load_state_dict({n.replace(".downsample.", ".bypass."): v for n, v in state.items()})
    twice = {**state, "layer2.0.shortcut.0.weight": state["layer2.0.downsample.0.weight"]}
    with pytest.raises(RuntimeError, match=r"Unexpected key.*layer2\.0\.shortcut\.0\.weight"):
        build_model(8, seed=5).load_state_dict(twice)


def test_published_size() -> None:
    parameters = list(build_model(64, seed=0).parameters())
    assert len(parameters) == 62
    assert sum(p.numel() for p in parameters) == 11_173_962
    assert all(p.requires_grad for p in parameters)


def test_kinds_and_groups() -> None:
    kinds = parameter_kinds(build_model(8, seed=0))
    assert Counter(kinds.values()) == {"conv": 20, "bn": 40, "linear": 2}
    assert kinds["layer2.0.downsample.0.weight"] == "conv"
    assert kinds["layer2.0.downsample.1.weight"] == "bn"
    assert kinds["bn1.bias"] == "bn"
    assert kinds["fc.bias"] == "linear"
    groups = layer_groups(build_model(8, seed=0), [*kinds, "avgpool"])
    assert groups["layer4.1.bn2.weight"] == "layer4"
    assert groups.pop("avgpool") == "fc"
    assert Counter(groups.values()) == {"stem": 3, "layer1": 12, "layer2": 15, "layer3": 15, "layer4": 15, "fc": 2}


def test_initialisation_has_the_published_distributions() -> None:
    model = build_model(64, seed=0)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            _assert_normal(module.weight, math.sqrt(2 / fan_out), name)
        elif isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert not module.bias.any()
            mean, variance, count = module.buffers()
            assert not mean.any()
            assert torch.equal(variance, torch.ones_like(variance))
            assert count == 0
        elif isinstance(module, nn.Linear):
            _assert_normal(module.weight, 0.01, name)
            assert not module.bias.any()


def test_seed_alone_decides_the_weights() -> None:
    first, again, other = build_model(8, seed=1), build_model(8, seed=1), build_model(8, seed=2)
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name))
        drawn = ".bn" not in name and not name.startswith("bn") and "downsample.1" not in name and name != "fc.bias"
        assert torch.equal(parameter, other.get_parameter(name)) != drawn


def test_weights_are_the_same_in_every_process_and_version() -> None:
    """A resumed trial measures displacement from rebuilt weights: a change of these values breaks old checkpoints."""
    expected = [-0.1827022, 0.3913854, 0.0463430]
    assert build_model(4, seed=7).conv1.weight.flatten()[:3].tolist() == pytest.approx(expected, rel=1e-5)


def test_global_random_streams_are_untouched() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    first = build_model(4, seed=5)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]  # type: ignore[index]  # noqa: NPY002
    torch.manual_seed(12)
    assert torch.equal(first.conv1.weight, build_model(4, seed=5).conv1.weight)


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _assert_normal(weight: Tensor, std: float, name: str) -> None:
    """Mean and standard deviation within 5 standard errors."""
    count = weight.numel()
    assert abs(weight.mean().item()) < 5 * std / math.sqrt(count), name
    assert abs(weight.std().item() / std - 1) < 5 / math.sqrt(2 * count), name
