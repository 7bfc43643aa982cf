"""`python -m trainable.device_check`: does this device train as the CPU does? Prints a table; needs neither data nor Ray.

A few steps of a small model on drawn images, here and on the CPU, by the code that trains. Every comparison states its number and what
is allowed; where the limits come from stands beside them. Status 0 passed, 1 failed, 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trainable.augmentation import EvaluationBatches, TrainingBatches, augment, draw_augmentation, normalise
from trainable.config import Precision, TrialConfig
from trainable.data.data_set import Split
from trainable.device_report import Check, DeviceReport
from trainable.engines import EagerEngine
from trainable.errors import first_line
from trainable.evaluation import Scores, evaluate, full_fp32
from trainable.fingerprint import code_fingerprint, cpu_name
from trainable.model import ResNet18, build_model
from trainable.probe import LayerProbe
from trainable.training import build_optimizer, take_steps

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


def check_device(name: str, operations: Operations | None = None, only: Collection[str] | None = None) -> DeviceReport:
    """All checks of a torch device, or those named `only`, in the order in which they build on each other; never raises."""
    operations = operations or Operations()
    started = time.perf_counter()
    device = torch.device(name)
    checks: list[Check] = []
    with _one_thread():
        for check, measure in _CHECKS:
            if only is None or check.name in only:
                checks.append(_run(check, lambda measure=measure: measure(device, operations)))  # type: ignore[misc]
            if checks and checks[0].name == _CHECKS[0][0].name and not checks[0].passed:
                break  # nothing else can be asked
    return DeviceReport(_describe(device), _software(), tuple(checks), time.perf_counter() - started)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The steps are so small that threads of a busy machine wait for each other most of the time: 40 s instead of 7 were seen."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(check: Check, measure: Callable[[], float]) -> Check:
    try:
        return replace(check, found=float(measure()))
    except Exception as error:  # noqa: BLE001 - whatever a device, its driver or torch does is what is asked here
        return replace(check, problem=f"{type(error).__name__}: {first_line(error)[:300]}")


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


_CHECKS: tuple[tuple[Check, Callable[[torch.device, Operations], float]], ...] = (
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


def _describe(device: torch.device) -> str:
    if device.type != "cuda":
        return cpu_name()
    try:
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor})"
    except (RuntimeError, AssertionError):
        return "no CUDA device"


def _software() -> str:
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    built = f"CUDA {torch.version.cuda}, cuDNN {cudnn}" if torch.version.cuda else "no CUDA"
    return (
        f"driver {_driver()}, torch {torch.__version__} ({built}), Python {platform.python_version()}, "
        f"{platform.platform()}, code {code_fingerprint()[:12]}"
    )


def _driver() -> str:
    import pynvml

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError as error:
        return f"unknown ({error})"


def main(arguments: list[str] | None = None, *, program: str = "python -m trainable.device_check") -> int:
    """Check a device and print the table; `program` is what the usage calls this command."""
    parser = argparse.ArgumentParser(prog=program, description="Does this device train as the CPU does?")
    parser.add_argument("--device", default="cuda", help="torch device (default: cuda)")
    parser.add_argument("--json", action="store_true", help="print the report as one line of JSON")
    options = parser.parse_args(arguments)
    try:
        torch.device(options.device)
    except RuntimeError as error:
        print(f"error: --device {options.device}: {first_line(error)}", file=sys.stderr)
        return 2
    report = check_device(options.device)
    print(json.dumps(report.to_dict()) if options.json else f"{report.table()}\n\n{report.line}")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
