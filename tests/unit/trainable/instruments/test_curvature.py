"""Curvature in closed form on quadratics, against the dense Hessian of a tiny network with batch norm and curvlinops' of one
without, and in bf16 trials."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from tests.unit.trainable.instruments.plain_loop import build_training
from trainable.config import TrialConfig
from trainable.data.data_set import Split
from trainable.instrument import EpochEnd
from trainable.instruments.batch_sharpness import measure_batch_sharpness
from trainable.instruments.batch_sharpness import measure_epoch as measure_sharpness_of_epoch
from trainable.instruments.effective_learning_rate import effective_learning_rates
from trainable.instruments.effective_learning_rate import measure_epoch as measure_effective_rates
from trainable.instruments.hessian_trace import measure_epoch as measure_traces_of_epoch
from trainable.instruments.hessian_trace import measure_traces
from trainable.instruments.top_eigenvalue import iterate, measure_top_eigenvalue
from trainable.measuring.curvature import batch_loss

CURVATURES = torch.tensor([4.0, 1.0, 0.5, -3.0], dtype=torch.float64)


def _quadratic(weights: list[float]) -> nn.Linear:
    """A model of one vector w; with `_half_squares` and the rows of `_roots` its loss is that of w' D w / 2."""
    model = nn.Linear(4, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([weights]))
    return model


def _half_squares(outputs: Tensor, signs: Tensor) -> Tensor:
    return (signs * outputs.square()).mean() / 2


def _roots(curvatures: Tensor) -> tuple[Tensor, Tensor]:
    """Four images and signs whose Hessian is diagonal, with these entries."""
    return torch.diag((4 * curvatures.abs()).sqrt()), curvatures.sign()[:, None]


@pytest.fixture(scope="module")
def tiny() -> tuple[nn.Sequential, Tensor, Tensor, Tensor]:
    """A network with batch norm, in evaluation mode, a batch, and the dense Hessian of its loss in training mode; float64.

    By central differences of gradients: torch.func, and so curvlinops, is wrong by several percent in the weights of a batch norm in
    training mode (torch 2.15), in forward and in reverse mode.
    """
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 2, 3, bias=False), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(2, 3),
    ).double()  # fmt: skip
    images, labels = torch.randn(12, 3, 6, 6, dtype=torch.float64), torch.arange(12) % 3
    names, values = zip(*model.named_parameters(), strict=True)
    sizes = [value.numel() for value in values]

    def gradient(flat: Tensor) -> Tensor:
        parts = [p.view_as(v).requires_grad_() for p, v in zip(torch.split(flat, sizes), values, strict=True)]
        fresh = {name: buffer.clone() for name, buffer in model.named_buffers()}
        outputs = functional_call(model.train(), {**dict(zip(names, parts, strict=True)), **fresh}, (images,))
        found = torch.autograd.grad(nn.functional.cross_entropy(outputs, labels), parts)
        return torch.cat([part.reshape(-1) for part in found])

    center = torch.cat([value.detach().reshape(-1) for value in values])
    steps = 1e-6 * torch.eye(len(center), dtype=torch.float64)
    dense = torch.stack([(gradient(center + step) - gradient(center - step)) / 2e-6 for step in steps])
    dense = (dense + dense.T) / 2
    return model.eval(), images, labels, dense


def test_sharpness_along_the_gradient_in_closed_form() -> None:
    weights = torch.tensor([1.0, -2.0, 0.0, 0.5], dtype=torch.float64)
    flatter = CURVATURES / 2
    expected = []
    for curvatures in (CURVATURES, flatter):
        gradient = curvatures * weights
        expected.append(float((curvatures * gradient**2).sum() / (gradient**2).sum()))
    model = _quadratic(weights.tolist())
    mean, error = measure_batch_sharpness(model, [_roots(CURVATURES), _roots(flatter)], _half_squares)
    assert mean == pytest.approx(np.mean(expected))
    assert error == pytest.approx(abs(expected[0] - expected[1]) / 2)
    alone, no_error = measure_batch_sharpness(model, [_roots(CURVATURES)], _half_squares)
    assert alone == pytest.approx(expected[0])
    assert math.isnan(no_error)


def test_sharpness_of_a_network_is_that_of_its_dense_hessian(
    tiny: tuple[nn.Sequential, Tensor, Tensor, Tensor],
) -> None:
    model, images, labels, dense = tiny
    with batch_loss(model, images, labels) as at:
        gradient = torch.cat([part.reshape(-1) for part in at.gradient])
        product = torch.cat([part.reshape(-1) for part in at.times_hessian(at.gradient)])
    torch.testing.assert_close(product, dense @ gradient, rtol=1e-6, atol=1e-8)
    expected = float(gradient @ dense @ gradient / (gradient @ gradient))
    assert measure_batch_sharpness(model, [(images, labels)])[0] == pytest.approx(expected, rel=1e-6)


def test_the_trace_of_a_diagonal_hessian_is_exact_with_every_probe() -> None:
    traces = measure_traces(_quadratic([1, 2, 3, 4]), *_roots(CURVATURES), seed=0, num_probes=3, loss=_half_squares)
    assert traces == pytest.approx(np.full((3, 1), float(CURVATURES.sum())))


def test_traces_of_a_network_are_unbiased_for_every_tensor(tiny: tuple[nn.Sequential, Tensor, Tensor, Tensor]) -> None:
    model, images, labels, dense = tiny
    estimates = measure_traces(model, images, labels, seed=3, num_probes=300)
    diagonals = torch.split(dense.diagonal(), [p.numel() for p in model.parameters()])
    truth = np.array([float(part.sum()) for part in diagonals])
    error = estimates.std(axis=0, ddof=1) / math.sqrt(len(estimates))
    assert np.all(np.abs(estimates.mean(axis=0) - truth) < 4 * error + 1e-12)
    assert error.sum() < 0.3 * np.abs(truth).sum(), "the errors are small against what they are errors of"


def test_the_largest_eigenvalue_is_that_of_the_dense_hessian(
    tiny: tuple[nn.Sequential, Tensor, Tensor, Tensor],
) -> None:
    model, images, labels, dense = tiny
    values = torch.linalg.eigvalsh(dense)
    found = measure_top_eigenvalue(model, images, labels, most_iterations=60, tolerance=1e-6)
    assert found.value == pytest.approx(float(values[-1]), rel=1e-6)
    assert found.residual <= 1e-6
    rough = measure_top_eigenvalue(model, images, labels, most_iterations=3, tolerance=0.0)
    assert rough.iterations == 3
    assert rough.value <= float(values[-1]) * (1 + 1e-6)
    assert float((values - rough.value).abs().min()) <= rough.residual * rough.value + 1e-6


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_curvature_without_a_norm_is_that_of_curvlinops() -> None:
    from curvlinops import HessianLinearOperator  # takes two seconds

    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 2, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)
    ).double()
    images, labels = torch.randn(12, 3, 6, 6, dtype=torch.float64), torch.arange(12) % 3
    parameters = list(model.parameters())
    theirs = HessianLinearOperator(model, nn.CrossEntropyLoss(), parameters, [(images, labels)])
    dense = theirs @ torch.eye(sum(p.numel() for p in parameters), dtype=torch.float64)
    with batch_loss(model, images, labels) as at:
        gradient = torch.cat([part.reshape(-1) for part in at.gradient])
    expected = float(gradient @ dense @ gradient / (gradient @ gradient))
    assert measure_batch_sharpness(model, [(images, labels)])[0] == pytest.approx(expected, rel=1e-9)
    top = measure_top_eigenvalue(model, images, labels, most_iterations=60, tolerance=1e-7)
    assert top.value == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-9)
    traces = measure_traces(model, images, labels, seed=0, num_probes=2)
    signs = torch.Generator().manual_seed(0)
    for found in traces:
        parts = [2.0 * torch.randint(0, 2, p.shape, generator=signs) - 1.0 for p in parameters]
        probe = torch.cat([part.reshape(-1) for part in parts]).double()
        assert found.sum() == pytest.approx(float(probe @ dense @ probe), rel=1e-9)


def test_an_eigenvalue_and_its_residual_in_closed_form() -> None:
    matrix = torch.diag(torch.tensor([3.0, 1.0]))
    first = iterate(lambda vector: matrix @ vector, torch.ones(2), 1, 0.0)
    assert (first.value, first.residual) == pytest.approx((2.0, 0.5))
    assert first.iterations == 1
    both = iterate(lambda vector: matrix @ vector, torch.ones(2), 5, 0.0)
    assert both.value == pytest.approx(3.0)
    assert both.iterations == 2
    assert both.residual < 1e-6


def test_effective_learning_rates_are_of_convolutions_alone() -> None:
    model = build_training().model
    rates = effective_learning_rates(model, 0.3)
    for rate, (name, weight) in zip(rates, model.named_parameters(), strict=True):
        if "conv" in name or "downsample.0" in name:
            assert rate == pytest.approx(0.3 / float(weight.detach().double().norm()) ** 2)
        else:
            assert rate is np.ma.masked


def test_a_branch_is_measured_at_its_own_batch_size_and_rate() -> None:
    model, device, found = build_training().model, torch.device("cpu"), []
    draw = np.random.default_rng(0)
    split = Split(draw.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8), draw.integers(0, 10, 64))
    branch = TrialConfig(batch_size=8, learning_rate=0.1, branch_epoch=1, branch_batch_size=32, branch_scaling="linear")
    for config in (branch, TrialConfig(batch_size=32, learning_rate=0.4)):
        end = EpochEnd(model, split, config, 1, device)
        rates = measure_effective_rates(end)
        found.append((measure_sharpness_of_epoch(end), rates["effective_learning_rate"]))
    assert found[0] == found[1]
    assert found[0][0]["batch_sharpness_batches"] == 2


def test_trials_of_two_seeds_have_probes_of_their_own() -> None:
    model, device = build_training().model, torch.device("cpu")
    split = Split(np.zeros((8, 32, 32, 3), np.uint8), np.arange(8))
    seeds = (0, 1, 0)
    traces = [measure_traces_of_epoch(EpochEnd(model, split, TrialConfig(seed=seed), 1, device)) for seed in seeds]
    assert traces[0]["hessian_trace"] == traces[2]["hessian_trace"] != traces[1]["hessian_trace"]


def test_a_trial_in_bf16_is_measured_in_fp32() -> None:
    """Also where somebody calls it within autocast."""
    model = build_training().model
    draw = np.random.default_rng(0)
    split = Split(draw.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8), draw.integers(0, 10, 64))
    device, found = torch.device("cpu"), []
    for precision in ("fp32", "bf16"):
        end = EpochEnd(model, split, TrialConfig(batch_size=16, precision=precision), 1, device)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            found.append(measure_sharpness_of_epoch(end))
    assert found[0] == found[1]
    assert found[0]["batch_sharpness_batches"] == 4
