"""Before the first trial: a GPU of each kind is checked, and one that fails is used by nobody."""

from __future__ import annotations

import pytest
import torch

from study.driver import device
from study.driver.device import CPU_FOR_GPU_VARIABLE, check_gpus, find_gpu_problem
from study.plan.gpus import Gpu
from study.plan.resources import Machine, ResourceError, TrialResources
from trainable.device.report import Check, DeviceReport

GPUS = (Gpu("GPU-a", "A100"), Gpu("GPU-b", "A100"), Gpu("GPU-c", "H200"), Gpu("GPU-d", "L4"))
MACHINE = Machine(16, 4, gpus=GPUS)


def test_one_gpu_of_each_kind_that_is_used_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    said: list[str] = []

    def check(visible: str) -> DeviceReport:
        asked.append(visible)
        failed = visible == "GPU-c"
        return DeviceReport(visible, "", (Check("fp32 step", "difference", 0.05, 0.2 if failed else 0.01),), 2.0)

    monkeypatch.setattr(device, "require_device", check)
    monkeypatch.delenv(CPU_FOR_GPU_VARIABLE, raising=False)
    check_gpus(MACHINE, TrialResources(4, 0, 4), said.append)
    assert asked == [], "trials on CPUs need none"
    check_gpus(MACHINE, TrialResources(4, 1, 2), said.append)
    assert asked == ["GPU-b"]
    assert said == ["device check passed: GPU-b (1 checks, 2 s)"]
    with pytest.raises(
        ResourceError,
        match=r"device check FAILED: GPU-c: fp32 step: difference 0\.2, allowed 0\.05; --gpus-per-trial 0 trains",
    ):
        check_gpus(MACHINE, TrialResources(4, 1, 4), said.append)
    monkeypatch.setenv(CPU_FOR_GPU_VARIABLE, "1")
    check_gpus(MACHINE, TrialResources(4, 1, 4), said.append)
    assert said[-2].endswith("; CPUs take its place, as asked")
    assert said[-1] == "device check passed: GPU-d (1 checks, 2 s)"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_worker_without_cuda_says_so() -> None:
    assert find_gpu_problem() == "torch finds no CUDA device there"
