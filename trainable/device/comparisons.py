"""What is compared between a device and the CPU, each comparison a number and what is allowed. Knows no command line.

A few steps of a small model on drawn images, here and there, by the code that trains.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trainable.config import Precision, TrialConfig
from trainable.data.augmentation import EvaluationBatches, TrainingBatches, augment, draw_augmentation, normalise
from trainable.data.data_set import Split
from trainable.device.report import Check
from trainable.measuring.evaluation import Scores, evaluate, full_fp32
from trainable.measuring.probe import LayerProbe
from trainable.model import build_model
from trainable.models.resnet import ResNet18
from trainable.training.engines import EagerEngine
from trainable.training.loop import take_steps
from trainable.training.optimization import build_optimizer

_CONFIG = TrialConfig(dataset="synthetic", width=16, batch_size=64, learning_rate=0.1)
_NUM_IMAGES = 128
_STEPS = 2  # the second has momentum
# Of one step and the weight tensor that differs most, the norm of the difference over that of the CPU's change. On the CPU fp32 is
# 0.016 - 0.026 from fp64 here, simulated TF32 (convolutions, both passes) 0.17 - 0.28 from fp32 (seeds 0 - 4).
_FP32_ALLOWED = 0.07
# bf16 rounds so much that this norm comes near 1, which a lost gradient has (0.43 - 0.95). How far a tensor moves along the CPU's change
# tells them apart: it is 0.17 - 0.42 off here, and a lost gradient 1.
_BF16_ALLOWED = 0.7
_INSTRUMENTS_ALLOWED = 1e-4  # of a column's largest value; the same float32 numbers summed in another order
_EVALUATION_ALLOWED = 1e-5  # of the mean loss; the same weights, float32 throughout; bf16 is 2e-5 off here
_PIXEL_ALLOWED = 1e-5  # of a normalised value: one multiplication and one addition, which a device may do as one
_HOST_READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal")


@dataclass(frozen=True)
class Operations:
    """What training calls on a device; a test puts faulty ones in their place."""

    augment: Callable[..., Tensor] = augment
    normalise: Callable[..., Tensor] = normalise
    build_engine: Callable[..., EagerEngine] = EagerEngine
    build_probe: Callable[..., LayerProbe] = LayerProbe
    evaluate: Callable[..., Any] = evaluate


def _come_up(device: torch.device, operations: Operations) -> float:
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]  # says why, where `is_available` is merely false
    counted = torch.arange(1000, device=device).sum()
    if int(counted) != 499_500:
        raise ArithmeticError(f"the sum of 0 to 999 is {int(counted)}")
    return 0.0


def _drawn_split() -> Split:
    """Random images whose brightness depends on their class."""
    generator = np.random.default_rng(0)
    labels = np.arange(_NUM_IMAGES) % 10
    images = generator.integers(0, 60, (_NUM_IMAGES, 32, 32, 3)) + 19 * labels[:, None, None, None]
    return Split(images.astype(np.uint8), labels.astype(np.int64))


def _compare_augmentation(device: torch.device, operations: Operations) -> float:
    images = torch.from_numpy(_drawn_split().images)
    draws = draw_augmentation(len(images), _CONFIG, 1)
    there = operations.augment(images.to(device), draws.to(device)).cpu()
    return float((there != augment(images, draws)).sum())


def _compare_normalisation(device: torch.device, operations: Operations) -> float:
    images = torch.from_numpy(_drawn_split().images)
    there = operations.normalise(images.to(device)).cpu()
    return float((there - normalise(images)).abs().max())


def _cpu() -> torch.device:
    return torch.device("cpu")


class _Training:
    """A model on a device and what takes its steps, on the CPU's batches."""

    def __init__(self, device: torch.device, precision: Precision, operations: Operations) -> None:
        config = replace(_CONFIG, precision=precision)
        self.device, self.config = device, config
        self.batches = [(images.to(device), labels.to(device))
                        for images, labels in TrainingBatches(_drawn_split(), config, _cpu()).epoch(1)][:_STEPS]  # fmt: skip
        self.model: ResNet18 = build_model(config.width, config.seed).to(device).to(memory_format=torch.channels_last)
        self.model.train()
        self.initial = [parameter.detach().clone() for parameter in self.model.parameters()]
        self.probe = operations.build_probe(self.model, self.initial, _STEPS)
        self.engine = operations.build_engine(
            self.model, build_optimizer(self.model, config), config, device, len(self.batches)
        )
        self.engine.begin_epoch(config.learning_rate)

    def changes(self) -> list[Tensor]:
        """What became of each weight since the beginning."""
        pairs = zip(self.model.parameters(), self.initial, strict=True)
        return [(parameter.detach() - initial).cpu().double() for parameter, initial in pairs]


def _compare_step(
    device: torch.device,
    operations: Operations,
    precision: Precision,
    difference: Callable[[Sequence[Tensor], Sequence[Tensor]], float],
) -> float:
    """Against the CPU in fp32, whatever the precision: what bf16 rounds differs between devices as much as from fp32."""
    with full_fp32():
        there, here = _Training(device, precision, operations), _Training(_cpu(), "fp32", Operations())
        for training in (there, here):
            take_steps(training.engine, training.batches[:1], training.probe, ())
    return difference(there.changes(), here.changes())


def relative_difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Of the tensor that differs most, the norm of the difference over that of the expected one; inf where it is not finite."""
    ratios = [float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)]
    return max(ratios) if np.isfinite(ratios).all() else float("inf")


def difference_along(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Of the tensor that differs most, by how much of the expected change it moved too far or not far enough along it; inf where not finite."""
    ratios = [abs(1 - float((a * b).sum() / b.square().sum())) for a, b in zip(found, expected, strict=True)]
    return max(ratios) if np.isfinite(ratios).all() else float("inf")


def _compare_instruments(device: torch.device, operations: Operations) -> float:
    """A step on the device, measured there; then the same gradients and weights measured on the CPU."""
    with full_fp32():
        training = _Training(device, "fp32", operations)
        training.engine.forward_backward(0, *training.batches[0])
        reference = build_model(_CONFIG.width, _CONFIG.seed).to(memory_format=torch.channels_last)
        probe = LayerProbe(reference, [initial.cpu() for initial in training.initial], 1)
        for there, here in zip(training.model.parameters(), reference.parameters(), strict=True):
            assert there.grad is not None
            here.grad = there.grad.cpu()
        training.probe.before_step()
        probe.before_step()
        training.engine.update()
        with torch.no_grad():
            for there, here in zip(training.model.parameters(), reference.parameters(), strict=True):
                here.copy_(there)
        training.probe.after_step()
        probe.after_step()
    tables = [found.drain("check", 1, [0]).layers for found in (training.probe, probe)]
    return max(_column_difference(*(table.column(name) for table in tables))
               for name in tables[1].schema.names if str(tables[1].schema.field(name).type) == "float")  # fmt: skip


def _column_difference(there: Any, here: Any) -> float:
    """The largest difference of two columns over the largest value; inf where not the same ones are null."""
    found, expected = (column.to_numpy(zero_copy_only=False).astype(float) for column in (there, here))
    if not np.array_equal(np.isnan(found), np.isnan(expected)):
        return float("inf")
    largest = float(np.nanmax(np.abs(expected)))
    return float(np.nanmax(np.abs(found - expected))) / largest if largest else float(np.nanmax(np.abs(found)))


def _compare_evaluation(device: torch.device, operations: Operations) -> float:
    """With the weights and batch statistics of a step on the CPU. Errors: ValueError where predictions differ."""
    with full_fp32():
        trained = _Training(_cpu(), "fp32", Operations())
        take_steps(trained.engine, trained.batches[:1], trained.probe, ())
        there = _Training(device, "fp32", operations)
        there.model.load_state_dict(trained.model.state_dict())
        found, expected = (
            evaluate_on(model, EvaluationBatches(_drawn_split(), place, 100), _CONFIG)
            for evaluate_on, model, place in (
                (operations.evaluate, there.model, device), (evaluate, trained.model, _cpu())
            )
        )  # fmt: skip
    assert isinstance(found, Scores)
    assert isinstance(expected, Scores)
    differing = int((found.correct != expected.correct).sum())
    if differing > _NUM_IMAGES // 100:
        raise ValueError(f"{differing} of {_NUM_IMAGES} images are judged otherwise")
    assert found.loss is not None
    assert expected.loss
    return abs(found.loss / expected.loss - 1)


def _count_waits(device: torch.device, operations: Operations) -> float:
    """In steps that are all measured, after as many that load what is loaded once."""
    training = _Training(device, "fp32", operations)
    every = range(len(training.batches))
    take_steps(training.engine, training.batches, training.probe, every)
    training.probe.drain("check", 1, list(every))
    with full_fp32(), _forbidden_waits(device), HostReads() as reads:
        take_steps(training.engine, training.batches, training.probe, every)
    return float(reads.count)


class HostReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations that ask for a value on the host, as `.item()` does, on any device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.name().partition(".")[0] in _HOST_READS
        return func(*args, **(kwargs or {}))


@contextmanager
def _forbidden_waits(device: torch.device) -> Iterator[None]:
    """Within it CUDA itself raises at whatever makes the host wait."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


CHECKS: tuple[tuple[Check, Callable[[torch.device, Operations], float]], ...] = (
    (Check("comes up", "problems"), _come_up),
    (Check("augmentation", "pixels that differ"), _compare_augmentation),
    (Check("normalisation", "largest difference", _PIXEL_ALLOWED), _compare_normalisation),
    (Check("fp32 step", "difference of a weight's change", _FP32_ALLOWED), partial(_compare_step, precision="fp32", difference=relative_difference)),
    (Check("bf16 step", "difference along a weight's change in fp32", _BF16_ALLOWED),
     partial(_compare_step, precision="bf16", difference=difference_along)),
    (Check("instruments", "largest difference of a column", _INSTRUMENTS_ALLOWED), _compare_instruments),
    (Check("evaluation", "difference of the loss", _EVALUATION_ALLOWED), _compare_evaluation),
    (Check("no waiting", "host reads in the steps"), _count_waits),
)  # fmt: skip
