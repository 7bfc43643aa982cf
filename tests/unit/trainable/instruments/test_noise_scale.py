"""The noise scale against a problem whose answer is known, against a naive loop, and beside an untouched model."""

from __future__ import annotations

import copy
import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.unit.trainable.instruments.plain_loop import Array, build_training, copy_gradients
from trainable.instruments.noise_scale import measure_noise_scale


def _mean_output(outputs: Tensor, _: Tensor) -> Tensor:
    """The gradient of a linear model's mean output is the mean of its inputs: each input is one image's gradient."""
    return outputs.mean()


def test_estimates_are_unbiased_where_the_truth_is_known() -> None:
    mean = torch.tensor([0.5, -0.2, 0.1, 0.0])
    mixing = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.5, 2.0, 0.0, 0.0], [0.0, 0.3, 0.7, 0.0], [1.0, 0.0, 0.0, 0.1]])
    true_signal, true_trace = float((mean**2).sum()), float((mixing @ mixing.T).trace())
    model = nn.Linear(4, 1, bias=False)
    generator = torch.Generator().manual_seed(2)
    draws = [mean + torch.randn(32, 4, generator=generator) @ mixing.T for _ in range(500)]
    results = [measure_noise_scale(model, draw, draw[:, 0], _mean_output, microbatch_size=4) for draw in draws]
    _assert_mean([r.gradient_l2_squared_unbiased for r in results], true_signal)
    _assert_mean([r.gradient_covariance_trace for r in results], true_trace)
    # A raw squared norm of 32 images would be this far off, more than the test allows:
    assert true_trace / 32 > 0.15


def test_noise_scale_is_undefined_without_a_positive_signal() -> None:
    inputs = torch.tensor([[1.0], [-1.0], [-1.0], [1.0]])  # two microbatches that cancel
    result = measure_noise_scale(nn.Linear(1, 1, bias=False), inputs.sort(0).values, inputs, _mean_output, 2)
    assert result.noise_scale is None
    assert result.gradient_l2_squared_unbiased == pytest.approx(-1.0)
    assert result.gradient_covariance_trace == pytest.approx(4.0)
    diverged = measure_noise_scale(nn.Linear(1, 1, bias=False), torch.full((4, 1), torch.nan), inputs, _mean_output, 2)
    assert diverged.noise_scale is None
    assert math.isnan(diverged.gradient_l2_squared_unbiased)


def test_equals_a_naive_loop_over_microbatches() -> None:
    """By definition: products of different microbatches estimate |G|^2, their scatter tr(S)."""
    training = build_training()
    training.model.eval()  # whatever its mode, batch norm is to use the statistics of the microbatch
    images, _ = _draw_batch(48)
    labels = torch.arange(48) % 2  # two of ten classes: a gradient that all microbatches agree on
    flat = []
    for start in range(0, 48, 12):
        model = copy.deepcopy(training.model).train()
        loss = nn.functional.cross_entropy(model(images[start : start + 12]), labels[start : start + 12])
        loss.backward()  # type: ignore[no-untyped-call]
        flat.append(np.concatenate(list(copy_gradients(model).values())))
    signal = np.mean([flat[i] @ flat[j] for i in range(4) for j in range(4) if i != j])
    mean: Array = np.mean(flat, axis=0)
    trace = 12 / 3 * sum(np.square(gradient - mean).sum() for gradient in flat)
    result = measure_noise_scale(training.model, images, labels, microbatch_size=12)
    assert result.gradient_l2_squared_unbiased == pytest.approx(signal, rel=1e-3)
    assert result.gradient_covariance_trace == pytest.approx(trace, rel=1e-4)
    assert result.noise_scale == pytest.approx(trace / signal, rel=1e-3)


@pytest.mark.parametrize("training_mode", [True, False])
def test_the_model_and_the_random_streams_are_as_before(training_mode: bool) -> None:
    training = build_training()
    training.backward()  # so that there are gradients and statistics to disturb
    model = training.model.train(training_mode)
    model.layer1.eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = copy_gradients(model)
    flags = [module.training for module in model.modules()]
    streams = torch.get_rng_state(), random.getstate()
    measure_noise_scale(model, *_draw_batch(64))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert {name: value.tolist() for name, value in copy_gradients(model).items()} == {
        name: value.tolist() for name, value in gradients.items()
    }
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert random.getstate() == streams[1]


def test_random_layers_do_not_move_the_stream_and_errors_restore_the_mode() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(3072, 10)).eval()
    images, labels = _draw_batch(64)
    stream = torch.get_rng_state()
    measure_noise_scale(model, images, labels)
    assert torch.equal(torch.get_rng_state(), stream)
    with pytest.raises(RuntimeError):
        measure_noise_scale(model, images[:, :2], labels)
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("num_images", [0, 32, 100])
def test_images_must_fill_microbatches(num_images: int) -> None:
    with pytest.raises(ValueError, match=f"{num_images} images do not fill two or more microbatches of 32"):
        measure_noise_scale(nn.Identity(), torch.zeros(num_images, 1), torch.zeros(num_images))


def _draw_batch(num_images: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(num_images, 3, 32, 32, generator=generator)
    return images, torch.randint(10, (num_images,), generator=generator)


def _assert_mean(values: list[float], truth: float) -> None:
    """Within four standard errors, which are small against the truth."""
    error = np.std(values) / math.sqrt(len(values))
    assert error < 0.15 * truth
    assert abs(np.mean(values) - truth) < 4 * error
