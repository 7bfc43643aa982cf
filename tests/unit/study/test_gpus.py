"""GPUs: counted as NVML lists and CUDA reads CUDA_VISIBLE_DEVICES, held against torch's reading; claimed by one study at a time."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from study.plan import description
from study.plan.gpus import VISIBLE_DEVICES, Gpu, GpuTakenError, claimed_gpus, inspect_gpus, list_gpus, select_visible
from study.plan.resources import (
    Machine,
    ResourceError,
    TrialResources,
    default_precision,
    divide_resources,
    inspect_machine,
    num_gpus_used,
    reserved_gpus,
)  # fmt: skip
from trainable.device.report import identify_gpu

ROOT = Path(__file__).parents[3]
FAKE_NVML = ROOT / "tests" / "support" / "fake_nvml"
FOUR: list[dict[str, Any]] = [{"uuid": f"GPU-{i}aaa-{i}", "cores": 6912, "clock_mhz": 1410} for i in range(4)]
MIG = {"uuid": "GPU-m", "mig": [{"uuid": f"MIG-{name}", "name": "MIG 1g.5gb"} for name in ("x1", "x2", "y")]}


@pytest.fixture
def machine_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A function that puts GPUs, or an error of NVML, into this process's machine."""
    found = importlib.util.spec_from_file_location("pynvml", FAKE_NVML / "pynvml.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv(VISIBLE_DEVICES, raising=False)

    def put(gpus: Sequence[dict[str, Any]] | str, visible: str | None = None) -> None:
        monkeypatch.setenv("FAKE_NVML", gpus if isinstance(gpus, str) else json.dumps(gpus))
        if visible is not None:
            monkeypatch.setenv(VISIBLE_DEVICES, visible)

    return put


VISIBLE = (
    (None, 4), ("", 0), ("none", 0), ("NoDevFiles", 0), ("-1", 0), ("0", 1), ("0,1", 2), ("3,1", 2), ("0,-1,2", 1),
    ("0,9,1", 1), ("0,0", 0), ("1x,2", 2), (" 2 , 1", 2), ("0,x,1", 1), ("GPU-0aaa-0", 1), ("GPU-1,GPU-3aaa", 2),
    ("GPU-1,GPU-9,GPU-2", 1), ("GPU-", 0), ("GPU-1,GPU-1", 0), ("GPU-1,0", 1), ("GPU-2aaa,GPU-2aaa-2", 0), ("0,GPU-1", 1),
)  # fmt: skip


@pytest.mark.parametrize(("variable", "number"), VISIBLE)
def test_visible_devices_are_read_as_torch_reads_them(
    machine_with: Any, variable: str | None, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_with(FOUR, variable)
    found = inspect_gpus(shared=False).free
    assert len(found) == number
    uuids = [gpu["uuid"] for gpu in FOUR]
    parsed = torch.cuda._parse_visible_devices()
    if parsed and isinstance(parsed[0], str):
        assert [uuids.index(gpu.uuid) for gpu in found] == torch.cuda._transform_uuid_to_ordinals(parsed, uuids)
    else:
        counted = [index for index in parsed if isinstance(index, int)]
        beyond = next((i for i, index in enumerate(counted) if index >= len(FOUR)), len(counted))
        assert [uuids.index(gpu.uuid) for gpu in found] == counted[:beyond], "torch's own list, up to what is not there"


def test_every_mig_instance_is_a_device(machine_with: Any) -> None:
    machine_with([FOUR[0], MIG])
    installed, problem = list_gpus()
    assert problem is None
    assert [gpu.uuid for gpu in select_visible(installed, None)] == ["GPU-0aaa-0", "MIG-x1", "MIG-x2", "MIG-y"]
    assert [gpu.uuid for gpu in select_visible(installed, "MIG-y,MIG-x1")] == ["MIG-y", "MIG-x1"]
    assert select_visible(installed, "MIG-x") == (), "two begin like this"
    assert [gpu.uuid for gpu in select_visible(installed, "1,0")] == ["MIG-x1", "GPU-0aaa-0"], (
        "a number is its first one"
    )
    machine_with([{"uuid": "GPU-m", "mig": []}])
    assert inspect_gpus(shared=False).free == ()
    assert "no instances have been made" in str(inspect_gpus(shared=False).reason)


def test_why_there_are_none_is_said(machine_with: Any) -> None:
    machine_with("NVMLError_LibraryNotFound")
    assert inspect_machine() == Machine(num_cpus=len(os.sched_getaffinity(0)), num_gpus=0)
    machine_with("NVMLError_LibRmVersionMismatch")
    machine = inspect_machine()
    with pytest.raises(
        ResourceError, match=r"0 GPUs are visible here \(NVML, the driver's library, says: Driver/library version"
    ):
        divide_resources(machine, 2, gpus_per_trial=1)
    assert divide_resources(machine, 2).gpus_per_trial == 0
    assert description.gpu_notes(machine, divide_resources(machine, 2)) == [f"GPUs: {machine.gpu_reason}"]
    machine_with(FOUR, "none")
    with pytest.raises(ResourceError, match="CUDA_VISIBLE_DEVICES=none shows none of 4"):
        divide_resources(inspect_machine(), 2, gpus_per_trial=1)


def test_a_trial_gets_a_gpu_where_there_is_one() -> None:
    assert divide_resources(Machine(16, 4), 100) == TrialResources(4, 1, 4)
    assert divide_resources(Machine(16, 4), 100, gpus_per_trial=0) == TrialResources(1, 0, 16), "asked for"
    assert divide_resources(Machine(16, 0), 100) == TrialResources(1, 0, 16)
    with pytest.raises(ResourceError, match="--gpus-per-trial 2: a trial trains on one GPU"):
        divide_resources(Machine(16, 4), 100, gpus_per_trial=2)


def test_the_precision_is_that_of_the_devices(machine_with: Any) -> None:
    on_gpu, on_cpu = TrialResources(4, 1, 4), TrialResources(4, 0, 4)
    machine_with(FOUR)
    assert default_precision(inspect_machine(), on_gpu) == "bf16"
    assert default_precision(inspect_machine(), on_cpu) == "fp32", "four GPUs, but not used"
    assert default_precision(inspect_machine(), on_gpu, "published") == "published"
    assert default_precision(inspect_machine(), on_cpu, "published") == "fp32", "on CPUs it is the same training"
    machine_with([FOUR[0], {"uuid": "GPU-t", "capability": [7, 5]}])
    assert default_precision(inspect_machine(), on_gpu) == "fp32"
    assert default_precision(inspect_machine(), on_gpu, "published") == "published"


@pytest.mark.parametrize(
    ("share", "trials", "reserved", "used"),
    [(0.5, 2, 1.0, 2), (0.5, 4, 1.0, 4), (0.25, 8, 0.5, 4), (0.25, 9, 1 / 3, 4)],
)
def test_parts_of_gpus_are_spread_over_all_of_them(share: float, trials: int, reserved: float, used: int) -> None:
    machine = Machine(16, 4)
    resources = divide_resources(machine, trials, gpus_per_trial=share)
    assert resources.max_concurrent == trials
    assert not resources.timing_exclusive, "as asked; another study may share it"
    assert reserved_gpus(machine, resources) == pytest.approx(reserved)
    assert num_gpus_used(machine, resources) == used


def test_no_trial_is_cut_in_two() -> None:
    assert divide_resources(Machine(64, 4), 100, gpus_per_trial=0.4).max_concurrent == 8, "2 on each, not 10 in all"


def test_two_studies_know_of_each_others_gpus(machine_with: Any) -> None:
    machine_with(FOUR)
    with claimed_gpus(inspect_gpus(shared=False).free, 3, shared=False) as claimed:
        machine = inspect_machine()
        assert {gpu.uuid for gpu in machine.gpus} == {"GPU-3aaa-3"}
        assert divide_resources(machine, 10, max_concurrent=None).max_concurrent == min(1, machine.num_cpus)
        assert description.gpu_notes(machine, TrialResources(1, 1, 1)) == ["GPUs: 3 of 4 are taken by other studies"]
        with pytest.raises(GpuTakenError, match="0 of the 1 GPUs"), claimed_gpus(claimed, 1, shared=False):
            pass
        with claimed_gpus(machine.gpus, 1, shared=True):
            assert len(inspect_gpus(shared=True).free) == 1, "both share"
            with pytest.raises(ResourceError, match=r"4 of 4 are taken by other studies; wait for them, share one"):
                divide_resources(inspect_machine(), 10)
            assert divide_resources(inspect_machine(), 10, gpus_per_trial=0).gpus_per_trial == 0
    assert len(inspect_gpus(shared=False).free) == 4, "given back"


def test_a_study_that_died_holds_no_gpu(machine_with: Any, tmp_path: Path) -> None:
    machine_with(FOUR[:1])
    code = (
        "import sys; from study.plan.gpus import claimed_gpus, inspect_gpus\n"
        "claim = claimed_gpus(inspect_gpus(shared=False).free, 1, shared=False); claim.__enter__()\n"
        "print('claimed', flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": f"{FAKE_NVML}:{ROOT}"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "claimed\n"
        assert inspect_gpus(shared=False).num_taken == 1
        other.kill()
    assert inspect_gpus(shared=False).num_taken == 0


def test_idle_gpus_come_first_and_busy_ones_are_said(machine_with: Any) -> None:
    machine_with([{**FOUR[0], "busy": True}, FOUR[1]])
    machine = inspect_machine()
    assert [gpu.uuid for gpu in machine.gpus] == ["GPU-1aaa-1", "GPU-0aaa-0"]
    assert description.gpu_notes(machine, TrialResources(1, 1, 1)) == []
    assert "1 GPU is used by other programs too" in description.gpu_notes(machine, TrialResources(1, 1, 2))[0]


def test_a_device_is_what_the_driver_says(machine_with: Any) -> None:
    machine_with(FOUR[:1])
    peak_tflops = 2 * 6912 * 1410 / 1e6  # 19.5, as its data sheet says
    assert list_gpus()[0] == (Gpu("GPU-0aaa-0", "NVIDIA A100-SXM4-40GB", peak_tflops=peak_tflops, capability=(8, 0)),)


def test_a_check_is_remembered_for_the_device_that_cuda_means(machine_with: Any) -> None:
    machine_with([{**gpu, "name": "A100"} for gpu in FOUR])
    assert identify_gpu(None) == identify_gpu("3,1", 1) == identify_gpu("GPU-2aaa-2") == ["A100", "580.65.06"]
    assert identify_gpu("") is None, "none is visible"
    assert identify_gpu("0", 1) is None
    machine_with([{**FOUR[0], "name": "A100"}, {**FOUR[1], "name": "L4"}])
    assert identify_gpu("GPU-1aaa-1") == ["L4", "580.65.06"]
    assert identify_gpu("1") is None, "CUDA counts the fastest first, NVML by the bus"
    machine_with("NVMLError_LibraryNotFound")
    assert identify_gpu(None) is None
