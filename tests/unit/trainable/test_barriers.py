"""The loss between two networks: permuted hidden units, batch norm's statistics against plain means, and the command on a real study."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainable.measuring.barriers import loss_at, measure_barrier


def test_a_network_with_its_hidden_units_permuted_is_the_same_behind_a_barrier() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))
    images = torch.randn(200, 2)
    labels = (images.prod(dim=1) > 0).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    order = torch.randperm(16)
    turned = {"0.weight": state["0.weight"][order], "0.bias": state["0.bias"][order], "2.weight": state["2.weight"][:, order], "2.bias": state["2.bias"]}  # fmt: skip
    batches = [(images[:120], labels[:120]), (images[120:], labels[120:])]
    found = measure_barrier(model, state, turned, batches, 5)
    assert found.losses[0] == pytest.approx(found.losses[-1], rel=1e-5)
    halfway = {name: (state[name] + turned[name]) / 2 for name in state}
    model.load_state_dict(halfway)
    assert found.losses[2] == pytest.approx(
        float(nn.functional.cross_entropy(model(images), labels).detach()), rel=1e-5
    )
    assert found.height == pytest.approx(max(found.losses) - found.losses[0], rel=1e-4)
    assert found.height > 0.05
    assert 0 < found.at < 1
    same = measure_barrier(model, state, state, batches, 3)
    assert same.height == pytest.approx(0.0, abs=1e-6)


def test_batch_norm_has_the_statistics_of_the_images_at_every_point() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    first = {name: value.clone() for name, value in model.state_dict().items()}
    second = {
        name: value + 1 if "running" in name else torch.randn_like(value.float()) for name, value in first.items()
    }
    images, labels = torch.randn(64, 3), torch.arange(64) % 2
    found = loss_at(model, first, second, 0.25, [(images, labels)])
    weights = {name: torch.lerp(first[name].float(), second[name].float(), 0.25) for name in first}
    hidden = images @ weights["0.weight"].T + weights["0.bias"]
    normed = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=True) + 1e-5).sqrt()
    outputs = torch.relu(normed * weights["1.weight"] + weights["1.bias"]) @ weights["3.weight"].T + weights["3.bias"]
    assert found == pytest.approx(float(nn.functional.cross_entropy(outputs, labels)), rel=1e-5)
    assert model[1].momentum == 0.1


def test_dropout_has_no_part_in_the_loss() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 8), nn.BatchNorm1d(8))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    batches = [(torch.randn(32, 3), torch.arange(32) % 8)]
    assert loss_at(model, state, state, 0.5, batches) == loss_at(model, state, state, 0.5, batches)
