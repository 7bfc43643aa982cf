"""The device check, run on the CPU against itself: it passes, and each seeded fault fails its own check and says by how much."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainable.data.augmentation import augment, normalise
from trainable.device import report as device_report
from trainable.device.check import check_device, main
from trainable.device.comparisons import Operations
from trainable.device.report import Check, DeviceReport, require_device
from trainable.measuring.evaluation import evaluate
from trainable.measuring.probe import LayerProbe
from trainable.training.engines import EagerEngine

NAMES = (
    "comes up",
    "augmentation",
    "normalisation",
    "fp32 step",
    "bf16 step",
    "instruments",
    "evaluation",
    "no waiting",
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_cpu_passes_against_itself() -> None:
    report = check_device("cpu")
    assert tuple(check.name for check in report.checks) == NAMES
    assert report.failures == (), report.table()
    exact = [check.found for check in report.checks if check.name != "bf16 step"]
    assert exact == [0.0] * 7
    bf16 = report.checks[4].found
    assert bf16 is not None
    assert bf16 > 0.01, "it was rounded to bf16"


def shifted_image(images: Tensor, *draws: Any) -> Tensor:
    found = augment(images, *draws)
    found[5] = found[5].roll(1, 0)
    return found


class TensorFloat32(EagerEngine):
    """What an Ampere device does to fp32 unless it is told not to: products of numbers with 10 bits."""

    def forward_backward(self, step: int, images: Tensor, labels: Tensor) -> None:
        with torch.no_grad():
            for parameter in self._model.parameters():
                parameter.copy_(((parameter.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32))
        super().forward_backward(step, images, labels)


class LostGradient(EagerEngine):
    """In bf16 one tensor learns nothing."""

    def update(self) -> None:
        if self._config.precision == "bf16":
            for name, parameter in self._model.named_parameters():
                if name == "layer3.0.conv1.weight":
                    parameter.grad = None
        super().update()


class ReadLoss(EagerEngine):
    def forward_backward(self, step: int, images: Tensor, labels: Tensor) -> None:
        super().forward_backward(step, images, labels)
        self.losses[step].item()


class InexactProbe(LayerProbe):
    def after_step(self) -> None:
        super().after_step()
        self._measured[0, 3] *= 1.001


def in_bf16(model: Any, batches: Any, config: Any) -> Any:
    return evaluate(model, batches, replace(config, precision="bf16"))


FAULTS = {
    "augmentation": Operations(augment=shifted_image),
    "normalisation": Operations(normalise=lambda images: normalise(images) * 1.0001),
    "fp32 step": Operations(build_engine=TensorFloat32),
    "bf16 step": Operations(build_engine=LostGradient),
    "instruments": Operations(build_probe=InexactProbe),
    "evaluation": Operations(evaluate=in_bf16),
    "no waiting": Operations(build_engine=ReadLoss),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_fails_its_own_check(name: str) -> None:
    report = check_device("cpu", FAULTS[name], only=("augmentation", name))
    assert [check.name for check in report.failures] == [name], report.table()
    assert report.line.startswith(f"device check FAILED: {report.device}: {name}: ")
    assert "FAILED" in report.table()


def test_a_fault_that_raises_is_a_failed_check() -> None:
    def build(*_: Any) -> LayerProbe:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    report = check_device("cpu", Operations(build_probe=build), only=("instruments",))
    assert report.failures[0].problem == "RuntimeError: CUDA error: an illegal memory access was encountered"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_no_device_is_the_one_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 1
    assert "comes up: RuntimeError: " in capsys.readouterr().out
    assert main(["--device", "nonsense"]) == 2
    assert capsys.readouterr().err.startswith("error: --device nonsense: ")


def test_a_report_survives_json() -> None:
    report = DeviceReport("device", "software", (Check("a", "b", 0.1, 0.2), Check("c", "d", problem="e")), 1.0)
    assert DeviceReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    assert [check.name for check in report.failures] == ["a", "c"]


def test_only_a_check_that_passed_is_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    memory = tmp_path / "memory.json"
    reports = iter([
        DeviceReport("gpu", "", (Check("a", "b", 0.0, 1.0),), 1.0), DeviceReport("gpu", "", (Check("a", "b", 0.0, 0.0),), 1.0)
    ])  # fmt: skip
    monkeypatch.setattr(device_report, "_memory", lambda visible: memory)
    monkeypatch.setattr(device_report, "_check_in_process", lambda environment: next(reports))
    assert require_device().failures
    assert not memory.exists()
    assert not require_device().failures
    assert not require_device("GPU-a").failures, "from memory: the iterator is at its end"
    memory.write_text("damaged")
    with pytest.raises(StopIteration):
        require_device()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_does_not_come_up_is_said_in_one_line() -> None:
    assert "comes up: RuntimeError: Found no NVIDIA driver" in require_device("GPU-a").line


def test_a_check_that_hangs_or_dies_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(device_report, "TIME_LIMIT_S", 0.5)
    monkeypatch.setattr(sys, "executable", str(slow))
    assert "no answer within 0.5 s" in require_device().line
    slow.write_text("#!/bin/sh\necho Segmentation fault >&2; exit 139\n")
    monkeypatch.setattr(device_report, "TIME_LIMIT_S", 30.0)
    assert "the check ended early (Segmentation fault)" in require_device().line


def test_asking_imports_no_torch() -> None:
    code = "import sys; import trainable.device.report; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout == "False\n"
