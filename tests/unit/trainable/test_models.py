"""The shipped networks: what they compute, what they are made of, and that a user's is grouped and counted as well."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet34, resnet50
from torchvision.models.resnet import ResNet

from tests.support.images import make_image_data
from trainable.config import TrialConfig, model_name
from trainable.measuring.flops import count_model
from trainable.measuring.parts import MOST_GROUPS, PARAMETER_KINDS, layer_groups, parameter_kinds, scale_invariant
from trainable.model import build_network
from trainable.models import InputShape, complete_config, list_models
from trainable.training.loop import train

SHAPES: tuple[InputShape, ...] = ((3, 32, 32), (1, 28, 28), (3, 20, 24))
MODELS = sorted(list_models())


def build(model: str, shape: InputShape = (3, 32, 32), num_classes: int = 10, **fields: object) -> nn.Module:
    named = {f"model_fields.{name}": value for name, value in fields.items()}
    config = complete_config(TrialConfig.from_dict({"model": model, "width": 4, "seed": 3, **named}))
    return build_network(config, num_classes, shape)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_network_fits_images_and_classes_and_is_decided_by_the_seed(model: str, shape: InputShape) -> None:
    before = torch.random.get_rng_state()
    network, again = build(model, shape, 7), build(model, shape, 7)
    assert torch.equal(before, torch.random.get_rng_state())
    assert network.train()(torch.randn(2, *shape)).shape == (2, 7)
    assert all(map(torch.equal, again.parameters(), build(model, shape, 7).parameters()))
    other = build_network(complete_config(TrialConfig(model=model, width=4, seed=4)), 7, shape)
    assert not all(map(torch.equal, again.parameters(), other.parameters()))


@pytest.mark.parametrize(("model", "theirs"), [("resnet34", resnet34), ("resnet50", resnet50)])
def test_residual_networks_compute_what_torchvisions_do(model: str, theirs: type[ResNet]) -> None:
    reference = theirs()
    reference.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    reference.maxpool = nn.Identity()
    reference.fc = nn.Linear(reference.fc.in_features, 10)
    ours = build_network(TrialConfig(model=model), 10, (3, 32, 32))
    reference.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(ours.eval()(images), reference.eval()(images), atol=1e-5)


def test_groups_kinds_and_names() -> None:
    network = build("vit", depth=2)
    kinds = parameter_kinds(network)
    groups = layer_groups(network, list(kinds))
    assert list(dict.fromkeys(groups.values())) == ["embedding", "block1", "block2", "head"]
    deep = build("vit", depth=24)
    grouped = list(dict.fromkeys(layer_groups(deep, list(parameter_kinds(deep))).values()))
    assert len(grouped) <= MOST_GROUPS
    assert (grouped[1], grouped[-2]) == ("blocks1-3", "blocks22-24")
    assert Counter(kinds.values()) == {"conv": 2, "embedding": 1, "ln": 10, "attention": 8, "linear": 10}
    vgg = build("vgg11", batch_norm=False)
    assert list(dict.fromkeys(layer_groups(vgg, list(parameter_kinds(vgg))).values())) == [
        *(f"stage{number}" for number in range(1, 6)),
        "fc",
    ]
    assert not scale_invariant(vgg)
    assert len(scale_invariant(build("vgg11"))) == 8
    config = complete_config(TrialConfig.from_dict({"model": "vit", "width": 4, "model_fields.depth": 2}))
    assert model_name(config.to_dict()) == "vit, depth 2, heads 3, mlp_ratio 4, patch 4, width 4"
    assert model_name(TrialConfig(width=8).to_dict()) == "width 8"


class Wrapped(nn.Module):
    """As users write them: everything in one child, a long sequence, a bare parameter, a frozen one, torch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Flatten()
        self.net = nn.Sequential(*(nn.Linear(12, 12) for _ in range(30)))
        self.scale = nn.Parameter(torch.ones(12))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.mix = nn.MultiheadAttention(12, 2, batch_first=True)
        self.fc = nn.Linear(12, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = (self.net(self.stem(images)) * self.scale)[:, None] * self.frozen
        return self.fc(self.mix(tokens, tokens, tokens)[0][:, 0])  # type: ignore[no-any-return]


def test_a_network_that_says_nothing_is_grouped_by_its_children() -> None:
    network = Wrapped()
    kinds = parameter_kinds(network)
    assert "frozen" not in kinds
    assert set(kinds.values()) == {"linear", "attention", "other"} <= set(PARAMETER_KINDS)
    groups = layer_groups(network, list(kinds))
    assert list(dict.fromkeys(groups.values())) == ["scale", "net", "mix", "fc"]
    alone = nn.Sequential(nn.Sequential(*(nn.Linear(2, 2) for _ in range(30))))
    found = list(dict.fromkeys(layer_groups(alone, list(parameter_kinds(alone))).values()))
    assert len(found) == MOST_GROUPS
    assert found[0] == "0.0 to 1"


@pytest.mark.parametrize("network", [*(model for model in MODELS if model != "resnet18"), "users"])
def test_flops_and_parameters_of_the_layers_are_those_of_the_whole(network: str) -> None:
    model, shape = (Wrapped(), (3, 2, 2)) if network == "users" else (build(network), (3, 32, 32))
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, *shape))
    torch.backends.mha.set_fastpath_enabled(fast)
    counted = count_model(model, shape)
    assert counted.num_parameters == num_parameters
    assert counted.total("two_per_mac") == counter.get_total_flops()
    assert counted.total("two_per_mac_training") > 2 * counted.total("two_per_mac")
    assert counted.total("fvcore") > 0
    assert (counted.total("worksheet") > 0) == (network in ("resnet34", "resnet50"))


class Dropping(nn.Module):
    """Draws random numbers in every step."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.flatten, self.dropout, self.fc = nn.Flatten(), nn.Dropout(0.5), nn.Linear(3072, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.dropout(self.flatten(images)))  # type: ignore[no-any-return]


def build_dropping(num_classes: int, input_shape: InputShape) -> nn.Module:
    return Dropping(num_classes)


def test_a_network_that_draws_random_numbers_goes_on_as_if_nothing_had_happened() -> None:
    """Bit for bit, whatever else has drawn from torch's global stream meanwhile."""
    data = make_image_data()
    config = complete_config(
        TrialConfig(dataset="synthetic", epochs=2, batch_size=32, model=f"{__name__}:build_dropping")
    )
    whole = [(result.metrics, result.take_checkpoint()) for result in train(config, data)]
    torch.rand(7)
    (rest,) = train(config, data, whole[0][1])
    for name in ("train_loss", "test_loss", "noise_scale"):
        assert rest.metrics[name] == whole[1][0][name]
    assert all(map(torch.equal, rest.take_checkpoint().model.values(), whole[1][1].model.values()))
    assert {row["group"] for row in rest.records.layers.to_pylist()} == {"fc"}
    (other,) = train(replace(config, epochs=1), data)
    assert other.metrics["train_loss"] != whole[0][0]["test_loss"]


def test_a_parameter_that_the_loss_does_not_depend_on_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Dropping, "forward", lambda self, images: self.fc.bias + 0 * images.mean(dim=(1, 2, 3))[:, None]
    )
    config = complete_config(TrialConfig(dataset="synthetic", batch_size=32, model=f"{__name__}:build_dropping"))
    with pytest.raises(RuntimeError, match=r"parameter fc\.weight has no gradient"):
        next(train(config, make_image_data()))
