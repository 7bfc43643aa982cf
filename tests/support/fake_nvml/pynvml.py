"""The part of nvidia-ml-py that is asked, over devices that $FAKE_NVML describes: put its folder on PYTHONPATH.

    [{"uuid": "GPU-a", "name": "NVIDIA A100", "capability": [8, 0], "cores": 6912, "clock_mhz": 1410, "busy": false,
      "mig": [{"uuid": "MIG-a", "name": "MIG 1g.5gb"}]}]

or the name of an error of NVML, raised by nvmlInit; without the variable there is no library, as on a machine without GPUs.
"""

from __future__ import annotations

import json
import os
from typing import Any

NVML_DEVICE_MIG_ENABLE = 1
NVML_CLOCK_SM = 1
Device = dict[str, Any]


class NVMLError(Exception):
    """Any answer but success."""


class NVMLError_LibraryNotFound(NVMLError):
    """No driver is installed."""


class NVMLError_LibRmVersionMismatch(NVMLError):
    """The driver was updated, but not loaded again."""

    def __str__(self) -> str:
        return "Driver/library version mismatch"


class NVMLError_NotFound(NVMLError):
    """No device has this UUID."""


class NVMLError_NotSupported(NVMLError):
    """The device does not know."""


def nvmlInit() -> None:
    said = os.environ.get("FAKE_NVML", "NVMLError_LibraryNotFound")
    if said.startswith("NVMLError"):
        raise globals()[said]()


def nvmlShutdown() -> None: ...


def nvmlDeviceGetCount() -> int:
    return len(json.loads(os.environ["FAKE_NVML"]))


def nvmlDeviceGetHandleByIndex(index: int) -> Device:
    return dict(json.loads(os.environ["FAKE_NVML"])[index])


def nvmlDeviceGetHandleByUUID(uuid: str) -> Device:
    devices = json.loads(os.environ["FAKE_NVML"])
    for device in (device for gpu in devices for device in (gpu, *gpu.get("mig", ()))):
        if device["uuid"] == uuid:
            return dict(device)
    raise NVMLError_NotFound


def nvmlSystemGetDriverVersion() -> str:
    return "580.65.06"


def nvmlDeviceGetMigMode(device: Device) -> list[int]:
    return [int("mig" in device)] * 2


def nvmlDeviceGetMaxMigDeviceCount(device: Device) -> int:
    return 7


def nvmlDeviceGetMigDeviceHandleByIndex(device: Device, index: int) -> Device:
    if index >= len(device["mig"]):
        raise NVMLError_NotSupported
    return dict(device["mig"][index])


def nvmlDeviceGetUUID(device: Device) -> str:
    return str(device["uuid"])


def nvmlDeviceGetName(device: Device) -> str:
    return str(device.get("name", "NVIDIA A100-SXM4-40GB"))


def nvmlDeviceGetComputeRunningProcesses(device: Device) -> list[int]:
    return [1] if device.get("busy") else []


def nvmlDeviceGetNumGpuCores(device: Device) -> int:
    return int(_known(device, "cores"))


def nvmlDeviceGetMaxClockInfo(device: Device, clock: int) -> int:
    return int(_known(device, "clock_mhz"))


def nvmlDeviceGetCudaComputeCapability(device: Device) -> list[int]:
    return list(device.get("capability", (8, 0)))


def _known(device: Device, name: str) -> Any:
    if name not in device:
        raise NVMLError_NotSupported
    return device[name]
