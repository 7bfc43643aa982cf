"""Reductions over packed tensors against numpy, one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.trainable.instruments.plain_loop import Array
from trainable.measuring.packing import ROW_LENGTH, PackedTensors

SHAPES = [(1,), (ROW_LENGTH - 1,), (ROW_LENGTH,), (ROW_LENGTH + 1,), (3,), (7, 5, 3, 3), (10, 3 * ROW_LENGTH)]


def _draw_tensors(scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    tensors = [scale * torch.randn(shape, generator=generator) + 0.3 for shape in SHAPES]
    tensors[5] = tensors[5].to(memory_format=torch.channels_last)
    return tensors


def _packed(tensors: list[Tensor]) -> PackedTensors:
    packed = PackedTensors(tensors, torch.device("cpu"))
    packed.load(tensors)
    return packed


def _expected(tensors: list[Tensor], reduce: Callable[[Array], float]) -> list[float]:
    return [reduce(tensor.numpy().astype(np.float64)) for tensor in tensors]


def test_reductions_equal_numpy() -> None:
    tensors = _draw_tensors()
    packed = _packed(tensors)
    # The order matters: minima fill the padding and must leave it as it was.
    assert packed.sums().tolist() == pytest.approx(_expected(tensors, np.sum), rel=1e-5)
    assert packed.minima().tolist() == pytest.approx(_expected(tensors, np.min))
    assert packed.square_sums().tolist() == pytest.approx(_expected(tensors, lambda a: np.square(a).sum()), rel=1e-5)
    packed.take_magnitudes()
    assert packed.maxima().tolist() == pytest.approx(_expected(tensors, lambda a: np.abs(a).max()))
    assert packed.minima().tolist() == pytest.approx(_expected(tensors, lambda a: np.abs(a).min()))
    assert packed.sums().tolist() == pytest.approx(_expected(tensors, lambda a: np.abs(a).sum()), rel=1e-5)


def test_square_sums_about_the_mean_survive_a_large_mean() -> None:
    """Batch-norm weights start at 1 and differ by little: mean square minus squared mean would lose all digits."""
    tensors = [tensor * 1e-4 + 1 for tensor in _draw_tensors()]
    packed = _packed(tensors)
    packed.subtract_means()
    centered = _expected(tensors, lambda a: np.square(a - a.mean()).sum())
    assert packed.square_sums().tolist() == pytest.approx(centered, rel=1e-3, abs=1e-20)


def test_element_wise_operations_pair_the_right_elements() -> None:
    tensors, others = _draw_tensors(), _draw_tensors(scale=2.0)
    packed = _packed(tensors)
    packed.multiply(others)
    for view, tensor, other in zip(packed.views, tensors, others, strict=True):
        assert torch.equal(view, tensor * other)


def test_a_tensor_that_is_not_finite_leaves_the_others_alone() -> None:
    tensors = _draw_tensors()
    tensors[1][5] = torch.nan
    packed = _packed(tensors)
    packed.take_magnitudes()
    results = [packed.sums(), packed.maxima(), packed.minima(), packed.square_sums()]
    packed.subtract_means()
    for result in [*results, packed.square_sums()]:
        assert result.isnan().tolist() == [False, True, False, False, False, False, False]
